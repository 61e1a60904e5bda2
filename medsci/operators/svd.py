"""Operators whose singular value decomposition is known, in real orthonormal bases.

`A = U diag(s) V^T`, every factor applied by a formula: masks and weights are diagonal as they
stand, box averaging is diagonal in a cosine basis of every block, a circulant blur in the basis of
Hartley, and a fully sampled single-coil Fourier encoding in the channels of k-space. Solvers that
treat every singular direction on its own (DDRM) ask `spectrum_of(op)`.

Images are `(n, *space)`, real or complex, as the operator sees them (`Measurement.image`), not
states. Coefficients are real, with a last axis of channels: one for a real image, real and
imaginary part for a complex one. They are as many numbers as the image has, and their sum of
squares is that of the image, so white noise has the same law on either side. Averages of blocks put
the pixels of a block on an axis of their own, so the sizes of coefficients are not always those of
the image.

Source: Kawar et al. 2022 (DDRM), arXiv:2201.11793, for the use; Bracewell 1983 for the real
Fourier basis, doi:10.1364/JOSA.73.001832.
"""

__all__ = ["SUPPORTED", "Spectrum", "spectrum_of"]

import math
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from medsci.errors import UsageError
from medsci.operators.blur import BlurOp
from medsci.operators.cartesian_mri import CartesianMriOp
from medsci.operators.diagonal import DiagonalOp
from medsci.operators.downsample import DownsampleOp
from medsci.operators.fourier import FourierOp
from medsci.operators.linear_op import ComposedOp, IdentityOp, LinearOp, ScaledOp
from medsci.operators.mask import MaskOp
from medsci.operators.sample import SampleOp

SUPPORTED = (
    "IdentityOp",
    "MaskOp",
    "DiagonalOp",
    "DownsampleOp",
    "BlurOp with boundary='circular'",
    "CartesianMriOp with one coil of magnitude 1",
    "SampleOp",
    "FourierOp",
    "SampleOp @ FourierOp",
    "real multiples of these",
)
"""What `spectrum_of` knows, in words."""


@runtime_checkable
class Spectrum(Protocol):
    """The factors of `A = U diag(s) V^T`.

    For every image x: `data_coefficients(A x) == singular_values * to_coefficients(x)`.
    """

    @property
    def singular_values(self) -> Tensor:
        """Return s, real and not negative, in a shape that broadcasts to the coefficients."""
        ...

    def to_coefficients(self, x: Tensor) -> Tensor:
        """Return `V^T x` of an image: an orthonormal change of basis."""
        ...

    def from_coefficients(self, c: Tensor) -> Tensor:
        """Return the image `V c`, real for one channel and complex for two."""
        ...

    def data_coefficients(self, y: Tensor) -> Tensor:
        """Return `U^T y` of data in the shape of the coefficients, zero where s is zero."""
        ...


def spectrum_of(op: LinearOp) -> Spectrum:
    """Return the decomposition of an operator.

    Raises:
        UsageError: none is known; the message lists the operators that have one.
    """
    found = _known(op)
    if found is None:
        raise UsageError(
            f"no singular value decomposition is known of {type(op).__name__} as it is set up "
            f"here; use a solver that needs none, or one of: {', '.join(SUPPORTED)}"
        )
    return found


def _known(op: LinearOp) -> Spectrum | None:
    match op:
        case IdentityOp():
            return _Diagonal(torch.ones(()))
        case MaskOp() | SampleOp():
            return _Diagonal(op.mask.to(torch.float64))
        case DiagonalOp():
            return _Diagonal(op.weights)
        case DownsampleOp():
            return _Blocks(op)
        case BlurOp() if op.boundary == "circular":
            return _Hartley(op)
        case ScaledOp() if not isinstance(op.factor, complex) and op.factor != 0:
            inner = _known(op.op)
            return None if inner is None else _Scaled(inner, float(op.factor))
    return _fourier(op)


def _fourier(op: LinearOp) -> Spectrum | None:
    """Return the spectrum of a Fourier transform that is followed by a mask, if `op` is one."""
    match op:
        case FourierOp():
            return _Encoded(op, torch.ones(()))
        case ComposedOp(outer=SampleOp() as sample, inner=FourierOp() as fourier):
            return _Encoded(fourier, sample.mask)
        case CartesianMriOp() if op.maps.shape[1] == 1:
            size = op.maps[:, 0].abs()
            if bool(((size - 1.0).abs() < 1e-5).all()):
                return _Encoded(op.fourier_op, op.mask, op.maps[:, 0])
    return None


