"""Structural similarity at several scales, for volumes too small for the usual five.

    MS-SSIM = l_M^(w_M) prod_j cs_j^(w_j)

with luminance l and contrast-structure cs averaged over the windows of scale j, each scale half the
size of the one before. Similarity of two *different* subjects measures how alike they are: its mean
over random pairs of a set falls as the set grows more diverse, and rises to 1 if it collapses.
"""

__all__ = ["mean_pair_similarity", "ms_ssim", "n_scales_of", "random_pairs"]

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, masked_pair
from medsci.metrics.image import window_mean

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of scales 1 to 5, Wang et al. 2003, sec. 3.2
_TAPS = 11
_K1, _K2 = 0.01, 0.03


def n_scales_of(shape: Sequence[int]) -> int:
    """Return at how many scales an 11-voxel window still fits, at most five; 0: at none."""
    return next((m for m in range(len(_WEIGHTS), 0, -1) if min(shape) >> (m - 1) >= _TAPS), 0)


def ms_ssim(
    estimate: Array, reference: Array, *, data_range: float, n_scales: int | None = None
) -> float:
    """Return the multi-scale similarity of two images or volumes, 0 to 1; 1 for equal ones.

    The window is a Gaussian of 1.5 voxels cut at 11 taps, of the images' own rank; only windows
    that lie wholly inside count, and negative means count as 0. Between scales, blocks of 2 voxels
    per axis are averaged.

    Args:
        estimate: one image.
        reference: the other, same shape; the two may be exchanged.
        data_range: peak of the scale.
        n_scales: at most five; left out, as many as the window fits at. Weights of the scales that
            are left are divided by their sum, so values at other numbers of scales, hence of other
            image sizes, do not compare.

    Raises:
        InvalidInputError: shapes differ, values are not finite, or the images are too small.

    Source: Wang, Simoncelli and Bovik 2003, eq. 7, doi:10.1109/ACSSC.2003.1292216; fewer scales and
    rank 3 are ours.
    """
    left, right, _ = masked_pair(estimate, reference, mask=None)
    fits = n_scales_of(left.shape)
    scales = fits if n_scales is None else n_scales
    if not 1 <= scales <= fits:
        raise InvalidInputError(
            f"images are {left.shape} and {scales} scales were asked for; {fits} fit: the window "
            f"needs {_TAPS} voxels along every axis at the coarsest scale"
        )
    if not data_range > 0.0:
        raise InvalidInputError(f"data_range is {data_range}; give the positive peak of the scale")
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    value = 1.0
    for scale, weight in enumerate(weights.tolist()):
        luminance, structure = _similarities(left, right, peak=data_range)
        last = scale == scales - 1
        mean = float((luminance * structure if last else structure).mean())
        value *= max(mean, 0.0) ** weight
        if not last:
            left, right = _halved(left), _halved(right)
    return value


def random_pairs(n: int, *, n_pairs: int, seed: int) -> list[tuple[int, int]]:
    """Return so many different pairs of different items of n, or all of them if there are fewer."""
    every = n * (n - 1) // 2
    generator = np.random.default_rng(seed)
    chosen = generator.choice(every, size=min(n_pairs, every), replace=False)
    return [_pair(int(rank)) for rank in np.sort(chosen)]


def mean_pair_similarity(
    images: Shaped[np.ndarray, "n ..."] | Sequence[Shaped[np.ndarray, "..."]],
    *,
    data_range: float,
    n_pairs: int = 60,
    seed: int = 0,
) -> float:
    """Return the mean similarity over random pairs of a set: the lower, the more diverse.

    Raises:
        InvalidInputError: fewer than two images, or see `ms_ssim`.
    """
    if len(images) < 2:
        raise InvalidInputError(f"{len(images)} image came; a pair needs two")
    pairs = random_pairs(len(images), n_pairs=n_pairs, seed=seed)
    return float(np.mean([ms_ssim(images[i], images[j], data_range=data_range) for i, j in pairs]))


def _pair(rank: int) -> tuple[int, int]:
    """Return the pair `(i, j)`, `i < j`, whose place is `j (j - 1) / 2 + i`."""
    j = int((1.0 + np.sqrt(1.0 + 8.0 * rank)) / 2.0)
    j -= rank < j * (j - 1) // 2
    return rank - j * (j - 1) // 2, j


def _similarities(
    x: Float64[np.ndarray, "..."], y: Float64[np.ndarray, "..."], *, peak: float
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Return luminance and contrast-structure of every window that lies inside."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    inside = (slice(_TAPS // 2, -(_TAPS // 2)),) * x.ndim
    mean_x, mean_y, xx, yy, xy = (window_mean(v)[inside] for v in (x, y, x * x, y * y, x * y))
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    spread = (xx - mean_x**2) + (yy - mean_y**2)
    return luminance, (2.0 * (xy - mean_x * mean_y) + c2) / (spread + c2)


def _halved(image: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Average blocks of 2 per axis; an odd last voxel is left out."""
    for axis in range(image.ndim):
        even = np.take(image, np.arange(image.shape[axis] // 2 * 2), axis=axis)
        first, second = (
            np.take(even, np.arange(s, even.shape[axis], 2), axis=axis) for s in (0, 1)
        )
        image = 0.5 * (first + second)
    return image
