"""Minimal preparation of a head for a volume model: grid, grey scale and field of view.

1. The brain: a given mask, or one that is found (`medsci.brain.masking`). It places the window and
   is never multiplied into the image.
2. Axes of voxels below 1 mm are resampled to 1 mm: by the factor `max(round(z, 2), 1) / z`, with a
   cubic spline clipped to the range of the image. Larger voxels are rounded to hundredths of a mm
   by the same formula; factors within 1e-4 of 1 leave the voxels alone.
3. Axes are flipped and permuted to run to left, posterior, superior (or right, anterior, superior).
4. Values are clipped to two percentiles of the whole volume and scaled to [0, 1].
5. A window of `floor(field of view / voxel size)` voxels per axis is cut out or padded with 0. It
   starts at `c - floor((n - 1) / 2)`, c the middle of the bounding box of the brain's largest part,
   `floor((min + max) / 2)`.

The affine follows every step: after the window it is `A' = A T(start)`, so each voxel stays where
it is in the patient. (The published preparation keeps A and moves the image by the window's start.)

Source: Remedios et al. 2025, arXiv 2510.26834; steps and constants after its published code.
"""

__all__ = ["PrepSettings", "Prepared", "prepare", "rule_spacing", "undo"]

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from medsci.brain.masking import BrainMask, find_brain, given_brain, largest_part
from medsci.brain.prep_settings import SPACING_MM, PrepSettings
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_spacing, resample_to, window

_log = logging.getLogger(__name__)
_FULL_SCALE = 65535
_FINEST_MM = 1.0
_LEAST_VOXELS = 8
_MOST_VOXELS = 1 << 30


