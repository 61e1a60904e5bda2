"""A damaged volume as a measurement of the box of a 3D prior.

The prior's state `x` is `(1, channels, i, j, k)`; its image channel is `low + (high - low) v` with
v from 0, air, to 1. The volume, in units of v, is `y = W v + noise`, W the look of its voxels at
the box through their profile. So the channel itself was measured by

    (high - low) y + low W 1 = W P x + (high - low) noise,      P the choice of the channel

which is linear, and voxels that reach beyond the box count on air there.
"""

__all__ = ["VolumeProblem", "ClippedPrior", "volume_problem"]

from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medsci.core import Path
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_to
from medsci.inverse.measurement import Measurement
from medsci.operators.channel import ChannelOp
from medsci.operators.mask import MaskOp
from medsci.operators.resample import ResampleOp
from medsci.recon.holes import holes_of
from medsci.recon.restore_noise import estimate_noise
from medsci.recon.restore_settings import RestoreSettings
from medsci.recon.volume_frame import VolumePrior, brain_centre_mm, thinned

_SEEN = 0.5  # a voxel with less of it in the box says nothing about the box
_BRIGHT = 99.9  # percentile over the box that is 1, as the prior's volumes were scaled
_SMALLEST_NOISE = 0.01  # of the range: what one grid cannot say about another


@final
@dataclass(frozen=True, eq=False)
class VolumeProblem:
    """A measurement of a prior's box, and how a state becomes a volume.

    Attributes:
        measured: data and operator, of norm one, with states as images.
        box: the prior's grid in the world of the input, empty.
        seen: the input as it was measured: voxels finer than the prior's averaged.
        prior: what the channels are.
        scale: value of the input that is 1.
        info: plain words and numbers for a record.
    """

    measured: Measurement
    box: Volume
    seen: Volume
    prior: VolumePrior
    scale: float
    info: dict[str, Any]

    def image(self, state: Float[Tensor, "1 c i j k"]) -> Volume:
        """Return the image channel in units of the input."""
        low, high = self.prior.value_range
        values = (state[0, 0].float().cpu().numpy() - low) / (high - low)
        return self.box.with_array(values * np.float32(self.scale))

    def fractions(self, state: Float[Tensor, "1 c i j k"]) -> Volume:
        """Return the fractions of the tissues in [0, 1], one per channel on the last axis."""
        low, high = self.prior.value_range
        values = (state[0, 1:].float().cpu().numpy() - low) / (high - low)
        return self.box.with_array(np.moveaxis(values.clip(0.0, 1.0), 0, -1))


