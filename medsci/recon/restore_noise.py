"""How noisy an image is, from the image alone."""

__all__ = ["estimate_noise"]

import numpy as np
from jaxtyping import Float
from scipy import ndimage

_MAD_TO_SD = 1.4826022185056018  # of a normal law, 1 / Phi^-1(3/4)
_MOST = 4_000_000  # details that suffice for a median


def estimate_noise(image: Float[np.ndarray, "n rows columns"], *, wavelet: str = "db2") -> float:
    """Estimate the standard deviation of white noise from the finest diagonal wavelet details.

    An orthonormal wavelet leaves white noise as it is, while smooth anatomy nearly vanishes from
    its diagonal details; the median of their sizes, times 1.4826, ignores the few that are edges.
    Details near exactly constant pixels, such as a background set to zero, are left out: those were
    not measured. Anatomy finer than two pixels counts as noise, and noise that was
    smoothed (by interpolation, say) is underestimated.

    Args:
        image: slices, each transformed on its own.
        wavelet: name of an orthogonal wavelet of PyWavelets.

    Returns:
        The standard deviation in units of the image; 0 where nothing varies.

    Source: Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425.
    """
    import pywt

    found = []
    step = max(1, image.size // (4 * _MOST))
    for part in image[::step]:
        details = pywt.dwt2(part.astype(np.float64), wavelet, mode="symmetric")[1][2]
        flat = ndimage.maximum_filter(part, 3) == ndimage.minimum_filter(part, 3)
        measured = ~ndimage.maximum_filter(flat, 7)[::2, ::2]
        rows, columns = measured.shape
        found.append(np.abs(details[:rows, :columns][measured]))
    sizes = np.concatenate(found) if found else np.zeros(0)
    return float(_MAD_TO_SD * np.median(sizes)) if sizes.size else 0.0
