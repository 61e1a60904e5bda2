"""Normal operator of coil-encoded Cartesian MRI with whole readout lines, in its fastest forms.

With `F = F_r F_p` the transforms along readout and phase, and a mask that depends on the phase
index only, the readout transforms cancel in `A^H A`, and what is left acts on each row alone:

    A^H A x = sum_c conj(S_c) P (S_c x),    P = F_p^H M F_p.

P is a circular convolution, and so commutes with cyclic shifts: the shifts of the centred
transform cancel too, once M is rolled to put frequency 0 first.
"""

__all__ = ["LineNormalOp"]

from typing import Literal, final

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from medsci.operators._cosine_projector import CosineProjector
from medsci.operators.linear_op import LinearOp


@final
class LineNormalOp(LinearOp):
    """Apply `sum_c conj(S_c) F_p^H M F_p (S_c x)`, a self-adjoint operator.

    Two exact methods. `fft` runs two transforms along the phase axis. `cosine` writes P by its
    kept frequencies and splits rows into even and odd parts, which leaves four products with real
    matrices of (kept frequencies / 2) x (n_phase / 2); on a CPU it wins for few lines or for an
    awkward n_phase (181 is prime: 2.6 times faster at R = 4). `auto` picks by a cost model.

    Gradients flow to x, not to the maps.

    Args:
        maps: Coil sensitivities.
        lines: True for every acquired phase-encoding line, frequency 0 at `n_phase // 2`.
        method: `auto`, `fft` or `cosine`.
    """

    maps: Tensor
    weights: Tensor
    folded_maps: Tensor | None

    def __init__(
        self,
        maps: Complex[Tensor, "n_slices n_coils n_readout n_phase"],
        lines: Bool[Tensor, " n_phase"],
        *,
        method: Literal["auto", "fft", "cosine"] = "auto",
    ) -> None:
        super().__init__()
        weights = torch.fft.ifftshift(lines).to(maps.real.dtype)
        if method == "auto":
            method = _faster_method(weights, on_cpu=maps.device.type == "cpu")
        self.register_buffer("maps", maps)
        self.register_buffer("weights", weights)
        self.projector = CosineProjector(weights) if method == "cosine" else None
        folded = None if self.projector is None else self.projector.fold(maps)
        self.register_buffer("folded_maps", folded)

    @property
    def method(self) -> str:
        """The method in use, `fft` or `cosine`."""
        return "fft" if self.projector is None else "cosine"

    def forward(
        self, x: Complex[Tensor, "n_slices n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_readout n_phase"]:
        """Return A^H A x."""
        result: Tensor = _SelfAdjoint.apply(x, self)
        return result

    def adjoint(
        self, y: Complex[Tensor, "n_slices n_readout n_phase"]
    ) -> Complex[Tensor, "n_slices n_readout n_phase"]:
        """Return A^H A y."""
        return self.forward(y)

    def slices(self, start: int, stop: int) -> "LineNormalOp":
        """Return the operator of the slices `start <= s < stop`, sharing this one's memory."""
        part = LineNormalOp.__new__(LineNormalOp)
        LinearOp.__init__(part)
        part.register_buffer("maps", self.maps[start:stop])
        part.register_buffer("weights", self.weights)
        part.projector = self.projector
        folded = None if self.folded_maps is None else self.folded_maps[:, start:stop]
        part.register_buffer("folded_maps", folded)
        return part

    def _apply_normal(self, x: Tensor) -> Tensor:
        if self.projector is not None and self.folded_maps is not None and x.device.type == "cpu":
            out = torch.empty_like(x, memory_format=torch.contiguous_format)
            for s in range(x.shape[0]):
                self.projector.apply_slice(x[s], self.folded_maps[:, s], out=out[s])
            return out
        step = 1 if x.device.type == "cpu" else x.shape[0]  # a slice at a time stays in cache
        parts = [
            self._apply_fft(x[s : s + step], self.maps[s : s + step])
            for s in range(0, x.shape[0], step)
        ]
        return torch.cat(parts)

    def _apply_fft(self, x: Tensor, maps: Tensor) -> Tensor:
        coil_images = maps * x[:, None]
        k = torch.fft.fft(coil_images, dim=-1).mul_(self.weights)
        torch.fft.ifft(k, dim=-1, out=coil_images)
        return torch.linalg.vecdot(maps, coil_images, dim=1)


class _SelfAdjoint(torch.autograd.Function):
    """Differentiate the in-place code by the rule it obeys: its gradient is itself."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, op: LineNormalOp) -> Tensor:
        ctx.op = op  # type: ignore[attr-defined]
        return op._apply_normal(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return _SelfAdjoint.apply(gradient, ctx.op), None  # type: ignore[attr-defined]


def _faster_method(weights: Tensor, *, on_cpu: bool) -> Literal["fft", "cosine"]:
    """Return `cosine` on a CPU for lengths that its FFT is slow at, unless very many lines."""
    n = weights.shape[0]
    n_kept = int(weights.count_nonzero())
    awkward = _largest_prime_factor(n) > 13
    return "cosine" if on_cpu and awkward and n_kept * n <= 50_000 else "fft"


def _largest_prime_factor(n: int) -> int:
    largest, factor = 1, 2
    while n > 1:
        if n % factor == 0:
            largest, n = factor, n // factor
        else:
            factor += 1
    return largest
