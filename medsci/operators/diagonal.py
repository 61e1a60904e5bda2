"""Multiplication of every pixel by a number of its own."""

__all__ = ["DiagonalOp"]

from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.operators.linear_op import LinearOp
from medsci.operators.mask import check_tail


@final
class DiagonalOp(LinearOp):
    """Weigh every pixel: `y = w x`, with adjoint `conj(w) y`; a bias field, or statistical weights.

    Args:
        weights: Real, or complex for complex images; the axes are the last axes of the image, and
            an axis of size 1 stands for any size.

    Raises:
        InvalidInputError: If a weight is not finite, or later, if the image does not have the
            trailing sizes of the weights, or is real and the weights are complex.
    """

    weights: Tensor

    def __init__(self, weights: Float[Tensor, "..."] | Complex[Tensor, "..."]) -> None:
        super().__init__()
        if not bool(torch.isfinite(weights).all()):
            raise InvalidInputError(
                f"{int((~torch.isfinite(weights)).sum())} of {weights.numel()} weights are NaN or "
                "infinite; give finite numbers, 0 where nothing is known"
            )
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted image."""
        return self._times(self.weights, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the image weighted by the conjugates."""
        return self._times(self.weights.conj(), y)

    def normal(self, x: Tensor) -> Tensor:
        """Return the image weighted by `|w|^2`."""
        return self._times((self.weights.conj() * self.weights).real, x)

    def _times(self, weights: Tensor, x: Tensor) -> Tensor:
        check_tail(x, self.weights, name="weight array")
        if self.weights.is_complex() and not x.is_complex():
            raise InvalidInputError(
                f"the weights are {self.weights.dtype} but the image is {x.dtype}; "
                "give a complex image"
            )
        return weights * x