def _split(x: Tensor) -> Tensor:
    """Give an image a last axis of channels."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.unsqueeze(-1)


def _join(c: Tensor) -> Tensor:
    """Take the axis of channels away."""
    return torch.view_as_complex(c.contiguous()) if c.shape[-1] == 2 else c.squeeze(-1)


@final
class _Diagonal:
    """`A x = d x`: V is the pixel basis, U carries the sign (or the phase) of d."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights
        size = weights.abs()
        self._phase = torch.where(size > 0, weights / torch.where(size > 0, size, 1.0), 0.0)
        self._size = size.unsqueeze(-1)

    @property
    def singular_values(self) -> Tensor:
        return self._size

    def to_coefficients(self, x: Tensor) -> Tensor:
        return _split(x)

    def from_coefficients(self, c: Tensor) -> Tensor:
        return _join(c)

    def data_coefficients(self, y: Tensor) -> Tensor:
        return _split(self._phase.conj().to(y.dtype) * y)


@final
class _Encoded:
    """`A x = M F S x` with `|S| = 1`: V^H is the unitary `F S`, s is the mask."""

    def __init__(self, fourier: FourierOp, mask: Tensor, phase: Tensor | None = None) -> None:
        self._fourier = fourier
        self._phase = phase
        self._mask = mask.to(torch.float64)

    @property
    def singular_values(self) -> Tensor:
        return self._mask.unsqueeze(-1)

    def to_coefficients(self, x: Tensor) -> Tensor:
        return _split(self._fourier(x if self._phase is None else self._phase * x))

    def from_coefficients(self, c: Tensor) -> Tensor:
        x = self._fourier.adjoint(_join(c))
        return x if self._phase is None else self._phase.conj() * x

    def data_coefficients(self, y: Tensor) -> Tensor:
        samples = y if self._phase is None else y[:, 0]
        return _split(samples * self._mask.to(samples.real.dtype))


@final
class _Hartley:
    """A circulant blur in the basis `cas = cos + sin`, which is real, orthonormal and symmetric.

    With `h` the transfer function, s is `|h|`, and U is V followed by the all-pass filter
    `h / |h|`, which is real because h is Hermitian-symmetric.
    """

    def __init__(self, op: BlurOp) -> None:
        self._dims = op.dims
        transfer = op.transfer
        size = transfer.abs()
        seen = size > torch.finfo(size.dtype).eps * size.max()
        self._size = torch.where(seen, size, 0.0)
        self._phase = torch.where(seen, transfer / torch.where(seen, size, 1.0), 0.0)

    @property
    def singular_values(self) -> Tensor:
        return self._size.unsqueeze(-1)

    def to_coefficients(self, x: Tensor) -> Tensor:
        return self._transform(_split(x))

    def from_coefficients(self, c: Tensor) -> Tensor:
        return _join(self._transform(c))

    def data_coefficients(self, y: Tensor) -> Tensor:
        return self._transform(_split(y), filter=self._phase.conj())

    def _transform(self, x: Tensor, *, filter: Tensor | None = None) -> Tensor:
        """Transform every channel on its own."""
        dims = [dim - 1 for dim in self._dims]
        waves = torch.fft.fftn(x, dim=dims, norm="ortho")
        if filter is not None:
            waves = waves * filter.unsqueeze(-1)
        return waves.real - waves.imag


@final
class _Blocks:
    """Box averaging in a cosine basis of every block, the mean of a block the first of it.

    Coefficients are `(n, *coarse, block, channels)`. V^T of a block is the orthonormal DCT-II of
    its pixels in a row: any basis with a constant first vector will do.
    """

    def __init__(self, op: DownsampleOp) -> None:
        self._op = op
        self._basis = _cosines(op.block)
        self._values = torch.zeros(op.block, dtype=torch.float64)
        self._values[0] = op.block**-0.5

    @property
    def singular_values(self) -> Tensor:
        return self._values.unsqueeze(-1)

    def to_coefficients(self, x: Tensor) -> Tensor:
        blocks = self._op.blocks(x)
        return _split(blocks @ self._basis.T.to(blocks))

    def from_coefficients(self, c: Tensor) -> Tensor:
        blocks = _join(c)
        return self._op.from_blocks(blocks @ self._basis.to(blocks))

    def data_coefficients(self, y: Tensor) -> Tensor:
        means = _split(y).unsqueeze(-2)
        return torch.nn.functional.pad(means, (0, 0, 0, self._op.block - 1))


@final
class _Scaled:
    """A real multiple: s takes the size of the factor and U its sign."""

    def __init__(self, inner: Spectrum, factor: float) -> None:
        self._inner = inner
        self._factor = factor

    @property
    def singular_values(self) -> Tensor:
        return self._inner.singular_values * abs(self._factor)

    def to_coefficients(self, x: Tensor) -> Tensor:
        return self._inner.to_coefficients(x)

    def from_coefficients(self, c: Tensor) -> Tensor:
        return self._inner.from_coefficients(c)

    def data_coefficients(self, y: Tensor) -> Tensor:
        c = self._inner.data_coefficients(y)
        return c if self._factor > 0 else -c


def _cosines(n: int) -> Tensor:
    """Return the orthonormal DCT-II of size n; its first row is constant."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * (2.0 / n) ** 0.5
    rows[0] = n**-0.5
    return rows
