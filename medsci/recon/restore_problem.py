"""A damaged volume as a measurement that a prior of axial slices can restore."""

__all__ = [
    "Intensity",
    "Problem",
    "RealImages",
    "Slices",
    "check_volume",
    "problem_of",
    "slices_of",
]

import logging
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medsci.core import Path
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.inverse.measurement import Measurement
from medsci.metrics import head_mask
from medsci.operators import IdentityOp, LinearOp
from medsci.operators.blur import BlurOp
from medsci.operators.downsample import DownsampleOp
from medsci.operators.mask import MaskOp
from medsci.recon.holes import holes_of
from medsci.recon.restore_noise import estimate_noise
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

_log = logging.getLogger(__name__)
_COARSE = 1.5  # slices thicker than this many pixels are what super-resolution should divide
_OTHER_SIZE = 1.3  # pixels that differ from the prior's by this factor look like other anatomy
_FEWEST = 8  # pixels along a slice, for the network
_SMALLEST_NOISE = 1e-3  # in units of the prior; weights divide by it


@final
@dataclass(frozen=True)
class Intensity:
    """How the units of a file become those of a prior: `(value - zero) / scale`."""

    zero: float
    scale: float


@final
@dataclass(frozen=True, eq=False)
class Slices:
    """A volume as a prior of axial slices sees it.

    Attributes:
        values: `(n, rows, columns)` in units of the prior; inferior to superior, posterior to
            anterior, left to right.
        spacing_mm: voxel size along these three.
        intensity: how they were scaled.
        source: the volume with its axes in the order R, A, S.
    """

    values: Float[Tensor, "n rows columns"]
    spacing_mm: tuple[float, float, float]
    intensity: Intensity
    source: Volume

    def volume(
        self, values: Float[Tensor, "n rows columns"], *, factors: tuple[int, int, int] = (1, 1, 1)
    ) -> Volume:
        """Return values, in units of the file, as a volume whose grid is finer by these factors.

        New voxels fill the old ones: new index m is at old index `(m + 1/2) / factor - 1/2`.
        """
        array = values.float().cpu().numpy().transpose(2, 1, 0)
        finer = np.eye(4)
        for axis, factor in enumerate(reversed(factors)):
            finer[axis, axis] = 1.0 / factor
            finer[axis, 3] = 0.5 / factor - 0.5
        return replace(self.source, array=array, affine=self.source.affine @ finer)


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A measurement, and how its image becomes the result.

    Attributes:
        measured: data and operator, of norm one.
        ids: which slices of the result the image has.
        factors: how much finer the result is, along slices, rows and columns.
        kept: True where the input is the result; None for nowhere.
        info: plain words and numbers for a record.
    """

    measured: Measurement
    ids: tuple[int, ...]
    factors: tuple[int, int, int]
    kept: Bool[Tensor, "n rows columns"] | None
    info: dict[str, Any]


@final
class RealImages(nn.Module):
    """Restrict a prior of complex images to real ones: its estimate loses the imaginary part.

    The sampler then adds to the imaginary channel what belongs there, noise and nothing else, so
    the network sees states as it was trained on.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = cast(Path, denoiser.path)

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return x0."""
        x0 = self.denoiser(x, t)
        return torch.cat([x0[:, :1], torch.zeros_like(x0[:, 1:])], dim=1)


def slices_of(volume: Volume, units: PriorUnits, *, device: str = "cpu") -> Slices:
    """Turn and scale a volume for a prior.

    Raises:
        InvalidInputError: slices of a few pixels, or values that are no Hounsfield units where the
            prior needs them, or no magnitudes where it needs those.
    """
    if not volume.has_orientation:
        _log.warning("the file does not state its orientation; the slices may be turned wrongly")
    turned = volume.canonical()
    values = np.ascontiguousarray(turned.array.transpose(2, 1, 0), dtype=np.float32)
    if min(values.shape[1:]) < _FEWEST:
        raise InvalidInputError(
            f"axial slices have {values.shape[1]} x {values.shape[2]} pixels; they need at least "
            f"{_FEWEST} x {_FEWEST}"
        )
    dx, dy, dz = turned.spacing_mm
    _warn_of_size((dy, dx), units)
    intensity = _intensity_of(values, units, spacing_mm=(dz, dy, dx))
    scaled = (torch.from_numpy(values).to(device) - intensity.zero) / intensity.scale
    return Slices(scaled, (dz, dy, dx), intensity, turned)


def problem_of(
    slices: Slices,
    settings: RestoreSettings,
    *,
    volume: Volume,
    mask: Volume | None = None,
    n_channels: int = 2,
) -> Problem:
    """State the inverse problem of a task (not of `bias`, whose operator is unknown).

    Args:
        slices: the damaged image.
        settings: the task and its numbers.
        volume: the image as it was given, for the meaning of its axes.
        mask: of inpainting, not 0 where the image is to be replaced.
        n_channels: of the prior; 2 makes images complex.

    Raises:
        InvalidInputError: the mask or the image does not fit the task.
    """
    values = slices.values
    ids, factors, kept = tuple(range(len(values))), (1, 1, 1), None
    op: LinearOp = IdentityOp()
    noise, info = _noise_of(slices, settings)
    count = None
    if settings.task == "inpaint":
        kept = ~_mask_of(mask, volume, slices)
        chosen = (~kept).flatten(1).any(dim=1).nonzero().flatten()
        ids = tuple(chosen.tolist())
        values, seen = values[chosen], kept[chosen]
        if not bool(seen.any()):
            raise InvalidInputError("the mask covers its slices whole; leave something to go by")
        op, values, count = MaskOp(seen), values * seen, int(seen.sum())
        info["filled_voxels"] = int((~kept).sum())
    elif settings.task == "superres":
        factors = _factors_of(slices, settings, volume)
        op = DownsampleOp(factors, (-3, -2, -1))
        ids = tuple(range(len(values) * factors[0]))
        scale = op.block**0.5  # of norm one
        op, values, noise = op * scale, values * scale, noise * scale
        info["factors_ijk"] = list(_in_file_order(factors, volume))
    elif settings.task == "deblur":
        op = _blur_of(slices, settings, volume)
        info["fwhm_mm"] = settings.fwhm_mm
    if n_channels == 2:
        count = values.numel() if count is None else count
        values = torch.complex(values, torch.zeros_like(values))
    measured = Measurement(values, op, noise=noise, n_data=count)
    return Problem(measured, ids, factors, kept, info)


def check_volume(volume: Volume) -> None:
    """Refuse what is no image of one channel in three axes.

    Raises:
        InvalidInputError: more than three axes, or values that are complex, NaN or all the same.
    """
    shape, array = volume.shape, volume.array
    if len(shape) > 3 and set(shape[3:]) != {1}:
        raise InvalidInputError(
            f"the image has shape {shape}; restoration takes one volume of three axes, split it"
        )
    if array.dtype.kind == "c":
        raise InvalidInputError("the image is complex; take its magnitude")
    if volume.n_nonfinite:
        raise InvalidInputError(
            f"{volume.n_nonfinite} voxels are NaN or infinite; replace them, or mark them in a "
            "mask and use the task inpaint after setting them to 0"
        )
    if float(array.min()) == float(array.max()):
        raise InvalidInputError(f"every voxel is {float(array.min()):g}; there is no image")


def _warn_of_size(pixel_mm: tuple[float, float], units: PriorUnits) -> None:
    for pixel, usual in zip(pixel_mm, units.voxel_size_mm[:2], strict=False):
        if not 1.0 / _OTHER_SIZE < pixel / usual < _OTHER_SIZE:
            _log.warning(
                "slices have pixels of %.3g x %.3g mm, but the prior was trained at %.3g mm; it "
                "sees anatomy of another size, resample the image for a better result",
                *pixel_mm,
                usual,
            )
            return


def _intensity_of(
    values: np.ndarray, units: PriorUnits, *, spacing_mm: tuple[float, float, float]
) -> Intensity:
    if units.window_hu is not None:
        low, high = units.window_hu
        if float(values.min()) > -200.0:
            raise InvalidInputError(
                f"values go from {values.min():g} to {values.max():g}, which are no Hounsfield "
                "units of an image with air in it, and the prior needs them; convert the image"
            )
        return Intensity(low, high - low)
    try:
        inside = head_mask(values, spacing_mm=spacing_mm)
    except InvalidInputError:
        inside = values > 0
    bright = float(np.percentile(values[inside], 99.0)) if inside.any() else 0.0
    if not bright > 0.0:
        raise InvalidInputError(
            f"values go from {values.min():g} to {values.max():g}; the prior needs magnitudes, "
            "bright where there is tissue"
        )
    return Intensity(0.0, bright)


def _noise_of(slices: Slices, settings: RestoreSettings) -> tuple[float, dict[str, Any]]:
    scale = slices.intensity.scale
    if settings.noise is not None:
        noise, origin = settings.noise / scale, "given"
    else:
        noise, origin = estimate_noise(slices.values.cpu().numpy()), "estimated"
    info: dict[str, Any] = {"noise_sd": noise * scale, "noise": origin}
    return max(noise, _SMALLEST_NOISE), info


def _mask_of(mask: Volume | None, volume: Volume, slices: Slices) -> Bool[Tensor, "n rows columns"]:
    if mask is None:
        raise InvalidInputError(
            "inpainting needs a mask; give one that is not 0 where the image is to be replaced"
        )
    holes = replace(volume, array=holes_of(mask, volume)).canonical().array.transpose(2, 1, 0)
    return torch.from_numpy(np.ascontiguousarray(holes)).to(slices.values.device)


def _factors_of(slices: Slices, settings: RestoreSettings, volume: Volume) -> tuple[int, int, int]:
    dz, dy, dx = slices.spacing_mm
    axes, factor = settings.axes, settings.factor
    if axes == "auto":
        axes = "plane"
        if dz > _COARSE * max(dy, dx):
            return factor, 1, 1
    if axes == "plane":
        return 1, factor, factor
    tensor_dim = 2 - _world_axes(volume)["ijk".index(axes)]
    factors = [1, 1, 1]
    factors[tensor_dim] = factor
    return factors[0], factors[1], factors[2]


def _world_axes(volume: Volume) -> list[int]:
    """Return which of R, A, S every voxel axis mostly runs along."""
    pair = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    return [pair[code] for code in volume.orientation]


def _in_file_order(factors: tuple[int, int, int], volume: Volume) -> tuple[int, ...]:
    return tuple(factors[2 - axis] for axis in _world_axes(volume))


def _blur_of(slices: Slices, settings: RestoreSettings, volume: Volume) -> LinearOp:
    if volume.units[0] == "unknown":
        _log.warning("the file does not state the unit of its voxel size; mm is taken")
    width = 0.0 if settings.fwhm_mm is None else settings.fwhm_mm
    _, rows, columns = slices.values.shape
    spacing = slices.spacing_mm[1:]
    if settings.boundary != "circular" and width > max(rows * spacing[0], columns * spacing[1]):
        raise InvalidInputError(
            f"the blur is {width:g} mm wide and a slice only {rows * spacing[0]:.4g} x "
            f"{columns * spacing[1]:.4g} mm; check the width"
        )
    op = BlurOp.gaussian(width, (rows, columns), spacing_mm=spacing, boundary=settings.boundary)
    return op.to(slices.values.device)
