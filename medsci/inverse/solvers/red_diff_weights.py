"""How strongly RED-Diff pulls at every noise level, and which levels it visits.

With `r = sigma / alpha` and `e(x_t)` the noise that the prior predicts, the regulariser has the
gradient

    w (e(x_t) - z) = w / r (mu - x0(x_t)),     x_t = alpha mu + sigma z,    w = lambda h(r)

as `e - z = (alpha mu - alpha x0) / sigma`. The right-hand side is the same on every path and does
not divide a network's error by a small sigma, so it is the one that is used.

Source: Mardani et al. 2024, sec. 4, arXiv:2305.04391, for the weights; the x0-form is derived here.
"""

__all__ = ["Order", "Spacing", "Weight", "noise_weight", "pull", "times_of_walk"]

import math
from typing import Literal, get_args

import numpy as np

from medsci.core import Path, Rng

Weight = Literal["linear", "sqrt", "square", "log", "trunc_linear", "power2over3", "const", "map"]
Order = Literal["descending", "random", "ascending"]
Spacing = Literal["ddpm", "time"]

BETA_MIN, BETA_MAX = 0.1, 20.0  # the continuous form of the linear schedule of DDPM
TIMES = 0x7E4D  # tag of the stream of random times


def noise_weight(weight: Weight, r: float, *, noise: float = 0.0) -> float:
    """Return `h(r)`, the weight of `e - z` before lambda.

    Args:
        weight: `linear` r, `sqrt` r^1/2, `square` r^2, `log` ln(1 + r), `trunc_linear` min(r, 1),
            `power2over3` r^2/3, `const` 1, `map` noise^2 / r, with which the fixed point at small
            r and lambda = 1 is the most likely image.
        r: noise level `sigma / alpha`, positive and finite.
        noise: standard deviation of the data, for `map`.

    Raises:
        ValueError: an unknown weight, a level that is not positive, or `map` without noise.
    """
    if not 0.0 < r < math.inf:
        raise ValueError(
            f"noise level {r} came; RED-Diff needs levels that are positive and finite"
        )
    if weight == "map" and not noise > 0.0:
        raise ValueError(
            "weight 'map' came with noise=0; give the noise of the data, Measurement(noise=...)"
        )
    rules = {
        "linear": r,
        "sqrt": math.sqrt(r),
        "square": r * r,
        "log": math.log1p(r),
        "trunc_linear": min(r, 1.0),
        "power2over3": r ** (2.0 / 3.0),
        "const": 1.0,
        "map": noise * noise / r,
    }
    if weight not in rules:
        raise ValueError(f"weight {weight!r} came; choose one of {get_args(Weight)}")
    return rules[weight]


def pull(weight: Weight, r: float, *, noise: float = 0.0) -> float:
    """Return `h(r) / r`, the weight of `mu - x0`, before lambda; see `noise_weight`."""
    return noise_weight(weight, r, noise=noise) / r


def times_of_walk(
    path: Path,
    n: int,
    *,
    sigma_max: float,
    sigma_min: float,
    spacing: Spacing = "ddpm",
    order: Order = "descending",
    rng: Rng | None = None,
) -> np.ndarray:
    """Return the n times of a walk, both ends included.

    Args:
        path: the path of the prior; levels beyond its ends are cut to them.
        n: how many.
        sigma_max: highest level `sigma / alpha`.
        sigma_min: lowest level, positive.
        spacing: `ddpm` takes the levels of n equal steps of the linear DDPM schedule, so that the
            walk does not depend on the path; `time` is uniform in the time of the path.
        order: `descending` from noise to data, `ascending`, or `random`, independent draws.
        rng: for `random`; the times depend on its seed alone, as all slices share them.

    Raises:
        ValueError: the range of levels is empty, or `random` came without rng.
    """
    ends = path.angle(np.array([1.0, 0.0]))
    high, low = min(math.atan(sigma_max), ends[0]), max(math.atan(sigma_min), ends[1])
    if not 0.0 < low <= high:
        raise ValueError(
            f"noise levels {sigma_max:g} to {sigma_min:g} came on {path!r}; "
            "give sigma_max >= sigma_min > 0 inside its range"
        )
    u = _positions(n, order, rng)
    if spacing == "time":
        first, last = path.time_at_angle(np.array([high, low]))
        return last + (first - last) * u
    if spacing != "ddpm":
        raise ValueError(f"spacing {spacing!r} came; choose ddpm or time")
    first, last = _ddpm_time(math.tan(high)), _ddpm_time(math.tan(low))
    levels = np.arctan(_ddpm_level(last + (first - last) * u))
    return path.time_at_angle(np.clip(levels, low, high))


def _positions(n: int, order: Order, rng: Rng | None) -> np.ndarray:
    """Return n places in [0, 1], 1 being noise."""
    if order == "random":
        if rng is None:
            raise ValueError("order 'random' came without rng; pass rng=Rng(seed, ids)")
        alone = Rng(rng.seed, (0,)).spawn(TIMES)
        return np.array([float(alone.uniform(step=i)) for i in range(n)])
    if order not in ("descending", "ascending"):
        raise ValueError(f"order {order!r} came; choose one of {get_args(Order)}")
    u = np.linspace(1.0, 0.0, n)
    return u if order == "descending" else u[::-1]


def _ddpm_time(level: float) -> float:
    """Return the time at which the linear schedule has this noise level."""
    rise = BETA_MAX - BETA_MIN
    root = math.sqrt(BETA_MIN**2 + 2.0 * rise * math.log1p(level * level))
    return (root - BETA_MIN) / rise


def _ddpm_level(time: np.ndarray) -> np.ndarray:
    rise = BETA_MAX - BETA_MIN
    return np.sqrt(np.expm1(0.5 * rise * time**2 + BETA_MIN * time))
