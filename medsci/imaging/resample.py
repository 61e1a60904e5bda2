"""Another grid over the same world: windows, other voxel sizes, a reference's grid.

Every function returns the affine that keeps each value where it is in the patient. With `M` the
matrix from new voxel indices to old ones, the new affine is `A' = A M`; a window that starts at
voxel `s` has `M = T(s)`.

Where new voxels are larger than old ones the values are first smoothed by a Gaussian along each old
axis, so that nothing finer than the new grid folds back into it: a voxel of width w times the old
one, full width at half maximum and in quadrature, asks for `(w^2 - 1)^(1/2) / 2.3548` old voxels.
"""

__all__ = ["resample_spacing", "resample_to", "window"]

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import geometry
from medsci.imaging.volume import Volume

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_WHOLE = 1e-3  # voxels; a shift this close to a whole number is one (headers round to float32)
_SAME = 1e-4  # relative; voxel sizes this close are the same
_MAX_VOXELS = 1 << 30


def window(
    volume: Volume, start: Sequence[int], shape: Sequence[int], *, outside: float | int = 0
) -> Volume:
    """Return the voxels `start <= index < start + shape` of every axis, where they are.

    Args:
        volume: any trailing axes are kept.
        start: first voxel along i, j, k; negative to begin outside.
        shape: voxels along i, j, k.
        outside: value of voxels that the volume does not have.

    Raises:
        UsageError: not three axes, or an empty window.
    """
    if len(start) != 3 or len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            f"a window from {tuple(start)} of {tuple(shape)} voxels came; give three axes, and one "
            "voxel or more along each"
        )
    found = np.full((*shape, *volume.shape[3:]), outside, dtype=volume.array.dtype)
    here, there = [], []
    for first, n, size in zip(start, shape, volume.shape[:3], strict=True):
        low, high = max(first, 0), min(first + n, size)
        high = max(high, low)
        here.append(slice(low - first, high - first))
        there.append(slice(low, high))
    found[tuple(here)] = volume.array[tuple(there)]
    affine = geometry.moved_affine(volume.affine, [int(n) for n in start])
    return replace(volume, array=found, affine=affine)


