"""Geometry of a voxel grid: pure functions of a 4x4 affine and a shape.

An affine `A` takes voxel indices to world millimetres, `x = A (i, j, k, 1)`, in RAS+: x grows to
the patient's right, y to the front (anterior), z to the head (superior). Index 0 is a voxel's
centre.
"""

__all__ = [
    "axis_codes",
    "corners_mm",
    "fallback_affine",
    "is_valid_affine",
    "largest_gap_mm",
    "moved_affine",
    "reorient",
    "signed_permutation",
    "spacing_of",
]

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float64, Int, Shaped

Affine = Float64[np.ndarray, "4 4"]
Orientation = Int[np.ndarray, "3 2"]


def is_valid_affine(affine: np.ndarray) -> bool:
    """Say whether the affine is 4x4, finite, ends in 0 0 0 1 and gives every voxel a volume."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        return False
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(spacing.min() > 0 and abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-6)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the distance in mm between neighbouring voxel centres along i, j and k."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return i, j, k


def axis_codes(affine: Affine) -> tuple[str, str, str]:
    """Name the world direction in which each voxel axis mostly runs, e.g. `('R', 'A', 'S')`."""
    import nibabel as nib

    i, j, k = nib.orientations.aff2axcodes(affine)
    return str(i), str(j), str(k)


def corners_mm(affine: Affine, shape: Sequence[int]) -> Float64[np.ndarray, "8 3"]:
    """Return the eight outer corners of the grid in mm (voxel edges, not centres).

    Edges are used so that the direction and thickness of an axis with one voxel count as well.
    """
    ends = [(-0.5, size - 0.5) for size in shape[:3]]
    voxels = np.array([(*corner, 1.0) for corner in product(*ends)])
    return (voxels @ affine.T)[:, :3]


def largest_gap_mm(first: Affine, second: Affine, shape: Sequence[int]) -> float:
    """Return the largest distance in mm between where two affines put a voxel of this grid.

    The distance is convex in the voxel position, so its maximum over the grid is at a corner.
    """
    gap = corners_mm(first, shape) - corners_mm(second, shape)
    return float(np.linalg.norm(gap, axis=1).max())


def fallback_affine(shape: Sequence[int], spacing_mm: Sequence[float | int]) -> Affine:
    """Return the affine of a file that states no orientation: spacing only, centred, i to the left.

    This is how nibabel reads such a file, and the left-right sense agrees with ITK, FSL and SPM.
    Nobody knows whether it is true: codes 0 stay with the volume to say so.
    """
    step = np.array(spacing_mm[:3], dtype=np.float64) * (-1.0, 1.0, 1.0)
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = -step * (np.array(shape[:3]) - 1) / 2
    return affine


def moved_affine(affine: Affine, start: Sequence[float | int]) -> Affine:
    """Return the affine of a crop whose voxel 0 is voxel `start` of this grid."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.asarray(start, dtype=np.float64) + affine[:3, 3]
    return moved


def signed_permutation(matrix: Float64[np.ndarray, "3 3"]) -> Orientation | None:
    """Return the axis order and flips that a voxel-to-voxel matrix makes, or None if it does more.

    Row a of the result says which target axis source axis a becomes and with which sign (the layout
    of `nibabel.orientations`).
    """
    rounded = np.rint(matrix)
    if not np.allclose(matrix, rounded, atol=1e-4):
        return None
    if not (np.abs(rounded).sum(0) == 1).all() or not (np.abs(rounded).sum(1) == 1).all():
        return None
    target = np.abs(rounded).argmax(0)
    sign = rounded[target, np.arange(3)]
    return np.stack([target, sign], axis=1).astype(np.int64)


def reorient(
    array: Shaped[np.ndarray, "..."], orientation: Orientation
) -> Shaped[np.ndarray, "..."]:
    """Permute and flip the first three axes; the result is contiguous and shares no memory."""
    flips = tuple(slice(None, None, int(sign)) for sign in orientation[:, 1])
    order = [int(axis) for axis in np.argsort(orientation[:, 0])]
    return np.transpose(array[flips], [*order, *range(3, array.ndim)]).copy(order="C")
