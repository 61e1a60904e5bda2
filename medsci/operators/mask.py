"""Which pixels of an image were seen."""

__all__ = ["MaskOp"]

from typing import final

from jaxtyping import Bool
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.operators.linear_op import LinearOp


@final
class MaskOp(LinearOp):
    """Keep known pixels and zero the rest: `y = m x`, the operator of inpainting.

    The range is the full grid with zeros. The operator is an orthogonal projector: its own adjoint
    and its own normal operator, of norm 1. `SampleOp` is the same for k-space.

    Args:
        mask: True where a pixel is known; its axes are the last axes of the image, and an axis of
            size 1 stands for any size.

    Raises:
        InvalidInputError: If no pixel is known, or later, if the image does not have the mask's
            trailing sizes.
    """

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "..."]) -> None:
        super().__init__()
        if not bool(mask.any()):
            raise InvalidInputError(
                f"the mask of shape {tuple(mask.shape)} keeps no pixel; mark what is known by True"
            )
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Return the known pixels, real or complex like the image."""
        check_tail(x, self.mask, name="mask")
        return x * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the known pixels again."""
        return self.forward(y)

    def normal(self, x: Tensor) -> Tensor:
        """Return the known pixels: masking twice is masking once."""
        return self.forward(x)


def check_tail(x: Tensor, values: Tensor, *, name: str, of: str = "image") -> None:
    """Refuse an image whose last axes are not those of the values it is multiplied by.

    Broadcasting alone would let a 1 x 8 image through a mask of 8 x 8.
    """
    tail = x.shape[x.ndim - values.ndim :] if x.ndim >= values.ndim else ()
    fits = len(tail) == values.ndim and all(
        m in (1, n) for m, n in zip(values.shape, tail, strict=True)
    )
    if not fits:
        raise InvalidInputError(
            f"the {of} is {tuple(x.shape)} but the {name} is {tuple(values.shape)}; "
            f"crop or zero-pad the {of} until it ends in the sizes of the {name}"
        )
