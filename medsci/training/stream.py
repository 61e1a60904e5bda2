"""The order of the data: sample number `n` of a run is the same whoever asks for it.

Sample `n` of the run, counted over all steps, belongs to epoch `n // n_items`; its item follows
from the permutation of that epoch, its augmentation from `(seed, n)`. Nothing is remembered, so a
run can resume at any step, with any number of loader processes, and see the same slices.
"""

__all__ = ["SampleNumbers", "SliceStream", "train_loader", "validation_loader"]

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medsci.core.rng import mix64
from medsci.data.source import SliceSource

_TAG_ORDER, _TAG_DRAW = 0x0D, 0xDA


@final
class SliceStream(Dataset[tuple[int, Tensor]]):
    """An endless numbered stream over a source."""

    def __init__(self, source: SliceSource, *, seed: int) -> None:
        if source.n_items < 1:
            raise ValueError("the data source has no items; check its folder or its range")
        self.source = source
        self.seed = seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def item(self, number: int) -> int:
        """Return the item of sample `number`: every epoch visits every item once."""
        epoch, position = divmod(number, self.source.n_items)
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.default_rng(mix64(self.seed, epoch, _TAG_ORDER))
            self._epoch = (epoch, generator.permutation(self.source.n_items))
        return int(self._epoch[1][position])

    def __getitem__(self, number: int) -> tuple[int, Tensor]:
        seed = mix64(self.seed, number, _TAG_DRAW) >> 1
        return number, self.source.draw(self.item(number), seed)


@final
class SampleNumbers(Sampler[int]):
    """Yield the sample numbers of one process from the step that the run has reached.

    Args:
        first_step: asked when iteration starts, after a checkpoint has been restored.
        max_steps: where the run ends.
        batch_size: samples per process and step.
        rank: number of this process.
        world_size: number of processes; step `s` covers `world_size * batch_size` numbers.
    """

    def __init__(
        self,
        first_step: Callable[[], int],
        *,
        max_steps: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.first_step = first_step
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first_step(), self.max_steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)

    def __len__(self) -> int:
        return self.max_steps * self.batch_size


def train_loader(
    stream: SliceStream, numbers: SampleNumbers, *, workers: int
) -> DataLoader[tuple[int, Tensor]]:
    """Return batches `(numbers (b,), slices (b, c, h, w))`."""
    return DataLoader(
        stream,
        batch_size=numbers.batch_size,
        sampler=numbers,
        num_workers=workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws a seed; keep it off the global generator
        multiprocessing_context="fork" if workers else None,
    )


def validation_loader(
    stream: SliceStream, *, n_samples: int, batch_size: int
) -> DataLoader[tuple[int, Tensor]]:
    """Return the first `n_samples` of a validation stream, the same at every call."""
    return DataLoader(
        stream, batch_size=batch_size, sampler=range(n_samples), generator=torch.Generator()
    )
