"""The oracle of two-sided interpolants: two Gaussian mixtures, coupled independently."""

__all__ = ["InterpolantOracle"]

import math
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.process.two_sided import TwoSided


class _Parts(NamedTuple):
    """Per pair of modes p and state b: share, `S^-1 (x - mean)`, and the two ends given x."""

    log_share: Tensor  # (p, b)
    pull: Tensor  # (p, b, d)
    first: Tensor  # (p, b, d)
    second: Tensor  # (p, b, d)


@final
class InterpolantOracle:
    """Drift, velocity, noise and score of `x_t = a x0 + b x1 + g z`, all in closed form.

    `x0` and `x1` are independent draws of two mixtures, so `x_t` is a mixture over the pairs of
    modes, with means `a m0 + b m1` and covariances `a^2 C0 + b^2 C1 + g^2`.

    Args:
        interpolant: the bridge.
        first: the law at `t = 0`; its path is not used.
        second: the law at `t = 1`; its path is not used.
    """

    def __init__(
        self,
        interpolant: TwoSided,
        first: GaussianMixtureOracle,
        *,
        second: GaussianMixtureOracle,
    ) -> None:
        self.interpolant = interpolant
        self.first, self.second = first, second
        m, n = len(first.weights), len(second.weights)
        pair = torch.arange(m * n, device=first.weights.device)
        i, j = pair // n, pair % n
        self._log_weight = (first.weights[i] * second.weights[j]).log()
        self._means = first.means[i], second.means[j]
        f0, f1 = _factors(first), _factors(second)
        self._covariances = (f0 @ f0.mT)[i], (f1 @ f1.mT)[j]

    def b(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[a' x0 + b' x1 + g' z | x_t = x]`, the drift of the probability flow."""
        parts = self._parts(x, t)
        heat = float(self.interpolant.heat(t))  # g' E[z | x] = g' g S^-1 (x - mean)
        return self._mean(parts, self._velocity(parts, t) + heat * parts.pull, x)

    def v(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[a' x0 + b' x1 | x_t = x]`."""
        parts = self._parts(x, t)
        return self._mean(parts, self._velocity(parts, t), x)

    def eta(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[z | x_t = x]`."""
        parts = self._parts(x, t)
        return self._mean(parts, float(self.interpolant.weights(t)[2]) * parts.pull, x)

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `grad ln p_t(x)`."""
        parts = self._parts(x, t)
        return -self._mean(parts, parts.pull, x)

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`."""
        return torch.logsumexp(self._parts(x, t).log_share, dim=0)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw `n` states `x_t`."""
        x0, x1 = (_draw(side, n, generator=generator) for side in (self.first, self.second))
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        return self.interpolant.perturb(x0, x1, t=t, z=z)

    def _velocity(self, parts: _Parts, t: float) -> Tensor:
        rate_a, rate_b, _ = self.interpolant.rates(t)
        return float(rate_a) * parts.first + float(rate_b) * parts.second

    def _parts(self, x: Tensor, t: float) -> _Parts:
        a, b, g = (float(c) for c in self.interpolant.weights(t))
        (m0, m1), (c0, c1) = self._means, self._covariances
        eye = torch.eye(m0.shape[1], dtype=m0.dtype, device=m0.device)
        factor = torch.linalg.cholesky(a * a * c0 + b * b * c1 + g * g * eye)
        gap = x.reshape(1, x.shape[0], -1) - (a * m0 + b * m1)[:, None]
        pull = torch.cholesky_solve(gap.mT, factor).mT
        spread = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = spread + m0.shape[1] * math.log(2.0 * math.pi)
        log_share = self._log_weight[:, None] - 0.5 * ((gap * pull).sum(-1) + constant[:, None])
        first, second = m0[:, None] + a * pull @ c0, m1[:, None] + b * pull @ c1
        return _Parts(log_share, pull, first, second)

    def _mean(self, parts: _Parts, values: Tensor, x: Tensor) -> Tensor:
        share = torch.softmax(parts.log_share, dim=0)
        return torch.einsum("pb,pbd->bd", share, values).reshape(x.shape)


def _factors(law: GaussianMixtureOracle) -> Tensor:
    """Return `F` with `F F^T` the covariance, per mode."""
    spread = law.variances.sqrt()
    return torch.diag_embed(spread) if law.vectors is None else law.vectors * spread[:, None]


def _draw(law: GaussianMixtureOracle, n: int, *, generator: torch.Generator) -> Tensor:
    mode = torch.multinomial(law.weights, n, replacement=True, generator=generator)
    z = torch.randn(n, law.means.shape[1], generator=generator, dtype=law.means.dtype)
    return law.means[mode] + torch.einsum("ndk,nk->nd", _factors(law)[mode], z)
