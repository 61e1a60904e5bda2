"""Self-conditioning: the network sees its own last estimate."""

__all__ = ["SelfConditioned"]

from typing import final

from torch import Tensor

from medsci.core.steer.hook import Hook, StepState


@final
class SelfConditioned(Hook):
    """Keep the condition `key` equal to the last x0, and zero at the first step of a run.

    This is a hook and no denoiser, because a denoiser that remembered would give another answer
    when asked twice. The memory is the condition itself, a tensor that the caller owns and that is
    written in place: `cond={"x0_before": torch.zeros(shape)}`. One run at a time may use it, and
    not with gradients through the walk.

    Source: Chen, Zhang and Hinton 2023, sec. 3, arXiv:2208.04202.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._mark = f"self_conditioned.{key}"

    def before(self, state: StepState) -> None:
        """Clear the memory at the first step.

        Raises:
            ValueError: the condition is missing or has another shape than the state.
        """
        if self._mark in state.extra:
            return
        memory = state.cond.get(self.key)
        if not isinstance(memory, Tensor) or memory.shape != state.x.shape:
            raise ValueError(
                f"condition {self.key!r} is not a tensor of shape {tuple(state.x.shape)}; pass "
                f"cond={{{self.key!r}: torch.zeros_like(x)}}"
            )
        memory.zero_()
        state.extra[self._mark] = True

    def denoised(self, state: StepState) -> None:
        """Remember x0, as the hooks before this one left it."""
        state.cond[self.key].copy_(state.x0)
