"""The order of the data: sample number `n` of a run is the same whoever asks for it.

Sample `n` of the run, counted over all steps, belongs to epoch `n // n_items`; its item follows
from the permutation of that epoch, its augmentation from `(seed, n)`. Nothing is remembered, so a
run can resume at any step, with any number of loader processes, and see the same slices.
"""

__all__ = [
    "Batch",
    "SampleNumbers",
    "SampleStream",
    "split_batch",
    "train_loader",
    "validation_loader",
]

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medsci.core.rng import mix64
from medsci.data.source import Source, as_sample

_TAG_ORDER, _TAG_DRAW = 0x0D, 0xDA


Batch = dict[str, Tensor]
_NUMBER, _CLEAN, _NOISE = "number", "x0", "noise"


@final
class SampleStream(Dataset[Batch]):
    """An endless numbered stream over a source."""

    def __init__(self, source: Source, *, seed: int) -> None:
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

    def __getitem__(self, number: int) -> Batch:
        seed = mix64(self.seed, number, _TAG_DRAW) >> 1
        drawn = as_sample(self.source.draw(self.item(number), seed))
        return {_NUMBER: torch.tensor(number), **drawn}


def split_batch(
    batch: Batch,
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor] | None]:
    """Return sample numbers, clean samples, the noise they are paired with, and conditions."""
    known = (_NUMBER, _CLEAN, _NOISE)
    cond = {name: rows for name, rows in batch.items() if name not in known}
    return batch[_NUMBER], batch[_CLEAN], batch.get(_NOISE), cond or None


@final
class SampleNumbers(Sampler[int]):
    """Yield the sample numbers of one process from the step that the run has reached.

    Args:
        first_step: asked when iteration starts, after a checkpoint has been restored.
        max_steps: where the run ends.
        batch_size: samples per step over all processes; step `s` covers the numbers from
            `s batch_size` on, whoever sees them.
        accumulate: parts of a step that each process takes one after the other.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """

    def __init__(
        self,
        first_step: Callable[[], int],
        *,
        max_steps: int,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"{batch_size} samples per step came for {world_size} processes times "
                f"{accumulate} parts; give a multiple of {world_size * accumulate}"
            )
        self.first_step = first_step
        self.max_steps = max_steps
        self.part = batch_size // (world_size * accumulate)
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[int]:
        for turn in range(self.first_step() * self.accumulate, self.max_steps * self.accumulate):
            start = (turn * self.world_size + self.rank) * self.part
            yield from range(start, start + self.part)

    def __len__(self) -> int:
        return self.max_steps * self.accumulate * self.part


def train_loader(
    stream: SampleStream, numbers: SampleNumbers, *, workers: int
) -> DataLoader[Batch]:
    """Return batches of `number` (b,), `x0` (b, c, *spatial) and what else the source draws."""
    return DataLoader(
        stream,
        batch_size=numbers.part,
        sampler=numbers,
        num_workers=workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws a seed; keep it off the global generator
        multiprocessing_context="fork" if workers else None,
    )


def validation_loader(
    stream: SampleStream, *, n_samples: int, batch_size: int
) -> DataLoader[Batch]:
    """Return the first `n_samples` of a validation stream, the same at every call."""
    return DataLoader(
        stream, batch_size=batch_size, sampler=range(n_samples), generator=torch.Generator()
    )
