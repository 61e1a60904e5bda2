"""Volumes from incomplete data and a 2D diffusion prior: decomposed diffusion sampling in 3D.

The state is a volume of slices. At every noise level the prior estimates each clean slice on its
own (Tweedie); one ADMM sweep makes the whole estimate agree with the data and couples neighbouring
slices; the sampler then takes its step from the corrected estimate. The correction is a hook of
the core's sampler, so any solver and grid will do.

Source: Chung et al. 2024 (DDS), arXiv:2303.05754, with the slice coupling of Chung et al. 2023,
arXiv:2211.10655.
"""

__all__ = ["Dds3dSettings", "Prior", "channels_of", "complex_of", "dds3d"]

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from medsci.core import Ancestral, DataConsistency, Path, Rng, StepState
from medsci.core.solve import grid as grids
from medsci.inverse.admm_tv import AdmmTv, AdmmTvSettings
from medsci.operators import LinearOp

Progress = Callable[[int, int], None]


@runtime_checkable
class Prior(Protocol):
    """A denoiser of two-channel slices that knows its path."""

    @property
    def path(self) -> Path:
        """Return the path on which the states live."""
        ...

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return x0."""
        ...


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


def complex_of(x: Float[Tensor, "k 2 r p"]) -> Complex[Tensor, "k r p"]:
    """Join the two channels of a state into complex slices."""
    return torch.complex(x[:, 0], x[:, 1])


def channels_of(x: Complex[Tensor, "k r p"]) -> Float[Tensor, "k 2 r p"]:
    """Split complex slices into real and imaginary channels."""
    return torch.stack([x.real, x.imag], dim=1)


def noise_grid(path: Path, settings: Dds3dSettings) -> np.ndarray:
    """Return the times of the walk, `n_steps + 1` of them, ending at clean data."""
    return grids.karras(
        path,
        settings.n_steps,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        rho=settings.rho_grid,
        final_zero=True,
    )


def dds3d(
    y: Tensor,
    op: LinearOp,
    prior: Prior,
    *,
    rng: Rng,
    settings: Dds3dSettings,
    progress: Progress | None = None,
) -> Complex[Tensor, "k r p"]:
    """Draw one volume that agrees with the data and looks like the prior.

    Args:
        y: measurement of the whole volume.
        op: acts on complex volumes `(n_slices, rows, columns)`, norm near one.
        prior: a denoiser of two-channel slices, `prior(x, t) -> x0`, with its `path`; images are
            scaled as it was trained.
        rng: one sample id per slice.
        settings: see `Dds3dSettings`.
        progress: called as `progress(done, total)` after every step.

    Returns:
        The complex volume in the prior's units.
    """
    sweep = AdmmTv(op, y, settings=settings.consistency)
    path = prior.path
    times = noise_grid(path, settings)
    plan = Ancestral(eta=settings.eta, rule="fraction").plan(path, times)

    def project(x0: Tensor, state: StepState) -> Tensor:
        level = float(path.sigma(state.t)) / float(path.alpha(state.t))
        prox = settings.consistency.prox + settings.prox_noise / level**2
        corrected = channels_of(sweep.sweep(complex_of(x0), prox=prox))
        if progress is not None:
            progress(state.i + 1, state.n)
        return corrected

    shape = channels_of(sweep.backprojection).shape
    start = float(path.sigma(times[0])) * rng.normal(shape, step=-1, device=y.device)
    return complex_of(plan.run(prior, start, rng=rng, hooks=(DataConsistency(project),)))
