"""Measure how close an image is to its reference.

All four compare magnitudes in the units of the reference; nothing is rescaled, shifted or clipped
before the comparison. `mask` selects the voxels that count, and each of them counts once.

PSNR and SSIM need a `data_range`. Left out, it is **the largest value of the reference inside the
mask** (so it assumes images that start at 0, as magnitudes do). Published figures differ by several
dB through this choice alone: state it next to the number.
"""

__all__ = ["mae", "nrmse", "psnr", "ssim", "window_mean"]

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import correlate1d

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, masked_pair

_SIGMA = 1.5  # voxels
_RADIUS = 5  # 11 taps
_K1, _K2 = 0.01, 0.03


def mae(estimate: Array, reference: Array, *, mask: Array | None = None) -> float:
    """Return the mean absolute error inside the mask, in the units of the reference."""
    left, right, inside = masked_pair(estimate, reference, mask=mask)
    return float(np.abs(left - right)[inside].mean())


def nrmse(estimate: Array, reference: Array, *, mask: Array | None = None) -> float:
    """Return `||estimate - reference|| / ||reference||` inside the mask: 0 is perfect.

    The square of it is the NMSE of fastMRI.

    Raises:
        InvalidInputError: the reference is zero everywhere inside the mask, besides the shared ones
            (shape mismatch, empty mask, non-finite or complex values).

    Source: Zbontar et al. 2018, section 4.3, doi:10.48550/arXiv.1811.08839.
    """
    left, right, inside = masked_pair(estimate, reference, mask=mask)
    norm = float(np.linalg.norm(right[inside]))
    if norm == 0:
        raise InvalidInputError("reference is zero inside the mask; NRMSE divides by its norm")
    return float(np.linalg.norm((left - right)[inside])) / norm


def psnr(
    estimate: Array,
    reference: Array,
    *,
    mask: Array | None = None,
    data_range: float | None = None,
) -> float:
    """Return `10 log10(data_range^2 / MSE)` in dB inside the mask; infinite for equal images.

    Args:
        estimate: the image to judge.
        reference: the truth, same shape.
        mask: non-zero where voxels count; all of them if left out.
        data_range: peak of the scale; default: largest reference value inside the mask.

    Raises:
        InvalidInputError: shape mismatch, empty mask, non-finite or complex values, or no positive
            data range.

    Source: Zbontar et al. 2018, section 4.3, doi:10.48550/arXiv.1811.08839, whose range is the
    maximum of the whole volume; ours is its maximum inside the mask.
    """
    left, right, inside = masked_pair(estimate, reference, mask=mask)
    peak = _resolve_range(data_range, right, inside=inside)
    error = float(np.square(left - right)[inside].mean())
    if error == 0:
        return float("inf")
    return float(20 * np.log10(peak) - 10 * np.log10(error))


def ssim(
    estimate: Array,
    reference: Array,
    *,
    mask: Array | None = None,
    data_range: float | None = None,
    dims: Literal[2, 3] = 2,
    slice_axis: int = -1,
) -> float:
    """Return the structural similarity inside the mask, -1 to 1; 1 for equal images.

    The window is a Gaussian of 1.5 voxels cut at 11 taps; K1 = 0.01, K2 = 0.03. A volume is
    compared slice by slice with the 2D window (`dims=2`), which is what published MRI figures mean,
    or with the 3D window (`dims=3`); the two differ, so say which.

    Borders: as in the original, only windows that lie wholly inside the image count, so mask voxels
    within 5 of the image border are left out. Windows may reach across the mask into what is there.

    Args:
        estimate: the image to judge.
        reference: the truth, same shape.
        mask: non-zero where the map is averaged; every voxel counts once, whatever its slice.
        data_range: peak of the scale; default: largest reference value inside the mask.
        dims: rank of the window.
        slice_axis: axis along which a volume is a stack of 2D images; unused for `dims=3`.

    Raises:
        InvalidInputError: shape mismatch, empty mask, non-finite or complex values, no positive
            data range, an image smaller than the window, or no mask voxel away from the border.

    Source: Wang et al. 2004, eq. 13, doi:10.1109/TIP.2003.819861.
    """
    left, right, inside = masked_pair(estimate, reference, mask=mask)
    peak = _resolve_range(data_range, right, inside=inside)
    if dims == 3 and left.ndim != 3:
        raise InvalidInputError(f"dims=3 needs a volume; the images are {left.shape}")
    if dims == 3 or left.ndim == 2:
        stack = [(left, right, inside)]
    else:
        stack = list(
            zip(*(np.moveaxis(a, slice_axis, 0) for a in (left, right, inside)), strict=True)
        )
    total, count = 0.0, 0
    for x, y, m in stack:
        counted = _away_from_border(m)
        if counted.any():
            total += float(_ssim_map(x, y, peak=peak)[counted].sum())
            count += int(counted.sum())
    if count == 0:
        raise InvalidInputError(
            "no mask voxel is further than 5 voxels from the image border, so no window fits; "
            f"the images are {left.shape}: pad them, or choose another slice_axis"
        )
    return total / count


def _resolve_range(
    data_range: float | None,
    reference: Float64[np.ndarray, "..."],
    *,
    inside: Bool[np.ndarray, "..."],
) -> float:
    peak = float(reference[inside].max()) if data_range is None else float(data_range)
    if not (np.isfinite(peak) and peak > 0):
        raise InvalidInputError(
            f"data range is {peak}; pass a positive data_range (the default, the largest reference "
            "value inside the mask, needs an image that starts at 0)"
        )
    return peak


def _away_from_border(mask: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    core = np.zeros_like(mask)
    middle = (slice(_RADIUS, -_RADIUS),) * mask.ndim
    core[middle] = mask[middle]
    return core


def _ssim_map(
    x: Float64[np.ndarray, "..."], y: Float64[np.ndarray, "..."], *, peak: float
) -> Float64[np.ndarray, "..."]:
    """Return the similarity of every window; a border of 5 voxels is not meaningful."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_x, mean_y = window_mean(x), window_mean(y)
    var_x = window_mean(x * x) - mean_x**2
    var_y = window_mean(y * y) - mean_y**2
    cov = window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * cov + c2) / (var_x + var_y + c2)


def window_mean(image: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Average every window with weights that sum to one (no sample-size correction)."""
    taps = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    taps /= taps.sum()
    for axis in range(image.ndim):
        image = correlate1d(image, taps, axis=axis, mode="nearest")
    return image
