"""Noise laws of unit scale: what `z` is drawn from."""

__all__ = ["ComplexGaussian", "Gaussian", "Noise"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from medsci.core.solve.rng import Rng


@runtime_checkable
class Noise(Protocol):
    """Anything that draws `z` with `E|z|^2 = 1` per entry, one stream per sample."""

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        ...


@final
@dataclass(frozen=True)
class Gaussian:
    """Independent standard normal entries; circular complex ones when the dtype is complex."""

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        return rng.normal(shape, step=step, dtype=dtype)


@final
@dataclass(frozen=True)
class ComplexGaussian:
    """Circular complex normal entries, whatever real dtype is asked for: `E|z|^2 = 1`."""

    def sample(
        self, shape: Sequence[int], rng: Rng, *, step: int, dtype: torch.dtype = torch.complex64
    ) -> Tensor:
        """Draw noise of this shape for this step."""
        wide = dtype in (torch.float64, torch.complex128)
        return rng.normal(shape, step=step, dtype=torch.complex128 if wide else torch.complex64)
