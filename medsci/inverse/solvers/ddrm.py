"""DDRM: restore every singular direction of the operator on its own.

With `A = U diag(s) V^T`, levels `l = sigma / alpha`, states divided by alpha and all of them in the
basis V, `ybar = U^T y / s`, a step from level l to l' draws

    s = 0             N(x0 + sqrt(1 - eta^2) l' (x - x0) / l,                   eta^2 l'^2)
    l' <  noise / s   N(x0 + sqrt(1 - eta^2) l' (ybar - x0) / (noise / s),      eta^2 l'^2)
    l' >= noise / s   N((1 - eta_b) x0 + eta_b ybar,      l'^2 - eta_b^2 noise^2 / s^2)

with x0 the prior's estimate, and starts at `N(ybar, l^2 - noise^2 / s^2)`, or `N(0, l^2)` where
nothing was seen. With `noise = 0` every direction that was seen ends at ybar. One network call a
step, no iterations; the operator needs a decomposition (`medsci.operators.svd`).

What is known of its calibration: it is not a posterior sampler, not even for Gaussian data and
A = I. Below `noise / s` every step of `eta < 1` returns to ybar with a share of what is left, so
that more steps end nearer to ybar with less variance; with `eta = 1` the data are forgotten there.
For a prior N(0, 1), A = I, y = 1 and 99 steps uniform in the level from 1 to 0, exact posterior in
brackets:

    noise   eta     mean           variance
    0.2     0.85    .973 (.962)    .008 (.038)
    0.5     0.85    .904 (.800)    .027 (.200)
    0.5     1.00    .017 (.800)    .486 (.200)
    1.0     1.00    .000 (.500)    .487 (.500)

Use its image as an estimate, and never its spread as an uncertainty.

Source: Kawar et al. 2022, eq. 7 and 8, arXiv:2201.11793.
"""

__all__ = ["DdrmSettings", "ddrm"]

import itertools
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from medsci.core import Rng
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers._walk import Record, checked_levels, finished, times_of
from medsci.operators.svd import Spectrum, spectrum_of


@final
@dataclass(frozen=True)
class DdrmSettings:
    """How the sampler walks.

    Attributes:
        n_steps: network calls per slice.
        eta: share of fresh noise in directions that were not seen, or not better than the level.
        eta_b: trust in the data while the level is above their noise.
        sigma_max: first noise level; less if the prior's path ends before.
        sigma_min: last noise level but zero.
        rho_grid: exponent of the Karras grid between them.
    """

    n_steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    sigma_max: float = 50.0
    sigma_min: float = 0.01
    rho_grid: float = 7.0

    def __post_init__(self) -> None:
        checked_levels(
            self.n_steps, self.sigma_max, sigma_min=self.sigma_min, rho_grid=self.rho_grid
        )
        if not (0.0 <= self.eta <= 1.0 and 0.0 <= self.eta_b <= 1.0):
            raise ValueError(f"eta={self.eta}, eta_b={self.eta_b} came; give shares in [0, 1]")


def ddrm(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: DdrmSettings | None = None,
    progress: Progress | None = None,
    spectrum: Spectrum | None = None,
) -> Solution:
    """Draw one image by denoising diffusion restoration.

    Args:
        measured: the data, with their noise level.
        prior: a denoiser of states.
        rng: one id per slice.
        settings: see `DdrmSettings`.
        progress: called as `progress(done, total)` after every step.
        spectrum: the decomposition of the operator; looked up if left out.

    Raises:
        UsageError: no decomposition of the operator is known.
    """
    chosen = DdrmSettings() if settings is None else settings
    known = spectrum_of(measured.op) if spectrum is None else spectrum
    path = prior.path
    times = times_of(
        path,
        chosen.n_steps,
        sigma_max=chosen.sigma_max,
        sigma_min=chosen.sigma_min,
        rho_grid=chosen.rho_grid,
    )
    levels = [float(path.sigma(t)) / float(path.alpha(t)) for t in times]
    record = Record(measured, progress)
    step = _Step(measured, known, chosen)
    x = step.first(levels[0], _noise(measured, known, rng=rng, step=-1))
    with torch.no_grad():
        for i, (level, lower) in enumerate(itertools.pairwise(levels)):
            t = float(times[i])
            state = measured.state(known.from_coefficients(x))
            x0 = prior(float(path.alpha(t)) * state, t)
            record.take(x0)
            x0 = known.to_coefficients(measured.image(x0))
            z = _noise(measured, known, rng=rng, step=i)
            x = step(x, x0, z, level=level, lower=lower)
            record.report(i + 1, chosen.n_steps)
    end = measured.state(known.from_coefficients(x))
    return finished(measured, end, n_calls=chosen.n_steps, record=record)


@final
class _Step:
    """The three rules, coefficient by coefficient."""

    def __init__(self, measured: Measurement, known: Spectrum, chosen: DdrmSettings) -> None:
        data = known.data_coefficients(measured.y)
        values = known.singular_values.to(device=data.device, dtype=data.dtype)
        self.chosen = chosen
        self.seen = values > 0.0
        safe = torch.where(self.seen, values, 1.0)
        self.ybar = torch.where(self.seen, data / safe, 0.0)
        # noise of ybar; infinite where nothing was seen
        self.noise = torch.where(self.seen, measured.noise / safe, math.inf)

    def first(self, level: float, z: Tensor) -> Tensor:
        """Return the state at the first level."""
        clear = self.noise <= level
        spread = torch.where(clear, level**2 - self.noise**2, level**2).clamp_min(0.0).sqrt()
        return torch.where(clear, self.ybar, 0.0) + spread * z

    def __call__(self, x: Tensor, x0: Tensor, z: Tensor, *, level: float, lower: float) -> Tensor:
        """Return the state at the lower level."""
        eta, eta_b = self.chosen.eta, self.chosen.eta_b
        keep = lower * math.sqrt(1.0 - eta**2)
        unseen = x0 + (keep / level) * (x - x0) + eta * lower * z
        fuzzy = x0 + keep * (self.ybar - x0) / self.noise + eta * lower * z
        left = (lower**2 - (eta_b * self.noise) ** 2).clamp_min(0.0).sqrt()
        clear = (1.0 - eta_b) * x0 + eta_b * self.ybar + left * z
        found = torch.where(self.noise <= lower, clear, fuzzy)
        return torch.where(self.seen, found, unseen)


def _noise(measured: Measurement, known: Spectrum, *, rng: Rng, step: int) -> Tensor:
    """Return white noise in coefficients; it is white there because V is orthonormal."""
    like = measured.rhs
    z = rng.normal(like.shape, step=step, dtype=like.dtype, device=like.device)
    return known.to_coefficients(measured.image(z))
