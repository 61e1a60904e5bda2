"""Small synthetic k-space, shared by its tests."""

import numpy as np
from imaging_grids import oriented_affine

from medsci.imaging import KSpace

N_SLICES, N_COILS, N_READOUT, N_PHASE = 3, 2, 8, 10
SHAPE = (N_SLICES, N_COILS, N_READOUT, N_PHASE)
AFFINE = oriented_affine((0, 1, 2), (-1, 1, 1), tilt=0.2)


def noise(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def lines(*indices, n_phase=N_PHASE):
    mask = np.zeros(n_phase, dtype=bool)
    mask[list(indices)] = True
    return mask


MASK = lines(0, 3, 4, 5, 6, 9)


def sample(**changes):
    """Return a valid KSpace, or what the changes make of it."""
    data = changes.pop("data", noise() * MASK)
    mask = changes.pop("mask", MASK)
    return KSpace(data, mask, **{"affine": AFFINE, **changes})


def centred_fft(image):
    axes = (-2, -1)
    shifted = np.fft.fft2(np.fft.ifftshift(image, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes).astype(np.complex64)


def centred_ifft(samples):
    axes = (-2, -1)
    shifted = np.fft.ifft2(np.fft.ifftshift(samples, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes)
