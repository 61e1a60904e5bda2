"""Couplings: which noise goes with which sample."""

__all__ = ["Coupling", "Independent"]

from typing import Protocol, final, runtime_checkable

from torch import Tensor

from medsci.core.solve.rng import Rng


@runtime_checkable
class Coupling(Protocol):
    """Anything that pairs the samples of a batch with noise."""

    def __call__(self, x0: Tensor, z: Tensor, *, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return samples and noise, reordered or redrawn so that row `b` of one meets the other."""
        ...


@final
class Independent:
    """Leave the pairs as they were drawn: the law of data and noise is a product."""

    def __call__(self, x0: Tensor, z: Tensor, *, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return both unchanged."""
        return x0, z
