"""Gaussian data: denoiser, score, density, flow, posterior and samples in closed form.

Every answer is one function of the covariance, `f(C) = V f(l) V^H`, so a covariance of low rank on
a floor costs two thin products and can be fitted to images.
"""

__all__ = ["GaussianOracle"]

import math
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.check.oracle import DRAW, coefficients
from medsci.core.process.path import Path
from medsci.core.rng import Rng


@final
class GaussianOracle:
    """Data from `N(mean, V diag(variances) V^H + floor (I - V V^H))`, seen through a path.

    Args:
        path: the path of the states.
        mean: of the data, shape (d,); it may be complex.
        variances: eigenvalues of the covariance, real and >= 0, shape (k,).
        vectors: orthonormal eigenvectors in columns, shape (d, k); the identity if left out.
        floor: variance of the directions that `vectors` leaves out.

    Source: Wang and Vastola 2023, sec. 4, arXiv:2303.02490.
    """

    def __init__(
        self,
        path: Path,
        mean: Shaped[Tensor, " d"],
        *,
        variances: Float[Tensor, " k"],
        vectors: Shaped[Tensor, "d k"] | None = None,
        floor: float = 0.0,
    ) -> None:
        d, k = len(mean), len(variances)
        if (variances < 0.0).any() or not floor >= 0.0:
            least = min(float(variances.min()), floor)
            raise ValueError(f"the smallest variance is {least:g}; all must be >= 0")
        if k != d if vectors is None else tuple(vectors.shape) != (d, k):
            shape = None if vectors is None else tuple(vectors.shape)
            raise ValueError(
                f"{k} variances and vectors of shape {shape} came for {d} dimensions; "
                "give vectors of shape (dimensions, variances)"
            )
        self.path = path
        self.mean = mean
        self.variances = variances
        self.vectors = vectors
        self.floor = float(floor)

    @classmethod
    def from_covariance(
        cls, path: Path, mean: Shaped[Tensor, " d"], *, covariance: Shaped[Tensor, "d d"]
    ) -> "GaussianOracle":
        """Build the oracle of a symmetric or Hermitian covariance."""
        variances, vectors = torch.linalg.eigh(covariance)
        return cls(path, mean, variances=variances.clamp_min(0.0), vectors=vectors)

    @classmethod
    def fit(
        cls,
        path: Path,
        samples: Shaped[Tensor, " n *d"],
        *,
        rank: int | None = None,
        floor: float | None = None,
    ) -> "GaussianOracle":
        """Fit mean and principal components to data, by a singular value decomposition.

        Args:
            path: the path of the states.
            samples: clean data, samples first.
            rank: components to keep, at most `min(n - 1, d)`, which is the default.
            floor: variance of the rest; the mean of the variances left out if not given, which is
                the most likely one.

        Source: Tipping and Bishop 1999, eq. 7 and 8, doi:10.1111/1467-9868.00196.
        """
        n = len(samples)
        flat = samples.reshape(n, -1)
        most = min(n - 1, flat.shape[1])
        kept = most if rank is None else rank
        if not 1 <= kept <= most:
            raise ValueError(
                f"rank {rank} came with {n} samples of {flat.shape[1]} numbers; "
                f"choose 1 to {most}, and give at least two samples"
            )
        mean = flat.mean(0)
        _, singular, rows = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = singular.square() / (n - 1)
        if floor is None:
            left = flat.shape[1] - kept
            floor = float(variances[kept:].sum()) / left if left else 0.0
        vectors = rows[:kept].mT
        return cls(path, mean, variances=variances[:kept], vectors=vectors, floor=floor)

    def __call__(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`."""
        alpha, _ = coefficients(self.path, t)
        gain = alpha * self._spectrum() / self._spread(t)
        return self._filter(x, gain, centre=alpha, offset=1.0)

    def score(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, " b *d"]:
        """Return the gradient of `ln p_t`, `-C_t^-1 (x - alpha mean)`."""
        alpha, _ = coefficients(self.path, t)
        return self._filter(x, -1.0 / self._spread(t), centre=alpha, offset=0.0)

    def log_density(self, x: Shaped[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`; needs noise or positive variances.

        Raises:
            ValueError: some direction has no variance at this time.
        """
        alpha, _ = coefficients(self.path, t)
        spread = self._spread(t)
        if (spread <= 0.0).any():
            raise ValueError(f"x_t has no density at t={t}: a direction has no variance; add noise")
        gap = x.reshape(len(x), -1) - alpha * self.mean
        square = -(gap.conj() * self.score(x, t).reshape(gap.shape)).real.sum(1)
        count = torch.ones_like(spread)
        if self._is_thin:
            count[-1] = len(self.mean) - len(self.variances)
        if gap.is_complex():
            return -(square + (count * (math.pi * spread).log()).sum())
        return -0.5 * (square + (count * (2.0 * math.pi * spread).log()).sum())

    def jacobian(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, "b n n"]:
        """Return the derivative of the denoiser: one matrix, repeated for the batch as a view."""
        alpha, _ = coefficients(self.path, t)
        return self._matrix(alpha * self._spectrum() / self._spread(t)).expand(len(x), -1, -1)

    def flow(self, x: Shaped[Tensor, " b *d"], t: float, s: float) -> Shaped[Tensor, " b *d"]:
        """Carry states from `t` to `s` along the probability-flow equation, exactly."""
        (alpha_t, _), (alpha_s, _) = coefficients(self.path, t), coefficients(self.path, s)
        gain = torch.sqrt(self._spread(s) / self._spread(t))
        return self._filter(x, gain, centre=alpha_t, offset=alpha_s)

    def moments(self, t: float) -> tuple[Shaped[Tensor, " d"], Shaped[Tensor, "d d"]]:
        """Return mean and covariance of `x_t`."""
        alpha, _ = coefficients(self.path, t)
        return alpha * self.mean, self._matrix(self._spread(t))

    def posterior(
        self, x: Shaped[Tensor, " b *d"], t: float
    ) -> tuple[Shaped[Tensor, " b *d"], Shaped[Tensor, "n n"]]:
        """Return mean and covariance of `x0` given `x_t = x`; the covariance is the same for all.

        The covariance needs `sigma(t) > 0` or positive variances.
        """
        return self(x, t), self._matrix(self._left(t))

    def posterior_sample(
        self, x: Shaped[Tensor, " b *d"], t: float, *, rng: Rng, step: int = 0
    ) -> Shaped[Tensor, " b *d"]:
        """Draw one `x0` given each `x_t = x`, exactly; repeat x for more."""
        z = rng.normal(x.shape, step=step, tag=DRAW, dtype=x.dtype, device=x.device)
        return self(x, t) + self._filter(z, self._left(t).sqrt(), centre=0.0, offset=0.0)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Shaped[Tensor, "n d"]:
        """Draw `n` states `x_t`."""
        alpha, _ = coefficients(self.path, t)
        z = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        gain = self._spread(t).sqrt()
        return self._filter(z.to(self.mean.device), gain, centre=0.0, offset=alpha)

    @property
    def _is_thin(self) -> bool:
        return len(self.variances) < len(self.mean)

    def _spectrum(self) -> Tensor:
        """Return the variances, followed by the floor if the vectors leave directions out."""
        if not self._is_thin:
            return self.variances
        return torch.cat([self.variances, self.variances.new_tensor([self.floor])])

    def _spread(self, t: float) -> Tensor:
        alpha, sigma = coefficients(self.path, t)
        return alpha**2 * self._spectrum() + sigma**2

    def _left(self, t: float) -> Tensor:
        """Return the variances of `x0` given `x_t`."""
        return self._spectrum() * coefficients(self.path, t)[1] ** 2 / self._spread(t)

    def _matrix(self, gain: Tensor) -> Tensor:
        if self.vectors is None:
            return torch.diag(gain.to(self.mean.dtype))
        if not self._is_thin:
            return (self.vectors * gain) @ self.vectors.mH
        thin = (self.vectors * (gain[:-1] - gain[-1])) @ self.vectors.mH
        return thin + gain[-1] * torch.eye(len(self.mean), dtype=gain.dtype, device=gain.device)

    def _filter(self, x: Tensor, gain: Tensor, *, centre: float, offset: float) -> Tensor:
        """Return `offset mean + V gain V^H (x - centre mean)`, the last gain for the rest."""
        flat = x.reshape(x.shape[0], -1) - centre * self.mean
        if self.vectors is None:
            flat = flat * gain
        elif not self._is_thin:
            flat = ((flat @ self.vectors.conj()) * gain) @ self.vectors.mT
        else:
            inside = (flat @ self.vectors.conj()) * (gain[:-1] - gain[-1])
            flat = torch.addmm(flat * gain[-1], inside, self.vectors.mT)
        return (offset * self.mean + flat).reshape(x.shape)
