"""What the seed of a draw does to an image: mirror, shift, turn, gain, residual phase."""

__all__ = ["CHANNELS", "Augmentation", "as_channels", "shifted", "turned", "with_conditions"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from medsci.data.case import Case
from medsci.data.phase import smooth_phase
from medsci.errors import UsageError

CHANNELS = ("complex", "magnitude")


@final
@dataclass(frozen=True)
class Augmentation:
    """Changes of a volume that leave it a plausible volume.

    Attributes:
        mirror: swap left and right in half of the draws.
        max_shift: move by up to so many voxels along every axis; zeros come in.
        gain: multiply by a factor between 1/gain and gain, uniform in its logarithm.
        max_rotation_deg: above zero, half of the draws are turned by up to so many degrees about
            every axis and shifted by up to `max_shift`, in fractions of a voxel too, by linear
            interpolation; what comes in repeats the border. Voxels are taken for cubes.

    Source: rotation and shift as in the training of Remedios et al. 2025, arXiv:2510.26834.
    """

    mirror: bool = True
    max_shift: int = 8
    gain: float | int = 1.25
    max_rotation_deg: float | int = 0.0

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise UsageError(f"max_shift is {self.max_shift}; give 0 or more voxels")
        if not 1.0 <= self.gain < np.inf:
            raise UsageError(f"gain is {self.gain}; give 1 (none) or more")
        if not 0.0 <= self.max_rotation_deg <= 180.0:
            raise UsageError(f"max_rotation_deg is {self.max_rotation_deg}; give 0 to 180")

    def moved(self, volume: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Mirror, turn and shift the last three axes of an array."""
        if self.mirror and generator.random() < 0.5:
            volume = volume[..., ::-1, :, :]
        reach = self.max_shift
        if self.max_rotation_deg == 0.0:
            none = (0,) * (volume.ndim - 3)
            return shifted(volume, (*none, *generator.integers(-reach, reach + 1, size=3).tolist()))
        if generator.random() < 0.5:
            return volume
        angles = np.deg2rad(generator.uniform(-1.0, 1.0, 3) * self.max_rotation_deg)
        return turned(volume, angles, shift=generator.uniform(-reach, reach, 3))

    def factor(self, generator: np.random.Generator, *, intensity: object) -> np.float32:
        """Draw the gain; 1 where the intensity has a fixed meaning (any scale but percentile)."""
        low, high = np.log(1.0 / self.gain), np.log(self.gain)
        drawn = np.float32(np.exp(generator.uniform(low, high)))
        return drawn if intensity == "percentile" else np.float32(1.0)


def shifted(image: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    """Move an array by whole voxels along each axis; zeros come in."""
    out = np.zeros_like(image)
    source, target = [], []
    for n, move in zip(image.shape, shift, strict=True):
        source.append(slice(max(0, -move), max(0, n - max(0, move))))
        target.append(slice(max(0, move), max(0, n + min(0, move))))
    out[tuple(target)] = image[tuple(source)]
    return out


def turned(
    volume: np.ndarray,
    angles_rad: Sequence[float] | np.ndarray,
    *,
    shift: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Turn the last three axes about the centre, then shift: `out[R (x - c) + c + shift] = in[x]`.

    `R = R_k R_j R_i` turns right-handedly about each axis in turn. Linear interpolation; the
    border is repeated outwards.
    """
    from scipy import ndimage

    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        matrix = one @ matrix
    centre = 0.5 * (np.array(volume.shape[-3:]) - 1.0)
    offset = centre - matrix.T @ (centre + np.asarray(shift))
    maps = volume.reshape(-1, *volume.shape[-3:])
    moved = [ndimage.affine_transform(m, matrix.T, offset, order=1, mode="nearest") for m in maps]
    return np.stack(moved).reshape(volume.shape)


def as_channels(image: np.ndarray, *, channels: str, generator: np.random.Generator) -> Tensor:
    """Return (1, *spatial), or real and imaginary part with a random smooth residual phase."""
    if channels == "magnitude":
        return torch.from_numpy(np.ascontiguousarray(image[None]))
    residual = 0.1 * smooth_phase(image.shape, generator=generator, spacing=24.0)
    residual = (residual - residual.mean()).astype(np.float32)
    return torch.from_numpy(np.stack([image * np.cos(residual), image * np.sin(residual)]))


def with_conditions(x0: Tensor, case: Case) -> Tensor | dict[str, Tensor]:
    """Return the tensor alone, or with the case's conditions where it has any."""
    return {"x0": x0, **case.tensors()} if case.conditions else x0
