"""Annealing of pairs: from independent noise to the noise that each sample was paired with.

    noise = sqrt(1 - b^2) z + b xi,      b = level(step) from 1 down to 0

`z` is the noise of the pair and `xi` fresh. Both have unit law and are independent, so Gaussian
noise keeps its law at every `b`, and the correlation with the pair is `sqrt(1 - b^2)`.

Of jointly Gaussian pairs, the best velocity at `b` lies between that of independent noise, `v_0`,
and that of the pairs, `v_1`. With `rho = sqrt(1 - b^2)` and `C_rho = (1 - rho) C_0 + rho C_1` the
covariance of the centred states, `v_rho = ((1 - rho) v_0 C_0 + rho v_1 C_1) C_rho^-1`, as matrices
on those states.

Source: Zhu et al. 2024 (SlimFlow), arXiv:2407.12718; the last formula is derived here.
"""

__all__ = ["Annealed", "CosineAnneal", "ExponentialAnneal", "LinearAnneal"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from medsci.core.learn.coupling import Condition
from medsci.core.rng import Rng

_TAG_FRESH = 0xA7


@final
@dataclass(frozen=True)
class Annealed:
    """Mix the noise of pairs with fresh noise, less and less as training goes on.

    Args:
        level: `step -> b`, the amplitude of the fresh noise, in [0, 1].
    """

    level: Callable[[int], float]

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples as they are and the mixed noise."""
        b = self.level(step)
        if not 0.0 <= b <= 1.0:
            raise ValueError(f"level({step}) is {b}; give a schedule with values in [0, 1]")
        if b == 0.0:
            return x0, z
        fresh = rng.normal(z.shape, step=step, tag=_TAG_FRESH, dtype=z.dtype, device=z.device)
        return x0, math.sqrt(1.0 - b * b) * z + b * fresh


@final
@dataclass(frozen=True)
class LinearAnneal:
    """Fall from 1 at step 0 to 0 at `steps`, in a straight line, and stay there."""

    steps: int

    def __post_init__(self) -> None:
        _check(self.steps)

    def __call__(self, step: int) -> float:
        """Return `1 - step / steps`."""
        return max(0.0, 1.0 - step / self.steps)


@final
@dataclass(frozen=True)
class CosineAnneal:
    """Fall from 1 at step 0 to 0 at `steps`, level at either end, and stay there."""

    steps: int

    def __post_init__(self) -> None:
        _check(self.steps)

    def __call__(self, step: int) -> float:
        """Return `cos^2` of a quarter turn."""
        if step >= self.steps:
            return 0.0
        return math.cos(0.5 * math.pi * step / self.steps) ** 2


@final
@dataclass(frozen=True)
class ExponentialAnneal:
    """Fall from 1 at step 0 by `e` every `steps`; never quite 0."""

    steps: int

    def __post_init__(self) -> None:
        _check(self.steps)

    def __call__(self, step: int) -> float:
        """Return `exp(-step / steps)`."""
        return math.exp(-step / self.steps)


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps} came; give the length of the annealing, at least 1")
