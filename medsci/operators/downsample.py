"""Larger voxels than one would like: averages of blocks, and profiles of thick slices."""

__all__ = ["DownsampleOp", "SliceProfileOp"]

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.linear_op import LinearOp

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


@final
class DownsampleOp(LinearOp):
    """Average blocks of pixels: `y_j = mean of the factor x ... x factor pixels of block j`.

    A large voxel measures the mean of the small ones inside it. The centre of block j along an axis
    is at fine index `j f + (f - 1) / 2`. With F pixels in a block, `A A^H = 1 / F`, so the norm is
    `F^-1/2`.

    Args:
        factors: Pixels per block along each of `dims`.
        dims: Axes of the image, counted from the end (negative), each named once.

    Raises:
        UsageError: If a factor is less than 1, or the axes are not negative and different.
        InvalidInputError: Later, if the size of the image is not a multiple of the factor.
    """

    def __init__(self, factors: Sequence[int], dims: Sequence[int] = (-2, -1)) -> None:
        super().__init__()
        if len(factors) != len(dims) or len(set(dims)) != len(dims) or max(dims) >= 0:
            raise UsageError(
                f"factors={tuple(factors)} came with dims={tuple(dims)}; give one factor for each "
                "axis, and the axes as different negative numbers"
            )
        if min(factors) < 1:
            raise UsageError(f"factors={tuple(factors)} came; give whole numbers from 1")
        order = sorted(zip(dims, factors, strict=True))
        self.dims = tuple(dim for dim, _ in order)
        self.factors = tuple(factor for _, factor in order)

    @property
    def block(self) -> int:
        """How many pixels are averaged."""
        return math.prod(self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of the blocks."""
        return self.blocks(x).mean(dim=-1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return each value, divided by the number of pixels, in every pixel of its block."""
        return self.from_blocks((y / self.block).unsqueeze(-1).expand(*y.shape, self.block))

    def blocks(self, x: Tensor) -> Tensor:
        """Return the pixels of every block along a new last axis."""
        for dim, factor in zip(self.dims, self.factors, strict=True):
            if x.ndim < -dim or x.shape[dim] % factor:
                raise InvalidInputError(
                    f"the image is {tuple(x.shape)}, which cannot be cut into blocks of {factor} "
                    f"along axis {dim}; crop or pad it to a multiple of {factor}"
                )
        n_axes = x.ndim
        for dim, factor in reversed(list(zip(self.dims, self.factors, strict=True))):
            axis = n_axes + dim  # later axes are done: this one stands where it stood
            x = x.unflatten(axis, (x.shape[axis] // factor, factor)).movedim(axis + 1, -1)
        return x.flatten(n_axes)

    def from_blocks(self, blocks: Tensor) -> Tensor:
        """Return the image of its blocks, the inverse of `blocks`."""
        n_axes = blocks.ndim - 1
        x = blocks.unflatten(-1, self.factors[::-1])
        for dim in self.dims:
            axis = n_axes + dim
            x = x.movedim(-1, axis + 1).flatten(axis, axis + 1)
        return x


@final
class SliceProfileOp(LinearOp):
    """See thin slices through a thick-slice profile: `y_j = sum_k W[j, k] x_k` along one axis.

    The centre of thick slice j is at fine index `j stride + (stride - 1) / 2`. Every row of W sums
    to one, also where the profile reaches beyond the volume, so a constant stays what it is.
    `box` and `gaussian` build the usual profiles; thickness above the stride means overlapping
    slices, below it gaps.

    Args:
        weights: W, thick by fine slices, in the precision of the images.
        dim: Axis of the slices.

    Raises:
        UsageError: If a row of W has no weight.
        InvalidInputError: Later, if the number of slices does not fit.
    """

    weights: Tensor

    def __init__(self, weights: Float[Tensor, "thick fine"], *, dim: int = 0) -> None:
        super().__init__()
        if not bool((weights.sum(dim=1) > 0).all()):
            raise UsageError("a thick slice sees no thin one; give a wider profile")
        self.register_buffer("weights", weights)
        self.dim = dim

    @classmethod
    def box(
        cls,
        n_fine: int,
        stride: int,
        *,
        thickness: float | None = None,
        dim: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "SliceProfileOp":
        """Build slices that see everything within their thickness equally.

        Args:
            n_fine: Thin slices, a multiple of the stride.
            stride: Thin slices between the centres of thick ones.
            thickness: In thin slices; the stride, slices that touch, if None.
            dim: Axis of the slices.
            dtype: Of the weights.
        """
        gap = _offsets(n_fine, stride)
        half = 0.5 * (stride if thickness is None else thickness)
        if not half > 0.0:
            raise UsageError(f"thickness={thickness} came; give a positive number of thin slices")
        inside = torch.minimum(gap + 0.5, torch.full_like(gap, half)) - torch.maximum(
            gap - 0.5, torch.full_like(gap, -half)
        )
        return cls(_rows(inside.clamp_min(0.0)).to(dtype), dim=dim)

    @classmethod
    def gaussian(
        cls,
        n_fine: int,
        stride: int,
        *,
        fwhm: float,
        dim: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "SliceProfileOp":
        """Build slices with a Gaussian profile of this full width at half maximum.

        Args:
            n_fine: Thin slices, a multiple of the stride.
            stride: Thin slices between the centres of thick ones.
            fwhm: In thin slices; the profile is integrated over every thin slice.
            dim: Axis of the slices.
            dtype: Of the weights.
        """
        if not fwhm > 0.0:
            raise UsageError(f"fwhm={fwhm} came; give a positive number of thin slices")
        gap = _offsets(n_fine, stride)
        scale = math.sqrt(2.0) * fwhm / FWHM_PER_SIGMA
        inside = torch.erf((gap + 0.5) / scale) - torch.erf((gap - 0.5) / scale)
        return cls(_rows(inside).to(dtype), dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the thick slices."""
        return self._along(self.weights, x, "thin")

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the thin slices that every thick one contributes to, by its weights."""
        return self._along(self.weights.T, y, "thick")

    def _along(self, matrix: Tensor, x: Tensor, name: str) -> Tensor:
        if x.shape[self.dim] != matrix.shape[1]:
            raise InvalidInputError(
                f"the image is {tuple(x.shape)}, but the profile works on {matrix.shape[1]} {name} "
                f"slices along axis {self.dim}; build it for this number of slices"
            )
        moved = x.movedim(self.dim, 0)
        product = matrix.to(x.dtype) @ moved.flatten(1) if x.ndim > 1 else matrix.to(x.dtype) @ x
        return product.reshape(matrix.shape[0], *moved.shape[1:]).movedim(0, self.dim)


def _offsets(n_fine: int, stride: int) -> Tensor:
    """Return how far every thin slice is from the centre of every thick one, in thin slices."""
    if stride < 1 or n_fine < 1 or n_fine % stride:
        raise UsageError(
            f"stride={stride} came for {n_fine} thin slices; give a whole number from 1 that "
            "divides them"
        )
    fine = torch.arange(n_fine, dtype=torch.float64)
    centres = torch.arange(n_fine // stride, dtype=torch.float64) * stride + (stride - 1) / 2
    return fine[None, :] - centres[:, None]


def _rows(weights: Tensor) -> Tensor:
    """Make every row sum to one."""
    total = weights.sum(dim=1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)
