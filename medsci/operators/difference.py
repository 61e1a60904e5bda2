"""Forward differences along one axis."""

__all__ = ["DifferenceOp"]

from typing import final

import torch
from torch import Tensor

from medsci.operators.linear_op import LinearOp


@final
class DifferenceOp(LinearOp):
    """Subtract neighbours along one axis: `(D x)[i] = x[i + 1] - x[i]`.

    Without wrap-around the result is one shorter than the input along `dim`, so that the first and
    the last slice of a volume never pull at each other. With it, D is a circular convolution and
    D^H D has the eigenvalues `4 sin^2(pi k / n)`.

    Args:
        dim: Axis of the difference.
        periodic: Also take `x[0] - x[n - 1]` as a last entry.
    """

    def __init__(self, dim: int, *, periodic: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.periodic = periodic

    def forward(self, x: Tensor) -> Tensor:
        """Return the differences, real or complex like the input."""
        if self.periodic:
            return torch.roll(x, -1, self.dim) - x
        return torch.diff(x, dim=self.dim)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the negative divergence of the differences."""
        if self.periodic:
            return torch.roll(y, 1, self.dim) - y
        edge_shape = list(y.shape)
        edge_shape[self.dim] = 1
        edge = y.new_zeros(edge_shape)
        return -torch.diff(torch.cat((edge, y, edge), dim=self.dim), dim=self.dim)
