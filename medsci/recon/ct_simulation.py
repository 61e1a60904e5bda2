"""Simulated CT scans: a volume in Hounsfield units becomes noisy line integrals.

Data made with the operator that reconstructs them flatter every method (the inverse crime). Here
the image is interpolated to a finer grid, its rays go to a finer detector, and fine bins are
averaged; only the fineness of the volume itself is given. Outside the image there is air, and what
a file marks as outside the field of view (values below -1000) is air as well.
"""

__all__ = ["simulate_ct"]

import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medsci.core import Rng, mix64
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume, as_volume
from medsci.imaging.beam import Beam, FanBeam, ImageGrid, ParallelBeam
from medsci.imaging.sinogram import Sinogram
from medsci.operators.projector import projector
from medsci.recon.ct_noise import add_photon_noise
from medsci.recon.ct_settings import SimulateCtSettings
from medsci.recon.hounsfield import AIR_HU, UnitsWarning, hu_to_mu

_TAG_PHOTONS = 5
_CHUNK_PIXELS = 1 << 22  # of fine images at a time: 16 MiB and as much again for their rays


def simulate_ct(
    volume: Volume | str | Path, *, settings: SimulateCtSettings | None = None
) -> Sinogram:
    """Simulate the scan of a slab; the truth is stored beside it.

    Args:
        volume: a real, finite 3D image in Hounsfield units, or the path of its NIfTI file. Pixels
            need not be square.
        settings: see `SimulateCtSettings`.

    Raises:
        InvalidInputError: the volume is not a usable image.
        UsageError: the slab does not lie inside the volume, or the image does not fit between
            source and detector.

    Warns:
        UnitsWarning: the values do not look like Hounsfield units.
    """
    settings = SimulateCtSettings() if settings is None else settings
    volume = as_volume(volume)
    _check_image(np.asarray(volume.array))
    n = volume.shape[settings.slice_axis]
    start, stop = (0, n) if settings.slices is None else settings.slices
    if not 0 <= start < stop <= n:
        raise UsageError(f"slices {start}:{stop} came; the volume has slices 0:{n} on that axis")
    slab = volume.slab(settings.slice_axis, start, stop)
    axes = _axes(settings.slice_axis)
    image = np.ascontiguousarray(np.transpose(slab.array, axes), dtype=np.float32)
    image = np.maximum(image, np.float32(AIR_HU))
    spacing = slab.spacing_mm
    grid = ImageGrid(image.shape[1], image.shape[2], spacing[axes[1]], spacing[axes[2]])
    beam = _beam(grid, settings)
    data = _project(torch.from_numpy(image), beam, grid, settings)
    if settings.photons is not None:
        rng = Rng(mix64(settings.seed, _TAG_PHOTONS), range(start, stop))
        data = add_photon_noise(data, photons=settings.photons, rng=rng)
    return Sinogram.on_grid_of(
        slab,
        data.numpy(),
        beam=beam,
        axes=axes,
        mu_water=settings.mu_water,
        photons=settings.photons,
        reference=image,
        attributes=_facts(settings, (start, stop)),
    )


def _check_image(array: np.ndarray) -> None:
    """Refuse what cannot be projected; warn of what does not look like Hounsfield units."""
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"a volume of shape {array.shape} and type {array.dtype} came; simulation needs one "
            "real 3D image in Hounsfield units"
        )
    if not np.isfinite(array).all():
        raise InvalidInputError("the volume holds NaN or infinite values; set them to -1000, air")
    low, high = float(array.min()), float(array.max())
    if low > -200.0 or high > 20000.0 or high < -200.0:
        warnings.warn(
            f"intensities run from {low:g} to {high:g}, which does not look like Hounsfield units "
            "(air -1000, water 0, bone 300 to 3000); subtract 1024 if the file stores HU + 1024, "
            "and do not give MR images",
            UnitsWarning,
            stacklevel=3,
        )


def _axes(slice_axis: int) -> tuple[int, int, int]:
    """Return the voxel axes of (slice, row, column): the later axis of a plane gives the rows."""
    column, row = (axis for axis in range(3) if axis != slice_axis)
    return slice_axis, row, column


def _beam(grid: ImageGrid, settings: SimulateCtSettings) -> Beam:
    steps = np.arange(settings.n_views) * (settings.span / settings.n_views)
    angles = np.radians(settings.start_deg + steps)
    pixel_mm = min(grid.row_mm, grid.col_mm)
    reach = math.hypot(grid.n_rows * grid.row_mm, grid.n_cols * grid.col_mm) / 2
    if settings.geometry == "parallel":
        bin_mm = settings.bin_mm or pixel_mm
        return ParallelBeam(angles, settings.n_bins or _count(reach, bin_mm), bin_mm=bin_mm)
    if reach >= settings.source_mm:
        raise UsageError(
            f"the image reaches {reach:.0f} mm from the rotation centre, the source is at "
            f"{settings.source_mm:.0f} mm; give a larger source_mm"
        )
    distance = settings.source_mm + settings.detector_mm
    bin_mm = settings.bin_mm or pixel_mm * distance / settings.source_mm
    gamma = math.asin(reach / settings.source_mm)
    curved = settings.geometry == "fan-curved"
    half = distance * (gamma if curved else math.tan(gamma))
    return FanBeam(
        angles,
        settings.n_bins or _count(half, bin_mm),
        bin_mm=bin_mm,
        source_mm=settings.source_mm,
        detector_mm=settings.detector_mm,
        curved=curved,
    )


def _count(half: float, bin_mm: float) -> int:
    """Return how many bins see everything up to `half` mm on both sides, and one bin more."""
    return math.ceil(2.0 * half / bin_mm) + 3


def _project(image: Tensor, beam: Beam, grid: ImageGrid, settings: SimulateCtSettings) -> Tensor:
    """Return noise-free line integrals, by way of a finer grid and a finer detector."""
    factor = settings.oversampling
    fine_grid = ImageGrid(
        grid.n_rows * factor, grid.n_cols * factor, grid.row_mm / factor, grid.col_mm / factor
    )
    fine_beam = _finer(beam, factor)
    op = projector(fine_beam, fine_grid, backend="joseph")
    chunk = max(1, _CHUNK_PIXELS // (fine_grid.n_rows * fine_grid.n_cols))
    parts = []
    for hounsfield in image.split(chunk):
        fine = _interpolate(hounsfield, factor).clamp(min=AIR_HU)
        rays = op(hu_to_mu(fine, mu_water=settings.mu_water))
        parts.append(rays.unflatten(-1, (beam.n_bins, factor)).mean(-1))
    return torch.cat(parts)


def _interpolate(image: Tensor, factor: int) -> Tensor:
    """Return the image on pixels `factor` times smaller, over the same area."""
    if factor == 1:
        return image
    return torch.nn.functional.interpolate(
        image[:, None], scale_factor=factor, mode="bicubic", align_corners=False
    )[:, 0]


def _finer(beam: Beam, factor: int) -> Beam:
    """Return the same rays with every bin cut into `factor` parts."""
    return dataclasses.replace(
        beam,
        n_bins=beam.n_bins * factor,
        bin_mm=beam.bin_mm / factor,
        offset_bins=beam.offset_bins * factor,
    )


def _facts(settings: SimulateCtSettings, slices: tuple[int, int]) -> dict[str, object]:
    return {
        "n_views": settings.n_views,
        "start_deg": settings.start_deg,
        "span_deg": settings.span,
        "oversampling": settings.oversampling,
        "slices": list(slices),
        "seed": settings.seed,
    }
