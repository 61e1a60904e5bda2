"""Ask whether a standard deviation map knows where the errors are, and how large they are."""

__all__ = ["calibrated_coverage", "coverage", "uncertainty_correlation"]

import numpy as np
from jaxtyping import Float64

from medsci.errors import InvalidInputError
from medsci.metrics._arrays import Array, masked_pair


def uncertainty_correlation(std: Array, error: Array, *, mask: Array | None = None) -> float:
    """Return Spearman's rank correlation of `std` with `|error|` inside the mask.

    1: the map orders the voxels as their errors do; 0: it knows nothing about where they are; NaN:
    one of the two is constant, so there is no order. It says nothing about the size of the errors.

    Raises:
        InvalidInputError: shape mismatch, empty mask, non-finite values or a negative `std`.

    Source: Spearman 1904, doi:10.2307/1412159.
    """
    from scipy.stats import rankdata

    spread, size = _inside(std, error, mask=mask)
    if np.ptp(spread) == 0 or np.ptp(size) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(spread), rankdata(size))[0, 1])


def coverage(std: Array, error: Array, *, factor: float, mask: Array | None = None) -> float:
    """Return the fraction of mask voxels with `|error| <= factor * std`, 0 to 1.

    Compare it with `calibrated_coverage`: less means the map promises too much.

    Raises:
        InvalidInputError: shape mismatch, empty mask, non-finite values, a negative `std`, or a
            factor that is not positive.
    """
    if not factor > 0:
        raise InvalidInputError(f"factor is {factor}; give a positive multiple of std, e.g. 1 or 2")
    spread, size = _inside(std, error, mask=mask)
    return float((size <= factor * spread).mean())


def calibrated_coverage(factor: float, *, n_samples: int | None = None) -> float:
    """Return the coverage that a perfectly calibrated Gaussian posterior would reach, 0 to 1.

    With `n_samples` the error is that of the mean of so many posterior samples, and `std` their
    standard deviation with `n - 1` in the denominator. Both are then noisy:
    `error / (std sqrt(1 + 1/n))` follows Student's t with `n - 1` degrees of freedom, so three
    samples can cover 52 % at one standard deviation, not 68 %. `None` is the limit of many samples.

    Raises:
        InvalidInputError: fewer than two samples, which have no standard deviation.

    Source: Student 1908, doi:10.2307/2331554 (prediction interval of one further draw).
    """
    from scipy.special import ndtr, stdtr

    if n_samples is None:
        return float(2 * ndtr(factor) - 1)
    if n_samples < 2:
        raise InvalidInputError(f"n_samples is {n_samples}; a spread needs at least two samples")
    return float(2 * stdtr(n_samples - 1, factor / np.sqrt(1 + 1 / n_samples)) - 1)


def _inside(
    std: Array, error: Array, *, mask: Array | None
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    spread, size, inside = masked_pair(std, error, mask=mask)
    if (spread < 0).any():
        raise InvalidInputError("std holds negative values; did you swap std and error?")
    return spread[inside], np.abs(size)[inside]
