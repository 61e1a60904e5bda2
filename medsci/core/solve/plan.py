"""Plans: a solver written out as numbers, and the one loop that runs them.

A solver does its mathematics once, on the host, in float64, and leaves a `Plan`: for every step a
few Python floats. Running a plan is one network call and a few in-place additions per step. Nothing
in the loop reads a tensor's value, so an accelerator is never waited for, and a plan has no state:
threads may share it, and it may start or stop at any step.

At step i, with the state x at time t:

    x0 = denoise(x, t)                     then the hooks may edit x and x0
    f  = f_x x + f_d x0                    put in front of the history, if the step keeps one
    f  = mix f + (1 - mix) f_1             with momentum: the average with the one before
    row = rows[k - 1]                      k = directions in the history, this one included
    x  = a x + b x0 + sum_j c_j f_j + z noise

There is one row for every length of history, so the first steps, a start in the middle and a reset
after a hook moved the state are the same code. A stage of a Runge-Kutta rule is a step that drops
its directions at the end. A step that does not evaluate carries the state to another time by
`a x + z noise` and forgets the history: the way back up of a cycle.
"""

__all__ = ["AbstractSolver", "DenoiseFn", "GradMode", "Plan", "Row", "Step"]

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.steer.hook import Hook, StepState

DenoiseFn = Callable[..., Tensor]
GradMode = Literal["none", "full", "checkpoint"]
Scale = Callable[[Tensor, float], Tensor]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One update: `a x + b x0 + sum_j c_j f_j`; newest f first."""

    a: float
    b: float
    c: tuple[float, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From time `t` to time `s`.

    Attributes:
        t: time of the evaluation.
        s: time at which the step ends; of a stage, that of the next evaluation.
        rows: one update per length of history.
        f: weights of x and x0 in the direction that is kept; None if none is.
        z: standard deviation of the noise added.
        mix: weight of the new direction in the moving average; 1 is no average.
        stage: 0 at the first evaluation of a step of the grid, 1, 2 ... at the further ones.
        drop: how many of the newest directions to forget at the end.
        evaluate: whether the denoiser is called.
    """

    t: float
    s: float
    rows: tuple[Row, ...]
    f: tuple[float, float] | None = None
    z: float = 0.0
    mix: float = 1.0
    stage: int = 0
    drop: int = 0
    evaluate: bool = True


