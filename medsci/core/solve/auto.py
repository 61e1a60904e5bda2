"""The default: which solver and which noise levels, for a given number of network evaluations.

Two things decide the error of a few steps: the direction that is extrapolated, and where the steps
are. A mode of the data takes shape when the noise falls to its standard deviation (Wang and Vastola
2023, arXiv:2303.02490), so the steps belong where the spectrum of the data lies.

Images and volumes have a long spectrum: their leading principal components are tens of times as
wide as a pixel. Steps are spread over all of it, by the grid of Karras et al. 2022 with rho = 7:

    evaluations   solver
    ..6           v, log-SNR, order 3, in units of three standard deviations
    7..23         eps, log-SNR, order 3 (DEIS)
    24..          v as above, corrected

Vectors, point sets and normalised latents have a short one, around the standard deviation of their
entries. Solver and levels were searched, once, on an ensemble of random Gaussians and mixtures, and
are kept as a few constants:

    evaluations   solver
    ..3           angle, log-SNR, order 2, falling to 1 at the end
    4..6          v, log-ratio, order 2
    7..15         v, log-SNR, order 3
    16..27        v, log-ratio, order 3, corrected, falling at the end
    28..          v, log-SNR, order 4

The noise levels `h = sigma / alpha`, in units of the standard deviation of the data, follow

    ln h = centre + width sinh(u / width),     u uniform,

with one width above the centre and one below. Levels are dense where data take shape, and the first
and last step are long: far above the data the flow is known, far below nothing is left to decide.
On a long spectrum this is the wrong choice, and costs several times the error.
`bench/nfe_error.py` holds these choices against their peers, and `bench/nfe_tuning.py` made them.

Source: own measurements; searched levels after Li et al. 2023, arXiv:2309.10438.
"""

__all__ = ["auto"]

import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.grid import check_grid
from medsci.core.solve.multistep import Multistep
from medsci.core.solve.plan import AbstractSolver

Spectrum = Literal["long", "short"]

TOP, BOTTOM = 80.0, 0.002  # levels outside are walked to in one step
RHO = 7.0
WIDE = 3.0  # standard deviations that v weighs noise against, on a long spectrum


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
        centre=(-0.514, 0.2),
        above=(0.629, 0.098),
        below=(1.444, -0.38),
    ),
    Regime(
        4,
        Multistep("v", "log_ratio", order=2, lower_final=False),
        centre=(-0.634, 0.12),
        above=(0.566, 0.243),
        below=(1.734, -0.262),
    ),
    Regime(
        7,
        Multistep("v", order=3, lower_final=False),
        centre=(-1.864, 1.748),
        above=(2.143, 1.082),
        below=(3.351, 0.179),
    ),
    Regime(
        16,
        Multistep("v", "log_ratio", order=3, corrector=True, lower_final=True),
        centre=(-0.226, 0.598),
        above=(1.176, -0.521),
        below=(2.295, 0.309),
    ),
    Regime(
        28,
        Multistep("v", order=4, lower_final=False),
        centre=(-0.571, 0.374),
        above=(2.963, -0.521),
        below=(2.766, -0.019),
    ),
)


def auto(
    path: Path,
    n: int,
    *,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sigma_data: float = 1.0,
    spectrum: Spectrum = "long",
) -> tuple[AbstractSolver, np.ndarray]:
    """Return the default solver and grid for `n` network evaluations.

    Args:
        path: the path of the states; its ends may hold infinite noise or none.
        n: network evaluations, which is steps of the grid.
        sigma_max: first noise level; the path's own if left out.
        sigma_min: last noise level; the path's own if left out.
        sigma_data: standard deviation of the data, the unit in which noise levels are judged.
        spectrum: `long` for images and volumes, `short` for vectors, point sets and latents.

    Raises:
        ValueError: `n` or `sigma_data` is not positive, the noise levels do not fall, or the
            spectrum is unknown.
    """
    if n < 1:
        raise ValueError(f"n={n} evaluations came; give at least one")
    if spectrum not in ("long", "short"):
        raise ValueError(f"spectrum {spectrum!r} came; choose long or short")
    if not 0.0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data={sigma_data} came; give the positive sd of the data")
    start, high = end_of(path, 1.0, sigma_max)
    stop, low = end_of(path, 0.0, sigma_min)
    if not 0.0 <= low < high:
        raise ValueError(f"noise levels {high:g} to {low:g} came; give sigma_max > sigma_min >= 0")
    top, bottom = (min(max(level / sigma_data, BOTTOM), TOP) for level in (high, low))
    if top == bottom:  # all of the walk is above, or all below, what the constants know
        top, bottom = high / sigma_data, low / sigma_data
        inner = np.tan(np.linspace(math.atan(top), math.atan(bottom), n + 1))[1:-1]
    elif spectrum == "long":
        inner = np.linspace(top ** (1.0 / RHO), bottom ** (1.0 / RHO), n + 1)[1:-1] ** RHO
    else:
        inner = noise_levels(regime_of(n), n, top=top, bottom=bottom)[1:-1]
    times = np.concatenate([[start], path.time_at_sigma_hat(inner * sigma_data), [stop]])
    solver = long_solver(n) if spectrum == "long" else regime_of(n).solver
    scaled = dataclasses.replace(solver, sigma_data=float(sigma_data) * solver.sigma_data)
    return scaled, check_grid(times)


def long_solver(n: int) -> Multistep:
    """Return the solver for a long spectrum; its `sigma_data` is in units of that of the data."""
    if 7 <= n < 24:
        return Multistep("eps", order=3, lower_final=False)
    return Multistep("v", order=3, corrector=n >= 24, lower_final=False, sigma_data=WIDE)


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


def end_of(path: Path, t: float, level: float | None) -> tuple[float, float]:
    """Return the time and the noise level of one end of the walk, the path's own by default."""
    if level is not None:
        return float(path.time_at_sigma_hat(level)), float(level)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    return t, sigma / alpha if alpha > 0.0 else math.inf
