"""Joseph's weights, one by one, against a loop that follows the definition."""

import math

import numpy as np
import pytest

from medsci.errors import InvalidInputError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators.joseph import check_countable, joseph_lines, joseph_matrix

ANGLES = np.array([0.0, 0.4, math.pi / 4, 1.3, math.pi / 2, 2.0, 3 * math.pi / 4, 3.0, 4.1])
GRID = ImageGrid(7, 10, 1.3, 0.8)
BEAMS = {
    "parallel": ParallelBeam(ANGLES, 13, 0.9, 0.3),
    "fan": FanBeam(ANGLES, 13, 1.6, 30.0, 20.0, 0.3),
    "arc": FanBeam(ANGLES, 13, 1.6, 30.0, 20.0, 0.3, curved=True),
}


def by_the_definition(beam, grid, *, shift: float = 0.0) -> np.ndarray:
    """Walk along every ray in world coordinates; dense, in loops, sharing no code with ours."""
    rows, cols = grid.centres()
    matrix = np.zeros((beam.n_angles, beam.n_bins, grid.n_rows, grid.n_cols))
    points, directions = beam.rays()
    for a in range(beam.n_angles):
        for k in range(beam.n_bins):
            (x0, y0), (dx, dy) = points[a, k], directions[a, k]
            if abs(dy) / grid.row_mm >= abs(dx) / grid.col_mm:
                for i, y in enumerate(rows):
                    x = x0 + (y - y0) * dx / dy + shift
                    for j, centre in enumerate(cols):
                        near = 1 - abs(x - centre) / grid.col_mm
                        matrix[a, k, i, j] += max(near, 0.0) * grid.row_mm / abs(dy)
            else:
                for j, x in enumerate(cols):
                    y = y0 + (x - x0) * dy / dx + shift
                    for i, centre in enumerate(rows):
                        near = 1 - abs(y - centre) / grid.row_mm
                        matrix[a, k, i, j] += max(near, 0.0) * grid.col_mm / abs(dx)
    return matrix.reshape(beam.n_angles * beam.n_bins, -1)


@pytest.mark.parametrize("kind", BEAMS)
def test_weights_are_those_of_the_definition(kind):
    matrix, transposed = joseph_matrix(BEAMS[kind], GRID, dtype=np.float64)
    expected = by_the_definition(BEAMS[kind], GRID)
    assert np.abs(matrix.toarray() - expected).max() < 1e-12
    assert np.abs(transposed.toarray() - expected.T).max() < 1e-12
    moved = by_the_definition(BEAMS[kind], GRID, shift=0.5)
    assert np.abs(matrix.toarray() - moved).max() > 0.1


@pytest.mark.parametrize("kind", BEAMS)
def test_both_matrices_are_sorted_and_small(kind):
    for matrix in joseph_matrix(BEAMS[kind], GRID):
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
        assert matrix.data.dtype == np.float32
        for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
            assert (np.diff(matrix.indices[start:stop]) > 0).all()
        assert (matrix.data > 0).all()


@pytest.mark.parametrize("kind", BEAMS)
@pytest.mark.parametrize("n", [1, 8, 9, 64])
def test_the_estimate_bounds_the_count_closely(kind, n):
    grid = ImageGrid(n, n + 3, 10.0 / n, 8.0 / n)
    count = joseph_matrix(BEAMS[kind], grid)[0].nnz
    estimate = joseph_lines(BEAMS[kind], grid).count_entries(grid)
    assert count <= estimate <= 1.05 * count + 4 * len(joseph_lines(BEAMS[kind], grid))


def test_rays_along_the_axes_sum_columns_and_rows():
    grid = ImageGrid(5, 5, 2.0, 3.0)
    image = np.random.default_rng(0).random((5, 5))
    along_y, _ = joseph_matrix(ParallelBeam(np.zeros(1), 5, 3.0), grid, dtype=np.float64)
    np.testing.assert_allclose(along_y @ image.ravel(), 2.0 * image.sum(axis=0))
    quarter = np.array([math.pi / 2])
    along_x, _ = joseph_matrix(ParallelBeam(quarter, 5, 2.0), grid, dtype=np.float64)
    np.testing.assert_allclose(along_x @ image.ravel(), 3.0 * image.sum(axis=1))


def test_rays_past_the_image_are_empty():
    matrix, _ = joseph_matrix(ParallelBeam(ANGLES, 41, 1.0), ImageGrid(3, 3, 1.0, 1.0))
    per_ray = np.diff(matrix.indptr).reshape(len(ANGLES), 41)
    assert (per_ray[:, :17] == 0).all()
    assert (per_ray[:, 20] > 0).all()


def test_too_many_weights_are_refused_before_they_are_made():
    many = 2**31
    check_countable(many - 1)
    with pytest.raises(InvalidInputError, match="matrix-free"):
        check_countable(many)