def resample_spacing(
    volume: Volume, spacing_mm: Sequence[float | int], *, order: int = 3
) -> Volume:
    """Return the volume with other voxel sizes along its own axes.

    The new grid has the same centre and, to half a new voxel, the same extent. Sizes that differ
    by less than 1e-4 of themselves are left as they are. Beyond the outermost voxel centres
    the values go on as they are there.

    Args:
        volume: real, one value per voxel.
        spacing_mm: along i, j, k.
        order: of the spline, 0 (nearest) to 5; 0 is not smoothed before.

    Raises:
        UsageError: a size that is none.
        InvalidInputError: complex or too many voxels, or trailing axes.
    """
    from scipy import ndimage

    values = _real(volume)
    if len(spacing_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise UsageError(f"spacing_mm={tuple(spacing_mm)} came; give three positive sizes in mm")
    if values.ndim != 3:
        raise InvalidInputError(f"shape {values.shape} came; give three axes (i, j, k)")
    ratio = np.array(spacing_mm, dtype=np.float64) / volume.spacing_mm
    ratio[np.abs(ratio - 1.0) < _SAME] = 1.0
    if (ratio == 1.0).all():
        return volume
    old = np.array(values.shape)
    new = np.maximum(np.rint(old / ratio), 1.0)
    _check_size(new)
    new = np.where(ratio == 1.0, old, new).astype(int)
    first = (old - 1) / 2.0 - ratio * (new - 1) / 2.0
    smooth = _smoothed(values, ratio, order)
    found = ndimage.affine_transform(
        smooth, ratio, first, tuple(new.tolist()), order=order, mode="nearest"
    )
    step = np.diag([*ratio, 1.0])
    step[:3, 3] = first
    return replace(volume, array=found, affine=volume.affine @ step)


def resample_to(
    volume: Volume, like: Volume, *, order: int = 1, outside: float | int = 0
) -> Volume:
    """Return these values on the grid of another volume, by world coordinates.

    Grids that differ by flips, permutations and whole voxels only are copied, without
    interpolation. The result has the reference's geometry, codes and units, and no header.

    Args:
        volume: real; trailing axes (channels, time) are kept.
        like: only its grid counts.
        order: of the spline, 0 (nearest, keeps the type of the voxels) to 5; 1 or more gives
            float32.
        outside: value of voxels whose centre lies outside the volume.

    Raises:
        InvalidInputError: complex or too many voxels.
    """
    values = _real(volume)
    if order > 0:
        values = values.astype(np.float32)
    _check_size(np.array(like.shape[:3], dtype=np.float64))
    to_old = np.linalg.inv(volume.affine) @ like.affine
    found = _copied(replace(volume, array=values), like, to_old, outside)
    if found is None:
        found = _interpolated(values, to_old, like.shape[:3], order=order, outside=outside)
    return replace(like, array=found, header=None, path=None)


def _copied(
    volume: Volume, like: Volume, to_old: Float64[np.ndarray, "4 4"], outside: float | int
) -> Shaped[np.ndarray, "..."] | None:
    """Move whole voxels, or return None where that is not enough."""
    change = geometry.signed_permutation(np.linalg.inv(to_old[:3, :3]))
    if change is None:
        return None
    turned = volume.to_orientation(like.orientation)
    to_turned = np.linalg.inv(turned.affine) @ like.affine
    start = np.rint(to_turned[:3, 3])
    exact = np.eye(4)
    exact[:3, 3] = start
    ends = np.array([[0, 0, 0, 1], [*(np.array(like.shape[:3]) - 1), 1]])
    if np.abs(ends @ (to_turned - exact).T).max() > _WHOLE:
        return None
    moved = window(turned, [int(s) for s in start], like.shape[:3], outside=outside)
    return moved.array


def _interpolated(
    values: Shaped[np.ndarray, "..."],
    to_old: Float64[np.ndarray, "4 4"],
    shape: tuple[int, ...],
    *,
    order: int,
    outside: float | int,
) -> Shaped[np.ndarray, "..."]:
    from scipy import ndimage

    matrix, offset = to_old[:3, :3], to_old[:3, 3]
    width = np.linalg.norm(matrix, axis=1)  # of a new voxel along each old axis
    trailing = values.shape[3:]
    found = np.empty((*shape, *trailing), dtype=values.dtype)
    missing = _outside(to_old, shape, values.shape[:3])
    for channel in np.ndindex(*trailing):
        where = (..., *channel)
        smooth = _smoothed(values[where], width, order)
        found[where] = ndimage.affine_transform(
            smooth, matrix, offset, shape, order=order, mode="nearest"
        )
    found[missing] = outside
    return found


def _smoothed(
    values: Shaped[np.ndarray, "i j k"], width: Float64[np.ndarray, "3"], order: int
) -> Shaped[np.ndarray, "i j k"]:
    """Take away what a grid of voxels `width` times as wide cannot hold."""
    from scipy import ndimage

    if order == 0:
        return values
    values = values.astype(np.float32)
    sigma = np.sqrt(np.maximum(width**2 - 1.0, 0.0)) / _FWHM_PER_SIGMA
    if (sigma < 0.02).all():
        return values
    return np.asarray(ndimage.gaussian_filter(values, sigma.tolist(), mode="nearest"))


def _outside(
    to_old: Float64[np.ndarray, "4 4"], shape: tuple[int, ...], size: tuple[int, ...]
) -> Shaped[np.ndarray, "i j k"]:
    """Say which new voxels have their centre outside the old voxels' box."""
    index = [np.arange(n).reshape([-1 if a == b else 1 for b in range(3)])
             for a, n in enumerate(shape)]  # fmt: skip
    missing = np.zeros(shape, dtype=bool)
    for row, n in zip(to_old[:3], size, strict=True):
        place = row[0] * index[0] + row[1] * index[1] + row[2] * index[2] + row[3]
        missing |= (place < -0.5 - _WHOLE) | (place > n - 0.5 + _WHOLE)
    return missing


def _real(volume: Volume) -> Shaped[np.ndarray, "..."]:
    if volume.array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"voxels of type {volume.array.dtype} came; resample real numbers, for complex ones "
            "real and imaginary part one by one"
        )
    return volume.array


def _check_size(shape: Float64[np.ndarray, "3"]) -> None:
    if shape.prod() > _MAX_VOXELS:
        raise InvalidInputError(
            f"the new grid would have {shape.prod():.3g} voxels; check the voxel sizes and their "
            "unit"
        )
