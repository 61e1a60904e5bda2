"""Whatever a caller has, as a `Volume`, and back to what the caller had."""

__all__ = ["as_volume", "return_kind"]

import sys
from pathlib import Path
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError
from medsci.imaging.nifti import from_nibabel, read_nifti, to_nibabel
from medsci.imaging.volume import Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_volume(image: Any) -> Volume:
    """Turn an image of any accepted kind into a `Volume`.

    Args:
        image: a path to NIfTI, a nibabel NIfTI image, a SimpleITK image (2D to 4D, components
            last; its LPS+ becomes RAS+), a `Volume` (returned as it is), or a tuple of array or
            tensor with at least three axes and a 4x4 affine in RAS+ mm. Arrays in memory are
            shared, not copied, where the source allows it.

    Raises:
        InvalidInputError: another kind of object, or a file that cannot be read.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_nifti(image)
    if isinstance(image, tuple) and len(image) == 2:
        return Volume(_numpy(image[0]), _numpy(image[1]))
    if _is_a(image, "SimpleITK", "Image"):
        return _from_sitk(image)
    if _is_a(image, "nibabel.spatialimages", "SpatialImage"):
        return from_nibabel(image)
    raise InvalidInputError(
        f"cannot make a volume of {type(image).__name__}; give a path, a nibabel or SimpleITK "
        "image, a Volume, or a tuple (array, affine)"
    )


def return_kind(volume: Volume, *, like: Any) -> Any:
    """Turn a `Volume` into the kind of object that `like` is; a path gives the `Volume` itself.

    A tensor comes back on the device of the one in `like`. Geometry is the volume's own: `like`
    decides the kind only.
    """
    if isinstance(like, Volume | str | Path):
        return volume
    if isinstance(like, tuple) and len(like) == 2:
        return _same_array_kind(volume.array, like[0]), _same_array_kind(volume.affine, like[1])
    if _is_a(like, "SimpleITK", "Image"):
        return _to_sitk(volume, n_dims=like.GetDimension())
    if _is_a(like, "nibabel.spatialimages", "SpatialImage"):
        return to_nibabel(volume)
    raise InvalidInputError(
        f"cannot return a volume as {type(like).__name__}; pass the object that was given to "
        "as_volume"
    )


def _is_a(value: Any, module: str, name: str) -> bool:
    """Ask for a type without importing its library: unloaded, nobody can hold such an object."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _numpy(value: Any) -> np.ndarray:
    if not _is_a(value, "torch", "Tensor"):
        return np.asanyarray(value)
    value = value.detach().cpu().resolve_conj()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def _same_array_kind(array: np.ndarray, like: Any) -> Any:
    if not _is_a(like, "torch", "Tensor"):
        return np.array(array)
    import torch

    return torch.from_numpy(np.array(array, order="C")).to(like.device)


def _from_sitk(image: Any) -> Volume:
    import SimpleITK

    n_dims = image.GetDimension()
    array = SimpleITK.GetArrayFromImage(image)
    array = array.transpose(*range(n_dims)[::-1], *range(n_dims, array.ndim))
    if n_dims == 2:
        array = array[:, :, None]
    n_space = min(n_dims, 3)
    direction = np.array(image.GetDirection()).reshape(n_dims, n_dims)[:n_space, :n_space]
    affine = np.eye(4)
    affine[:n_space, :n_space] = direction * np.array(image.GetSpacing()[:n_space])
    affine[:n_space, 3] = image.GetOrigin()[:n_space]
    return Volume(array, _LPS @ affine, sform_code=1, qform_code=1)


def _to_sitk(volume: Volume, *, n_dims: int) -> Any:
    """Build the SimpleITK image; trailing axes beyond `n_dims` become components."""
    import SimpleITK

    array = volume.array
    if array.dtype.char in "?e":
        array = array.astype(np.uint8 if array.dtype.char == "?" else np.float32)
    if n_dims == 2:
        array = array[:, :, 0]
    n_dims = min(n_dims, array.ndim)
    if array.ndim > n_dims + 1:
        raise InvalidInputError(
            f"a SimpleITK image of {n_dims} axes with components cannot hold shape {array.shape}; "
            "join the trailing axes or return one component at a time"
        )
    array = array.transpose(*range(n_dims)[::-1], *range(n_dims, array.ndim))
    image = SimpleITK.GetImageFromArray(
        np.ascontiguousarray(array), isVector=bool(array.ndim > n_dims)
    )
    affine = _LPS @ volume.affine
    n_space = min(n_dims, 3)
    spacing, direction = np.ones(n_dims), np.eye(n_dims)
    spacing[:n_space] = volume.spacing_mm[:n_space]
    direction[:n_space, :n_space] = affine[:n_space, :n_space] / spacing[:n_space]
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin([*affine[:n_space, 3].tolist(), *[0.0] * (n_dims - n_space)])
    return image
