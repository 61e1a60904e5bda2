"""One voxel grid seen on another, by world coordinates, through a slice profile."""

__all__ = ["Profile", "ResampleOp"]

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.geometry import is_valid_affine, spacing_of
from medsci.operators.csr_projector import _csr, _silence_beta_warning
from medsci.operators.downsample import FWHM_PER_SIGMA
from medsci.operators.linear_function import apply_linear
from medsci.operators.linear_op import LinearOp

Profile = Literal["gaussian", "box"]

_CUT = 3.5  # standard deviations; what lies beyond is 0.05 % of the profile
_TINY = 1e-9  # weights and places below this are rounding
_CORNERS_PER_BLOCK = 2_000_000


@final
class ResampleOp(LinearOp):
    """Look at a volume with the voxels of another grid: `y = W x`.

    Row m of W is the trilinear interpolation of x, averaged over the profile of voxel m, which is
    the product of one profile along each axis of the target grid. Rows sum to one inside, so that
    constants stay and a linear ramp is reproduced exactly; beyond the source grid x counts as 0.
    `coverage` says how much of each voxel lies within. W is sparse and its transpose is stored
    too: the adjoint is exact.

    Args:
        matrix: W, rows and columns in the order of the flattened grids.
        source_shape: sizes of x, its last three axes.
        target_shape: sizes of y.
        dtype: of the images.

    Raises:
        UsageError: the matrix is not one between these grids.
        InvalidInputError: later, if an image has other sizes.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    transposed_rows: Tensor
    transposed_columns: Tensor
    transposed_values: Tensor

    def __init__(
        self,
        matrix: sparse.csr_array,
        source_shape: Sequence[int],
        *,
        target_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.source_shape, self.target_shape = tuple(source_shape), tuple(target_shape)
        sizes = math.prod(self.target_shape), math.prod(self.source_shape)
        if matrix.shape != sizes:
            raise UsageError(
                f"the matrix is {matrix.shape}, but {self.target_shape} from {self.source_shape} "
                f"needs {sizes}; build it by ResampleOp.between"
            )
        for prefix, part in (("", matrix), ("transposed_", sparse.csr_array(matrix.T))):
            for name, array in (
                ("rows", part.indptr.astype(np.int64)),
                ("columns", part.indices.astype(np.int64)),
            ):
                self.register_buffer(prefix + name, torch.from_numpy(array), persistent=False)
            weights = torch.from_numpy(part.data).to(dtype)
            self.register_buffer(prefix + "values", weights, persistent=False)
        _silence_beta_warning()

    @classmethod
    def between(
        cls,
        source_affine: Float[np.ndarray, "4 4"],
        source_shape: Sequence[int],
        *,
        target_affine: Float[np.ndarray, "4 4"],
        target_shape: Sequence[int],
        fwhm_mm: Sequence[float | None] | None = None,
        profile: Profile = "gaussian",
        dtype: torch.dtype = torch.float32,
    ) -> "ResampleOp":
        """Build the operator of two grids, whatever the angle between them.

        A Gaussian profile of width T on source voxels of width v has the variance
        `(T / 2.3548)^2 - (v / 2.3548)^2`: the source voxels have a width already. The variance
        that linear interpolation adds, `v^2 / 6`, is part of it and not on top. A box is the mean
        of `T / v`, rounded, equally spaced points. Where T is not above v the voxel is sampled at
        its centre.

        Args:
            source_affine: voxel index to mm, RAS+.
            source_shape: sizes of the source grid.
            target_affine: of the grid that looks.
            target_shape: its sizes.
            fwhm_mm: full width of the profile along each target axis, such as the slice thickness
                where slices do not touch; the target's voxel size where None.
            profile: its shape.
            dtype: of the images.

        Raises:
            UsageError: an affine, a size or a width is not valid, or the profile unknown.

        Source: slice profile after Remedios et al. 2025, arXiv:2510.26834.
        """
        _check(source_affine, source_shape, "source")
        _check(target_affine, target_shape, "target")
        steps = spacing_of(target_affine)
        widths = [None] * 3 if fwhm_mm is None else list(fwhm_mm)
        if profile not in ("gaussian", "box") or len(widths) != 3:
            raise UsageError(
                f"profile={profile!r}, fwhm_mm={fwhm_mm} came; choose gaussian or box, and give "
                "one width in mm, or None, per axis"
            )
        places = []
        for axis, (step, width) in enumerate(zip(steps, widths, strict=True)):
            voxel = float(np.linalg.norm(source_affine[:3, :3].T @ target_affine[:3, axis])) / step
            offsets, weights = _nodes(step if width is None else width, voxel, profile=profile)
            places.append((offsets / step, weights))
        to_source = np.linalg.inv(source_affine) @ target_affine
        matrix = _matrix(to_source, source_shape, target_shape=target_shape, places=places)
        return cls(matrix, source_shape, target_shape=target_shape, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the images."""
        return self.values.dtype

    def coverage(self) -> Float[Tensor, "ti tj tk"]:
        """Return which part of each target voxel lies within the source grid, in [0, 1]."""
        return self.forward(self.values.new_ones(self.source_shape))

    def forward(self, x: Float[Tensor, "*b si sj sk"]) -> Float[Tensor, "*b ti tj tk"]:
        """Return the volume on the target grid."""
        self._check_image(x, self.source_shape)
        return apply_linear(x, self._look, transposed=self._spread)

    def adjoint(self, y: Float[Tensor, "*b ti tj tk"]) -> Float[Tensor, "*b si sj sk"]:
        """Return every target voxel, spread over the source voxels that it saw."""
        self._check_image(y, self.target_shape)
        return apply_linear(y, self._spread, transposed=self._look)

    def _look(self, x: Tensor) -> Tensor:
        matrix = _csr(self.rows, self.columns, self.values, math.prod(self.source_shape))
        return _multiply(matrix, x, self.target_shape)

    def _spread(self, y: Tensor) -> Tensor:
        matrix = _csr(
            self.transposed_rows,
            self.transposed_columns,
            self.transposed_values,
            math.prod(self.target_shape),
        )
        return _multiply(matrix, y, self.source_shape)

    def _check_image(self, x: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(x.shape[-3:]) != shape:
            raise InvalidInputError(
                f"the volume is {tuple(x.shape)} but the operator was built for {shape}; build one "
                "for this grid"
            )


def _multiply(matrix: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    flat = x.reshape(-1, math.prod(x.shape[-3:])).to(matrix.dtype)
    rows = torch.stack([matrix @ row for row in flat]) if len(flat) else flat
    return rows.reshape(*x.shape[:-3], *shape).to(x.dtype)


def _check(affine: np.ndarray, shape: Sequence[int], name: str) -> None:
    if not is_valid_affine(np.asarray(affine)):
        raise UsageError(f"the {name} affine is no invertible 4x4 affine; take it from a volume")
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"the {name} grid is {tuple(shape)}; give three sizes from 1")


def _nodes(width: float, voxel: float, *, profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return where along its axis a target voxel looks, in mm from its centre, and how much."""
    if not (math.isfinite(width) and width > 0.0):
        raise UsageError(f"a profile of width {width} mm came; give a positive width, or None")
    if profile == "box":
        count = max(1, round(width / voxel))
        offsets = (np.arange(count) - (count - 1) / 2) * (width / count)
        return offsets, np.full(count, 1.0 / count)
    variance = (width**2 - voxel**2) / FWHM_PER_SIGMA**2 - voxel**2 / 6.0
    if variance <= 0.0:
        return np.zeros(1), np.ones(1)
    sigma = math.sqrt(variance)
    step = min(sigma / 2.0, voxel / 4.0)
    reach = math.ceil(_CUT * sigma / step)
    offsets = np.arange(-reach, reach + 1) * step
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return offsets, weights / weights.sum()


def _matrix(
    to_source: np.ndarray,
    source_shape: Sequence[int],
    *,
    target_shape: Sequence[int],
    places: list[tuple[np.ndarray, np.ndarray]],
) -> sparse.csr_array:
    """Return W, built in blocks of rows to bound the memory."""
    grids = np.meshgrid(*[offsets for offsets, _ in places], indexing="ij")
    shifts = np.stack([g.ravel() for g in grids], 1) @ to_source[:3, :3].T
    weights = np.einsum("i,j,k->ijk", *[w for _, w in places]).ravel()
    n_rows = math.prod(target_shape)
    block = max(1, _CORNERS_PER_BLOCK // (8 * len(weights)))
    parts = []
    for first in range(0, n_rows, block):
        index = np.arange(first, min(first + block, n_rows))
        voxels = np.stack(np.unravel_index(index, tuple(target_shape)), 1)
        centres = voxels @ to_source[:3, :3].T + to_source[:3, 3]
        parts.append(_rows(centres[:, None] + shifts, weights, source_shape))
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def _rows(points: np.ndarray, weights: np.ndarray, shape: Sequence[int]) -> sparse.csr_array:
    """Return the rows of points `(rows, nodes, 3)` in source voxels: eight corners of each."""
    whole = np.round(points)
    points = np.where(np.abs(points - whole) < _TINY, whole, points)
    low = np.floor(points).astype(np.int64)
    part = points - low
    row = np.broadcast_to(np.arange(len(points))[:, None], points.shape[:2])
    rows, columns, values = [], [], []
    for corner in product((0, 1), repeat=3):
        at = low + np.array(corner)
        share = np.prod(np.where(corner, part, 1.0 - part), axis=-1) * weights
        known = (share > _TINY * weights) & (at >= 0).all(-1) & (at < np.array(shape)).all(-1)
        rows.append(row[known])
        columns.append(np.ravel_multi_index(tuple(at[known].T), tuple(shape)))
        values.append(share[known])
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    size = len(points), math.prod(shape)
    return sparse.csr_array(sparse.coo_array(entries, shape=size))  # equal places are summed
