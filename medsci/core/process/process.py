"""Processes: what noise does to a sample, and how one step back looks once x0 is believed."""

__all__ = ["Linear", "Process"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from medsci.core.process.noise import Gaussian, Noise
from medsci.core.process.path import Path, expand
from medsci.core.solve.rng import Rng


@runtime_checkable
class Process(Protocol):
    """The three questions that objectives and generic samplers ask."""

    def prior(
        self, shape: Sequence[int], rng: Rng, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw the state at `t = 1`."""
        ...

    def perturb(
        self, x0: Tensor, t: float | Tensor, rng: Rng, *, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Draw `x_t` given `x0`; return it with the noise that made it."""
        ...

    def bridge(
        self,
        x_t: Tensor,
        x0: Tensor,
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
    ) -> Tensor:
        """Draw `x_s`, `s < t`, from `q(x_s | x_t, x0)`."""
        ...


@final
@dataclass(frozen=True)
class Linear:
    """The process of a path: `x_t = alpha x0 + sigma z` with `z` from a noise law.

    Source: Ho et al. 2020, eq. 4 and 7, arXiv:2006.11239, for any pair (alpha, sigma).
    """

    path: Path
    noise: Noise = field(default_factory=Gaussian)

    def prior(
        self, shape: Sequence[int], rng: Rng, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw pure noise at the scale of `t = 1`."""
        return float(self.path.sigma(1.0)) * self.noise.sample(shape, rng, step=-1, dtype=dtype)

    def perturb(
        self, x0: Tensor, t: float | Tensor, rng: Rng, *, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Draw `x_t`; `t` is a float or one time per sample."""
        z = self.noise.sample(x0.shape, rng, step=step, dtype=x0.dtype).to(x0.device)
        return self.path.perturb(x0, t, z), z

    def bridge(
        self,
        x_t: Tensor,
        x0: Tensor,
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
    ) -> Tensor:
        """Draw `x_s` from the Gaussian bridge; `eta = 0` is its deterministic (DDIM) member."""
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        alpha_s, sigma_s = float(self.path.alpha(s)), float(self.path.sigma(s))
        fresh = bridge_noise(alpha, sigma, alpha_s, sigma_s, eta=eta)
        kept = max(sigma_s**2 - fresh**2, 0.0) ** 0.5 / sigma
        x_s = expand(alpha_s - kept * alpha, x0) * x0 + kept * x_t
        if fresh == 0.0:
            return x_s
        z = self.noise.sample(x0.shape, rng, step=step, dtype=x0.dtype).to(x0.device)
        return x_s + fresh * z


def bridge_noise(
    alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float, *, eta: float
) -> float:
    """Return the sd of the noise that a bridge step from t to s adds.

    `eta sigma_s / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)`; `eta = 1` is the
    posterior of DDPM. Source: Song et al. 2021, eq. 16, arXiv:2010.02502.
    """
    left = max(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)
    return eta * sigma_s / sigma_t * left**0.5
