"""Bring images of either library to NumPy and check what every metric needs."""

__all__ = ["Array", "as_real", "masked_pair", "resolve_mask"]

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from medsci.errors import InvalidInputError

_COMPLEX = (
    "{name} is complex; an image metric needs one number per voxel: pass its magnitude (abs) or, "
    "if the phase matters, its real and imaginary parts one after the other"
)

Array = Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]


def as_real(image: Array, *, name: str) -> Float64[np.ndarray, "..."]:
    """Return the image as finite float64 in host memory.

    Raises:
        InvalidInputError: complex or non-finite values.
    """
    if isinstance(image, Tensor):
        host = image.detach().cpu()
        image = (host.float() if host.dtype is torch.bfloat16 else host).numpy()
    if np.iscomplexobj(image):
        raise InvalidInputError(_COMPLEX.format(name=name))
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise InvalidInputError(
            f"{name} holds {count} values that are NaN or infinite; "
            "find the step that made them, or replace them before measuring"
        )
    return values


def resolve_mask(mask: Array | None, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Return the mask as booleans; `None` means every voxel.

    Raises:
        InvalidInputError: the mask has another shape or selects nothing.
    """
    if mask is None:
        return np.ones(shape, dtype=bool)
    inside = as_real(mask, name="mask") != 0
    if inside.shape != shape:
        raise InvalidInputError(
            f"mask is {inside.shape} but the image is {shape}; resample the mask to the image"
        )
    if not inside.any():
        raise InvalidInputError("mask is empty; pass mask=None to use every voxel")
    return inside


def masked_pair(
    estimate: Array, reference: Array, *, mask: Array | None
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Return estimate, reference and mask on one common shape of rank 2 or 3.

    Raises:
        InvalidInputError: shapes differ, rank is not 2 or 3, or a value is not finite.
    """
    left = as_real(estimate, name="estimate")
    right = as_real(reference, name="reference")
    if left.shape != right.shape:
        raise InvalidInputError(
            f"estimate is {left.shape} but reference is {right.shape}; "
            "bring both to one grid first (nothing is resampled or broadcast here)"
        )
    if left.ndim not in (2, 3) or left.size == 0:
        raise InvalidInputError(
            f"images are {left.shape}; give one 2D image or one 3D volume with at least one voxel, "
            "and call once per batch or channel entry"
        )
    return left, right, resolve_mask(mask, left.shape)
