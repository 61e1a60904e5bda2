"""Sources of training samples: the protocol that simulators, folders and files follow."""

__all__ = ["Sample", "Source", "as_sample"]

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

Sample = Mapping[str, Tensor]
"""One training sample: `x0` (c, *spatial); `noise`, what it is paired with; conditions by name."""


@runtime_checkable
class Source(Protocol):
    """Numbered items, each drawn with a seed for its augmentation.

    `draw` depends on `(item, seed)` and on nothing else, so that training can resume anywhere and
    give the same numbers with any number of loader processes.
    """

    @property
    def n_items(self) -> int:
        """Return how many distinct items there are."""
        ...

    def draw(self, item: int, seed: int) -> Tensor | Sample:
        """Return one sample: the tensor `x0` alone, or with what belongs to it."""
        ...


def as_sample(drawn: Tensor | Sample) -> dict[str, Tensor]:
    """Return what a source drew with a name for everything."""
    if isinstance(drawn, Tensor):
        return {"x0": drawn}
    if "x0" not in drawn:
        raise ValueError(f"a sample with {', '.join(drawn) or 'nothing'} came; it needs x0")
    return dict(drawn)
