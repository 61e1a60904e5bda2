"""Small synthetic sinograms, shared by their tests."""

import numpy as np
from imaging_grids import SPACING, oriented_affine

from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.imaging.sinogram import Sinogram

N_SLICES, N_ANGLES, N_BINS, N_ROWS, N_COLS = 3, 5, 11, 6, 7
AFFINE = oriented_affine((0, 1, 2), (-1, 1, 1), tilt=0.2)
GRID = ImageGrid(N_ROWS, N_COLS, SPACING[1], SPACING[0])
BEAM = ParallelBeam(np.linspace(0.0, 3.0, N_ANGLES), N_BINS, 0.9, 0.25)
FAN = FanBeam(
    BEAM.angles, N_BINS, 1.4, source_mm=60.0, detector_mm=40.5, offset_bins=0.25, curved=True
)


def lines(shape=(N_SLICES, N_ANGLES, N_BINS), seed=0):
    return np.random.default_rng(seed).uniform(0, 4, size=shape).astype(np.float32)


def sample(**changes):
    """Return a valid Sinogram, or what the changes make of it."""
    data = changes.pop("data", lines())
    beam, grid = changes.pop("beam", BEAM), changes.pop("grid", GRID)
    return Sinogram(data, beam, grid, **{"affine": AFFINE, **changes})
