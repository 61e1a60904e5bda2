"""The phase-encoding projector `F^H M F` as products with small real matrices.

Split a row into its even and odd parts, `e_j = x_j + x_-j` and `o_j = x_j - x_-j`. The Fourier
coefficients at k and -k are then `a -+ i b` with `a = C e`, `b = S o`, where C and S hold cosines
and sines: real, half as wide as the transform, and shared by both signs of k. With m the mask,
`p = m_k + m_-k` and `q = m_k - m_-k`, the projection of the row is

    x'_j, x'_-j = E_j +- O_j,    E = C^T (p a - i q b),    O = S^T (p b + i q a).
"""

__all__ = ["CosineProjector"]

import math
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

_COILS_PER_BLOCK = 4  # the work space of a block then stays in a core's cache


@final
class CosineProjector(nn.Module):
    """Sum `conj(S_c) F^H M F S_c x` over the coils of one slice.

    Args:
        weights: The mask as numbers, frequency 0 first.
    """

    cosines: Tensor
    sines: Tensor
    even_weights: Tensor
    odd_weights: Tensor

    def __init__(self, weights: Float[Tensor, " n_phase"]) -> None:
        super().__init__()
        n = weights.shape[0]
        self.n_phase = n
        self.n_half = n // 2 + 1
        j = torch.arange(self.n_half, device=weights.device)
        mirrored = torch.where((-j) % n == j, 0.0, weights.double()[(-j) % n])
        even = weights[: self.n_half] + mirrored
        odd = torch.where((-j) % n == j, 0.0, weights[: self.n_half] - mirrored)
        kept = even.nonzero().flatten()
        angle = (kept[:, None] * j % n).double() * (2 * math.pi / n)
        dtype = torch.complex128 if weights.dtype == torch.float64 else torch.complex64
        scale = n**-0.5
        self.register_buffer("cosines", (scale * angle.cos()).to(weights.dtype))
        self.register_buffer("sines", (scale * angle.sin()).to(weights.dtype))
        self.register_buffer("even_weights", even[kept, None].to(dtype))
        self.register_buffer("odd_weights", (1j * odd[kept, None]).to(dtype))

    def fold(
        self, maps: Complex[Tensor, "n_slices n_coils n_readout n_phase"]
    ) -> Complex[Tensor, "2 n_slices n_coils n_half n_readout"]:
        """Return the maps at j and at -j, phase before readout; zero where -j is j again."""
        j = torch.arange(self.n_half, device=maps.device)
        mirror = (-j) % self.n_phase
        swapped = maps.transpose(-1, -2)
        folded = torch.stack((swapped[..., j, :], swapped[..., mirror, :]))
        folded[1, :, :, mirror == j] = 0
        return folded

    def apply_slice(
        self,
        x: Complex[Tensor, "n_readout n_phase"],
        folded_maps: Complex[Tensor, "2 n_coils n_half n_readout"],
        *,
        out: Complex[Tensor, "n_readout n_phase"],
    ) -> None:
        """Write `sum_c conj(S_c) F^H M F S_c x` into `out`."""
        n_coils = folded_maps.shape[1]
        columns, n_mirrored = x.T, self.n_phase - self.n_half
        x_right = columns[: self.n_half].contiguous()
        x_left = torch.zeros_like(x_right)
        x_left[1 : n_mirrored + 1] = columns[self.n_half :].flip(0)
        sum_right, sum_left = torch.zeros_like(x_right), torch.zeros_like(x_right)
        for start in range(0, n_coils, _COILS_PER_BLOCK):
            right, left = folded_maps[:, start : start + _COILS_PER_BLOCK]
            even, odd = right * x_right, left * x_left
            projected_right, projected_left = self._project_conjugate(even + odd, even.sub_(odd))
            for c in range(right.shape[0]):
                sum_right.addcmul_(right[c], projected_right[c])
                sum_left.addcmul_(left[c], projected_left[c])
        out.T[: self.n_half] = sum_right.conj_physical_()
        out.T[self.n_half :] = sum_left[1 : n_mirrored + 1].conj_physical_().flip(0)

    def _project_conjugate(self, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the complex conjugates of x'_j and x'_-j; overwrites its arguments.

        Conjugates, because they can be taken on the short list of frequencies and the products
        with conj(S) become `S conj(x')`, for which no second copy of the maps is needed.
        """
        a = _matmul(self.cosines, even)
        b = _matmul(self.sines, odd)
        kept_even = (a * self.even_weights).addcmul_(b, self.odd_weights, value=-1)
        kept_odd = b.mul_(self.even_weights).addcmul_(a, self.odd_weights)
        _matmul(self.cosines.T, kept_even.conj_physical_(), out=even)
        _matmul(self.sines.T, kept_odd.conj_physical_(), out=odd)
        return even + odd, even.sub_(odd)


def _matmul(matrix: Tensor, x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Multiply a real matrix with complex blocks `(n_coils, n, n_readout)`, along n."""
    flat = torch.view_as_real(x).flatten(2)
    batch = matrix.expand(x.shape[0], -1, -1)
    if out is None:
        product = torch.bmm(batch, flat)
        return torch.view_as_complex(product.unflatten(2, (-1, 2)))
    torch.bmm(batch, flat, out=torch.view_as_real(out).flatten(2))
    return out
