"""FISTA, and the proximal maps of the wavelet and total-variation penalties."""

__all__ = ["Prox", "TotalVariationProx", "WaveletProx", "fista"]

import math
from collections.abc import Callable
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from medsci.operators import soft_threshold

_TINY = 1e-30  # so that a weight of zero divides nothing by zero


@runtime_checkable
class Prox(Protocol):
    """Minimise a penalty plus `|x - v|^2 / 2`; the state starts at None and is handed on."""

    def __call__(self, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the minimiser and the state for the next call."""
        ...


@torch.no_grad()
def fista(
    normal: Callable[[Tensor], Tensor], right_side: Tensor, prox: Prox, *, n_iter: int
) -> Tensor:
    """Minimise `<x, N x> / 2 - Re <b, x> + penalty(x)` for `0 <= N <= 1`, starting at b.

    For an operator of another norm L divide N, b and the weight of the penalty by `L^2`.

    Args:
        normal: Apply N.
        right_side: The vector b.
        prox: Proximal map of the penalty.
        n_iter: Iterations, each one application of N and one proximal map.

    Source: Beck and Teboulle 2009, doi:10.1137/080716542.
    """
    x, extrapolated, t, state = right_side, right_side, 1.0, None
    for _ in range(n_iter):
        new, state = prox(extrapolated - normal(extrapolated) + right_side, state)
        t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
        extrapolated = torch.lerp(x, new, 1 + (t - 1) / t_new)
        x, t = new, t_new
    return x


@final
class WaveletProx:
    """Soft-threshold the wavelet details of every slice, after a random cyclic shift.

    Args:
        threshold: How much details shrink.
        wavelet: Name of an orthogonal wavelet of PyWavelets.
        level: Depth of the transform; the sides of a slice must be multiples of `2^level`.
        seed: Seed of the shifts, a new one for each call; None for no shifts.
    """

    def __init__(self, threshold: float, *, wavelet: str, level: int, seed: int | None) -> None:
        self.threshold = threshold
        self.wavelet = wavelet
        self.level = level
        self.seed = seed

    def __call__(
        self, v: Tensor, state: np.random.Generator | None
    ) -> tuple[Tensor, np.random.Generator | None]:
        """Return the shrunk slices, `(n_slices, n_rows, n_columns)`, and the generator."""
        if self.seed is None:
            return self._shrink(v), None
        rng = np.random.default_rng(self.seed) if state is None else state
        down, right = rng.integers(0, 2**self.level, 2).tolist()
        moved = self._shrink(torch.roll(v, (down, right), (-2, -1)))
        return torch.roll(moved, (-down, -right), (-2, -1)), rng

    def _shrink(self, images: Tensor) -> Tensor:
        import pywt

        coarse, bands = images.cpu().numpy(), []
        for _ in range(self.level):
            coarse, details = pywt.dwt2(coarse, self.wavelet, mode="periodization", axes=(-2, -1))
            shrunk = (soft_threshold(torch.from_numpy(d), self.threshold) for d in details)
            bands.append(tuple(d.numpy() for d in shrunk))
        for details in reversed(bands):
            coarse = pywt.idwt2(
                (coarse, details), self.wavelet, mode="periodization", axes=(-2, -1)
            )
        return torch.from_numpy(coarse).to(images.device)


@final
class TotalVariationProx:
    """Shrink the isotropic total variation over the last axes, going on from the last dual.

    `TV(x) = sum sqrt(sum_d |D_d x|^2)`, D_d the forward difference without wrap-around. The dual
    problem is solved by a few accelerated projected-gradient iterations; with the dual handed on
    from call to call they become exact as the outer iteration settles.

    Args:
        weight: Weight of TV.
        n_dims: Number of axes, the last ones, over which to difference.
        n_iter: Dual iterations in each call.
        lower: Least value of a real image, kept exactly; None for no bound.

    Source: Beck and Teboulle 2009, sec. 4 (with the bound), doi:10.1109/TIP.2009.2028250.
    """

    def __init__(
        self, weight: float, *, n_dims: int, n_iter: int, lower: float | None = None
    ) -> None:
        self.weight = weight
        self.n_dims = n_dims
        self.n_iter = n_iter
        self.lower = lower

    def __call__(self, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the image with less variation, and the dual."""
        dual = v.new_zeros((self.n_dims, *v.shape)) if state is None else state
        extrapolated, t = dual, 1.0
        for _ in range(self.n_iter):
            gradient = self._gradient(self._primal(v, extrapolated))
            new = gradient.div_(4 * self.n_dims).add_(extrapolated)
            length = new.abs().square_().sum(dim=0).sqrt_()
            new.mul_(self.weight / length.clamp_min_(max(self.weight, _TINY)))
            t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
            extrapolated = torch.lerp(dual, new, 1 + (t - 1) / t_new)
            dual, t = new, t_new
        return self._primal(v, dual), dual

    def _primal(self, v: Tensor, dual: Tensor) -> Tensor:
        """Return the image that belongs to a dual."""
        x = v - self._gradient_adjoint(dual)
        return x if self.lower is None else x.clamp_min_(self.lower)

    def _gradient(self, x: Tensor) -> Tensor:
        """Return forward differences along each axis, zero at the far end."""
        gradient = x.new_zeros((self.n_dims, *x.shape))
        for d in range(self.n_dims):
            axis = x.ndim - self.n_dims + d
            n = x.shape[axis] - 1
            gradient[d].narrow(axis, 0, n).copy_(x.narrow(axis, 1, n)).sub_(x.narrow(axis, 0, n))
        return gradient

    def _gradient_adjoint(self, dual: Tensor) -> Tensor:
        """Return the adjoint of the differences; entries at the far ends do not count."""
        x = torch.zeros_like(dual[0])
        for d, part in enumerate(dual):
            axis = x.ndim - self.n_dims + d
            n = x.shape[axis] - 1
            x.narrow(axis, 1, n).add_(part.narrow(axis, 0, n))
            x.narrow(axis, 0, n).sub_(part.narrow(axis, 0, n))
        return x
