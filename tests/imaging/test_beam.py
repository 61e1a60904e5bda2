"""Rays and pixels are where the head of beam.py says."""

import dataclasses
import math

import numpy as np
import pytest

from medsci.errors import InvalidInputError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam

ANGLES = np.array([0.0, 0.3, 1.2, 2.9, 4.0, -0.7])
PARALLEL = ParallelBeam(ANGLES, 11, 1.5, 0.25)
FLAT = FanBeam(ANGLES, 11, 9.0, 200.0, 150.0, 0.25)
CURVED = dataclasses.replace(FLAT, curved=True)


def distance(rays, points) -> np.ndarray:
    """How far the points (n_angles, n_bins, 2) are from the rays."""
    start, direction = rays
    off = points - start
    return np.abs(off[..., 0] * direction[..., 1] - off[..., 1] * direction[..., 0])


def axes(theta):
    return np.array([math.cos(theta), math.sin(theta)]), np.array(
        [-math.sin(theta), math.cos(theta)]
    )


def test_parallel_rays_follow_their_equation():
    points, directions = PARALLEL.rays()
    assert points.shape == directions.shape == (6, 11, 2)
    for a, theta in enumerate(ANGLES):
        e, d = axes(theta)
        for k in range(11):
            s = (k - 5 + 0.25) * 1.5
            np.testing.assert_allclose(points[a, k], s * e, atol=1e-12)
            np.testing.assert_allclose(directions[a, k], d, atol=1e-12)


@pytest.mark.parametrize("beam", [FLAT, CURVED])
def test_fan_rays_join_source_and_bin(beam):
    source, pixel = np.empty((6, 11, 2)), np.empty((6, 11, 2))
    for a, theta in enumerate(ANGLES):
        e, d = axes(theta)
        source[a] = -200.0 * d
        for k in range(11):
            s = (k - 5 + 0.25) * 9.0
            arc = math.sin(s / 350.0) * e + math.cos(s / 350.0) * d
            pixel[a, k] = source[a, k] + 350.0 * arc if beam.curved else 150.0 * d + s * e
    assert distance(beam.rays(), source).max() < 1e-10
    assert distance(beam.rays(), pixel).max() < 1e-10
    direction = beam.rays()[1]
    assert ((pixel - source) * direction).sum(-1).min() > 0  # from the source, not towards it
    np.testing.assert_allclose((direction**2).sum(-1), 1.0, atol=1e-14)
    other = dataclasses.replace(beam, curved=not beam.curved)
    assert distance(other.rays(), pixel).max() > 0.1  # flat and curved are told apart


def test_a_far_source_is_a_parallel_beam():
    far = FanBeam(ANGLES, 11, 1.5, 1e9, 0.0, 0.25)
    for ours, theirs in zip(far.rays(), PARALLEL.rays(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    mirrored = FanBeam(-ANGLES, 11, 1.5, 1e9, 0.0, 0.25)
    assert np.abs(mirrored.rays()[0] - PARALLEL.rays()[0]).max() > 1.0


@pytest.mark.parametrize("n", [6, 7])
def test_pixels_and_bins_lie_symmetrically(n):
    rows, cols = ImageGrid(n, n + 1, 2.0, 0.5).centres()
    np.testing.assert_allclose(rows, -rows[::-1])
    np.testing.assert_allclose(cols, -cols[::-1])
    np.testing.assert_allclose(np.diff(rows), 2.0)
    np.testing.assert_allclose(np.diff(cols), 0.5)
    bins = ParallelBeam(ANGLES, n, 1.5).bin_positions()
    np.testing.assert_allclose(bins, -bins[::-1])
    shifted = ParallelBeam(ANGLES, n, 1.5, 0.25).bin_positions()
    np.testing.assert_allclose(shifted - bins, 0.375)


def test_radius_is_that_of_the_corner_pixel():
    grid = ImageGrid(5, 8, 2.0, 0.5)
    rows, cols = grid.centres()
    assert grid.radius_mm == pytest.approx(math.hypot(rows[-1], cols[-1]))


@pytest.mark.parametrize("beam", [PARALLEL, FLAT, CURVED])
def test_subset_keeps_the_rays_of_its_views(beam):
    part = beam.subset([4, 1])
    assert part.n_angles == 2
    for ours, theirs in zip(part.rays(), beam.rays(), strict=True):
        np.testing.assert_array_equal(ours, theirs[[4, 1]])
    assert beam.subset(np.array([-1])).angles[0] == ANGLES[-1]
    with pytest.raises(InvalidInputError, match="there are 6"):
        beam.subset([6])
    with pytest.raises(InvalidInputError, match="indices"):
        beam.subset([])


@pytest.mark.parametrize("beam", [PARALLEL, FLAT, CURVED])
def test_equality_sees_every_value(beam):
    same = dataclasses.replace(beam, angles=ANGLES.copy())
    assert same == beam
    assert hash(same) == hash(beam)
    turned = ANGLES.copy()
    turned[3] += 1e-12
    assert dataclasses.replace(beam, angles=turned) != beam
    for field in dataclasses.fields(beam):
        if field.name != "angles":
            value = getattr(beam, field.name)
            changed = (not value) if isinstance(value, bool) else value + 1
            assert dataclasses.replace(beam, **{field.name: changed}) != beam
    assert PARALLEL != FLAT


def test_angles_are_a_copy_that_stays():
    given = ANGLES.copy()
    beam = ParallelBeam(given, 4, 1.0)
    given[0] = 9.0
    assert beam.angles[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        beam.angles[0] = 9.0
    assert ParallelBeam(np.arange(3), 4, 1.0).angles.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"angles": np.zeros((2, 2))}, "one dimension"),
        ({"angles": np.zeros(0)}, "one number in rad"),
        ({"angles": np.array([0.0, np.nan])}, "angle 1 is nan"),
        ({"angles": np.array(["a"])}, "one number in rad"),
        ({"n_bins": 0}, "n_bins=0"),
        ({"bin_mm": 0.0}, "bin_mm=0.0"),
        ({"bin_mm": math.inf}, "positive number of mm"),
        ({"offset_bins": math.nan}, "offset_bins=nan"),
        ({"source_mm": -1.0}, "source_mm=-1.0"),
        ({"detector_mm": -1.0}, "0 or more"),
        ({"bin_mm": 200.0, "curved": True}, "180 degrees"),
    ],
)
def test_impossible_beams_are_refused(change, words):
    with pytest.raises(InvalidInputError, match=words):
        dataclasses.replace(FLAT, **change)
    shared = {f.name for f in dataclasses.fields(PARALLEL)}
    if set(change) <= shared and "180" not in words:
        with pytest.raises(InvalidInputError, match=words):
            dataclasses.replace(PARALLEL, **change)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 4, 1.0, 1.0), "n_rows=0"),
        ((4, -1, 1.0, 1.0), "n_cols=-1"),
        ((4, 4, 0.0, 1.0), "row_mm=0.0"),
        ((4, 4, 1.0, math.nan), "col_mm=nan"),
    ],
)
def test_impossible_grids_are_refused(sizes, words):
    with pytest.raises(InvalidInputError, match=words):
        ImageGrid(*sizes)
