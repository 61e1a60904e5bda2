"""Losses by noise level since the last line of the log, summed over all processes."""

__all__ = ["N_LEVELS", "LossWindow", "level_of"]

import math
from typing import Any, final

import torch
from torch import Tensor

N_LEVELS = 5


@final
class LossWindow:
    """Sums and counts per fifth of the noise angle.

    Kept in double precision on the host, so that one process and several agree to the last digits
    a log shows.
    """

    def __init__(self) -> None:
        self.totals = torch.zeros(2, N_LEVELS, dtype=torch.float64)

    def add(self, losses: Tensor, levels: Tensor) -> None:
        """Add the losses (b,) of samples at `levels` (b,), 0 to `N_LEVELS - 1`."""
        where = levels.cpu()
        values = torch.stack([losses.double().cpu(), torch.ones(len(where), dtype=torch.float64)])
        self.totals.index_add_(1, where, values)

    def summed(self, strategy: Any) -> Tensor:
        """Return the totals over all processes of a Lightning strategy; all must call."""
        if getattr(strategy, "world_size", 1) == 1:
            return self.totals.clone()
        own = self.totals.clone().to(strategy.root_device)  # a reduction works in place
        everywhere: Tensor = strategy.reduce(own, reduce_op="sum")
        return everywhere.cpu()

    def means(self, strategy: Any) -> tuple[float, list[float]]:
        """Return the mean over all samples and per level, NaN where there was none."""
        sums, counts = self.summed(strategy)
        return float(sums.sum() / counts.sum()), (sums / counts).tolist()

    def clear(self) -> None:
        """Begin anew."""
        self.totals.zero_()

    def restore(self, totals: Tensor, *, first: bool) -> None:
        """Take up the totals of a checkpoint: the first process holds them for all."""
        self.totals = totals.clone() if first else torch.zeros_like(totals)


def level_of(angle: Tensor) -> Tensor:
    """Return the fifth of `[0, pi / 2]` that each angle falls into."""
    return (angle / (0.5 * math.pi) * N_LEVELS).long().clamp(0, N_LEVELS - 1)
