"""Sampling of k-space by a mask."""

__all__ = ["SampleOp"]

from typing import final

from jaxtyping import Bool, Complex
from torch import Tensor

from medsci.operators.linear_op import LinearOp
from medsci.operators.mask import check_tail


@final
class SampleOp(LinearOp):
    """Keep acquired k-space samples and zero the rest: `y = m * x`.

    The range is the full grid with zeros, not a shorter vector, so shapes stay those of k-space.
    The operator is an orthogonal projector: its own adjoint and its own normal operator.

    Args:
        mask: True where a sample was acquired; its axes are the last axes of k-space, and an axis
            of size 1 stands for any size.

    Raises:
        InvalidInputError: If k-space does not have the mask's trailing sizes.

    Source: Lustig et al. 2007, doi:10.1002/mrm.21391.
    """

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "..."]) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Complex[Tensor, "*k_space"]) -> Complex[Tensor, "*k_space"]:
        """Return the sampled k-space."""
        check_tail(x, self.mask, name="mask", of="k-space")
        return x * self.mask

    def adjoint(self, y: Complex[Tensor, "*k_space"]) -> Complex[Tensor, "*k_space"]:
        """Return the sampled k-space again."""
        return self.forward(y)

    def normal(self, x: Complex[Tensor, "*k_space"]) -> Complex[Tensor, "*k_space"]:
        """Return the sampled k-space: sampling twice is sampling once."""
        return self.forward(x)
