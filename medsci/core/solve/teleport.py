"""Teleport: cross the first noise levels by the flow of a Gaussian, which is known exactly.

At high noise every data set looks like the Gaussian of its mean and covariance, so a solver spends
its first evaluations on a formula. Skip them:

    x, t = teleport(gaussian, noise, sigma_hat=10.0)
    Multistep().plan(path, grid.karras(path, 7, sigma_max=10.0, sigma_min=0.002)).run(denoise, x)

How far to skip is measured, not guessed: the error of the skip grows as the level falls, the error
of the solver shrinks, and a good level is where they meet (`skip_table`).

Source: Wang and Vastola 2024, arXiv:2412.09726; the closed form is in arXiv:2303.02490.
"""

__all__ = ["SkipTable", "skip_table", "teleport"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from jaxtyping import Shaped
from torch import Tensor

from medsci.core.check.diagnose import relative_error
from medsci.core.check.gaussian import GaussianOracle
from medsci.core.solve.plan import DenoiseFn, Plan


def teleport(
    gaussian: GaussianOracle, x: Shaped[Tensor, " b *d"], *, sigma_hat: float, t: float = 1.0
) -> tuple[Shaped[Tensor, " b *d"], float]:
    """Carry states to a lower noise level without a network; return them and their time.

    Args:
        gaussian: of the data, for instance `GaussianOracle.fit(path, images)`.
        x: states at `t`.
        sigma_hat: the level to reach, `sigma / alpha`; start the grid there.
        t: the time of x, pure noise if left out.

    Raises:
        ValueError: the path never has that level.
    """
    s = float(gaussian.path.time_at_sigma_hat(sigma_hat))
    return gaussian.flow(x, t, s), s


@final
@dataclass(frozen=True)
class SkipTable:
    """Errors at the end of the walk, by the level at which the walk starts.

    All are medians over the held-out states of `|x - reference| / |reference|`.

    Attributes:
        levels: noise levels `sigma / alpha`, falling; the first is where nothing is skipped.
        teleport: error of the skip alone, the rest being walked finely.
        solver: error of the solver alone, from the state that the skip reached.
        total: error of both together.
    """

    levels: tuple[float, ...]
    teleport: tuple[float, ...]
    solver: tuple[float, ...]
    total: tuple[float, ...]

    @property
    def level(self) -> float:
        """The longest skip whose own error does not exceed the solver's.

        A good choice where the solver's error falls with the level, as it does on image-like data;
        where it jumps up and down take `best_level`.
        """
        fits = [a <= b for a, b in zip(self.teleport, self.solver, strict=True)]
        return min(level for level, fit in zip(self.levels, fits, strict=True) if fit)

    @property
    def best_level(self) -> float:
        """The level of the smallest total error."""
        return self.levels[self.total.index(min(self.total))]


def skip_table(
    gaussian: GaussianOracle,
    denoise: DenoiseFn,
    x: Shaped[Tensor, " b *d"],
    *,
    levels: Sequence[float],
    solver: Callable[[float], Plan],
    fine: Callable[[float], Plan],
) -> SkipTable:
    """Measure what a skip to each level costs and what it saves, on held-out states.

    Args:
        gaussian: of the data.
        denoise: the denoiser that will be walked.
        x: states at `levels[0]`, not those that the grid was tuned on.
        levels: noise levels `sigma / alpha`, falling strictly; the first is that of x.
        solver: the plan to be used, from a level to the end, with equally many steps from each.
        fine: a plan from a level to the same end, fine enough to be called exact.

    Raises:
        ValueError: the levels do not fall.
    """
    if len(levels) == 0 or any(b >= a for a, b in pairwise(levels)):
        raise ValueError(f"levels {list(levels)} came; give noise levels that fall strictly")
    start = float(gaussian.path.time_at_sigma_hat(levels[0]))
    reference = fine(levels[0]).run(denoise, x)
    rows: list[tuple[float, float, float]] = []
    for i, level in enumerate(levels):
        state = teleport(gaussian, x, sigma_hat=level, t=start)[0] if i else x
        exact = fine(level).run(denoise, state) if i else reference
        walked = solver(level).run(denoise, state)
        pairs = ((exact, reference), (walked, exact), (walked, reference))
        skip, own, both = (float(relative_error(*pair).median()) for pair in pairs)
        rows.append((skip, own, both))
    skips, owns, boths = zip(*rows, strict=True)
    return SkipTable(tuple(float(level) for level in levels), skips, owns, boths)
