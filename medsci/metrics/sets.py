"""Compare two sets of images, or of numbers, without a network.

    energy      2 E|x - y| - E|x - x'| - E|y - y'|       any difference of the laws, in image units
    W1 / sd     int |F_x - F_y| / sd_x                   one number per image: volume, mean ...
    W1          int |F_x - F_y|                          all voxels of either set: the histogram
    neighbours  E min|g - t| / E min|h - t|              below 1: closer to the training data than
                                                         unseen data are; 0: copies

Images are compared voxel by voxel, in the units they come in. A distance between two finite sets is
not zero, also of one law: measure real against real at the same size and put it beside.

Source: energy distance, Szekely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018.
"""

__all__ = [
    "counts_wasserstein",
    "energy_distance",
    "energy_of_distances",
    "histogram_wasserstein",
    "nearest_neighbour_ratio",
    "neighbour_distances",
    "pairwise_distances",
    "wasserstein",
    "wasserstein_over_sd",
]

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, as_real

_ROUNDING = 1e-12  # of the numbers; a smaller deviation is none
_BLOCK = 64  # images on either side of one block of distances


def energy_distance(a: Array, b: Array, *, unbiased: bool = False) -> float:
    """Return the energy distance of two sets of images (n, ...) and (m, ...), in their units.

    Zero for a set and itself, never negative. With `unbiased` the pairs of an image with itself are
    left out: then the mean over draws of one law is zero, and single values may be negative.

    Raises:
        InvalidInputError: images of two shapes, non-finite values, or fewer than two of a side.
    """
    return energy_of_distances(
        pairwise_distances(a, a),
        pairwise_distances(b, b),
        across=pairwise_distances(a, b),
        unbiased=unbiased,
    )


def energy_of_distances(
    within_a: Float64[np.ndarray, "n n"],
    within_b: Float64[np.ndarray, "m m"],
    *,
    across: Float64[np.ndarray, "n m"],
    unbiased: bool = False,
) -> float:
    """Return the energy distance from distances that are known already.

    Raises:
        InvalidInputError: fewer than two of a side.
    """
    n, m = across.shape
    if min(n, m) < 2:
        raise InvalidInputError(f"{n} and {m} images came; give two or more on either side")
    pairs_a, pairs_b = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    own = within_a.sum() / pairs_a + within_b.sum() / pairs_b
    value = float(2.0 * across.mean() - own)
    return value if unbiased else max(value, 0.0)


def pairwise_distances(a: Array, b: Array) -> Float64[np.ndarray, "n m"]:
    """Return the Euclidean distance of every image of `a` (n, ...) from every one of `b` (m, ...).

    Differences are taken voxel by voxel, in blocks of images, so a copy is at distance 0 exactly.

    Raises:
        InvalidInputError: images of two shapes, or values that are not finite.
    """
    from scipy.spatial.distance import cdist

    if a.ndim < 1 or a.shape[1:] != b.shape[1:]:
        raise InvalidInputError(
            f"sets of shape {tuple(a.shape)} and {tuple(b.shape)} came; give (n, ...) and (m, ...) "
            "with images of one shape, resampled to one grid first"
        )
    found = np.empty((len(a), len(b)))
    for j in range(0, len(b), _BLOCK):
        right = _flat(b[j : j + _BLOCK])
        for i in range(0, len(a), _BLOCK):
            left = _flat(a[i : i + _BLOCK])
            found[i : i + _BLOCK, j : j + _BLOCK] = cdist(left, right)
    return found


def neighbour_distances(
    distances: Float64[np.ndarray, "n m"], *, to_itself: bool = False
) -> Float64[np.ndarray, " n"]:
    """Return the distance of each row's nearest neighbour; of a set `to_itself`, of another image.

    Raises:
        InvalidInputError: there is nobody to be a neighbour.
    """
    n, m = distances.shape
    if n == 0 or m < 1 + to_itself:
        raise InvalidInputError(
            f"{n} images have no neighbour among {m}; give more training images"
        )
    if to_itself:
        distances = distances + np.diag(np.full(n, np.inf))
    return np.asarray(distances.min(1), dtype=np.float64)


