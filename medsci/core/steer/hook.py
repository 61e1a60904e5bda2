"""Hooks: the fixed points at which a walk may be watched or steered.

    before(state)      the state is at time t, the denoiser has not been called
    denoised(state)    x0 is here, no direction has been formed from it yet
    after(state)       the state is at time s

A hook that changes `x0` changes the step consistently, because the direction is formed afterwards.
A hook that moves `x` sets `reset = True`, unless it moves x0 along: older directions then belong to
another trajectory and are forgotten.
"""

__all__ = ["Hook", "StepState"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medsci.core.rng import Rng


@final
@dataclass(slots=True)
class StepState:
    """What a hook sees and may edit.

    The tensors are the loop's own and change in place: clone what you want to keep.

    Attributes:
        n: steps of the whole plan.
        cond: keyword arguments of the denoiser.
        rng: streams of the samples, or None in a deterministic run.
        x: the state, at `t` until the update and at `s` after it.
        x0: the estimate of the clean sample; from `denoised` on, that of this step.
        t: time of the evaluation.
        s: time at which the step ends.
        i: index of the step in the plan.
        reset: set it to forget the directions of earlier steps.
        extra: free space for hooks to leave things for one another.
    """

    n: int
    cond: Mapping[str, Any]
    rng: "Rng | None"
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    x0: Tensor = field(default_factory=lambda: torch.empty(0))
    t: float = 1.0
    s: float = 1.0
    i: int = 0
    reset: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class Hook:
    """A hook that does nothing; override the points you need, wrap to combine."""

    def before(self, state: StepState) -> None:
        """Act before the denoiser is called."""

    def denoised(self, state: StepState) -> None:
        """Act on x0 (and x) before the direction is formed."""

    def after(self, state: StepState) -> None:
        """Act on the state at the end of the step."""
