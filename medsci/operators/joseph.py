"""Joseph's line integral: step along the axis a ray is closest to, interpolate along the other.

In units of pixels a ray is a straight line of row and column. Take the one of the two in which it
is steeper as the *major* axis m = 0 .. n_major - 1. At every m the ray passes between two pixels of
the *minor* axis, at `q(m) = middle + slope (m - (n_major - 1) / 2)`, `|slope| <= 1`, and

    y = step_mm sum_m (1 - w) x[m, floor(q)] + w x[m, floor(q) + 1],    w = q - floor(q),

with x = 0 outside. `step_mm` is the length of the ray between two lines m.

Source: Joseph 1982, doi:10.1109/TMI.1982.4307572.
"""

__all__ = ["JosephLines", "joseph_lines", "joseph_matrix"]

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import sparse

from medsci.errors import InvalidInputError
from medsci.imaging.beam import Beam, ImageGrid

_ENTRIES_PER_BLOCK = 2**19  # the work arrays of a block stay small beside the matrix


@final
@dataclass(frozen=True, eq=False)
class JosephLines:
    """Where every ray runs through the grid, in pixels.

    Attributes:
        along_rows: the major axis counts rows (the ray runs along y), otherwise columns.
        middle: minor index, with fraction, at the middle of the major axis.
        slope: change of the minor index per major index, in [-1, 1].
        step_mm: length of the ray per major index.
    """

    along_rows: Bool[np.ndarray, " n_rays"]
    middle: Float64[np.ndarray, " n_rays"]
    slope: Float64[np.ndarray, " n_rays"]
    step_mm: Float64[np.ndarray, " n_rays"]

    def __len__(self) -> int:
        """Return the number of rays."""
        return len(self.middle)

    def part(self, start: int, stop: int) -> "JosephLines":
        """Return the rays `start <= r < stop`."""
        kept = slice(start, stop)
        return JosephLines(
            self.along_rows[kept], self.middle[kept], self.slope[kept], self.step_mm[kept]
        )

    def count_entries(self, grid: ImageGrid) -> int:
        """Return how many weights the rays have in all; an upper bound, close to the truth."""
        n_major = np.where(self.along_rows, grid.n_rows, grid.n_cols)
        n_minor = np.where(self.along_rows, grid.n_cols, grid.n_rows)
        reach = (n_major - 1) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(-1 - self.middle) / self.slope, (n_minor - self.middle) / self.slope])
        inside = (self.middle > -1) & (self.middle < n_minor)
        level = self.slope == 0
        first = np.where(level, np.where(inside, -np.inf, np.inf), ends.min(axis=0))
        last = np.where(level, np.where(inside, np.inf, -np.inf), ends.max(axis=0))
        length = np.minimum(last, reach) - np.maximum(first, -reach)
        lines = np.where(length >= 0, np.minimum(np.floor(length) + 1, n_major), 0)
        return int(2 * lines.sum())


def joseph_lines(beam: Beam, grid: ImageGrid) -> JosephLines:
    """Return the line of every ray, views outermost, in float64."""
    points, directions = beam.rays()
    pixel = np.array([grid.col_mm, grid.row_mm])
    (x, y), (dx, dy) = ((v / pixel).reshape(-1, 2).T for v in (points, directions))
    along_rows = np.abs(dy) >= np.abs(dx)
    d_major = np.where(along_rows, dy, dx)
    slope = np.where(along_rows, dx, dy) / d_major
    minor, major = np.where(along_rows, x, y), np.where(along_rows, y, x)
    n_minor = np.where(along_rows, grid.n_cols, grid.n_rows)
    middle = (n_minor - 1) / 2 + minor - major * slope
    return JosephLines(along_rows, middle, slope, 1.0 / np.abs(d_major))


def joseph_matrix(
    beam: Beam, grid: ImageGrid, *, dtype: type[np.float32] | type[np.float64] = np.float32
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return A, rays by pixels, and its transpose, both as CSR with sorted int32 indices.

    Args:
        beam: The rays.
        grid: The pixels.
        dtype: Number type of the weights; they are computed in float64 and rounded once.

    Raises:
        InvalidInputError: If there are more weights than int32 can count.
    """
    lines = joseph_lines(beam, grid)
    check_countable(lines.count_entries(grid))
    block = max(1, _ENTRIES_PER_BLOCK // (2 * max(grid.shape)))
    parts = [
        _block_weights(lines.part(start, start + block), grid, dtype=dtype)
        for start in range(0, len(lines), block)
    ]
    counts, indices, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    del parts
    indptr = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    shape = (len(lines), grid.n_rows * grid.n_cols)
    transposed = sparse.csr_array((values, indices, indptr), shape=shape).T.tocsr()
    return transposed.T.tocsr(), transposed  # the second conversion sorts, in linear time


def check_countable(n_entries: int) -> None:
    """Refuse a matrix whose entries int32 cannot count."""
    if n_entries >= 2**31:
        raise InvalidInputError(
            f"the matrix would have {n_entries} weights, more than 2^31; use the matrix-free "
            "backend='joseph', or fewer views, bins or pixels"
        )


def _block_weights(
    lines: JosephLines, grid: ImageGrid, *, dtype: type[np.float32] | type[np.float64]
) -> tuple[Int[np.ndarray, " n_rays"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the number of weights of every ray, their pixels, and the weights."""
    n_major = np.where(lines.along_rows, grid.n_rows, grid.n_cols)[:, None]
    n_minor = np.where(lines.along_rows, grid.n_cols, grid.n_rows)[:, None]
    m = np.arange(max(grid.shape), dtype=np.int32)
    q = lines.middle[:, None] + lines.slope[:, None] * (m - (n_major - 1) / 2)
    low = np.floor(q)
    upper = (q - low) * lines.step_mm[:, None]
    lower = lines.step_mm[:, None] - upper
    weights: np.ndarray = np.stack([lower, upper], axis=-1, dtype=dtype, casting="same_kind")
    minor = np.clip(low, -2, n_minor).astype(np.int32)[..., None] + np.array([0, 1], np.int32)
    kept = (minor >= 0) & (minor < n_minor[..., None]) & (m < n_major)[..., None] & (weights > 0)
    stride = np.where(lines.along_rows, 1, grid.n_cols).astype(np.int32)[:, None, None]
    pixels = minor * stride + m[:, None] * (grid.n_cols + 1 - stride)
    return kept.sum(axis=(1, 2)), pixels[kept], weights[kept]
