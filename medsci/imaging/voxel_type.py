"""Conversion of voxels to the type of a file, without silent damage."""

__all__ = ["as_file_dtype"]

import numpy as np
from jaxtyping import Shaped
from numpy.typing import DTypeLike

from medsci.errors import InvalidInputError


def as_file_dtype(
    array: Shaped[np.ndarray, "..."], dtype: DTypeLike | None
) -> Shaped[np.ndarray, "..."]:
    """Convert voxels to the type of a file without ever wrapping, clipping or losing a NaN.

    Raises:
        InvalidInputError: a value does not fit (range, NaN into integers, complex into real).
    """
    storable = {"?": "u1", "e": "f4"}.get(array.dtype.char, array.dtype.str)
    target = np.dtype(storable if dtype is None else dtype).newbyteorder("=")
    if target == array.dtype.newbyteorder("="):
        return array
    if array.dtype.kind == "c" and target.kind != "c":
        raise InvalidInputError(
            f"complex voxels do not fit {target}; take the magnitude, or write real and imaginary "
            "part to two files"
        )
    if target.kind in "iu" and array.dtype.kind in "iuf":
        return _to_integer(array, target)
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    if converted.dtype.kind in "fc" and array.dtype.kind in "fc":
        lost = int(np.isfinite(array).sum() - np.isfinite(converted).sum())
        if lost:
            raise InvalidInputError(f"{lost} voxels are too large for {target}; use float64")
    return converted


def _to_integer(array: np.ndarray, target: np.dtype) -> np.ndarray:
    if array.dtype.kind == "f":
        n_bad = int(array.size - np.isfinite(array).sum())
        if n_bad:
            raise InvalidInputError(
                f"{n_bad} voxels are NaN or infinite and do not fit {target}; replace them, or "
                "write float32"
            )
        array = np.rint(array)
    low, high = array.min().item(), array.max().item()
    limits = np.iinfo(target)
    if int(low) < limits.min or int(high) > limits.max:
        raise InvalidInputError(
            f"values from {low:g} to {high:g} do not fit {target} ({limits.min} to {limits.max}); "
            "choose a wider type or rescale"
        )
    return array.astype(target)
