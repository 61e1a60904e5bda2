"""Data consistency: pull the clean estimate towards the measurement at every step."""

__all__ = ["DataConsistency"]

from collections.abc import Callable
from typing import final

from torch import Tensor

from medsci.core.steer.hook import Hook, StepState


@final
class DataConsistency(Hook):
    """Replace x0 by `project(x0, state)`, for instance a few steps of conjugate gradients.

    The noise estimate is formed from the state and the projected x0 afterwards, so the walk stays
    on its path. Source: Chung et al. 2024, algorithm 1, arXiv:2303.05754.
    """

    def __init__(self, project: Callable[[Tensor, StepState], Tensor]) -> None:
        self.project = project

    def denoised(self, state: StepState) -> None:
        """Project x0."""
        state.x0 = self.project(state.x0, state)
