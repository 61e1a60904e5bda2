"""Plug-and-play: a denoiser in the place of a proximal map or of a gradient. Deterministic.

With `D(x, s)` the prior's estimate of an image x with white noise of standard deviation s added and
`prox_rho(z) = (A^H A + rho)^-1 (A^H y + rho z)` by conjugate gradients, where
`rho = weight noise^2 / s^2`:

    hqs     x = prox_rho(z),          z = D(x, s)                       s falls, step by step
    admm    x = prox_rho(v - u),      v = D(x + u, s),    u <- u + x - v
    red     x <- x - step / (1 + rho) (A^H (A x - y) + rho (x - D(x, s)))
    pgd     x <- D(x - step A^H (A x - y), s)

What is known of its calibration, for a Gaussian prior of mean m and covariance C and its exact
denoiser, at the fixed point (s constant):

    admm    m + C A^H (A C A^H + weight noise^2)^-1 (y - A m)       the posterior mean at
            weight 1, whatever s is
    pgd     the same with s^2 / step in the place of weight noise^2
    red     the same with C + s^2 in the place of C: the prior of noisy images
    hqs     x as red; z is that image denoised once more

so only `admm` knows what its weight means, `pgd` has the noise of the data nowhere, and `red` is
too rough by s^2. All return one image and no spread. A network is no exact denoiser, so none need
converge; `hqs` stops after its schedule, before that matters, and is the default. `noise = 0` is
taken as `sigma_min`.

Source: `hqs` Zhang et al. 2021 (DPIR), sec. 4.2, arXiv:2008.13751; `admm` Venkatakrishnan et al.
2013, doi:10.1109/GlobalSIP.2013.6737048; `red` Romano, Elad and Milanfar 2017, arXiv:1611.02862;
`pgd` Meinhardt et al. 2017, arXiv:1704.03488. The fixed points are derived here.
"""

__all__ = ["PnpSettings", "pnp"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

from medsci.core import Rng
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers._walk import Record, finished, is_separable
from medsci.inverse.solvers.data_term import warn_unless_unit_norm
from medsci.operators import conjugate_gradient

Variant = Literal["hqs", "admm", "red", "pgd"]
Pair = tuple[Tensor, Tensor]
Step = Callable[[Pair, float], Pair]


@final
@dataclass(frozen=True)
class PnpSettings:
    """How the iteration goes.

    Attributes:
        variant: see above.
        n_iter: iterations, and network calls per slice; `hqs` takes 8 to 24, the others more.
        weight: lambda, the trust in the prior.
        sigma_start: first level of `hqs`.
        sigma_end: last level of `hqs`, the noise of the data if None.
        sigma: level of the denoiser in the other variants, in units of the image.
        step: of `red` and `pgd`, below 2 for an operator of norm one.
        sigma_min: noise of the data, at least; no level goes below it.
        n_cg: most conjugate-gradient steps of a proximal map.
        tol: relative residual at which they stop.
    """

    variant: Variant = "hqs"
    n_iter: int = 24
    weight: float = 0.23
    sigma_start: float = 49.0 / 255.0
    sigma_end: float | None = None
    sigma: float = 0.05
    step: float = 1.0
    sigma_min: float = 0.005
    n_cg: int = 10
    tol: float = 1e-6

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r} came; choose one of {get_args(Variant)}")
        if self.n_iter < 1 or self.n_cg < 1:
            raise ValueError(f"n_iter={self.n_iter}, n_cg={self.n_cg} came; give at least 1")
        numbers = {
            "weight": self.weight,
            "sigma_start": self.sigma_start,
            "sigma": self.sigma,
            "sigma_min": self.sigma_min,
            "tol": self.tol,
        }
        if self.sigma_end is not None:
            numbers["sigma_end"] = self.sigma_end
        for name, value in numbers.items():
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name}={value} came; give a positive finite number")
        if not 0.0 < self.step < 2.0:
            raise ValueError(f"step={self.step} came; give a step in (0, 2)")


@torch.no_grad()
def pnp(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: PnpSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Find one image by alternating a data step and a denoiser.

    Args:
        measured: the data, with their noise level.
        prior: a denoiser of states.
        rng: not used, as nothing is drawn; every solver takes one.
        settings: see `PnpSettings`.
        progress: called as `progress(done, total)` after every iteration.

    Raises:
        ValueError: a level is not on the prior's path.

    Warns:
        OperatorScaleWarning: `red` and `pgd` step by a length meant for an operator of norm one.
    """
    chosen = PnpSettings() if settings is None else settings
    levels = levels_of(measured, chosen)
    if chosen.variant in ("red", "pgd"):
        warn_unless_unit_norm(measured)
    step = _step(measured, prior, chosen=chosen, levels=levels)
    record = Record(measured, progress)
    pair = (measured.rhs, torch.zeros_like(measured.rhs))
    for i, level in enumerate(levels):
        pair = step(pair, level)
        record.take(pair[0])
        record.report(i + 1, chosen.n_iter)
    return finished(measured, pair[0], n_calls=chosen.n_iter, record=record)


def levels_of(measured: Measurement, settings: PnpSettings) -> tuple[float, ...]:
    """Return the level of the denoiser in every iteration."""
    if settings.variant != "hqs":
        return (max(settings.sigma, settings.sigma_min),) * settings.n_iter
    end = measured.noise if settings.sigma_end is None else settings.sigma_end
    end = max(end, settings.sigma_min)
    start = max(settings.sigma_start, end)
    return tuple(float(s) for s in np.geomspace(start, end, settings.n_iter))


def _step(
    measured: Measurement, prior: Prior, *, chosen: PnpSettings, levels: Sequence[float]
) -> Step:
    """Return the iteration of a variant on (image, dual)."""
    path = prior.path
    times = {level: float(path.time_at_sigma_hat(level)) for level in set(levels)}
    solve = partial(
        conjugate_gradient, n_iter=chosen.n_cg, tol=chosen.tol, batched=is_separable(measured)
    )
    noise = max(measured.noise, chosen.sigma_min)

    def rho(level: float) -> float:
        return chosen.weight * (noise / level) ** 2

    def denoise(x: Tensor, level: float) -> Tensor:
        t = times[level]
        return prior(float(path.alpha(t)) * x, t)

    def closest(z: Tensor, level: float) -> Tensor:
        tie = rho(level)
        return solve(lambda v: measured.normal(v) + tie * v, measured.rhs + tie * z, x0=z)

    def hqs(pair: Pair, level: float) -> Pair:
        return denoise(closest(pair[0], level), level), pair[1]

    def admm(pair: Pair, level: float) -> Pair:
        v, u = pair
        x = closest(v - u, level)
        v = denoise(x + u, level)
        return v, u + x - v

    def red(pair: Pair, level: float) -> Pair:
        x, tie = pair[0], rho(level)
        slope = measured.gradient(x) + tie * (x - denoise(x, level))
        return x - chosen.step / (1.0 + tie) * slope, pair[1]

    def pgd(pair: Pair, level: float) -> Pair:
        return denoise(pair[0] - chosen.step * measured.gradient(pair[0]), level), pair[1]

    return {"hqs": hqs, "admm": admm, "red": red, "pgd": pgd}[chosen.variant]
