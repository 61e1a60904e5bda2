"""Volumes from a 2D diffusion prior by predictor and corrector: DiffusionMBIR.

The state is a volume of noisy slices, `x = x0 + sigma z`, that walks down a geometric ladder of
noise levels `sigma_k = sigma_min (sigma_start / sigma_min)^(k / (N - 1))`, k counting down in whole
numbers. With s the score and n fresh noise, one step from level k is

    predictor   x <- x + d s(x, sigma_k) + sqrt(d) n,        d = sigma_k^2 - sigma_{k-1}^2
    corrector   x <- x + e s(x, sigma_{k-1}) + sqrt(2 e) n,  e = 2 (snr |n| / |s|)^2 per slice
    data        one ADMM sweep of `AdmmTv` on the noisy volume, the same for all slices

and the last one is the predictor from sigma_0 to 0 without its noise, followed by a sweep. The
score is that of any denoiser D, on whatever path it was trained: `s = (D(x) - x) / sigma^2`.

Three things differ from the published method, all for its own good. The corrector acts at the
level that the predictor has reached. Its step takes the norms of each slice rather than their mean
over a batch, so that nothing depends on the batch. And `(z, u)` of the ADMM, which hold differences
of the previous, noisier volume, are scaled by the ratio of the levels: unscaled they feed old noise
back wherever the data say nothing, and more than two CG steps, or a larger `rho`, make that
diverge.

Source: Chung et al. 2023, arXiv:2211.10655; the sampler after Song et al. 2021, algorithm 2,
arXiv:2011.13456.
"""

__all__ = ["MbirSettings", "ZuCarry", "ladder", "mbir"]

import math
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from medsci.core import Path, Rng
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers.admm_tv import AdmmTv, AdmmTvSettings, rms_change

ZuCarry = Literal["scale", "share", "reset"]

_SHARE_BELOW = 0.3  # noise level under which `reset` carries (z, u), so that the TV takes effect


def _consistency() -> AdmmTvSettings:
    return AdmmTvSettings(n_cg=2, rho=0.025, threshold=0.02)


@final
@dataclass(frozen=True)
class MbirSettings:
    """How the sampler walks, for data of about unit range and an operator of unit norm.

    Attributes:
        n_steps: noise levels; each takes `1 + n_corrector` network calls per slice.
        sigma_start: noise level of the start. The published method starts at 378 with 2000 levels;
            the data fix the coarse image well below that.
        sigma_min: last noise level.
        snr: r of the corrector; it inflates the variance by a share of r^2.
        n_corrector: Langevin steps per level.
        corrector_cap: largest e in units of `2 snr^2 sigma^2`, its value for a state of pure noise.
            Where the data leave no noise in a slice its score vanishes and e would have no bound,
            as in the published method (inf). Beyond `1 / (2 snr^2)` Langevin steps are unstable
            wherever the prior is sharp.
        zu_carry: what becomes of the ADMM's `(z, u)` from level to level: `scale` multiplies them
            by the ratio of the levels; `share` leaves them, as published; `reset` starts anew with
            `z = D x, u = 0` above the noise level 0.3 and shares below.
        consistency: numbers of the data-consistency sweep.

    Raises:
        ValueError: a number is out of range, or `share` came with three or more CG steps.
    """

    n_steps: int = 200
    sigma_start: float = 5.0
    sigma_min: float = 0.01
    snr: float = 0.16
    n_corrector: int = 1
    corrector_cap: float = 10.0
    zu_carry: ZuCarry = "scale"
    consistency: AdmmTvSettings = field(default_factory=_consistency)

    def __post_init__(self) -> None:
        if self.n_steps < 2 or self.n_corrector < 0:
            raise ValueError(
                f"n_steps={self.n_steps}, n_corrector={self.n_corrector} came; give at least two "
                "levels and no negative number of corrector steps"
            )
        if not 0.0 < self.sigma_min < self.sigma_start < math.inf:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_start={self.sigma_start} came; "
                "give 0 < sigma_min < sigma_start < inf"
            )
        if not 0.0 <= self.snr < 1.0 or not self.corrector_cap > 0.0:
            raise ValueError(
                f"snr={self.snr}, corrector_cap={self.corrector_cap} came; "
                "give 0 <= snr < 1 and a positive cap"
            )
        if self.zu_carry not in ("scale", "share", "reset"):
            raise ValueError(f"zu_carry={self.zu_carry!r} came; choose scale, share or reset")
        if self.zu_carry == "share" and self.consistency.n_cg >= 3 and self.consistency.rho > 0.0:
            raise ValueError(
                f"zu_carry='share' came with n_cg={self.consistency.n_cg}, which diverges: the old "
                "noise in (z, u) is fed back; use at most two CG steps, or zu_carry='scale'"
            )


