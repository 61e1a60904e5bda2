"""Exponential moving average of weights."""

__all__ = ["Ema"]

from dataclasses import dataclass
from typing import final

import torch
from torch import nn


@final
@dataclass(frozen=True)
class Ema:
    """Average the weights of a model over its last `1 / (1 - decay)` steps, roughly.

    While training is young the memory is shorter, `min(decay, (1 + k) / (10 + k))` after `k`
    updates, so that the first weights are forgotten. The rule has no state of its own: the
    average lives in a module of the caller and travels with its checkpoint.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046; warm-up as `num_updates` of
    TensorFlow's moving average.
    """

    decay: float

    def decay_at(self, update: int) -> float:
        """Return the decay of update number `update`, counted from zero."""
        return min(self.decay, (1.0 + update) / (10.0 + update))

    @torch.no_grad()
    def update(self, average: nn.Module, model: nn.Module, *, update: int) -> None:
        """Move `average` towards `model`, parameters averaged and buffers copied."""
        weight = 1.0 - self.decay_at(update)
        pairs = zip(average.parameters(), model.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value.detach(), weight)
        for held, current in zip(average.buffers(), model.buffers(), strict=True):
            held.copy_(current)