@runtime_checkable
class AbstractSolver(Protocol):
    """Anything that turns a path and a grid into a plan."""

    def plan(self, path: Path, grid: np.ndarray) -> "Plan":
        """Return the coefficients of every step of the grid."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a walk from noise to data.

    Args:
        steps: coefficients, first step first.
        history: directions a step looks at, its own included; 0 needs x and x0 only, and any
            other plan as many further tensors as it looks back.
        nfe: network evaluations of a full run.
    """

    steps: tuple[Step, ...]
    history: int
    nfe: int

    def run(
        self,
        denoise: DenoiseFn,
        x: Shaped[Tensor, " b *d"],
        *,
        rng: Rng | None = None,
        hooks: Sequence[Hook] = (),
        cond: Mapping[str, Any] | None = None,
        start: int = 0,
        stop: int | None = None,
        grad: GradMode = "none",
    ) -> Shaped[Tensor, " b *d"]:
        """Walk the state from step `start` up to step `stop`, and return it; `x` is left as it is.

        Args:
            denoise: `denoise(x, t, **cond) -> x0`. It must return a new tensor or one that shares
                memory with `x`, not a buffer of its own that the next call overwrites.
            x: the state at the time of step `start`, real or complex, of any shape.
            rng: one stream per sample; needed only if a step adds noise.
            hooks: edit the state at three points of every step, in this order.
            cond: keyword arguments of every denoiser call.
            start: first step to take.
            stop: step before which to halt; the end if left out.
            grad: `none` works in place without autograd; `full` is differentiable;
                `checkpoint` is too, and keeps one state per step instead of the network's graph.

        Raises:
            ValueError: the step range is not inside the plan, or noise is needed without `rng`.
        """
        stop = len(self.steps) if stop is None else stop
        if not 0 <= start <= stop <= len(self.steps):
            raise ValueError(
                f"steps {start} to {stop} were asked of a plan of {len(self.steps)}; "
                "give 0 <= start <= stop <= len(plan.steps)"
            )
        if rng is None and any(step.z for step in self.steps[start:stop]):
            raise ValueError("this plan adds noise; pass rng=Rng(seed, ids)")
        if grad not in ("none", "full", "checkpoint"):
            raise ValueError(f"grad={grad!r} came; choose none, full or checkpoint")
        call = partial(denoise, **cond) if cond else denoise
        if grad == "checkpoint":
            call = partial(checkpoint, call, use_reentrant=False)
        state = StepState(n=len(self.steps), cond=cond or {}, rng=rng) if hooks else None
        span = range(start, stop)
        if grad != "none":
            return self._walk(call, x, span, rng=rng, hooks=hooks, state=state, inplace=False)
        with torch.no_grad():
            return self._walk(call, x.clone(), span, rng=rng, hooks=hooks, state=state)

    def _walk(
        self,
        call: DenoiseFn,
        x: Tensor,
        span: range,
        *,
        rng: Rng | None,
        hooks: Sequence[Hook],
        state: StepState | None,
        inplace: bool = True,
    ) -> Tensor:
        history: deque[Tensor] = deque()
        before, denoised = [hook.before for hook in hooks], [hook.denoised for hook in hooks]
        after = [hook.after for hook in hooks]
        scale = _scaling(x.dtype) if inplace else torch.mul
        for i in span:
            step = self.steps[i]
            if state is not None:
                state.i, state.t, state.s, state.x = i, step.t, step.s, x
            if not step.evaluate:
                history.clear()
                x = x * step.rows[0].a
            else:
                if state is not None:
                    x = _visit(before, state, x)
                x0 = call(x, step.t)
                if inplace:
                    x0 = _own(x0, x)
                if state is not None:
                    state.x0 = x0
                    x = _visit(denoised, state, x)
                    x0 = _own(state.x0, x) if inplace else state.x0
                    if state.reset:
                        history.clear()
                        state.reset = False
                x = self._advance(step, x, x0, history, scale=scale)
                del x0  # before the next one and before noise is made
            if step.z and rng is not None:
                x = x.add_(
                    rng.normal(x.shape, step=i, dtype=x.dtype, device=x.device), alpha=step.z
                )
            if state is not None:
                state.x = x
                x = _visit(after, state, x)
        return x

    def _advance(
        self, step: Step, x: Tensor, x0: Tensor, history: deque[Tensor], *, scale: Scale
    ) -> Tensor:
        """Return the state after the deterministic part of one step."""
        if step.f is None:
            row = step.rows[0]
            return scale(x, row.a).add_(x0, alpha=row.b)
        f_x, f_d = step.f
        k, rows = len(history), step.rows
        row = rows[k] if k < len(rows) else rows[-1]
        if f_x and (step.mix == 1.0 or not history):
            x = self._swap(row, x, x0, history, f=step.f, scale=scale)
        else:
            if f_x:
                keep = torch.mul(x, f_x).add_(x0, alpha=f_d)
            else:
                keep = x0 if f_d == 1.0 else torch.mul(x0, f_d)
            if step.mix != 1.0 and history:
                keep = torch.lerp(history[0], keep, step.mix)
            history.appendleft(keep)
            x = _update(row, x, x0, history, scale=scale)
            if k + 1 == self.history:
                history.pop()  # no row looks back that far
        for _ in range(min(step.drop, len(history))):
            history.popleft()
        return x

    def _swap(
        self,
        row: Row,
        x: Tensor,
        x0: Tensor,
        history: deque[Tensor],
        *,
        f: tuple[float, float],
        scale: Scale,
    ) -> Tensor:
        """Update in the memory of the oldest direction, and keep the new one in that of x."""
        newest = row.c[0] if row.c else 0.0
        a, b = row.a + newest * f[0], row.b + newest * f[1]
        y = None
        if history and len(history) + 1 == self.history:
            oldest = history.pop()
            if len(row.c) > len(history) + 1:
                y = scale(oldest, row.c[len(history) + 1]).add_(x, alpha=a)
        y = torch.mul(x, a) if y is None else y
        if b:
            y.add_(x0, alpha=b)
        for weight, direction in zip(row.c[1:], history):  # noqa: B905 - strict costs time
            y.add_(direction, alpha=weight)
        if self.history > 1:
            history.appendleft(scale(x, f[0]).add_(x0, alpha=f[1]))
        return y


def _update(row: Row, x: Tensor, x0: Tensor, history: deque[Tensor], *, scale: Scale) -> Tensor:
    """Return the state after a row; in place if `scale` is."""
    x = scale(x, row.a)
    if row.b:
        x.add_(x0, alpha=row.b)
    for weight, f in zip(row.c, history):  # noqa: B905 - strict costs time
        if weight:
            x.add_(f, alpha=weight)
    return x


def _scaling(dtype: torch.dtype) -> Scale:
    """Return `scale(x, a)`, which is `x.mul_(a)`.

    Torch wraps a Python number anew for every product, which takes a microsecond. One tensor that
    holds the number saves it; it lives on the host, so that no device is waited for.
    """
    if dtype not in (torch.float32, torch.float64):
        return Tensor.mul_
    number = np.zeros((), dtype=np.float32 if dtype == torch.float32 else np.float64)
    held = torch.from_numpy(number)

    def scale(x: Tensor, a: float) -> Tensor:
        number[()] = a
        return x.mul_(held)

    return scale


def _own(x0: Tensor, x: Tensor) -> Tensor:
    """Return x0, copied if it lives in the memory of x, which is about to be overwritten."""
    if x0.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return x0.clone()
    return x0


def _visit(calls: Sequence[Callable[[StepState], None]], state: StepState, x: Tensor) -> Tensor:
    """Call the hooks and return the state tensor; one that a hook brought along is copied."""
    for call in calls:
        call(state)
    if state.x is not x:
        state.x = state.x.clone()
    return state.x
