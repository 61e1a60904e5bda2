"""Grids: the times a sampler visits, as decreasing float64 arrays `t_0 > t_1 > ... > t_n`.

A grid is data, never a property of a path or a solver. Every function here is pure and returns
`n + 1` times for `n` steps. Noise levels are given as `sigma_hat = sigma / alpha`, so that one pair
of numbers means the same on every path.
"""

__all__ = [
    "angle",
    "check_grid",
    "check_walkable",
    "indices",
    "karras",
    "log_snr",
    "neighbours",
    "ratio",
    "shifted",
    "uniform",
]

import math
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from medsci.core.process.path import Path

Spacing = Literal["leading", "trailing", "linspace", "strided"]


def uniform(n: int, *, t_max: float = 1.0, t_min: float = 0.0) -> np.ndarray:
    """Return times uniform in `t`, from `t_max` down to `t_min`."""
    return check_grid(np.linspace(t_max, t_min, _count(n) + 1))


def log_snr(
    path: Path, n: int, *, sigma_max: float | None = None, sigma_min: float | None = None
) -> np.ndarray:
    """Return times uniform in `lambda = ln(alpha / sigma)`.

    Args:
        path: the path on which the noise levels are looked up.
        n: number of steps.
        sigma_max: first noise level; the path's own if left out.
        sigma_min: last noise level; the path's own if left out.

    Raises:
        ValueError: a noise level is zero or infinite, where lambda has no finite value.
    """
    high, low = _levels(path, sigma_max, sigma_min)
    if not (0.0 < low < high < math.inf):
        raise ValueError(
            f"a grid uniform in log-SNR came with noise levels {high:g} to {low:g} on {path!r}; "
            "give finite sigma_max > sigma_min > 0, or use ratio() or angle(), which reach the ends"
        )
    lam = np.linspace(-math.log(high), -math.log(low), _count(n) + 1)
    return _finish(path.time_at_log_snr(lam), sigma_max, sigma_min)


def karras(
    path: Path,
    n: int,
    *,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    final_zero: bool = False,
) -> np.ndarray:
    """Return times uniform in `sigma_hat^(1 / rho)`.

    Args:
        path: the path on which the noise levels are looked up.
        n: number of steps.
        sigma_min: last noise level, positive.
        sigma_max: first noise level.
        rho: warping; 7 is the value of the source.
        final_zero: make the last of the `n` steps go from `sigma_min` to `t = 0`.

    Source: Karras et al. 2022, eq. 5, arXiv:2206.00364.
    """
    if not (0.0 < sigma_min < sigma_max < math.inf) or not rho > 0.0:
        raise ValueError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho} came; "
            "give 0 < sigma_min < sigma_max < inf and rho > 0"
        )
    if final_zero and float(path.sigma(0.0)) != 0.0:
        raise ValueError(
            f"final_zero=True came with {path!r}, which keeps noise at t=0; "
            "use final_zero=False or a path with sigma(0) = 0"
        )
    levels = _count(n) if final_zero else _count(n) + 1
    roots = np.linspace(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), levels)
    times = path.time_at_sigma_hat(roots**rho)
    return check_grid(np.append(times, 0.0) if final_zero else times)


def ratio(
    path: Path, n: int, *, sigma_max: float | None = None, sigma_min: float | None = None
) -> np.ndarray:
    """Return times uniform in `sigma / (alpha + sigma)`, the time of the rectified flow.

    Noise levels left out are the path's own ends, infinite and zero included.
    """
    high, low = (
        h / (1.0 + h) if h < math.inf else 1.0 for h in _levels(path, sigma_max, sigma_min)
    )
    r = np.linspace(high, low, _count(n) + 1)
    return _finish(path.time_at_angle(np.arctan2(r, 1.0 - r)), sigma_max, sigma_min)


def angle(
    path: Path, n: int, *, sigma_max: float | None = None, sigma_min: float | None = None
) -> np.ndarray:
    """Return times uniform in `atan2(sigma, alpha)`, the time of the trigonometric path.

    Noise levels left out are the path's own ends, infinite and zero included.
    """
    high, low = (math.atan(h) for h in _levels(path, sigma_max, sigma_min))
    times = path.time_at_angle(np.linspace(high, low, _count(n) + 1))
    return _finish(times, sigma_max, sigma_min)


def shifted(
    path: Path,
    n: int,
    *,
    shift: float,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
) -> np.ndarray:
    """Return the `ratio` grid with every noise level multiplied by `shift`.

    In the time r of the rectified flow this is `shift r / (1 + (shift - 1) r)`: larger images need
    `shift > 1`, as the same noise hides less of them. The ends stay where they are.

    Source: Esser et al. 2024, eq. 23, arXiv:2403.03206.
    """
    if not 0.0 < shift < math.inf:
        raise ValueError(f"shift={shift} came; give a positive factor on the noise level")
    high, low = _levels(path, sigma_max, sigma_min)
    first, last = (h / (shift + h) if h < math.inf else 1.0 for h in (high, low))
    r = np.linspace(first, last, _count(n) + 1)
    times = path.time_at_angle(np.arctan2(shift * r, 1.0 - r))
    return _finish(times, sigma_max, sigma_min)


