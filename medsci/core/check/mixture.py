"""Mixtures of Gaussians: every answer in closed form, and exact draws of the posterior.

With `w_m(x)` the share of mode m at x, `D_m` its denoiser and `s_m` its score,

    D = sum w_m D_m,      score = sum w_m s_m,
    dD/dx = sum w_m dD_m/dx + sum w_m (D_m - D)(s_m - score)^T = alpha / sigma^2 cov(x0 | x).
"""

__all__ = ["GaussianMixtureOracle"]

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.oracle import DRAW, coefficients
from medsci.core.process.path import Path
from medsci.core.rng import Rng


@final
class GaussianMixtureOracle:
    """Data from a mixture of Gaussians, seen through a path.

    Args:
        path: the path of the states.
        weights: of the modes, positive; they are normalised. Shape (m,).
        means: shape (m, d).
        covariances: symmetric, positive semi-definite, shape (m, d, d); or the variances of
            diagonal ones, shape (m, d).

    Source: own derivation; `dD/dx = alpha / sigma^2 cov(x0 | x)` is the second-order Tweedie
    formula of Meng et al. 2021, arXiv:2111.04726.
    """

    def __init__(
        self,
        path: Path,
        weights: Float[Tensor, " m"],
        *,
        means: Float[Tensor, "m d"],
        covariances: Float[Tensor, "m d d"] | Float[Tensor, "m d"],
    ) -> None:
        if (weights <= 0.0).any():
            raise ValueError(f"the smallest weight is {weights.min():g}; all must be positive")
        self.path = path
        self.weights = weights / weights.sum()
        self.means = means
        self.vectors: Tensor | None = None
        variances = covariances
        if covariances.ndim == 3:
            variances, self.vectors = torch.linalg.eigh(covariances)
        self.variances = variances.clamp_min(0.0)

    def __call__(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`."""
        share, means, _ = self._modes(x, t)
        return torch.einsum("mb,mbd->bd", share, means).reshape(x.shape)

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`."""
        return torch.logsumexp(self._parts(x, t)[2], dim=0)

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the gradient of `ln p_t` with respect to x."""
        rotated, spread, log_parts = self._parts(x, t)
        slopes = self._back(rotated / spread[:, None])
        share = torch.softmax(log_parts, dim=0)
        return -torch.einsum("mb,mbd->bd", share, slopes).reshape(x.shape)

    def responsibilities(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, "b m"]:
        """Return the probability of every mode given `x_t = x`."""
        return torch.softmax(self._parts(x, t)[2], dim=0).T

    def jacobian(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, "b n n"]:
        """Return the derivative of the denoiser with respect to x, finite at both ends."""
        alpha, _ = coefficients(self.path, t)
        share, means, slopes = self._modes(x, t)
        scores = -self._back(slopes)
        inside = self._matrices(alpha * self.variances / self._spread(t))
        far = means - torch.einsum("mb,mbd->bd", share, means)
        turn = scores - torch.einsum("mb,mbd->bd", share, scores)
        between = torch.einsum("mb,mbi,mbj->bij", share, far, turn)
        return torch.einsum("mb,mij->bij", share, inside) + 0.5 * (between + between.mT)

    def posterior(
        self, x: Float[Tensor, " b *d"], t: float
    ) -> tuple[Float[Tensor, " b *d"], Float[Tensor, "b n n"]]:
        """Return mean and covariance of `x0` given each `x_t = x`."""
        share, means, _ = self._modes(x, t)
        mean = torch.einsum("mb,mbd->bd", share, means)
        far = means - mean
        inside = torch.einsum("mb,mij->bij", share, self._matrices(self._left(t)))
        return mean.reshape(x.shape), inside + torch.einsum("mb,mbi,mbj->bij", share, far, far)

    def posterior_sample(
        self, x: Float[Tensor, " b *d"], t: float, *, rng: Rng, step: int = 0
    ) -> Float[Tensor, " b *d"]:
        """Draw one `x0` given each `x_t = x`, exactly: a mode, then a point. Repeat x for more."""
        share, means, _ = self._modes(x, t)
        bar = rng.uniform(step=step, tag=DRAW).to(share)
        mode = (share.cumsum(0) < bar).sum(0).clamp_max(len(share) - 1)
        shape = (len(x), means.shape[-1])
        z = rng.normal(shape, step=step, tag=DRAW, dtype=x.dtype, device=x.device)
        z = self._left(t).sqrt()[mode] * z
        if self.vectors is not None:
            z = torch.einsum("bdk,bk->bd", self.vectors[mode], z)
        return (means[mode, torch.arange(len(x), device=x.device)] + z).reshape(x.shape)

    def moments(self, t: float) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Return mean and covariance of `x_t`."""
        alpha, _ = coefficients(self.path, t)
        mean = self.weights @ self.means
        far = self.means - mean
        inside = torch.einsum("m,mij->ij", self.weights, self._matrices(self._spread(t)))
        return alpha * mean, inside + alpha**2 * torch.einsum("m,mi,mj->ij", self.weights, far, far)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw `n` states `x_t`."""
        alpha, _ = coefficients(self.path, t)
        weights = self.weights.to(generator.device)
        mode = torch.multinomial(weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        mode, z = mode.to(self.means.device), z.to(self.means.device)
        z = z * self._spread(t)[mode].sqrt()
        if self.vectors is not None:
            z = torch.einsum("ndk,nk->nd", self.vectors[mode], z)
        return alpha * self.means[mode] + z

    def _spread(self, t: float) -> Tensor:
        """Return the variances of `x_t` per mode, (m, d)."""
        alpha, sigma = coefficients(self.path, t)
        return alpha**2 * self.variances + sigma**2

    def _left(self, t: float) -> Tensor:
        """Return the variances of `x0` given `x_t` per mode, (m, d)."""
        return self.variances * coefficients(self.path, t)[1] ** 2 / self._spread(t)

    def _parts(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return `V^T (x - alpha means)`, the variances of x_t per mode, and `ln (weight density)`.

        Shapes (m, b, d), (m, d) and (m, b).
        """
        alpha, _ = coefficients(self.path, t)
        rotated = x.reshape(1, x.shape[0], -1) - alpha * self.means[:, None]
        if self.vectors is not None:
            rotated = torch.einsum("mdk,mbd->mbk", self.vectors, rotated)
        spread = self._spread(t)
        square = (rotated**2 / spread[:, None]).sum(-1)
        constant = spread.log().sum(-1) + self.means.shape[1] * math.log(2.0 * math.pi)
        return rotated, spread, self.weights.log()[:, None] - 0.5 * (square + constant[:, None])

    def _modes(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return share (m, b), denoiser (m, b, d) and minus the rotated score of every mode."""
        alpha, _ = coefficients(self.path, t)
        rotated, spread, log_parts = self._parts(x, t)
        slopes = rotated / spread[:, None]
        means = self.means[:, None] + self._back(alpha * self.variances[:, None] * slopes)
        return torch.softmax(log_parts, dim=0), means, slopes

    def _back(self, rotated: Tensor) -> Tensor:
        if self.vectors is None:
            return rotated
        return torch.einsum("mdk,mbk->mbd", self.vectors, rotated)

    def _matrices(self, gain: Tensor) -> Tensor:
        """Return `V diag(gain) V^T` of every mode, (m, d, d)."""
        if self.vectors is None:
            return torch.diag_embed(gain)
        return (self.vectors * gain[:, None]) @ self.vectors.mT