@final
class ClippedPrior(nn.Module):
    """Keep the estimate of a prior in the range of its data."""

    def __init__(self, denoiser: nn.Module, value_range: tuple[float, float]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.value_range = value_range
        self.path = cast(Path, denoiser.path)

    def forward(self, x: Tensor, t: float) -> Tensor:
        """Return x0."""
        low, high = self.value_range
        x0: Tensor = self.denoiser(x, t)
        return x0.clamp(low, high)


def volume_problem(
    volume: Volume,
    prior: VolumePrior,
    *,
    settings: RestoreSettings,
    mask: Volume | None = None,
    field: Volume | None = None,
    level: float | None = None,
) -> VolumeProblem:
    """State the inverse problem of a task in the box of a prior.

    Args:
        volume: the damaged image, three axes, any orientation.
        prior: the box.
        settings: the task and its numbers.
        mask: of inpainting, on the grid of the volume, not 0 where the image is to be replaced.
        field: multiplicative, to be divided out first.
        level: noise that the data are taken to have, as a share of the range, whatever the settings
            say.

    Raises:
        InvalidInputError: the mask does not fit, the box does not meet the image, or there are no
            positive values.
    """
    holes = None if mask is None else holes_of(mask, volume)
    if holes is not None and holes.all():
        raise InvalidInputError("the mask covers the whole image; leave something to go by")
    values = volume.array.astype(np.float32)
    if field is not None:
        values = values / field.array
    seen = thinned(volume.with_array(values), min(prior.voxel_mm), holes=holes)
    affine = prior.affine_at(_centre(volume, settings), like=seen)
    box = prior.grid(affine, like=volume)
    known = np.isfinite(seen.array)
    seen = seen.with_array(np.where(known, seen.array, 0.0))
    look = ResampleOp.between(
        affine, prior.shape, target_affine=seen.affine, target_shape=seen.shape,
        fwhm_mm=_widths(seen, settings),
    ).to(settings.device)  # fmt: skip
    cover = look.coverage()
    inside = torch.from_numpy(known).to(cover.device) & (cover > _SEEN)
    if not bool(inside.any()):
        raise InvalidInputError(
            "the box of the prior does not meet the image; give the middle of the brain in mm by "
            "centre_mm (--centre)"
        )
    scale = _scale_of(seen, box)
    noise, info = _noise_of(volume, seen, settings, scale=scale)
    noise = noise if level is None else level
    low, high = prior.value_range
    y = (high - low) * torch.from_numpy(seen.array / scale).to(cover) + low * cover
    op = MaskOp(inside) @ look @ ChannelOp(0, n_channels=len(prior.channels))
    measured, _ = Measurement(
        (y * inside)[None], op, noise=(high - low) * noise, n_data=int(inside.sum()),
        layout="plain",
    ).normalised()  # fmt: skip
    info |= {
        "box_shape": list(prior.shape),
        "box_voxel_mm": list(prior.voxel_mm),
        "box_centre_mm": [round(float(x), 3) for x in _middle(box)],
        "measured_voxels": int(inside.sum()),
        "measured_voxel_mm": [round(mm, 4) for mm in seen.spacing_mm],
        "intensity_scale": scale,
    }
    return VolumeProblem(measured, box, seen, prior, scale, info)


def _centre(volume: Volume, settings: RestoreSettings) -> Float[np.ndarray, "3"]:
    if settings.centre_mm is not None:
        return np.array(settings.centre_mm, dtype=np.float64)
    return brain_centre_mm(volume)


def _middle(box: Volume) -> np.ndarray:
    middle: np.ndarray = box.affine[:3, :3] @ ((np.array(box.shape) - 1.0) / 2.0)
    return middle + box.affine[:3, 3]


def _scale_of(seen: Volume, box: Volume) -> float:
    """Return the percentile over the box, the image resampled to it."""
    there = resample_to(seen, box, order=1).array
    bright = float(np.percentile(there, _BRIGHT))
    if not bright > 0.0:
        raise InvalidInputError(
            f"values go from {seen.array.min():g} to {seen.array.max():g} in the box of the prior, "
            "which needs magnitudes, bright where there is tissue; check the image, or give the "
            "middle of the brain in mm by centre_mm (--centre)"
        )
    return bright


def _widths(seen: Volume, settings: RestoreSettings) -> list[float | None]:
    """Return the profile width along each axis: slice thickness, or the blur."""
    steps = seen.spacing_mm
    widths: list[float | None] = [None, None, None]
    if settings.thickness_mm is not None:
        widths[int(np.argmax(steps))] = float(settings.thickness_mm)
    if settings.task == "deblur" and settings.fwhm_mm is not None:
        widths = [max(float(settings.fwhm_mm), width or step)
                  for width, step in zip(widths, steps, strict=True)]  # fmt: skip
    return widths


def _noise_of(
    volume: Volume, seen: Volume, settings: RestoreSettings, *, scale: float
) -> tuple[float, dict[str, Any]]:
    """Return the noise of a measured voxel as a share of the range, and what to record.

    The finest details of thick slices are anatomy, and an estimate from them is too high: for
    super-resolution the noise is taken for small where it is not given.
    """
    if settings.noise is not None:
        noise, origin = float(settings.noise), "given"
    elif settings.task == "superres":
        noise, origin = _SMALLEST_NOISE * scale, "taken for small"
    else:
        slices = np.moveaxis(volume.array, int(np.argmax(volume.spacing_mm)), 0)
        noise, origin = estimate_noise(slices.astype(np.float32)), "estimated"
    block = float(np.prod(seen.spacing_mm) / np.prod(volume.spacing_mm))
    info: dict[str, Any] = {"noise_sd": noise, "noise": origin}
    return max(noise / block**0.5 / scale, _SMALLEST_NOISE), info
