"""The ancestral walk of any process: denoise, then draw the bridge, from noise to data.

It asks one thing of a process, `bridge`, and nothing of the state, which may be a tensor or a dict
of tensors. For a linear process of tensors `Ancestral(eta)` is the same walk, as a plan.
"""

__all__ = ["HasBridge", "OnPart", "bridge_walk"]

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from medsci.core.rng import Rng
from medsci.core.solve.grid import check_grid
from medsci.core.steer.hook import Hook, StepState


@runtime_checkable
class HasBridge(Protocol):
    """Anything that draws the state at `s` from the one at `t` and an estimate of the clean one."""

    def bridge(
        self,
        x_t: Any,
        x0: Any,
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw it, as in `Process`."""
        ...


@torch.no_grad()
def bridge_walk(
    denoise: Callable[..., Any],
    process: HasBridge,
    x: Tensor | Mapping[str, Tensor],
    *,
    grid: np.ndarray,
    rng: Rng,
    eta: float = 1.0,
    hooks: Sequence[Hook] = (),
    cond: Mapping[str, Any] | None = None,
) -> Any:
    """Walk a state from `grid[0]` to `grid[-1]` and return it; `x` is left as it is.

    A step to `t = 0` returns what the process makes of the estimate there: the estimate itself for
    `Linear`, the probability for `Bernoulli`. Decode it where the process has a chart.

    Args:
        denoise: `denoise(x, t, **cond) -> x0`, in the form of the state; one call per step.
        process: draws the steps.
        x: the state at `grid[0]`, for instance `process.prior(shape, rng)`.
        grid: decreasing times.
        rng: one stream per sample.
        eta: share of fresh noise; 0 is deterministic for the processes that can be.
        hooks: edit `(x, x0)` at three points of every step; x is a dict if the state is one, and
            `OnPart` lets a hook of tensors work on one entry.
        cond: keyword arguments of the denoiser, seen by the process too.
    """
    times = check_grid(grid).tolist()
    options = dict(cond or {})
    now: Any = {k: v.clone() for k, v in x.items()} if isinstance(x, Mapping) else x.clone()
    state = StepState(n=len(times) - 1, cond=options, rng=rng)
    for i, (t, s) in enumerate(pairwise(times)):
        state.i, state.t, state.s, state.x = i, t, s, now
        for hook in hooks:
            hook.before(state)
        state.x0 = denoise(state.x, t, **options)
        for hook in hooks:
            hook.denoised(state)
        state.x = process.bridge(
            state.x, state.x0, t=t, s=s, rng=rng, step=i, eta=eta, cond=options
        )
        for hook in hooks:
            hook.after(state)
        now, state.reset = state.x, False
    return now


@final
class OnPart(Hook):
    """Let a hook of tensors work on one entry of a dict state.

    Args:
        name: the entry.
        hook: sees that entry as its x and x0.
    """

    def __init__(self, name: str, hook: Hook) -> None:
        self.name = name
        self.hook = hook

    def before(self, state: StepState) -> None:
        """Act before the denoiser is called."""
        self._visit(self.hook.before, state, known=False)

    def denoised(self, state: StepState) -> None:
        """Act on the entry of x0 and x."""
        self._visit(self.hook.denoised, state, known=True)

    def after(self, state: StepState) -> None:
        """Act on the entry at the end of the step."""
        self._visit(self.hook.after, state, known=True)

    def _visit(self, call: Callable[[StepState], None], state: StepState, *, known: bool) -> None:
        x: Any = state.x
        x0: Any = state.x0
        part = StepState(n=state.n, cond=state.cond, rng=state.rng, extra=state.extra)
        part.i, part.t, part.s, part.x = state.i, state.t, state.s, x[self.name]
        if known:
            part.x0 = x0[self.name]
        call(part)
        whole: Any = {**x, self.name: part.x}
        state.x = whole
        if known:
            estimates: Any = {**x0, self.name: part.x0}
            state.x0 = estimates
