"""The default: which solver and which noise levels, for a given number of network evaluations.

Two things decide the error of a few steps: the direction that is extrapolated, and where the steps
are. Both were searched, once, on an ensemble of random Gaussians and Gaussian mixtures (1 to 96
dimensions, 1 to 20 modes, scales spread over two decades), and are kept here as a few constants:

    evaluations   solver                                            error     best peer
    ..3           angle, log-SNR, order 2, falling to 1 at the end
    4..6          v, log-ratio, order 2
    7..15         v, log-SNR, order 3
    16..27        v, log-ratio, order 3, corrected, falling at the end
    28..          v, log-SNR, order 4

The noise levels `h = sigma / alpha`, in units of the standard deviation of the data, follow

    ln h = centre + width sinh(u / width),     u uniform,

with one width above the centre and one below. Levels are dense where data take shape, and the first
and last step are long: far above the data the flow is known (Wang and Vastola 2023,
arXiv:2303.02490), far below there is nothing left to decide. A large width is uniform log-SNR.
`bench/nfe_error.py` holds these choices against their peers, and `bench/nfe_tuning.py` made them.

Source: own measurements; searched levels after Li et al. 2023, arXiv:2309.10438.
"""

__all__ = ["auto"]

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.grid import check_grid
from medsci.core.solve.multistep import Multistep
from medsci.core.solve.plan import AbstractSolver

TOP, BOTTOM = 80.0, 0.002  # levels outside are walked to in one step


class Regime(NamedTuple):
    """A solver for `least` evaluations or more; each number is `a + b least / n`, as (a, b)."""

    least: int
    solver: Multistep
    centre: tuple[float, float]
    above: tuple[float, float]
    below: tuple[float, float]


REGIMES = (
    Regime(
        2,
        Multistep("angle", order=2, lower_final=True),
        centre=(-0.82, 0.0),
        above=(1.1, 0.1),
        below=(1.05, 0.0),
    ),
    Regime(
        4,
        Multistep("v", "log_ratio", order=2, lower_final=False),
        centre=(-0.6, -0.05),
        above=(0.6, 0.2),
        below=(1.5, -0.2),
    ),
    Regime(
        7,
        Multistep("v", order=3, lower_final=False),
        centre=(-1.882, 1.877),
        above=(2.125, 1.0),
        below=(3.358, 0.75),
    ),
    Regime(
        16,
        Multistep("v", "log_ratio", order=3, corrector=True, lower_final=True),
        centre=(-0.478, 0.383),
        above=(1.107, 0.065),
        below=(2.66, 0.435),
    ),
    Regime(
        28,
        Multistep("v", order=4, lower_final=False),
        centre=(-0.655, 0.389),
        above=(2.902, -0.456),
        below=(2.893, -0.195),
    ),
)


def auto(
    path: Path,
    n: int,
    *,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sigma_data: float = 1.0,
) -> tuple[AbstractSolver, np.ndarray]:
    """Return the default solver and grid for `n` network evaluations.

    Args:
        path: the path of the states; its ends may hold infinite noise or none.
        n: network evaluations, which is steps of the grid.
        sigma_max: first noise level; the path's own if left out.
        sigma_min: last noise level; the path's own if left out.
        sigma_data: standard deviation of the data, the unit in which noise levels are judged.

    Raises:
        ValueError: `n` or `sigma_data` is not positive, or the noise levels do not fall.
    """
    if n < 1:
        raise ValueError(f"n={n} evaluations came; give at least one")
    if not 0.0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data={sigma_data} came; give the positive sd of the data")
    start, high = _end(path, 1.0, sigma_max)
    stop, low = _end(path, 0.0, sigma_min)
    if not 0.0 <= low < high:
        raise ValueError(f"noise levels {high:g} to {low:g} came; give sigma_max > sigma_min >= 0")
    regime = regime_of(n)
    top, bottom = (min(max(level / sigma_data, BOTTOM), TOP) for level in (high, low))
    if top == bottom:  # all of the walk is above, or all below, what the constants know
        top, bottom = high / sigma_data, low / sigma_data
        inner = np.tan(np.linspace(math.atan(top), math.atan(bottom), n + 1))[1:-1]
    else:
        inner = noise_levels(regime, n, top=top, bottom=bottom)[1:-1]
    times = np.concatenate([[start], path.time_at_sigma_hat(inner * sigma_data), [stop]])
    solver = dataclasses.replace(regime.solver, sigma_data=float(sigma_data))
    return solver, check_grid(times)


def regime_of(n: int) -> Regime:
    """Return the last regime that begins at `n` evaluations or before."""
    return [regime for regime in REGIMES if regime.least <= max(n, REGIMES[0].least)][-1]


def noise_levels(regime: Regime, n: int, *, top: float, bottom: float) -> np.ndarray:
    """Return `n + 1` falling levels, in units of the standard deviation of the data."""
    share = regime.least / n
    centre, above, below = (a + b * share for a, b in (regime.centre, regime.above, regime.below))
    ends = np.log([top, bottom]) - centre
    first, last = np.where(
        ends > 0.0, above * np.arcsinh(ends / above), below * np.arcsinh(ends / below)
    )
    u = np.linspace(first, last, n + 1)
    width = np.where(u > 0.0, above, below)
    levels = np.exp(centre + width * np.sinh(u / width))
    levels[0], levels[-1] = top, bottom
    return levels


def _end(path: Path, t: float, level: float | None) -> tuple[float, float]:
    """Return the time and the noise level of one end of the walk, the path's own by default."""
    if level is not None:
        return float(path.time_at_sigma_hat(level)), float(level)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    return t, sigma / alpha if alpha > 0.0 else math.inf