def neighbours(n_train: int, grid: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the table rows `(i, j)` between which every step of a grid goes; -1 is clean data.

    Schedulers that find the next row by subtracting a stride miss it on grids that do not divide
    the table; here it is read off the grid.

    Raises:
        ValueError: a time of the grid is not a row of the table.
    """
    places = np.asarray(grid, dtype=np.float64) * n_train
    rows = np.round(places).astype(int)
    if np.any(np.abs(places - rows) > 1e-6):
        at = int(np.argmax(np.abs(places - rows) > 1e-6))
        raise ValueError(
            f"grid[{at}] = {float(grid[at])} is {places[at]:.3f} rows of a table of {n_train}; "
            "use a grid from indices()"
        )
    return tuple((int(i) - 1, int(j) - 1) for i, j in pairwise(rows.tolist()))


def indices(n_train: int, n: int, *, spacing: Spacing = "trailing") -> np.ndarray:
    """Return the times of `n` rows of a table with `n_train` rows, followed by clean data.

    Row `i = 0 .. n_train - 1` sits at `t = (i + 1) / n_train`, as in `Path.tabulated`.

    Args:
        n_train: rows of the table, usually 1000.
        n: number of steps.
        spacing: `trailing` starts at the last row; `linspace` spreads over first and last row;
            `leading` ends at the first row and leaves the last ones out, as DDPM and DDIM did;
            `strided` is `leading` with `n_train / n` floored, as their programs have it: of 1000
            rows in 64 steps it leaves out 54.

    Source: Lin et al. 2024, table 2, arXiv:2305.08891 (with n_train / n kept exact, not floored,
    but for `strided`).
    """
    if not 1 <= _count(n) <= n_train:
        raise ValueError(f"{n} steps of a table of {n_train} came; give 1 <= n <= n_train")
    k = np.arange(n, dtype=np.float64)
    if spacing == "trailing":
        rows = np.round(n_train - k * (n_train / n)) - 1.0
    elif spacing == "leading":
        rows = np.floor(k * n_train / n)[::-1]
    elif spacing == "strided":
        rows = k[::-1] * (n_train // n)
    elif spacing == "linspace":
        rows = np.round((n_train - 1.0) * (1.0 - k / max(n - 1, 1)))
    else:
        raise ValueError(f"spacing {spacing!r} came; choose one of {get_args(Spacing)}")
    return check_grid(np.append((rows + 1.0) / n_train, 0.0))


def check_grid(grid: np.ndarray) -> np.ndarray:
    """Return the grid as a float64 array after checking that a solver can walk it.

    Raises:
        ValueError: the grid is not one finite, strictly decreasing row of times in [0, 1]; the
            message names the first bad index.
    """
    times = _times(grid)
    rising = np.diff(times) >= 0.0
    if rising.any():
        at = int(np.argmax(rising))
        raise ValueError(
            f"grid[{at}] = {times[at]!r} is followed by grid[{at + 1}] = {times[at + 1]!r}; "
            "times must decrease strictly, so remove the duplicate or reverse the grid"
        )
    return times


def check_walkable(path: Path, grid: np.ndarray) -> np.ndarray:
    """Return the grid as a float64 array after checking that a deterministic solver can walk it.

    It may fall, from noise to data, or rise, for an inversion.

    Raises:
        ValueError: the grid is not strictly monotone, two of its times have the same noise level on
            the path, or a point that is left has no noise.
    """
    times = _times(grid)
    falls = bool(times[0] > times[-1])
    if falls:
        check_grid(times)
    else:
        check_grid(times[::-1])
    sigma = path.sigma(times)
    if np.any(sigma[:-1] <= 0.0):
        at = int(np.argmax(sigma[:-1] <= 0.0))
        action = "end the grid there" if falls else "start the inversion at a little noise"
        raise ValueError(f"grid[{at}] = {times[at]} has no noise left; {action}")
    change = np.diff(path.angle(times))
    flat = (change >= 0.0) if falls else (change <= 0.0)
    if flat.any():
        at = int(np.argmax(flat))
        raise ValueError(
            f"grid[{at}] = {times[at]!r} and grid[{at + 1}] = {times[at + 1]!r} have the same "
            f"noise level on {path!r}; take fewer steps or a grid made for this path"
        )
    return times


def _times(grid: np.ndarray) -> np.ndarray:
    """Return one row of finite times in [0, 1]."""
    times = np.ascontiguousarray(grid, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a grid of shape {times.shape} came; give one row of at least two times")
    outside = ~(np.isfinite(times) & (times >= 0.0) & (times <= 1.0))
    if outside.any():
        at = int(np.argmax(outside))
        raise ValueError(
            f"grid[{at}] = {times[at]} is not a time in [0, 1]; 0 is data and 1 is noise"
        )
    return times


def _count(n: int) -> int:
    if n < 1:
        raise ValueError(f"n={n} steps came; give at least one")
    return n


def _levels(path: Path, sigma_max: float | None, sigma_min: float | None) -> tuple[float, float]:
    """Return (highest, lowest) noise level, the ends of the path where none is given."""
    ends = path.angle(np.array([1.0, 0.0]))
    alpha = path.alpha(np.array([1.0, 0.0]))
    own = [math.tan(phi) if a > 0.0 else math.inf for phi, a in zip(ends, alpha, strict=True)]
    high = own[0] if sigma_max is None else float(sigma_max)
    low = own[1] if sigma_min is None else float(sigma_min)
    if not 0.0 <= low < high:
        raise ValueError(f"noise levels {high:g} to {low:g} came; give sigma_max > sigma_min >= 0")
    return high, low


def _finish(times: np.ndarray, sigma_max: float | None, sigma_min: float | None) -> np.ndarray:
    """Put the ends that are the path's own exactly at t = 1 and t = 0, and check."""
    if sigma_max is None:
        times[0] = 1.0
    if sigma_min is None:
        times[-1] = 0.0
    return check_grid(times)
