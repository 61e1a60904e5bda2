"""Where the brain is in a T1-weighted head: a given mask, a stripped skull, or a grown surface.

The mask of this module places a crop; it is no segmentation. Three ways, in this order:

- `given`: the user's own mask, moved onto the grid of the image by world coordinates.
- `stripped`: the background is exactly one value and what is left has the size of a brain, so the
  skull is gone already: everything else is brain.
- `surface`: head against air (Otsu), then a closed surface grown from its middle until it meets the
  dark skull (`medsci.brain.surface`). The outermost 6 mm of the head, skin and fat, are out of
  its reach. The lower end of the spinal cord is cut off, as its stem is thinner than the surface
  bends.
"""

__all__ = ["BrainMask", "find_brain", "given_brain", "largest_part"]

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from medsci.brain.surface import filled, grow
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.geometry import corners_mm
from medsci.imaging.resample import resample_spacing, resample_to
from medsci.metrics import head_mask

_PLAUSIBLE_ML = (600.0, 2200.0)
_PLAUSIBLE_MM = (80.0, 220.0)  # extent of the bounding box
_COARSE_MM = 3.0  # voxels on which head and air are told apart
_RIM_MM = 6.0
_HEIGHT_MM = 150.0  # from the top of the head: the part that the first sphere is made for
_SMOOTHING_MM = 0.6


@final
@dataclass(frozen=True, eq=False)
class BrainMask:
    """Which voxels are brain, and how that was found.

    Attributes:
        volume: bool, on the grid of the image; its largest part is the brain.
        method: `given`, `stripped` or `surface`.
        volume_ml: of the largest part.
        remarks: what looks implausible, one sentence each.
    """

    volume: Volume
    method: Literal["given", "stripped", "surface"]
    volume_ml: float
    remarks: tuple[str, ...] = ()


def find_brain(image: Volume) -> BrainMask:
    """Find the brain without a mask and without a network.

    Args:
        image: real magnitudes, three axes, T1-weighted; any orientation that its affine states.

    Raises:
        InvalidInputError: nothing that could be a head, or the surface found nothing.
    """
    turned = image.canonical()
    values = turned.array.astype(np.float32)
    found = _stripped(values, turned)
    method: Literal["stripped", "surface"] = "surface" if found is None else "stripped"
    if found is None:
        found = _by_surface(values, turned)
    mask = turned.with_array(found).to_grid_of(image)
    return _judged(image.with_array(mask.array), method)


def given_brain(mask: Volume, image: Volume) -> BrainMask:
    """Move a mask onto the grid of an image: nearest voxel, by world coordinates.

    Args:
        mask: above 0.5 in the brain, on any grid of the same world.
        image: only its grid counts.

    Raises:
        InvalidInputError: not a single volume of real numbers, NaN, empty, or elsewhere.
    """
    values = mask.array[..., 0] if mask.array.ndim == 4 and mask.shape[3] == 1 else mask.array
    if values.ndim != 3 or values.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"the mask has shape {mask.shape} of {values.dtype}; give one volume of real numbers, "
            "above 0.5 in the brain"
        )
    if mask.n_nonfinite:
        raise InvalidInputError(
            f"{mask.n_nonfinite} voxels of the mask are NaN or infinite; write it again"
        )
    inside = mask.with_array((values > 0.5).astype(np.uint8))
    if not inside.array.any():
        raise InvalidInputError("the mask is empty: no voxel is above 0.5; write it again")
    moved = resample_to(inside, image, order=0).array > 0
    if not moved.any():
        raise InvalidInputError(
            f"the mask does not overlap the image: it lies within {_box_of(inside)} mm, the image "
            f"within {_box_of(image)} mm; give the mask of this image"
        )
    return _judged(image.with_array(moved), "given")


