"""Sources of training slices: the protocol that simulators and folders of volumes follow."""

__all__ = ["SliceSource"]

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class SliceSource(Protocol):
    """Numbered items, each drawn with a seed for its augmentation.

    `draw` depends on `(item, seed)` and on nothing else, so that training can resume anywhere and
    give the same numbers with any number of loader processes.
    """

    @property
    def n_items(self) -> int:
        """Return how many distinct items there are."""
        ...

    def draw(self, item: int, seed: int) -> Float[Tensor, "c h w"]:
        """Return one slice, float32, scaled so that the 99th percentile of its magnitude is 1."""
        ...