def nearest_neighbour_ratio(generated: Array, train: Array, holdout: Array | None = None) -> float:
    """Return the mean distance to the nearest training image, of generated over unseen ones.

    1: generated images are as far from the training images as new real ones are. Towards 0: they
    are copies. Well above 1: they are not of the same kind (blurred, noisy, out of place).

    Args:
        generated: images (n, ...).
        train: what the model has seen, (m, ...).
        holdout: real images it has not seen. Left out, every training image is held against the
            others of its set.

    Raises:
        InvalidInputError: images of several shapes, too few, or unseen images that all lie in the
            training set.
    """
    near = neighbour_distances(pairwise_distances(generated, train))
    to_itself = holdout is None
    unseen = train if holdout is None else holdout
    usual = neighbour_distances(pairwise_distances(unseen, train), to_itself=to_itself).mean()
    if not usual > 0.0:
        raise InvalidInputError(
            "every unseen image lies in the training set, so there is no usual distance to compare "
            "with; hold other images out, and remove duplicates"
        )
    return float(near.mean() / usual)


def wasserstein(a: Array, b: Array) -> float:
    """Return the Wasserstein-1 distance of two sets of numbers, in their unit.

    Raises:
        InvalidInputError: empty, or values that are not finite.
    """
    from scipy.stats import wasserstein_distance

    left, right = as_real(a, name="a").ravel(), as_real(b, name="b").ravel()
    if min(left.size, right.size) == 0:
        raise InvalidInputError(f"{left.size} and {right.size} numbers came; give some of either")
    return float(wasserstein_distance(left, right))


def wasserstein_over_sd(a: Array, b: Array) -> float:
    """Return `W1(a, b) / sd(a)` of one number per image; `a` are the real ones.

    1 is a shift by one standard deviation of the real numbers. If those do not vary the value is 0
    for equal sets and infinite otherwise.

    Raises:
        InvalidInputError: not one number per image, fewer than two of `a`, or not finite.
    """
    real = as_real(a, name="a")
    if real.ndim != 1 or b.ndim != 1 or len(real) < 2:
        raise InvalidInputError(
            f"numbers of shape {tuple(a.shape)} and {tuple(b.shape)} came; give one per image, and "
            "of the real images at least two"
        )
    distance, sd = wasserstein(a, b), float(real.std(ddof=1))
    if sd > _ROUNDING * float(np.abs(real).max()):
        return distance / sd
    return 0.0 if distance == 0.0 else float("inf")


def histogram_wasserstein(a: Array, b: Array) -> float:
    """Return the Wasserstein-1 distance between the intensities of all voxels of two sets.

    In the unit of the voxels, exact (no bins); the sets may differ in number and shape. It does not
    see where a voxel lies.
    """
    return wasserstein(a, b)


def counts_wasserstein(
    a: Shaped[np.ndarray, " bins"], b: Shaped[np.ndarray, " bins"], *, width: float
) -> float:
    """Return the Wasserstein-1 distance of two histograms over the same bins of equal width.

    Exact up to one bin's width; for sets of volumes that are too large to be held.

    Raises:
        InvalidInputError: other bins, or an empty histogram.
    """
    if a.shape != b.shape or min(a.sum(), b.sum()) <= 0:
        raise InvalidInputError(
            f"histograms of shape {a.shape} and {b.shape} with sums {a.sum():g} and {b.sum():g} "
            "came; count both over the same bins, and something in each"
        )
    gaps = np.cumsum(a / a.sum() - b / b.sum())[:-1]
    return float(np.abs(gaps).sum() * width)


def _flat(images: Array) -> Float64[np.ndarray, "n d"]:
    return as_real(images, name="set of images").reshape(len(images), -1)