@final
@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared volume, and what leads back.

    Attributes:
        volume: uint16 (0 to 65535) or float32 (0 to 1); sform and qform are its affine.
        mask: uint8 on the same grid, 1 in the brain.
        crop_start: voxel of the turned and resampled image where the window starts; negative
            where it was padded.
        low, high: values of the image that became 0 and full scale.
        brain: how the mask was found, on the turned and resampled grid.
        remarks: what looks wrong, one sentence each.
    """

    volume: Volume
    mask: Volume
    crop_start: tuple[int, int, int]
    low: float
    high: float
    brain: BrainMask
    remarks: tuple[str, ...] = ()


def rule_spacing(spacing_mm: Sequence[float | int]) -> tuple[float, ...]:
    """Return the voxel sizes of step 2: hundredths of a mm, and none below 1 mm."""
    return tuple(max(round(float(z), 2), _FINEST_MM) for z in spacing_mm)


def prepare(
    volume: Volume, *, mask: Volume | None = None, settings: PrepSettings | None = None
) -> Prepared:
    """Prepare one head.

    Args:
        volume: real, one value per voxel, any orientation.
        mask: of the brain, above 0.5, on any grid of the same world; found if None.
        settings: see `PrepSettings`.

    Raises:
        InvalidInputError: not a head in a volume of real finite numbers, or the mask is not its.
    """
    settings = PrepSettings() if settings is None else settings
    image = _checked(volume)
    work = _resampled(image, settings).to_orientation(settings.orientation)
    brain = _brain_on(work, image, mask)
    part = largest_part(brain.volume.array)
    values, low, high = _scaled(work.array, settings)
    shape = _window_shape(work.spacing_mm, settings)
    start = _window_start(part, shape)
    code = volume.sform_code or volume.qform_code or 2
    grid = Volume(values, work.affine, sform_code=code, qform_code=code)
    kept = window(grid, start, shape)
    kept_mask = window(grid.with_array(part.astype(np.uint8)), start, shape)
    remarks = (*brain.remarks, *_remarks(volume, part, kept_mask.array))
    for remark in remarks:
        _log.warning("%s", remark)
    return Prepared(kept, kept_mask, start, low, high, brain, remarks)


def undo(
    array: Shaped[np.ndarray, "..."],
    prepared: Prepared,
    *,
    like: Volume,
    order: int = 1,
    values: Literal["input", "unchanged"] = "input",
) -> Volume:
    """Bring what was computed on the prepared grid back to the grid of the input.

    Where only flips, permutations and whole voxels lie between the grids nothing is interpolated.

    Args:
        array: (i, j, k, ...) on the grid of `prepared.volume`.
        prepared: what `prepare` gave.
        like: the input, or any other volume of the same world; only its grid counts.
        order: of the spline; 0 for labels.
        values: `input` scales to the grey values of the input (uint16 counts as 0 to 65535,
            floats as 0 to 1), and voxels beyond the window have its low end; `unchanged` leaves
            values alone, for labels and maps, with 0 beyond the window.

    Raises:
        InvalidInputError: the array lies on another grid.
    """
    if np.shape(array)[:3] != prepared.volume.shape:
        raise InvalidInputError(
            f"the array has shape {np.shape(array)} and the prepared grid {prepared.volume.shape}; "
            "give one value, or channels, for each of its voxels"
        )
    if values == "unchanged":
        return resample_to(prepared.volume.with_array(array), like, order=order)
    scale = _FULL_SCALE if array.dtype == np.uint16 else 1
    grey = prepared.low + (prepared.high - prepared.low) * (array.astype(np.float64) / scale)
    home = prepared.volume.with_array(grey.astype(np.float32))
    return resample_to(home, like, order=order, outside=prepared.low)


def _checked(volume: Volume) -> Volume:
    """Refuse what is no head in one volume of real numbers."""
    array = volume.array
    if array.ndim > 3 and math.prod(array.shape[3:]) > 1:
        raise InvalidInputError(
            f"the image has shape {array.shape}; prepare one volume of three axes at a time, or "
            "the mean over the others"
        )
    array = array.reshape(array.shape[:3])
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"the image is {array.dtype}; take the magnitude first")
    if volume.n_nonfinite:
        raise InvalidInputError(
            f"{volume.n_nonfinite} voxels of the image are NaN or infinite; replace them first"
        )
    if min(array.shape) < _LEAST_VOXELS:
        raise InvalidInputError(
            f"the image has {' x '.join(map(str, array.shape))} voxels; a head needs at least "
            f"{_LEAST_VOXELS} along each axis"
        )
    spacing = volume.spacing_mm
    if not all(SPACING_MM[0] <= mm <= SPACING_MM[1] for mm in spacing):
        raise InvalidInputError(
            f"voxels of {' x '.join(f'{mm:.3g}' for mm in spacing)} mm are not those of a head; "
            "check the unit that the header states"
        )
    if array.min() == array.max():
        raise InvalidInputError(
            f"the image is empty: {array.flat[0]:g} in every voxel; check the file"
        )
    return volume.with_array(array.astype(np.float32))


def _resampled(image: Volume, settings: PrepSettings) -> Volume:
    if settings.spacing_mm == "keep":
        return image
    if isinstance(settings.spacing_mm, str):
        wanted = rule_spacing(image.spacing_mm)
    else:
        wanted = (float(settings.spacing_mm),) * 3
    found = resample_spacing(image, wanted, order=3)
    return found.with_array(np.clip(found.array, image.array.min(), image.array.max()))


def _brain_on(work: Volume, image: Volume, mask: Volume | None) -> BrainMask:
    """Give the brain on the working grid: the user's, or as it is found on the image's own."""
    if mask is not None:
        return given_brain(mask, work)
    found = find_brain(image)
    whole = found.volume.with_array(found.volume.array.astype(np.uint8))
    moved = resample_to(whole, work, order=0)
    return replace(found, volume=moved.with_array(moved.array > 0))


def _scaled(
    values: Float32[np.ndarray, "i j k"], settings: PrepSettings
) -> tuple[Shaped[np.ndarray, "i j k"], float, float]:
    """Clip to the percentiles and scale; return the values and what became 0 and 1."""
    low, high = (float(p) for p in np.percentile(values, settings.percentiles))
    if not high > low:
        raise InvalidInputError(
            f"the {settings.percentiles[0]:g} and {settings.percentiles[1]:g} percentile of the "
            f"image are both {low:g}; give --percentiles further apart, such as 0 100"
        )
    scaled = np.clip((values - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    if settings.dtype == "float32":
        return scaled.astype(np.float32), low, high
    return np.rint(scaled * np.float32(_FULL_SCALE)).astype(np.uint16), low, high


def _window_shape(
    spacing_mm: tuple[float, float, float], settings: PrepSettings
) -> tuple[int, int, int]:
    """Count the voxels of the field of view, sizes taken to hundredths of a mm."""
    found = [
        max(math.floor(round(fov / (round(mm, 2) or mm), 6)), 1)
        for fov, mm in zip(settings.fov_mm, spacing_mm, strict=True)
    ]
    if math.prod(found) > _MOST_VOXELS:
        raise InvalidInputError(
            f"the field of view would have {' x '.join(map(str, found))} voxels; give a smaller "
            "--fov or a larger --spacing"
        )
    return found[0], found[1], found[2]


def _window_start(
    part: Bool[np.ndarray, "i j k"], shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Centre a window on the bounding box of a mask."""
    start = []
    for axis, n in enumerate(shape):
        others = tuple(other for other in range(3) if other != axis)
        set_ = np.flatnonzero(part.any(axis=others))
        start.append(int(set_[0] + set_[-1]) // 2 - (n - 1) // 2)
    return start[0], start[1], start[2]


def _remarks(
    image: Volume, part: Bool[np.ndarray, "i j k"], kept: Shaped[np.ndarray, "l m n"]
) -> list[str]:
    found = []
    lost = 1.0 - float(kept.sum()) / float(part.sum())
    if lost > 0:
        found.append(f"{100 * lost:.2g} % of the brain lies outside the field of view")
    if not image.has_orientation:
        found.append("the image states no orientation, so left and right of the result are a guess")
    return found
