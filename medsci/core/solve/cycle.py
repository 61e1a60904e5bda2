"""Cycles: walk down, add noise, walk down again."""

__all__ = ["Cycle"]

from dataclasses import KW_ONLY, dataclass
from typing import final

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.plan import AbstractSolver, Plan, Row, Step


@final
@dataclass(frozen=True)
class Cycle:
    """Any solver, with the stretch from `high` to `low` walked `n` more times.

    After the first arrival at `low` the state goes back to `high` by the forward process,
    `x <- alpha_h / alpha_l x + sqrt(sigma_h^2 - (alpha_h / alpha_l)^2 sigma_l^2) z`, which leaves
    the marginals of the path alone. With a `Replace` hook, every cycle brings the free part of the
    sample closer to the law conditioned on the replaced part.

    Args:
        inner: the solver that walks down.
        high: time to go back to; the nearest time of the grid is taken.
        low: time from which to go back.
        n: number of cycles; 0 is the inner solver.

    Source: Lugmayr et al. 2022, algorithm 1, arXiv:2201.09865 (RePaint); Wang et al. 2023,
    arXiv:2306.08247 (cyclic one-way diffusion).
    """

    inner: AbstractSolver
    _: KW_ONLY
    high: float
    low: float
    n: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0 or self.n < 0:
            raise ValueError(
                f"high={self.high}, low={self.low}, n={self.n} came; give times with "
                "0 <= low < high <= 1 and n >= 0"
            )

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the inner plan with the cycles put in.

        Raises:
            ValueError: the grid has no two times near `high` and `low`, or `low` has no data.
        """
        plan = self.inner.plan(path, grid)
        times = np.asarray(grid, dtype=np.float64)
        top, bottom = (int(np.argmin(np.abs(times - t))) for t in (self.high, self.low))
        if top >= bottom:
            raise ValueError(
                f"high={self.high} and low={self.low} fall on one time of the grid, "
                f"{float(times[top])}; take a finer grid or a wider cycle"
            )
        starts = [i for i, step in enumerate(plan.steps) if step.stage == 0]
        starts.append(len(plan.steps))
        if len(starts) != len(times):
            raise ValueError(f"{self.inner!r} has cycles of its own; put one cycle into another")
        down = plan.steps[starts[top] : starts[bottom]]
        back = _renoise(path, float(times[bottom]), float(times[top]))
        before, after = plan.steps[: starts[bottom]], plan.steps[starts[bottom] :]
        steps = (*before, *((back, *down) * self.n), *after)
        nfe = sum(step.evaluate for step in steps)
        return Plan(steps, history=plan.history, nfe=nfe)


def _renoise(path: Path, low: float, high: float) -> Step:
    """Return the step of the forward process from `low` to `high`."""
    alpha_low, alpha_high = float(path.alpha(low)), float(path.alpha(high))
    sigma_low, sigma_high = float(path.sigma(low)), float(path.sigma(high))
    if alpha_low == 0.0:
        raise ValueError(f"t={low} holds no data on {path!r}, so there is no way back up from it")
    a = alpha_high / alpha_low
    z = max(sigma_high**2 - a * a * sigma_low**2, 0.0) ** 0.5
    return Step(t=low, s=high, rows=(Row(a=a, b=0.0),), z=z, evaluate=False)
