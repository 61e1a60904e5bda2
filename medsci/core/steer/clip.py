"""Clipping of the clean estimate."""

__all__ = ["Clip"]

from typing import Literal, final, get_args

from medsci.core.process.path import Path
from medsci.core.steer.hook import Hook, StepState

ClipMode = Literal["consistent", "ddim"]


@final
class Clip(Hook):
    """Keep every entry of x0 inside `[low, high]`, the range in which the data live.

    The step goes on from the clipped `c = clamp(x0)` and from a noise estimate:

        consistent    e = (x - alpha c) / sigma         noise and c make up the state
        ddim          e = (x - alpha x0) / sigma        noise as it was estimated

    In the second the two disagree wherever something was clipped. It is had by moving the state
    along, `x + alpha (c - x0)`, so it serves every solver.

    Args:
        low: of the range.
        high: of the range.
        mode: `ddim` is what the scheduler of MONAI does.
        path: of the walk; only `ddim` needs it.

    Source: Song et al. 2021, eq. 12, arXiv:2010.02502, with either estimate.
    """

    def __init__(
        self, low: float, high: float, *, mode: ClipMode = "consistent", path: Path | None = None
    ) -> None:
        if not low < high:
            raise ValueError(f"low={low}, high={high} came; give low < high")
        if mode not in get_args(ClipMode):
            raise ValueError(f"mode {mode!r} came; choose one of {get_args(ClipMode)}")
        if mode == "ddim" and path is None:
            raise ValueError("mode 'ddim' came without a path; pass path=, that of the walk")
        self.low = float(low)
        self.high = float(high)
        self.mode: ClipMode = mode
        self.path = path

    def denoised(self, state: StepState) -> None:
        """Clamp x0; in `ddim` move x along."""
        clipped = state.x0.clamp(self.low, self.high)
        if self.mode == "ddim" and self.path is not None:
            state.x = state.x + float(self.path.alpha(state.t)) * (clipped - state.x0)
        state.x0 = clipped
