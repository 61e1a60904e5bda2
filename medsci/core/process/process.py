"""Processes: what noise does to a sample, and how one step back looks once x0 is believed.

A state is a tensor, or a dict of tensors for a joint process. States live in the chart of the
process; so do the conditional mean `cond["mu"]` and the estimates of a denoiser.
"""

__all__ = ["Linear", "Process", "bridge_noise", "check_bridge"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.chart import Chart, Identity
from medsci.core.process.noise import Gaussian, Noise
from medsci.core.process.path import Path
from medsci.core.rng import Rng


@runtime_checkable
class Process(Protocol):
    """The three questions that objectives and generic samplers ask.

    Conditions `cond` are those of the denoiser; a process reads the ones it knows. `step` selects
    the noise stream: give different steps to `perturb` and to every `bridge` of one run.
    """

    def prior(
        self,
        shape: Any,
        rng: Rng,
        *,
        dtype: torch.dtype = torch.float32,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw the state at `t = 1`."""
        ...

    def perturb(
        self,
        x0: Any,
        t: float | Tensor,
        rng: Rng,
        *,
        step: int = 0,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Any]:
        """Draw the state at `t` of data `x0`; return it with the noise that made it."""
        ...

    def bridge(
        self,
        x_t: Any,
        x0: Any,
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw the state at `s < t` given the one at `t` and the clean state `x0`."""
        ...


@final
@dataclass(frozen=True)
class Linear:
    """The process of a path: `u_t = alpha u0 + shift mu + sigma z` in the chart `u = chart(x)`.

    On a path with a shift, all three methods need `cond["mu"]`, a state: encode it like the data if
    the chart is not the identity.

    Args:
        path: the coefficients.
        noise: the law of z.
        chart: the coordinates in which all of this happens.

    Source: Ho et al. 2020, eq. 4 and 7, arXiv:2006.11239, for any (alpha, shift, sigma).
    """

    path: Path
    noise: Noise = field(default_factory=Gaussian)
    chart: Chart = field(default_factory=Identity)

    def encode(self, x: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *e"]:
        """Return the clean state of data."""
        return self.chart.forward(x)

    def decode(self, u: Shaped[Tensor, " b *e"]) -> Shaped[Tensor, " b *d"]:
        """Return the data of a clean state."""
        return self.chart.inverse(u)

    def prior(
        self,
        shape: Sequence[int],
        rng: Rng,
        *,
        dtype: torch.dtype = torch.float32,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Draw pure noise at the scale of `t = 1`, around `shift mu`; `shape` is that of states."""
        mu = self._mean(cond)
        noise = float(self.path.sigma(1.0)) * self.noise.sample(shape, rng, step=-1, dtype=dtype)
        return noise if mu is None else noise.to(mu.device) + float(self.path.shift(1.0)) * mu

    def perturb(
        self,
        x0: Shaped[Tensor, " b *d"],
        t: float | Tensor,
        rng: Rng,
        *,
        step: int = 0,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[Shaped[Tensor, " b *e"], Shaped[Tensor, " b *e"]]:
        """Encode data and draw `u_t`; `t` is a float or one time per sample."""
        u0 = self.encode(x0)
        z = self.noise.sample(u0.shape, rng, step=step, dtype=u0.dtype).to(u0.device)
        return self.path.perturb(u0, t, z, mu=self._mean(cond)), z

    def bridge(
        self,
        x_t: Shaped[Tensor, " b *e"],
        x0: Shaped[Tensor, " b *e"],
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
        cond: Mapping[str, Any] | None = None,
    ) -> Shaped[Tensor, " b *e"]:
        """Draw `u_s` from the bridge; `eta = 0` is its deterministic (DDIM) member.

        Exact for every noise law: if `x_t` follows the path from `x0`, so does the result.

        Raises:
            ValueError: not `0 <= s < t <= 1`, no noise at `t`, or the conditional mean is missing.
        """
        check_bridge(t, s, eta=eta)
        mu = self._mean(cond)
        alpha, shift, sigma = _coefficients(self.path, t)
        alpha_s, shift_s, sigma_s = _coefficients(self.path, s)
        if sigma == 0.0:
            raise ValueError(f"{self.path!r} holds no noise at t={t}; start the bridge later")
        fresh = bridge_noise(alpha, sigma, alpha_s, sigma_s, eta=eta)
        kept = max(sigma_s**2 - fresh**2, 0.0) ** 0.5 / sigma
        x_s = (alpha_s - kept * alpha) * x0 + kept * x_t
        if mu is not None:
            x_s = x_s + (shift_s - kept * shift) * mu
        if fresh == 0.0:
            return x_s
        z = (x_t - alpha * x0) if mu is None else (x_t - alpha * x0 - shift * mu)
        return x_s + fresh * self.noise.renew(z / sigma, rng, step=step)

    def _mean(self, cond: Mapping[str, Any] | None) -> Tensor | None:
        if not self.path.shifted:
            return None
        if cond is None or "mu" not in cond:
            raise ValueError(
                f"{self.path!r} has a conditional mean, but no mu came; pass cond={{'mu': tensor}} "
                "with one mean per sample"
            )
        return cond["mu"]


def _coefficients(path: Path, t: float) -> tuple[float, float, float]:
    return float(path.alpha(t)), float(path.shift(t)), float(path.sigma(t))


def check_bridge(t: float, s: float, *, eta: float) -> None:
    """Check the times of a bridge and its share of fresh noise.

    Raises:
        ValueError: not `0 <= s < t <= 1`, or eta outside [0, 1].
    """
    if not 0.0 <= s < t <= 1.0:
        raise ValueError(f"a bridge from t={t} to s={s} came; give 0 <= s < t <= 1")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta={eta} came; give a share of fresh noise in [0, 1]")


def bridge_noise(
    alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float, *, eta: float
) -> float:
    """Return the sd of the noise that a bridge step from t to s adds.

    `eta sigma_s / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)`; `eta = 1` is the
    posterior of DDPM. Source: Song et al. 2021, eq. 16, arXiv:2010.02502.
    """
    left = max(sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2, 0.0)
    return eta * sigma_s / sigma_t * left**0.5
