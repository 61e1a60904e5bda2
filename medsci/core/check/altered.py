"""Oracles with one known fault: what a diagnosis must see, and what it must not mind.

Gauge       another score with the same densities: samples move, their law does not
Smoothed    a denoiser averaged over a neighbourhood, as a network of limited sharpness is
"""

__all__ = ["Gauge", "Smoothed"]

from collections.abc import Callable
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.oracle import Oracle, coefficients
from medsci.core.process.path import Path


@final
class Gauge:
    """Add `r = A score` to the score, A antisymmetric: `div(p r) = 0`, so no density changes.

    The field is `(I + A) score`, and the denoiser that belongs to it

        D' = D - A (x - alpha D) / alpha

    The probability flow then carries every point elsewhere, around the contours of the density,
    while the law of `x_t` stays the same at all times.

    Args:
        oracle: gives D, its score, density and Jacobian.
        matrix: A, for flattened states.

    Raises:
        ValueError: the matrix is not antisymmetric, or D' is asked for where `alpha = 0`.

    Source: Horvat and Pfister 2024, arXiv:2402.03845.
    """

    def __init__(self, oracle: Oracle, matrix: Float[Tensor, "n n"]) -> None:
        if not torch.equal(matrix, -matrix.mT):
            off = (matrix + matrix.mT).abs().max()
            raise ValueError(f"A + A^T reaches {off:g}; give an antisymmetric matrix, e.g. M - M.T")
        self.oracle = oracle
        self.matrix = matrix

    @property
    def path(self) -> Path:
        """The path of the states."""
        return self.oracle.path

    def __call__(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the x0 that the altered score implies."""
        alpha = self._alpha(t)
        x0 = self.oracle(x, t)
        return x0 - self._turn(x - alpha * x0) / alpha

    def gauge(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the part that was added, `r = A score`."""
        return self._turn(self.oracle.score(x, t))

    def score(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the altered field `(I + A) score`, which is no gradient."""
        score = self.oracle.score(x, t)
        return score + self._turn(score)

    def log_density(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`, unchanged."""
        return self.oracle.log_density(x, t)

    def jacobian(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, "b n n"]:
        """Return the derivative of D', `(I + A) dD/dx - A / alpha`."""
        before = self.oracle.jacobian(x, t)
        return before + self.matrix @ before - self.matrix / self._alpha(t)

    def _alpha(self, t: float) -> float:
        alpha, _ = coefficients(self.path, t)
        if alpha == 0.0:
            raise ValueError(f"a gauge has no x0 at t={t}, where alpha = 0; start the grid below")
        return alpha

    def _turn(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self.matrix.mT).reshape(v.shape)


@final
class Smoothed:
    """The average of a denoiser over a Gaussian neighbourhood of x.

        D_tau(x, t) = E_n D(x + alpha tau n, t),     n ~ N(0, I)

    With tau as wide as the gaps between modes the jump of D from one mode to the next becomes a
    slope, and samples are left in between: hallucinations by mode interpolation.

    The average has no closed form for mixtures. It is taken over fixed nodes: scrambled Sobol'
    points through the normal quantile, mirrored and scaled to unit second moment, so that it is
    exact for linear denoisers and a smooth, repeatable function of x. With 64 nodes the error for
    the 5 x 5 grid (unit variance, tau = 0.1) is at most 1 % of a data sd, with 256 nodes 0.3 %.

    Args:
        denoise: `denoise(x, t) -> x0`, usually an oracle.
        path: the path of the states.
        bandwidth: tau, in units of the data; 0 changes nothing.
        nodes: an even number of evaluations of `denoise` per call.

    Source: the effect is that of Aithal et al. 2024, arXiv:2406.09358; the smoothing is ours.
    """

    def __init__(
        self,
        denoise: Callable[..., Tensor],
        *,
        path: Path,
        bandwidth: float,
        nodes: int = 64,
    ) -> None:
        if not bandwidth >= 0.0 or nodes < 2 or nodes % 2:
            raise ValueError(
                f"bandwidth={bandwidth}, nodes={nodes} came; give bandwidth >= 0 and an even "
                "number of nodes, at least 2"
            )
        self.denoise = denoise
        self.path = path
        self.bandwidth = float(bandwidth)
        self.nodes = nodes

    def __call__(self, x: Float[Tensor, " b *d"], t: float) -> Float[Tensor, " b *d"]:
        """Return the smoothed estimate of x0."""
        if self.bandwidth == 0.0:
            return self.denoise(x, t)
        alpha, _ = coefficients(self.path, t)
        nodes = _nodes(self.nodes, x[0].numel()).to(x) * (alpha * self.bandwidth)
        total = torch.zeros_like(x)
        for node in nodes:
            total = total + self.denoise(x + node.reshape(x.shape[1:]), t)
        return total / self.nodes


@lru_cache(maxsize=16)
def _nodes(n: int, d: int) -> Tensor:
    """Return `n` normal nodes in d dimensions, symmetric about zero and of unit second moment."""
    engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=0)
    inside = engine.draw(n // 2, dtype=torch.float64).clamp(1e-9, 1.0 - 1e-9)
    half = torch.special.ndtri(inside)
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])
