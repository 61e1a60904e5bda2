"""Convolution with a known kernel."""

__all__ = ["Boundary", "BlurOp", "gaussian_kernel"]

import math
from collections.abc import Sequence
from typing import Literal, cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.downsample import FWHM_PER_SIGMA
from medsci.operators.linear_op import LinearOp

Boundary = Literal["circular", "zero", "reflect"]


@final
class BlurOp(LinearOp):
    """Convolve the last axes of an image with a real kernel, by FFT.

    `circular` wraps around: the operator is circulant, diagonal under the Fourier transform, and
    its norm is the largest size of its transfer function. `zero` takes what lies beyond the border
    as 0, `reflect` mirrors the image at the edge of its last pixel (c b a | a b c), so that a
    constant stays constant. Both are P^T C P': extend by half a kernel, convolve circularly, crop;
    the adjoint is the exact transpose of that, which for `reflect` folds the border back.

    Args:
        kernel: Real, with as many axes as `shape`; its centre is at index `n // 2` of each axis.
            It is used as it is: scale it to sum 1 for a blur that keeps the brightness.
        shape: Sizes of the blurred axes, the last ones of the image.
        boundary: What lies beyond the border.

    Raises:
        UsageError: If the kernel has another number of axes, is larger than a circular image, or
            holds numbers that are not finite.
        InvalidInputError: Later, if the image does not have these sizes.
    """

    transfer: Tensor

    def __init__(
        self,
        kernel: Float[Tensor, "..."],
        shape: Sequence[int],
        *,
        boundary: Boundary = "circular",
    ) -> None:
        super().__init__()
        if kernel.ndim != len(shape) or not bool(torch.isfinite(kernel).all()):
            raise UsageError(
                f"the kernel is {tuple(kernel.shape)} for axes of sizes {tuple(shape)}; give a "
                "finite kernel with as many axes"
            )
        if boundary not in ("circular", "zero", "reflect"):
            raise UsageError(f"boundary={boundary!r} came; choose circular, zero or reflect")
        if boundary == "circular" and any(k > n for k, n in zip(kernel.shape, shape, strict=True)):
            raise UsageError(
                f"the kernel is {tuple(kernel.shape)}, larger than the image {tuple(shape)}; "
                "crop the kernel, or use the boundary zero or reflect"
            )
        self.shape = tuple(shape)
        self.boundary = boundary
        self.dims = tuple(range(-len(self.shape), 0))
        half = [0 if boundary == "circular" else k // 2 for k in kernel.shape]
        self._half = tuple(half)
        grid = [n + 2 * h for n, h in zip(self.shape, half, strict=True)]
        self.register_buffer("transfer", _transfer_of(kernel, grid))
        for axis, (n, h) in enumerate(zip(self.shape, half, strict=True)):
            self.register_buffer(f"_source_{axis}", _mirrored(n, h), persistent=False)

    @classmethod
    def gaussian(
        cls,
        fwhm_mm: float,
        shape: Sequence[int],
        *,
        spacing_mm: Sequence[float],
        boundary: Boundary = "circular",
        dtype: torch.dtype = torch.float32,
    ) -> "BlurOp":
        """Build a Gaussian blur.

        Args:
            fwhm_mm: Full width at half maximum in mm.
            shape: Sizes of the blurred axes.
            spacing_mm: Pixel size along each of them.
            boundary: What lies beyond the border.
            dtype: Precision of the images.
        """
        limit = [n if boundary == "circular" else None for n in shape]
        kernel = gaussian_kernel(fwhm_mm, spacing_mm, limit=limit)
        return cls(kernel.to(dtype), shape, boundary=boundary)

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred image, real or complex like the input."""
        self._check(x)
        return self._crop(self._filter(self._extend(x), conjugate=False))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the image correlated with the kernel, borders folded back."""
        self._check(y)
        return self._fold(self._filter(self._pad(y), conjugate=True))

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise InvalidInputError(
                f"the image is {tuple(x.shape)} but the blur was built for {self.shape}; build one "
                "for the sizes of this image"
            )

    def _filter(self, x: Tensor, *, conjugate: bool) -> Tensor:
        """Apply the circulant core, or its transpose, on the extended grid."""
        transfer = self.transfer.conj() if conjugate else self.transfer
        if x.is_complex():
            return torch.fft.ifftn(torch.fft.fftn(x, dim=self.dims) * transfer, dim=self.dims)
        half = transfer[..., : x.shape[-1] // 2 + 1]  # the rest is its mirror
        waves = torch.fft.rfftn(x, dim=self.dims) * half
        return torch.fft.irfftn(waves, s=x.shape[-len(self.shape) :], dim=self.dims)

    def _sources(self) -> list[Tensor]:
        return [cast(Tensor, getattr(self, f"_source_{axis}")) for axis in range(len(self.shape))]

    def _extend(self, x: Tensor) -> Tensor:
        if self.boundary != "reflect":
            return self._pad(x)
        for dim, source in zip(self.dims, self._sources(), strict=True):
            x = x.index_select(dim, source)
        return x

    def _fold(self, x: Tensor) -> Tensor:
        """Apply the transpose of `_extend`."""
        if self.boundary != "reflect":
            return self._crop(x)
        for dim, n, source in zip(self.dims, self.shape, self._sources(), strict=True):
            size = list(x.shape)
            size[dim] = n
            x = x.new_zeros(size).index_add(dim, source, x)
        return x

    def _pad(self, x: Tensor) -> Tensor:
        if self.boundary == "circular":
            return x
        widths = [width for half in reversed(self._half) for width in (half, half)]
        return torch.nn.functional.pad(x, widths)

    def _crop(self, x: Tensor) -> Tensor:
        for dim, n, half in zip(self.dims, self.shape, self._half, strict=True):
            x = x.narrow(dim, half, n)
        return x


def gaussian_kernel(
    fwhm_mm: float, spacing_mm: Sequence[float], *, limit: Sequence[int | None] | None = None
) -> Float[Tensor, "..."]:
    """Sample a Gaussian on a voxel grid, out to four standard deviations, with sum 1.

    Args:
        fwhm_mm: Full width at half maximum in mm; not negative, and 0 is no blur.
        spacing_mm: Voxel size along each axis.
        limit: Largest kernel size per axis, for images smaller than the kernel.

    Returns:
        Float64, of odd sizes unless limited.

    Raises:
        UsageError: If the width is negative or not finite, or a voxel size not positive.
    """
    if not (math.isfinite(fwhm_mm) and fwhm_mm >= 0.0):
        raise UsageError(f"fwhm_mm={fwhm_mm} came; give a width in mm that is not negative")
    if len(spacing_mm) == 0 or not min(spacing_mm) > 0.0:
        raise UsageError(f"spacing_mm={tuple(spacing_mm)} came; give positive voxel sizes")
    kernel = torch.ones((), dtype=torch.float64)
    for axis, step in enumerate(spacing_mm):
        sigma = fwhm_mm / FWHM_PER_SIGMA / step
        reach = math.ceil(4.0 * sigma)
        largest = None if limit is None else limit[axis]
        if largest is not None:
            reach = min(reach, (largest - 1) // 2)
        offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
        line = torch.exp(-0.5 * (offset / max(sigma, 1e-12)) ** 2)
        kernel = kernel[..., None] * (line / line.sum())
    return kernel


def _transfer_of(kernel: Tensor, grid: Sequence[int]) -> Tensor:
    """Return the Fourier transform of a kernel whose centre is moved to the origin."""
    padded = kernel.new_zeros(tuple(grid))
    padded[tuple(slice(0, k) for k in kernel.shape)] = kernel
    shifts = [-(k // 2) for k in kernel.shape]
    return torch.fft.fftn(padded.roll(shifts, dims=tuple(range(kernel.ndim))))


def _mirrored(n: int, half: int) -> Tensor:
    """Return which pixel stands at each place of an axis extended by mirrors at its edges."""
    place = torch.arange(-half, n + half) % (2 * n)
    return torch.minimum(place, 2 * n - 1 - place)
