"""Find the head in a T1-weighted image, skull included."""

__all__ = ["head_mask"]

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, as_real

_BINS = 256


def head_mask(
    image: Array,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    smoothing_mm: float = 1.0,
    closing_mm: float = 8.0,
) -> Bool[np.ndarray, "..."]:
    """Return True inside the head: scalp, the dark skull and everything they enclose.

    Steps: Gaussian smoothing, Otsu's threshold between air and tissue, morphological closing with a
    ball (bridges the dark skull), holes filled in 3D and in every slice of every orientation (a
    slab's skull is open at both ends, its slices are not), largest connected part.

    The image goes on beyond its border as it is there, so a slab keeps its first and last slice.

    Args:
        image: magnitudes, 2D or 3D, air near 0.
        spacing_mm: voxel size along each axis; 1 mm if left out.
        smoothing_mm: standard deviation of the smoothing; 0 for none.
        closing_mm: radius of the ball; gaps up to twice this are bridged.

    Raises:
        InvalidInputError: complex or non-finite values, a rank other than 2 or 3, spacing of
            another length, or an image without contrast.

    Source: Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    values = as_real(image, name="image")
    if values.ndim not in (2, 3):
        raise InvalidInputError(f"image is {values.shape}; give a 2D image or a 3D volume")
    spacing = spacing_mm or (1.0,) * values.ndim
    if len(spacing) != values.ndim or min(spacing) <= 0:
        raise InvalidInputError(
            f"spacing_mm is {spacing} for an image of rank {values.ndim}; "
            "give one positive number per axis"
        )
    sigma = [smoothing_mm / step for step in spacing]
    smooth = ndimage.gaussian_filter(values, sigma, mode="nearest")
    tissue = _close(smooth > _otsu(smooth), radius_mm=closing_mm, spacing_mm=spacing)
    return _largest(_fill(tissue))


def _otsu(values: Float64[np.ndarray, "..."]) -> float:
    """Return the threshold that maximises the variance between the two classes."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    if not high > low:
        raise InvalidInputError(
            f"image is constant ({low:g}) but for at most 0.5 % of it; there is no head to find"
        )
    counts, edges = np.histogram(np.minimum(values, high), bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    mass = np.cumsum(counts * centres)
    gap = mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * gap**2))])


def _close(
    mask: Bool[np.ndarray, "..."], *, radius_mm: float, spacing_mm: tuple[float, ...]
) -> Bool[np.ndarray, "..."]:
    """Dilate and erode by a ball in mm, through distance maps."""
    margin = [int(np.ceil(radius_mm / step)) + 1 for step in spacing_mm]
    padded = np.pad(mask, [(m, m) for m in margin], mode="edge")
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= radius_mm
    if grown.all():
        return np.ones_like(mask)
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    inner = tuple(slice(m, -m) for m in margin)
    return shrunk[inner] | mask


def _fill(mask: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    filled = ndimage.binary_fill_holes(mask)
    if mask.ndim == 3:
        for axis in range(3):
            slices = np.moveaxis(mask, axis, 0)
            per_slice = np.stack([ndimage.binary_fill_holes(each) for each in slices])
            filled = filled | np.moveaxis(per_slice, 0, axis)
    return filled


def _largest(mask: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    labels, count = ndimage.label(mask)
    if count == 0:
        raise InvalidInputError("no voxel is brighter than the threshold; there is no head to find")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(np.argmax(sizes)))
