"""Centred orthonormal Fourier transform."""

__all__ = ["FourierOp"]

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Complex
from torch import Tensor

from medsci.operators.linear_op import LinearOp


@final
class FourierOp(LinearOp):
    """Transform between image and k-space, zero frequency at index `n // 2` of each axis.

    `F x = fftshift(fft(ifftshift(x), norm="ortho"))` over `dims`. F is unitary, so its adjoint is
    its inverse and its norm is 1. The convention is that of fastMRI, MONAI and sigpy.

    Args:
        dims: Axes to transform, counted from the end.
    """

    def __init__(self, dims: Sequence[int] = (-2, -1)) -> None:
        super().__init__()
        self.dims = tuple(dims)

    def forward(self, x: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
        """Return the k-space of an image."""
        k = torch.fft.fftn(torch.fft.ifftshift(x, dim=self.dims), dim=self.dims, norm="ortho")
        return torch.fft.fftshift(k, dim=self.dims)

    def adjoint(self, y: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
        """Return the image of a k-space."""
        x = torch.fft.ifftn(torch.fft.ifftshift(y, dim=self.dims), dim=self.dims, norm="ortho")
        return torch.fft.fftshift(x, dim=self.dims)

    def normal(self, x: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
        """Return x: the transform is unitary."""
        return x
