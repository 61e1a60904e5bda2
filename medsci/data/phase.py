"""Image phase of an MR acquisition: drawn at random, and removed at low resolution."""

__all__ = ["remove_low_resolution_phase", "smooth_phase"]

import numpy as np
import torch
from torch import Tensor

from medsci.data.random_field import coarse_field


def smooth_phase(
    shape: tuple[int, ...],
    *,
    generator: np.random.Generator,
    spacing: float = 60.0,
    swing_rad: float = 1.5,
) -> np.ndarray:
    """Draw a smooth phase in radians: a constant, a plane and a random field.

    Args:
        shape: two or three axes; the field varies over all of them.
        generator: source of randomness.
        spacing: correlation length in voxels.
        swing_rad: standard deviation of the random field.
    """
    phase = swing_rad * coarse_field(shape, spacing=spacing, generator=generator)[0]
    phase += generator.uniform(-np.pi, np.pi)
    for axis, n in enumerate(shape):
        ramp = np.linspace(-1.0, 1.0, n, dtype=np.float32) * generator.uniform(-2.0, 2.0)
        phase = phase + ramp.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return phase.astype(np.float32)


def remove_low_resolution_phase(image: Tensor, *, width: tuple[float, float]) -> Tensor:
    """Divide a complex image by the phase of its own low-pass version.

    What remains is the residual phase that a prior meets after the calibration lines of a scan
    have been used to remove the smooth part.

    Args:
        image: complex, `(..., rows, columns)`.
        width: full width of the Hann window in k-space lines along rows and columns.
    """
    spectrum = torch.fft.fft2(image)
    for axis, full_width in zip((-2, -1), width, strict=True):
        n = image.shape[axis]
        index = torch.fft.fftfreq(n) * n
        window = torch.cos(torch.pi * index / full_width) ** 2 * (index.abs() < 0.5 * full_width)
        spectrum = spectrum * window.reshape([-1, 1] if axis == -2 else [1, -1])
    low = torch.fft.ifft2(spectrum)
    return image * torch.polar(torch.ones_like(low.abs()), -low.angle())
