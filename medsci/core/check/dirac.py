"""Point masses under Gaussian or Student-t noise: a data set, seen by its perfect denoiser.

The probability flow of a finite data set lands on its points, whatever the radial law of the noise,
because `x = alpha atom + sigma z` moves every state by `E[z | x]` alone.
"""

__all__ = ["DiracMixtureOracle"]

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.oracle import DRAW, coefficients
from medsci.core.process.path import Path
from medsci.core.rng import Rng


@final
class DiracMixtureOracle:
    """Data that are a finite set of atoms, seen through a path and a radial law of noise.

    Args:
        path: the path of the states.
        atoms: the data, shape (m, *d).
        weights: of the atoms, positive; they are normalised. Equal if left out.
        dof: degrees of freedom of Student-t noise, which is PFGM++ with `D = dof` and
            `r = sigma sqrt(D)`; Gaussian noise if left out.

    At zero noise the denoiser returns the nearest atom.

    Source: Xu et al. 2023, arXiv:2302.04265, for `dof`; Karras et al. 2022, app. B.3,
    arXiv:2206.00364, for Gaussian noise.
    """

    def __init__(
        self,
        path: Path,
        atoms: Float[Tensor, " m *d"],
        *,
        weights: Float[Tensor, " m"] | None = None,
        dof: float | None = None,
    ) -> None:
        if dof is not None and not 0.0 < dof < math.inf:
            raise ValueError(f"dof={dof} came; give positive finite degrees of freedom or None")
        if weights is None:
            weights = torch.ones(len(atoms), dtype=atoms.dtype, device=atoms.device)
        if (weights <= 0.0).any():
            raise ValueError(f"the smallest weight is {weights.min():g}; all must be positive")
        self.path = path
        self.atoms = atoms.flatten(1)
        self.weights = weights / weights.sum()
        self.dof = dof

    def __call__(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`, a weighted mean of the atoms."""
        return (self.responsibilities(x, t) @ self.atoms).reshape(x.shape)

    def responsibilities(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, "b m"]:
        """Return the probability of every atom given `x_t = x`."""
        square = self._square(x, t)
        if coefficients(self.path, t)[1] == 0.0:
            nearest = square.argmin(1)
            return torch.nn.functional.one_hot(nearest, len(self.atoms)).to(square)
        return torch.softmax(self.weights.log() + self._log_kernel(square, t), dim=1)

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`; needs `sigma(t) > 0`."""
        d, sigma = self.atoms.shape[1], coefficients(self.path, t)[1]
        if not sigma > 0.0:
            raise ValueError(f"atoms have no density at t={t}, where there is no noise")
        log_parts = self.weights.log() + self._log_kernel(self._square(x, t), t)
        constant = 0.5 * d * math.log(2.0 * math.pi) + d * math.log(sigma)
        if self.dof is not None:
            half = 0.5 * self.dof
            constant += math.lgamma(half) - math.lgamma(half + 0.5 * d) + 0.5 * d * math.log(half)
        return torch.logsumexp(log_parts, dim=1) - constant

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the gradient of `ln p_t` with respect to x; needs `sigma(t) > 0`.

        Under Student-t noise it is no longer `(alpha D - x) / sigma^2`: far atoms pull less.
        """
        alpha, _ = coefficients(self.path, t)
        pull = self.responsibilities(x, t) * self._stiffness(x, t)
        slope = pull @ (alpha * self.atoms) - pull.sum(1, keepdim=True) * x.flatten(1)
        return slope.reshape(x.shape)

    def jacobian(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, "b n n"]:
        """Return the derivative of the denoiser with respect to x; needs `sigma(t) > 0`.

        `sum w_a (a - D)(s_a - score)^T` with the score `s_a` of every kernel. It is symmetric for
        Gaussian noise only: the denoiser of PFGM++ is no gradient.
        """
        alpha, _ = coefficients(self.path, t)
        share = self.responsibilities(x, t)
        scores = self._stiffness(x, t)[..., None] * (alpha * self.atoms - x.flatten(1)[:, None])
        far = self.atoms - (share @ self.atoms)[:, None]
        turn = scores - torch.einsum("bm,bmj->bj", share, scores)[:, None]
        return torch.einsum("bm,bmi,bmj->bij", share, far, turn)

    def posterior_sample(
        self, x: Float[Tensor, " b *d"], t: float, *, rng: Rng, step: int = 0
    ) -> Float[Tensor, " b *d"]:
        """Draw one atom given each `x_t = x`, exactly; repeat x for more."""
        bar = rng.uniform(step=step, tag=DRAW).to(self.atoms)
        below = self.responsibilities(x, t).cumsum(1) < bar[:, None]
        return self.atoms[below.sum(1).clamp_max(len(self.atoms) - 1)].reshape(x.shape)

    def _square(self, x: Tensor, t: float) -> Tensor:
        """Return `|x - alpha atom|^2`, (b, m), from the differences, so that small ones are right.

        (b, m, d) numbers are held at once.
        """
        alpha, _ = coefficients(self.path, t)
        return (x.flatten(1)[:, None] - alpha * self.atoms).square().sum(-1)

    def _log_kernel(self, square: Tensor, t: float) -> Tensor:
        """Return the logarithm of the noise law at these distances, up to a constant."""
        variance = coefficients(self.path, t)[1] ** 2
        if self.dof is None:
            return -0.5 * square / variance
        exponent = 0.5 * (self.dof + self.atoms.shape[1])
        return -exponent * torch.log1p(square / (self.dof * variance))

    def _stiffness(self, x: Tensor, t: float) -> Tensor:
        """Return k of the score `k (alpha atom - x)` of every kernel, (b, m)."""
        variance = coefficients(self.path, t)[1] ** 2
        square = self._square(x, t)
        if self.dof is None:
            return torch.full_like(square, 1.0 / variance)
        return (self.dof + self.atoms.shape[1]) / (self.dof * variance + square)
