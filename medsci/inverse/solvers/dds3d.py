"""Volumes from incomplete data and a 2D diffusion prior: decomposed diffusion sampling in 3D.

The state is a volume of slices. At every noise level the prior estimates each clean slice on its
own (Tweedie); one ADMM sweep makes the whole estimate agree with the data and couples neighbouring
slices; the sampler then takes its step from the corrected estimate. The correction is a hook of
the core's sampler, so any solver and grid will do.

Source: Chung et al. 2024 (DDS), arXiv:2303.05754, with the slice coupling of Chung et al. 2023,
arXiv:2211.10655.
"""

__all__ = ["Dds3dSettings", "dds3d"]

import math
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from medsci.core import Ancestral, DataConsistency, Rng, StepState
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers._walk import times_of
from medsci.inverse.solvers.admm_tv import AdmmTv, AdmmTvSettings, rms_change


@final
@dataclass(frozen=True)
class Dds3dSettings:
    """How the sampler walks.

    Attributes:
        n_steps: network calls per slice.
        sigma_max: noise level `sigma / alpha` at the start, in units of the image. The first
            estimates come from the data rather than from the noise, so it need not be large.
        sigma_min: noise level of the last but one point of the grid.
        rho_grid: exponent of the Karras grid between them.
        eta: share of fresh noise in each step (Chung et al. 2024, eq. 9). 0 is deterministic and
            keeps the law of the prior; a larger share averages over the prior, which lowers the
            error of a sample and narrows the spread between samples.
        prox_noise: ties the corrected estimate to the prior's by `prox_noise / sigma_hat^2` (added
            to `consistency.prox`): the rule of DiffPIR, where it is the variance of the data noise
            times a free factor; 0 leaves the regularisation to the early stop of the CG steps.
        consistency: numbers of the data-consistency sweep.

    Source: `prox_noise` after Zhu et al. 2023, eq. 11, arXiv:2305.08995.
    """

    n_steps: int = 30
    sigma_max: float = 0.5
    sigma_min: float = 0.02
    rho_grid: float = 7.0
    eta: float = 1.0
    prox_noise: float = 0.0
    consistency: AdmmTvSettings = field(default_factory=AdmmTvSettings)

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps} came; give at least 1")
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf or not self.rho_grid > 0.0:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho_grid="
                f"{self.rho_grid} came; give 0 < sigma_min < sigma_max < inf and rho_grid > 0"
            )
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} came; give a share of fresh noise in [0, 1]")
        if not 0.0 <= self.prox_noise < math.inf:
            raise ValueError(f"prox_noise={self.prox_noise} came; give a number >= 0")


def dds3d(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: Dds3dSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Draw one volume that agrees with the data and looks like the prior.

    Args:
        measured: the volume as it was seen; image `(n_slices, *space)`, real or complex, in the
            units of the prior, operator of norm near one.
        prior: a denoiser of slices, `prior(x, t) -> x0`, with its `path`.
        rng: one sample id per slice.
        settings: see `Dds3dSettings`.
        progress: called as `progress(done, total)` after every step.

    Returns:
        The volume; `history` holds the `noise_level` of every step and its `correction`, the root
        mean square change that data consistency made to the estimate.

    Raises:
        ValueError: the number of sample ids is not that of the slices, or the noise levels asked
            for are not on the path.
    """
    settings = Dds3dSettings() if settings is None else settings
    path = prior.path
    times = times_of(
        path,
        settings.n_steps,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        rho_grid=settings.rho_grid,
    )
    plan = Ancestral(eta=settings.eta, rule="fraction").plan(path, times)
    sweeps = AdmmTv(measured, settings=settings.consistency)
    levels: list[float] = []
    corrections: list[Tensor] = []

    def project(x0: Tensor, state: StepState) -> Tensor:
        level = float(path.sigma(state.t)) / float(path.alpha(state.t))
        prox = settings.consistency.prox + settings.prox_noise / level**2
        corrected = measured.state(sweeps.sweep(measured.image(x0), prox=prox))
        levels.append(level)
        corrections.append(rms_change(corrected, x0))
        if progress is not None:
            progress(state.i + 1, state.n)
        return corrected

    like = measured.rhs
    start = rng.normal(like.shape, step=-1, dtype=like.dtype, device=like.device)
    start.mul_(float(path.sigma(times[0])))
    state = plan.run(prior, start, rng=rng, hooks=(DataConsistency(project),))
    history = {"noise_level": tuple(levels), "correction": tuple(float(c) for c in corrections)}
    return Solution(measured.image(state), n_calls=plan.nfe, history=history)
