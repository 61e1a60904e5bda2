"""Oracles: distributions whose denoiser, score and flow are known in closed form.

They judge every solver, hook, coupling and objective. Use them in float64 (or complex128: the
covariance is then Hermitian and the noise circular, `E|z|^2 = 1`).
"""

__all__ = ["GaussianMixtureOracle", "GaussianOracle"]

import math
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.process.path import Path


@final
class GaussianOracle:
    """Data from `N(mean, V diag(variances) V^H)`, seen through a path.

    Args:
        path: the path of the states.
        mean: of the data, shape (d,).
        variances: eigenvalues of the covariance, real and >= 0, shape (d,).
        vectors: eigenvectors in columns, shape (d, d); the identity if left out.

    Source: Wang and Vastola 2023, sec. 4, arXiv:2303.02490.
    """

    def __init__(
        self,
        path: Path,
        mean: Shaped[Tensor, " d"],
        *,
        variances: Float[Tensor, " d"],
        vectors: Shaped[Tensor, "d d"] | None = None,
    ) -> None:
        if (variances < 0.0).any():
            raise ValueError(f"the smallest variance is {variances.min():g}; all must be >= 0")
        self.path = path
        self.mean = mean
        self.variances = variances
        self.vectors = vectors

    @classmethod
    def from_covariance(
        cls, path: Path, mean: Shaped[Tensor, " d"], *, covariance: Shaped[Tensor, "d d"]
    ) -> "GaussianOracle":
        """Build the oracle of a symmetric or Hermitian covariance."""
        variances, vectors = torch.linalg.eigh(covariance)
        return cls(path, mean, variances=variances.clamp_min(0.0), vectors=vectors)

    def __call__(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`."""
        alpha, sigma = self._coefficients(t)
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        return self._filter(x, gain, centre=alpha, offset=1.0)

    def flow(self, x: Shaped[Tensor, " b *d"], t: float, s: float) -> Shaped[Tensor, " b *d"]:
        """Carry states from `t` to `s` along the probability-flow equation, exactly."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self._coefficients(t), self._coefficients(s)
        wide = alpha_t**2 * self.variances + sigma_t**2
        gain = torch.sqrt((alpha_s**2 * self.variances + sigma_s**2) / wide)
        return self._filter(x, gain, centre=alpha_t, offset=alpha_s)

    def moments(self, t: float) -> tuple[Shaped[Tensor, " d"], Shaped[Tensor, "d d"]]:
        """Return mean and covariance of `x_t`."""
        alpha, sigma = self._coefficients(t)
        return alpha * self.mean, self._matrix(alpha**2 * self.variances + sigma**2)

    def posterior(
        self, x: Shaped[Tensor, " b *d"], t: float
    ) -> tuple[Shaped[Tensor, " b *d"], Shaped[Tensor, "d d"]]:
        """Return mean and covariance of `x0` given `x_t = x`; the covariance is the same for all.

        The covariance needs `sigma(t) > 0` or positive variances.
        """
        alpha, sigma = self._coefficients(t)
        left = self.variances * sigma**2 / (alpha**2 * self.variances + sigma**2)
        return self(x, t), self._matrix(left)

    def _coefficients(self, t: float) -> tuple[float, float]:
        return float(self.path.alpha(t)), float(self.path.sigma(t))

    def _matrix(self, spectrum: Tensor) -> Tensor:
        if self.vectors is None:
            return torch.diag(spectrum.to(self.mean.dtype))
        return (self.vectors * spectrum) @ self.vectors.mH

    def _filter(self, x: Tensor, gain: Tensor, *, centre: float, offset: float) -> Tensor:
        """Return `offset mean + V gain V^H (x - centre mean)`."""
        flat = x.reshape(x.shape[0], -1) - centre * self.mean
        if self.vectors is None:
            flat = flat * gain
        else:
            flat = ((flat @ self.vectors.conj()) * gain) @ self.vectors.mT
        return (offset * self.mean + flat).reshape(x.shape)


@final
class GaussianMixtureOracle:
    """Data from a mixture of Gaussians with full covariances, seen through a path.

    Args:
        path: the path of the states.
        weights: of the modes, positive; they are normalised. Shape (m,).
        means: shape (m, d).
        covariances: symmetric, positive semi-definite, shape (m, d, d).
    """

    def __init__(
        self,
        path: Path,
        weights: Float[Tensor, " m"],
        *,
        means: Float[Tensor, "m d"],
        covariances: Float[Tensor, "m d d"],
    ) -> None:
        if (weights <= 0.0).any():
            raise ValueError(f"the smallest weight is {weights.min():g}; all must be positive")
        self.path = path
        self.weights = weights / weights.sum()
        self.means = means
        variances, self.vectors = torch.linalg.eigh(covariances)
        self.variances = variances.clamp_min(0.0)

    def __call__(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`."""
        alpha, _ = self._coefficients(t)
        rotated, spread, log_parts = self._parts(x, t)
        gain = alpha * self.variances / spread
        means = self.means[:, None] + torch.einsum(
            "mdk,mbk->mbd", self.vectors, rotated * gain[:, None]
        )
        share = torch.softmax(log_parts, dim=0)
        return torch.einsum("mb,mbd->bd", share, means).reshape(x.shape)

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`."""
        return torch.logsumexp(self._parts(x, t)[2], dim=0)

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the gradient of `ln p_t` with respect to x."""
        rotated, spread, log_parts = self._parts(x, t)
        slopes = torch.einsum("mdk,mbk->mbd", self.vectors, rotated / spread[:, None])
        share = torch.softmax(log_parts, dim=0)
        return -torch.einsum("mb,mbd->bd", share, slopes).reshape(x.shape)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw `n` states `x_t`."""
        alpha, _ = self._coefficients(t)
        mode = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        _, spread, _ = self._parts(torch.zeros_like(self.means[:1]), t)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        noise = torch.einsum("ndk,nk->nd", self.vectors[mode], z * spread[mode].sqrt())
        return alpha * self.means[mode] + noise

    def _coefficients(self, t: float) -> tuple[float, float]:
        return float(self.path.alpha(t)), float(self.path.sigma(t))

    def _parts(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return `V^T (x - alpha mean)`, the variances of x_t per mode, and `ln (weight density)`.

        Shapes (m, b, d), (m, d) and (m, b).
        """
        alpha, sigma = self._coefficients(t)
        flat = x.reshape(1, x.shape[0], -1) - alpha * self.means[:, None]
        rotated = torch.einsum("mdk,mbd->mbk", self.vectors, flat)
        spread = alpha**2 * self.variances + sigma**2
        square = (rotated**2 / spread[:, None]).sum(-1)
        constant = spread.log().sum(-1) + self.means.shape[1] * math.log(2.0 * math.pi)
        return rotated, spread, self.weights.log()[:, None] - 0.5 * (square + constant[:, None])