def largest_part(mask: Bool[np.ndarray, "i j k"]) -> Bool[np.ndarray, "i j k"]:
    """Return the largest part whose voxels touch by face, edge or corner.

    Raises:
        InvalidInputError: no voxel is set.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        raise InvalidInputError("no voxel of the mask is set; give another")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(np.argmax(sizes)))


def _judged(mask: Volume, method: Literal["given", "stripped", "surface"]) -> BrainMask:
    """Measure the brain and say what is odd about it."""
    part = largest_part(mask.array)
    millilitres = float(part.sum()) * float(np.prod(mask.spacing_mm)) / 1000.0
    remarks = []
    if not _PLAUSIBLE_ML[0] <= millilitres <= _PLAUSIBLE_ML[1]:
        remarks.append(
            f"the brain found has {millilitres:.0f} ml, which is not between "
            f"{_PLAUSIBLE_ML[0]:.0f} and {_PLAUSIBLE_ML[1]:.0f}"
        )
    ends = [np.flatnonzero(part.any(axis=axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))]
    extent = [
        float(last - first + 1) * step
        for (first, last), step in zip(ends, mask.spacing_mm, strict=True)
    ]
    if not all(_PLAUSIBLE_MM[0] <= mm <= _PLAUSIBLE_MM[1] for mm in extent):
        remarks.append(f"the brain found measures {' x '.join(f'{mm:.0f}' for mm in extent)} mm")
    if part.all():
        remarks.append("the mask covers the whole image, which says nothing about the brain")
    return BrainMask(mask, method, millilitres, tuple(remarks))


def _box_of(volume: Volume) -> str:
    corners = corners_mm(volume.affine, volume.shape)
    pairs = zip(corners.min(axis=0), corners.max(axis=0), strict=True)
    return " x ".join(f"({low:.0f}, {high:.0f})" for low, high in pairs)


def _stripped(
    values: Float32[np.ndarray, "i j k"], volume: Volume
) -> Bool[np.ndarray, "i j k"] | None:
    """Return what is not background, where that is one value and the rest is as large as a brain.

    Air whose noise was set to zero is also one value, but a head is larger than a brain; a slab of
    a head may not be, but reaches its border.
    """
    border = [
        face.ravel() for axis in range(3) for face in (values.take(0, axis), values.take(-1, axis))
    ]
    rim = np.concatenate(border)
    background = float(np.median(rim))
    if np.mean(rim != background) > 0.1:
        return None
    part = values != background
    if not part.any():
        return None
    part = ndimage.binary_fill_holes(largest_part(part))
    millilitres = float(part.sum()) * float(np.prod(volume.spacing_mm)) / 1000.0
    fits = _PLAUSIBLE_ML[0] <= millilitres <= _PLAUSIBLE_ML[1]
    return np.asarray(part) if fits and part.mean() < 0.9 else None


@final
@dataclass(frozen=True, eq=False)
class _Start:
    """Where a surface starts, and what it looks for; `centre` in voxels of the coarse grid."""

    centre: Float64[np.ndarray, "3"]
    radius_mm: float
    levels: tuple[float, float, float]


def _by_surface(values: Float32[np.ndarray, "i j k"], volume: Volume) -> Bool[np.ndarray, "i j k"]:
    """Grow a surface in a volume whose axes run to right, anterior and superior."""
    fine = volume.with_array(values)
    spacing = fine.spacing_mm
    coarse = resample_spacing(fine, [max(_COARSE_MM, step) for step in spacing], order=1)
    core = _core(coarse)
    start = _start(coarse.array, core, coarse.spacing_mm)
    reachable = resample_to(coarse.with_array(core.astype(np.uint8)), fine, order=0).array > 0
    sigma = [_SMOOTHING_MM / step for step in spacing]
    smooth = ndimage.gaussian_filter(values, sigma, mode="nearest")
    smooth[~reachable] = start.levels[0]
    to_fine = np.linalg.inv(fine.affine) @ coarse.affine
    vertices = grow(
        smooth,
        spacing_mm=spacing,
        centre_mm=(to_fine[:3, :3] @ start.centre + to_fine[:3, 3]) * spacing,
        radius_mm=start.radius_mm,
        levels=start.levels,
    )
    found = filled(vertices, shape=fine.shape, spacing_mm=spacing)
    if not found.any():
        raise InvalidInputError("no brain was found in the image; give its mask")
    return largest_part(found)


def _core(coarse: Volume) -> Bool[np.ndarray, "i j k"]:
    """Return the head without its rim; the image goes on beyond its border as it is there."""
    head = head_mask(coarse.array, spacing_mm=coarse.spacing_mm)
    depth = ndimage.distance_transform_edt(np.pad(head, 1, mode="edge"), sampling=coarse.spacing_mm)
    core = depth[1:-1, 1:-1, 1:-1] > _RIM_MM
    if not core.any():
        raise InvalidInputError(
            f"what stands out from the background is nowhere deeper than {_RIM_MM:.0f} mm, so it "
            "is no head; check the image, or give a mask of the brain"
        )
    return np.asarray(core)


def _start(
    values: Float32[np.ndarray, "i j k"],
    core: Bool[np.ndarray, "i j k"],
    spacing_mm: tuple[float, float, float],
) -> _Start:
    """Measure the upper part of the head: centre of mass, radius of equal volume, grey levels."""
    top = int(np.flatnonzero(core.any(axis=(0, 1)))[-1])
    low = max(0, top + 1 - round(_HEIGHT_MM / spacing_mm[2]))
    upper = core.copy()
    upper[:, :, :low] = False
    background = float(np.percentile(values, 2))
    bright = float(np.percentile(values[upper], 98))
    threshold = background + 0.1 * (bright - background)
    tissue = upper & (values > threshold)
    if not tissue.any():
        raise InvalidInputError("the head is as dark as the background; give a mask of the brain")
    weight = np.where(tissue, np.clip(values, background, bright) - background, 0.0)
    centre = np.array(ndimage.center_of_mass(weight))
    radius = (3.0 * float(tissue.sum()) * float(np.prod(spacing_mm)) / (4.0 * np.pi)) ** (1 / 3)
    axes = np.ogrid[tuple(slice(n) for n in values.shape)]
    square = sum(((x - c) * s) ** 2 for x, c, s in zip(axes, centre, spacing_mm, strict=True))
    inner = tissue & (square < radius**2) & (values < bright)
    median = float(np.median(values[inner])) if inner.any() else 0.5 * (threshold + bright)
    return _Start(centre, radius, (background, threshold, median))
