"""Derivatives for a pair of adjoint maps whose code autograd cannot, or should not, follow."""

__all__ = ["apply_linear"]

from collections.abc import Callable

import torch
from torch import Tensor


def apply_linear(
    x: Tensor, apply: Callable[[Tensor], Tensor], *, transposed: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return `apply(x)`; the gradient goes back through `transposed`, and so on in turn.

    Backward of A is A^H and backward of that is A again, so derivatives of every order exist and
    no intermediate result is kept. Autocast is switched off inside: line integrals add hundreds of
    numbers, for which half precision is not enough.

    Args:
        x: The argument.
        apply: A linear map without a graph of its own.
        transposed: Its exact adjoint.
    """
    result: Tensor = _Linear.apply(x, apply, transposed)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        apply: Callable[[Tensor], Tensor],
        transposed: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.pair = apply, transposed  # type: ignore[attr-defined]
        with torch.autocast(x.device.type, enabled=False):
            return apply(x).contiguous()

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        apply, transposed = ctx.pair  # type: ignore[attr-defined]
        return _Linear.apply(gradient, transposed, apply), None, None
