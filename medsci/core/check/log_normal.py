"""Positive data under multiplicative noise: a log-normal law, or a mixture of them.

In the chart `u = ln x` geometric Brownian motion is an ordinary Gaussian path, and the two scores
are tied by the change of variables `ln p_u = ln p_x + sum u`:

    grad_u ln p = 1 + x grad_x ln p
"""

__all__ = ["LogNormalMixtureOracle"]

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.process.path import Path


@final
class LogNormalMixtureOracle:
    """Data `x0 = exp(u0)`, u0 from a mixture of diagonal Gaussians; noise is added to u.

    The denoiser takes and returns u, like every denoiser in a chart. Densities and scores come in
    both coordinates: in x without, in u with a prefix `chart_`.

    Args:
        path: of u; alpha = 1 with `sigma = v sqrt(t)`, which is `Path.ve(v, rho=0.5)`, makes x a
            geometric Brownian motion, `dX = v^2 / 2 X dt + v X dW`.
        weights: of the modes, positive; they are normalised. One mode is the log-normal law.
        log_means: means of u0, the logarithms of the medians of the modes, shape (m, d).
        log_variances: variances of u0, shape (m, d).

    Source: Shetty et al. 2025, arXiv:2510.02730, for the score of multiplicative noise.
    """

    def __init__(
        self,
        path: Path,
        weights: Float[Tensor, " m"],
        *,
        log_means: Float[Tensor, "m d"],
        log_variances: Float[Tensor, "m d"],
    ) -> None:
        if (log_variances < 0.0).any():
            raise ValueError(f"the smallest variance is {log_variances.min():g}; give >= 0")
        self.path = path
        self.chart = GaussianMixtureOracle(
            path, weights, means=log_means, covariances=log_variances
        )

    def __call__(self, u: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[u0 | u_t = u]`."""
        return self.chart(u, t)

    def chart_score(self, u: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the gradient with respect to u of the log-density of `u_t`."""
        return self.chart.score(u, t)

    def chart_log_density(self, u: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return the log-density of `u_t`."""
        return self.chart.log_density(u, t)

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the gradient with respect to x of `ln p_t`, `(chart score - 1) / x`."""
        return (self.chart.score(_log(x), t) - 1.0) / x

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)` of the positive state `x_t = exp(u_t)`."""
        u = _log(x)
        return self.chart.log_density(u, t) - u.flatten(1).sum(1)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw `n` positive states `x_t`."""
        return self.chart.sample(n, t, generator=generator).exp()


def _log(x: Tensor) -> Tensor:
    if (x <= 0.0).any():
        raise ValueError(f"the smallest entry is {x.min():g}; a log-normal law needs positive data")
    return x.log()
