"""Clipping of the clean estimate."""

__all__ = ["Clip"]

from typing import final

from medsci.core.steer.hook import Hook, StepState


@final
class Clip(Hook):
    """Keep every entry of x0 inside `[low, high]`, the range in which the data live."""

    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"low={low}, high={high} came; give low < high")
        self.low = float(low)
        self.high = float(high)

    def denoised(self, state: StepState) -> None:
        """Clamp x0."""
        state.x0 = state.x0.clamp(self.low, self.high)
