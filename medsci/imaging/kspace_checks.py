"""What k-space arrays must satisfy; each failure is one line that says what came and what to do."""

__all__ = [
    "check_crop",
    "checked_attributes",
    "checked_maps",
    "checked_mask",
    "checked_reference",
    "checked_samples",
]

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError

_LAYOUT = "(n_slices, n_coils, n_readout, n_phase)"


def checked_samples(name: str, data: Any) -> np.ndarray:
    """Return complex64 samples of four non-empty axes without NaN or infinity."""
    data = np.asarray(data)
    if data.dtype.kind != "c":
        raise InvalidInputError(
            f"{name} is {data.dtype}, but it must be complex; give complex samples, not magnitudes "
            "(two real channels: join them as real + 1j * imaginary)"
        )
    if data.ndim != 4 or data.size == 0:
        raise InvalidInputError(
            f"{name} has shape {data.shape}, but it must be {_LAYOUT} with none of them 0; "
            "add an axis of length 1 for a single slice or coil"
        )
    with np.errstate(over="ignore"):  # complex128 beyond complex64 becomes infinite, see below
        data = np.ascontiguousarray(data, dtype=np.complex64)
    n_bad = sum(int(part.size - np.isfinite(part).sum()) for part in data)
    if n_bad:
        raise InvalidInputError(
            f"{name} holds {n_bad} NaN or infinite samples; set samples that were not acquired to "
            "0 and clear their line in the mask"
        )
    return data


def checked_mask(mask: Any, data: np.ndarray) -> np.ndarray:
    """Return a boolean mask that fits the samples and includes zero frequency."""
    mask = np.asarray(mask)
    n_phase = data.shape[-1]
    if mask.shape != (n_phase,):
        raise InvalidInputError(
            f"the mask has shape {mask.shape}, but k-space has {n_phase} phase-encoding lines (its "
            f"last axis); give one entry per line, shape ({n_phase},)"
        )
    if mask.dtype.kind not in "buif" or not np.isin(mask, (0, 1)).all():
        raise InvalidInputError(
            f"the mask ({mask.dtype}) must hold True and False, or 1 and 0; True marks an acquired "
            "line"
        )
    mask = mask.astype(bool)
    if not mask.any():
        raise InvalidInputError(
            "the mask is empty: no line was acquired; True must mark the acquired lines"
        )
    if not mask[n_phase // 2]:
        raise InvalidInputError(
            f"the mask has no centre lines: zero frequency (line {n_phase // 2} of {n_phase}) was "
            "not acquired; if zero frequency is at line 0, apply fftshift to k-space and mask"
        )
    if any(part[..., ~mask].any() for part in data):
        raise InvalidInputError(
            "k-space holds non-zero samples in lines that the mask says were not acquired; set "
            "them to 0 (data * mask) or correct the mask"
        )
    return mask


def check_crop(crop: tuple[int, int] | None, shape: Sequence[int]) -> None:
    """Refuse a crop that is not within the image."""
    if crop is None:
        return
    if len(crop) != 2 or not all(0 < c <= n for c, n in zip(crop, shape[2:], strict=True)):
        raise InvalidInputError(
            f"crop {crop} must be (readout, phase) within the image size {tuple(shape[2:])}; use "
            "None for no crop"
        )


def checked_reference(
    reference: Any, shape: Sequence[int], crop: tuple[int, int] | None
) -> np.ndarray | None:
    """Return a finite float32 magnitude stack of the full or cropped size, or None."""
    if reference is None:
        return None
    reference = np.asarray(reference)
    allowed = {(shape[0], *shape[2:]), (shape[0], *(crop or shape[2:]))}
    if reference.shape not in allowed or reference.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"the reference is {reference.dtype} of shape {reference.shape}, but it must be a real "
            "magnitude image (slices, readout, phase) of shape "
            f"{' or '.join(map(str, sorted(allowed)))}; leave it out if there is none"
        )
    if not np.isfinite(reference).all():
        raise InvalidInputError("the reference holds NaN or infinite values; leave it out instead")
    return np.ascontiguousarray(reference, dtype=np.float32)


def checked_maps(maps: Any, shape: Sequence[int]) -> np.ndarray | None:
    """Return complex64 coil maps of the size of k-space, or None."""
    if maps is None:
        return None
    maps = checked_samples("the coil maps array", maps)
    if maps.shape != tuple(shape):
        raise InvalidInputError(
            f"the coil maps have shape {maps.shape}, but k-space is {tuple(shape)}; give one map "
            "per slice and coil, of the same size, or none to have them estimated"
        )
    return maps


def checked_attributes(attributes: Any) -> dict[str, Any]:
    """Return a copy of the attributes as JSON would give it back."""
    try:
        return dict(json.loads(json.dumps(attributes, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the attributes are no JSON dictionary ({error}); give plain numbers, text, lists"
        ) from error