def ladder(settings: MbirSettings) -> list[float]:
    """Return the noise levels, lowest first; the last one is the start."""
    span = math.log(settings.sigma_start / settings.sigma_min)
    top = settings.n_steps - 1
    return [settings.sigma_min * math.exp(span * k / top) for k in range(top)] + [
        settings.sigma_start
    ]


@torch.no_grad()
def mbir(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: MbirSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Draw one volume that agrees with the data and looks like the prior.

    Args:
        measured: the volume as it was seen; image `(n_slices, *space)`, real or complex, in the
            units of the prior, operator of norm near one.
        prior: a denoiser of slices, `prior(x, t) -> x0`, with its `path`, of any kind.
        rng: one sample id per slice.
        settings: see `MbirSettings`.
        progress: called as `progress(done, total)` after every noise level.

    Returns:
        The volume; `history` holds the `noise_level` of every step and its `correction`, the root
        mean square change that data consistency made.

    Raises:
        ValueError: the number of sample ids is not that of the slices, or the noise levels asked
            for are not on the prior's path.
    """
    settings = MbirSettings() if settings is None else settings
    levels = ladder(settings)
    times, alphas = _places(prior.path, levels)
    like, sweeps = measured.rhs, AdmmTv(measured, settings=settings.consistency)
    corrections: list[Tensor] = []

    def project(x: Tensor, k: int) -> Tensor:
        _carry(sweeps, levels, k, settings.zu_carry)
        moved = measured.state(sweeps.sweep(measured.image(x)))
        corrections.append(rms_change(moved, x))
        if progress is not None:
            progress(settings.n_steps - k, settings.n_steps)
        return moved

    def denoise(x: Tensor, k: int) -> Tensor:
        return prior(x * alphas[k], times[k])

    def noise(k: int, tag: int) -> Tensor:
        return rng.normal(like.shape, step=k, tag=tag, dtype=like.dtype, device=like.device)

    x = noise(-1, 0).mul_(levels[-1])
    for k in range(settings.n_steps - 1, 0, -1):
        x = _predict(x, denoise(x, k), levels[k], levels[k - 1], noise=noise(k, 0))
        for i in range(settings.n_corrector):
            x0 = denoise(x, k - 1)
            x = _correct(x, x0, levels[k - 1], noise=noise(k, i + 1), settings=settings)
        x = project(x, k)
    x = project(denoise(x, 0), 0)
    history = {
        "noise_level": tuple(reversed(levels)),
        "correction": tuple(float(c) for c in corrections),
    }
    n_calls = 1 + (settings.n_steps - 1) * (1 + settings.n_corrector)
    return Solution(measured.image(x), n_calls=n_calls, history=history)


def _places(path: Path, levels: list[float]) -> tuple[list[float], list[float]]:
    """Return the times at which a path has these levels, and the weights of the data there."""
    if path.shifted:
        raise ValueError(f"{path!r} has a conditional mean; let the denoiser work on x - mu")
    times = path.time_at_sigma_hat(np.array(levels))
    return times.tolist(), np.asarray(path.alpha(times)).tolist()


def _predict(x: Tensor, x0: Tensor, level: float, lower: float, *, noise: Tensor) -> Tensor:
    """Return `x + d s + sqrt(d) n`; overwrites the noise."""
    d = level**2 - lower**2
    share = d / level**2
    return noise.mul_(math.sqrt(d)).add_(x, alpha=1.0 - share).add_(x0, alpha=share)


def _correct(
    x: Tensor, x0: Tensor, level: float, *, noise: Tensor, settings: MbirSettings
) -> Tensor:
    """Return `x + e s + sqrt(2 e) n` with a step size of its own for every slice."""
    score = torch.sub(x0, x).div_(level**2)
    usual = 2.0 * (settings.snr * level) ** 2
    shape = (-1,) + (1,) * (x.ndim - 1)
    ratio = settings.snr * _norms(noise) / _norms(score)  # inf, or nan, where the score is zero
    e = (2.0 * ratio.square()).nan_to_num(posinf=0.0, nan=0.0)
    e = e.clamp_max(usual * settings.corrector_cap).to(x.dtype).reshape(shape)
    return score.mul_(e).add_(x).add_(noise.mul_((2.0 * e).sqrt()))


def _norms(x: Tensor) -> Tensor:
    """Return the length of every slice, which cannot depend on the number of the others."""
    return torch.stack([torch.linalg.vector_norm(part) for part in x]).double()


def _carry(sweeps: AdmmTv, levels: list[float], k: int, how: ZuCarry) -> None:
    """Prepare `(z, u)` for a sweep on the volume that has just come down from level k."""
    below = max(k - 1, 0)  # the last sweep is on a clean volume; take the ratio before once more
    if how == "scale":
        sweeps.rescale(levels[below] / levels[below + 1])
    elif how == "reset" and levels[below] > _SHARE_BELOW:
        sweeps.restart()
