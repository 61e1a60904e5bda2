"""Smooth Gaussian random fields: the raw material of deformations, textures, bias and phase."""

__all__ = ["coarse_field", "fourier_field"]

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional


def coarse_field(
    shape: Sequence[int], *, spacing: float, generator: np.random.Generator, channels: int = 1
) -> np.ndarray:
    """Draw a field of unit variance at its nodes, smooth over about `spacing` voxels.

    White noise on a coarse lattice is interpolated (linearly in 3D, cubically in 2D), which is
    fast for scales much larger than a voxel.

    Returns:
        float32 array of shape `(channels, *shape)`.
    """
    lattice = [max(2, round(n / spacing) + 1) for n in shape]
    noise = generator.standard_normal((1, channels, *lattice)).astype(np.float32)
    mode = "trilinear" if len(lattice) == 3 else "bicubic"
    field = functional.interpolate(
        torch.from_numpy(noise), size=tuple(shape), mode=mode, align_corners=True
    )
    return field[0].numpy()


def fourier_field(
    shape: Sequence[int], *, scale: float, generator: np.random.Generator
) -> np.ndarray:
    """Draw a stationary field of unit variance with a Gaussian correlation of `scale` voxels.

    Returns:
        float32 array of the given shape, periodic at its borders.
    """
    noise = torch.from_numpy(generator.standard_normal(tuple(shape)).astype(np.float32))
    spectrum = torch.fft.rfftn(noise)
    square = torch.zeros(spectrum.shape)
    for axis, n in enumerate(shape):
        last = axis == len(shape) - 1
        frequency = torch.fft.rfftfreq(n) if last else torch.fft.fftfreq(n)
        square = (
            square + frequency.reshape([-1 if a == axis else 1 for a in range(len(shape))]) ** 2
        )
    field = torch.fft.irfftn(
        spectrum * torch.exp(-2.0 * (np.pi * scale) ** 2 * square), s=tuple(shape)
    )
    return (field / field.std().clamp_min(1e-12)).numpy()
