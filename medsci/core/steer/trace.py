"""Traces: keep what a walk went through."""

__all__ = ["Trace"]

from collections.abc import Callable
from typing import Any, Literal, final

from torch import Tensor

from medsci.core.steer.hook import Hook, StepState

Point = Literal["before", "denoised", "after"]


@final
class Trace(Hook):
    """Record one thing per step, in a list that belongs to you.

    Args:
        record: `x` or `x0` for a copy of that tensor, or a function of the state whose result is
            kept as it is (clone tensors of the state yourself).
        at: the point of the step at which to record.

    Attributes:
        times: `t` of every record, or `s` at the point `after`.
        values: the records.
    """

    def __init__(
        self, record: Literal["x", "x0"] | Callable[[StepState], Any] = "x", *, at: Point = "after"
    ) -> None:
        if isinstance(record, str) and record not in ("x", "x0"):
            raise ValueError(f"record={record!r} came; choose x, x0 or a function of the state")
        if at not in ("before", "denoised", "after"):
            raise ValueError(f"at={at!r} came; choose before, denoised or after")
        if record == "x0" and at == "before":
            raise ValueError("x0 is not known before the denoiser ran; trace it at 'denoised'")
        self.record = record
        self.at = at
        self.times: list[float] = []
        self.values: list[Any] = []

    def before(self, state: StepState) -> None:
        """Record if asked for here."""
        self._take(state, "before", state.t)

    def denoised(self, state: StepState) -> None:
        """Record if asked for here."""
        self._take(state, "denoised", state.t)

    def after(self, state: StepState) -> None:
        """Record if asked for here."""
        self._take(state, "after", state.s)

    def _take(self, state: StepState, point: Point, time: float) -> None:
        if point != self.at:
            return
        if callable(self.record):
            value = self.record(state)
        else:
            tensor: Tensor = getattr(state, self.record)
            value = tensor.detach().clone()
        self.times.append(time)
        self.values.append(value)
