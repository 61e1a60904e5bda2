"""What the seed of a draw does to an image: mirror, shift, gain, residual phase."""

__all__ = ["CHANNELS", "Augmentation", "as_channels", "shifted", "with_conditions"]

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
    """

    mirror: bool = True
    max_shift: int = 8
    gain: float | int = 1.25

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise UsageError(f"max_shift is {self.max_shift}; give 0 or more voxels")
        if not 1.0 <= self.gain < np.inf:
            raise UsageError(f"gain is {self.gain}; give 1 (none) or more")

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
