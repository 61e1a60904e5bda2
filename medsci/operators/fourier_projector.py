"""Projection by the Fourier slice theorem, with the non-uniform FFT of finufft.

The Fourier transform of a parallel projection is the transform of the image on a line through the
origin. With pixels as small squares of area `row_mm col_mm` at r_p, and omega in rad / mm,

    Y(theta, omega) = row_mm col_mm sinc sinc sum_p x_p exp(-i omega e(theta) . r_p),

`sinc` those of the pixel's sides seen at omega e(theta). The sinogram is its inverse transform at
the bins, cut at the bins' Nyquist frequency. Views are padded so far that nothing wraps around.

Source: Fessler and Sutton 2003, doi:10.1109/TSP.2002.807005; Barnett et al. 2019,
doi:10.1137/18M120885X.
"""

__all__ = ["FourierProjector"]

import math
from types import ModuleType
from typing import final

import numpy as np
import torch
from jaxtyping import Integer
from scipy.fft import next_fast_len
from torch import Tensor

from medsci.errors import UsageError
from medsci.imaging.beam import Beam, ImageGrid, ParallelBeam
from medsci.operators.abstract_projector import AbstractProjector

_UPSAMPLING = 2.0  # fixed: left to itself finufft may choose differently for the two directions
_PADDING = 2.0


@final
class FourierProjector(AbstractProjector):
    """Project parallel beams by two FFTs; the fastest for one slice, on the CPU only.

    `adjoint` is the exact transpose of what `forward` computes: the same spreading kernel used the
    other way. Edges ring a little at the bins' Nyquist frequency.

    Args:
        beam: Parallel rays.
        grid: The pixels of a slice.
        dtype: float32 or float64; the accuracy asked of the transform is 1e-6 or 1e-12.

    Raises:
        UsageError: If finufft is not installed or the beam is a fan.
    """

    def __init__(self, beam: Beam, grid: ImageGrid, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(beam, grid)
        _finufft()
        if not isinstance(beam, ParallelBeam):
            raise UsageError(
                "the Fourier slice theorem needs parallel rays but the beam is a fan; "
                "use backend='csr' or 'joseph'"
            )
        self._dtype = dtype
        self._real = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        self._n_padded = _padded_bins(beam, grid)
        omega = 2 * np.pi / (self._n_padded * beam.bin_mm) * np.arange(self._n_padded // 2 + 1)
        across_columns = (np.cos(beam.angles)[:, None] * omega * grid.col_mm).ravel()
        across_rows = (np.sin(beam.angles)[:, None] * omega * grid.row_mm).ravel()
        self._points = across_rows.astype(self._real), across_columns.astype(self._real)
        response = np.sinc(across_rows / (2 * np.pi)) * np.sinc(across_columns / (2 * np.pi))
        shift = across_rows * _half(grid.n_rows) + across_columns * _half(grid.n_cols)
        shift += np.tile(omega * beam.bin_positions()[0], beam.n_angles)
        scale = grid.row_mm * grid.col_mm / beam.bin_mm
        weights = (scale * response * np.exp(1j * shift)).reshape(beam.n_angles, -1)
        self._weights = weights.astype(np.result_type(self._real, np.complex64))

    @property
    def dtype(self) -> torch.dtype:
        """The number type of images and sinograms."""
        return self._dtype

    def subset(self, views: Integer[np.ndarray, " n_kept"] | list[int]) -> "FourierProjector":
        """Return the projector of some views, in the order given."""
        return FourierProjector(self.beam.subset(views), self.grid, dtype=self._dtype)

    def _project(self, x: Tensor) -> Tensor:
        image = _array(x).astype(self._weights.dtype)
        lines = _finufft().nufft2d2(*self._points, image, isign=-1, **self._options)
        spectrum = lines.reshape(len(x), *self._weights.shape) * self._weights
        y = torch.fft.irfft(torch.from_numpy(spectrum), n=self._n_padded)
        return y[..., : self.beam.n_bins].contiguous()

    def _backproject(self, y: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(torch.from_numpy(_array(y)), n=self._n_padded)
        spectrum *= 2.0 / self._n_padded  # what irfft does to a frequency and to its mirror image
        spectrum[..., [0, -1]] *= 0.5  # which these two do not have
        lines = (spectrum.numpy() * self._weights.conj()).reshape(len(y), -1)
        image = _finufft().nufft2d1(
            *self._points, lines, n_modes=self.image_shape, isign=1, **self._options
        )
        return torch.from_numpy(np.ascontiguousarray(image.real))

    @property
    def _options(self) -> dict[str, float | int]:
        accuracy = 1e-12 if self._dtype == torch.float64 else 1e-6
        threads = torch.get_num_threads()
        return {"eps": accuracy, "upsampfac": _UPSAMPLING, "nthreads": threads}


def _padded_bins(beam: ParallelBeam, grid: ImageGrid) -> int:
    """Return an even, fast length at which no pixel's shadow reaches the bins from the far side."""
    detector = float(np.abs(beam.bin_positions()).max())
    reach = (detector + grid.radius_mm + grid.row_mm + grid.col_mm) / beam.bin_mm
    return 2 * next_fast_len(math.ceil(max(_PADDING * beam.n_bins, reach) / 2))


def _half(n: int) -> float:
    """Return the distance from the grid's centre to the pixel n // 2, which finufft counts from."""
    return (n - 1) / 2 - n // 2


def _array(x: Tensor) -> np.ndarray:
    if x.device.type != "cpu":
        raise UsageError(
            f"the data are on {x.device} but finufft computes on the CPU; "
            "use backend='joseph' there"
        )
    return np.ascontiguousarray(x.numpy())


def _finufft() -> ModuleType:
    try:
        import finufft
    except ImportError as error:
        raise UsageError(
            "backend='fourier' needs the package finufft, which is not installed; "
            "pip install finufft, or use backend='auto'"
        ) from error
    return finufft
