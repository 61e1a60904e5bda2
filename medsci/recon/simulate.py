"""Simulated acquisitions: a magnitude volume becomes undersampled multi-coil k-space.

The image gets a smooth random phase and smooth coil sensitivities, is Fourier transformed slice by
slice, receives complex noise and loses phase-encoding lines. The magnitude itself is stored beside
the data as the truth. Acquisition and reconstruction share one voxel grid, the usual convention of
retrospective undersampling; effects of finer anatomy than the voxel are not simulated.
"""

__all__ = ["simulate_kspace"]

import numpy as np
import torch

from medsci.core import Rng, mix64
from medsci.data.phase import smooth_phase
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import KSpace, Volume
from medsci.operators import FourierOp
from medsci.recon.coils import birdcage_maps
from medsci.recon.masks import cartesian_mask
from medsci.recon.settings import SimulateSettings

_TAG_PHASE, _TAG_MASK, _TAG_COILS, _TAG_NOISE = 1, 2, 3, 4


def simulate_kspace(volume: Volume, *, settings: SimulateSettings | None = None) -> KSpace:
    """Simulate the acquisition of a slab.

    Args:
        volume: a real, finite 3D magnitude image.
        settings: see `SimulateSettings`.

    Raises:
        InvalidInputError: the volume is not a usable magnitude image.
        UsageError: the slab does not lie inside the volume.
    """
    settings = SimulateSettings() if settings is None else settings
    array = np.asarray(volume.array)
    if array.ndim != 3 or np.iscomplexobj(array):
        raise InvalidInputError(
            f"a volume of shape {array.shape} and type {array.dtype} came; "
            "simulation needs one real 3D magnitude image"
        )
    if not np.isfinite(array).all() or array.min() < 0 or array.max() <= 0:
        raise InvalidInputError(
            f"intensities run from {array.min()} to {array.max()}; simulation needs a magnitude "
            "image: finite, not negative, not all zero"
        )
    start, stop = _slab(settings, array.shape[settings.slice_axis])
    axes = _axes(settings, array.shape)
    slab = volume.slab(settings.slice_axis, start, stop)
    image = np.ascontiguousarray(np.transpose(slab.array, axes), dtype=np.float32)
    level = float(np.quantile(image, 0.99))
    if level <= 0.0:
        raise InvalidInputError(
            f"slices {start}:{stop} are nearly empty (99th percentile 0); choose another slab"
        )
    data, mask = _acquire(image, settings, noise_sd=settings.noise * level)
    return KSpace.on_grid_of(
        slab,
        data=data,
        mask=mask,
        axes=axes,
        reference=image,
        attributes={
            "acceleration": settings.acceleration,
            "n_coils": settings.n_coils,
            "noise_sd": settings.noise * level,
            "center_fraction": settings.center_fraction,
            "mask_kind": settings.mask,
            "slices": [start, stop],
            "seed": settings.seed,
        },
    )


def _slab(settings: SimulateSettings, n: int) -> tuple[int, int]:
    start, stop = (0, n) if settings.slices is None else settings.slices
    if not 0 <= start < stop <= n:
        raise UsageError(f"slices {start}:{stop} came; the volume has slices 0:{n} on that axis")
    return start, stop


def _axes(settings: SimulateSettings, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the voxel axes of (slice, readout, phase)."""
    plane = [axis for axis in range(3) if axis != settings.slice_axis]
    phase = settings.phase_axis
    if phase is None:
        phase = min(plane, key=lambda axis: shape[axis])
    readout = next(axis for axis in plane if axis != phase)
    return settings.slice_axis, readout, phase


def _acquire(
    image: np.ndarray, settings: SimulateSettings, *, noise_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    n_slices, _, n_phase = image.shape
    generator = np.random.default_rng(mix64(settings.seed, _TAG_PHASE))
    phase = torch.from_numpy(smooth_phase(image.shape, generator=generator))
    mask = cartesian_mask(
        n_phase,
        acceleration=settings.acceleration,
        center_fraction=settings.center_fraction,
        kind=settings.mask,
        seed=mix64(settings.seed, _TAG_MASK),
    )
    maps = birdcage_maps(image.shape, settings.n_coils, seed=mix64(settings.seed, _TAG_COILS))
    spins = torch.polar(torch.from_numpy(image), phase)
    rng = Rng(mix64(settings.seed, _TAG_NOISE), range(n_slices))
    noise = rng.normal(
        (n_slices, settings.n_coils, *image.shape[1:]), step=0, dtype=torch.complex64
    )
    data = (FourierOp()(maps * spins[:, None]) + noise_sd * noise) * mask
    return data.numpy().astype(np.complex64), mask.numpy()
