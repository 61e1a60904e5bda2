"""An operator given by a dense matrix, for tests against explicit linear algebra."""

from typing import final

import torch
from torch import Tensor

from medsci.operators import LinearOp

__all__ = ["MatrixOp"]


@final
class MatrixOp(LinearOp):
    """Multiply every flattened slice with one matrix: `y_i = M x_i`.

    Args:
        matrix: M, of shape (m, prod(space)), real or complex.
        space: shape of a slice; images are `(n, *space)`, data `(n, m)`.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, *, space: tuple[int, ...]) -> None:
        super().__init__()
        n = torch.Size(space).numel()
        if matrix.ndim != 2 or matrix.shape[1] != n:
            raise ValueError(
                f"the matrix is {tuple(matrix.shape)} but a slice {space} has {n} entries; "
                "give one column per entry"
            )
        self.register_buffer("matrix", matrix)
        self.space = tuple(space)

    def forward(self, x: Tensor) -> Tensor:
        """Return M x for every slice."""
        return x.flatten(1) @ self.matrix.mT

    def adjoint(self, y: Tensor) -> Tensor:
        """Return M^H y for every slice."""
        return (y @ self.matrix.conj()).unflatten(1, self.space)
