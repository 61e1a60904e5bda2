"""Searched grids: evolution over noise levels and solvers, for one denoiser and one budget.

The first half of the generations of `Evolution` sees a part of the noise only; the winner is scored
once more on noise that the search never saw.

Worth it for solvers of high order at few evaluations, where the best grid depends on the data; a
solver of first order gains nothing.

Source: Li et al. 2023, arXiv:2309.10438 (steps of a table, judged by FID); here the levels are
continuous, and the loss is yours or the distance to a fine solve from the same noise.
"""

__all__ = ["Found", "LossFn", "search_grid"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.check.diagnose import relative_error
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve.auto import BOTTOM, TOP, auto, end_of
from medsci.core.solve.evolution import Breeder, Evolution, Gene
from medsci.core.solve.grid import check_grid
from medsci.core.solve.plan import AbstractSolver, DenoiseFn

LossFn = Callable[[Tensor, Tensor], float]


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Args:
        solver: the best solver of those offered.
        grid: its times, ready for `solver.plan(path, grid)`.
        levels: its noise levels `sigma / alpha`, the ends included.
        loss: on the noise of the search.
        held_out: loss on noise that the search never saw; the figure to report.
        history: best loss after every generation; the noise grows half-way.
    """

    solver: AbstractSolver
    grid: np.ndarray
    levels: np.ndarray
    loss: float
    held_out: float
    history: tuple[float, ...]


def search_grid(
    denoise: DenoiseFn,
    path: Path,
    n: int,
    *,
    x: Shaped[Tensor, " b *d"],
    solvers: Sequence[AbstractSolver],
    rng: Rng,
    loss: LossFn | None = None,
    ends: tuple[float, float] | None = None,
    evolution: Evolution | None = None,
) -> Found:
    """Search the noise levels of `n` steps, and the solver, that lose least.

    Args:
        denoise: `denoise(x, t) -> x0`.
        path: the path of the states.
        n: network evaluations of the walk to be found.
        x: states at the start of the walk; the last of them are held out.
        solvers: that may be chosen, one evaluation per step each.
        rng: the seed of the evolution.
        loss: `loss(end, start)` of a batch, smaller is better; the median relative distance to a
            fine solve if left out.
        ends: first and last noise level; the path's own if left out.
        evolution: sizes and rates.

    Raises:
        ValueError: fewer than four states, no solver, or `n` is not positive.
    """
    how = evolution or Evolution()
    if n < 1 or len(x) < 4 or not solvers:
        raise ValueError(
            f"n={n}, {len(x)} states and {len(solvers)} solvers came; give n >= 1, at least four "
            "states and one solver"
        )
    judge = _Judge(denoise, path, x=x, solvers=tuple(solvers), loss=loss, ends=ends, fine=how.fine)
    seen = max(2, round(len(x) * (1.0 - how.held_out)))
    breeder = Breeder(how, n, solvers=len(solvers), ends=judge.inner, seed=rng.seed)
    genes = breeder.founders()
    scores: dict[Gene, float] = {}
    history: list[float] = []
    for generation in range(how.generations + 1):
        early = 2 * generation < how.generations
        rows = range(max(2, round(seen * how.part)) if early else seen)
        if not early and 2 * (generation - 1) < how.generations:
            scores.clear()  # the noise has grown
        for gene in genes:
            if gene not in scores:
                scores[gene] = judge(gene, rows)
        best = sorted(genes, key=scores.__getitem__)[: how.parents]
        history.append(scores[best[0]])
        if generation < how.generations:
            genes = breeder.next(best)
    winner = best[0]
    times = judge.times(winner)
    return Found(
        solver=solvers[winner.solver],
        grid=times,
        levels=judge.levels(winner),
        loss=scores[winner],
        held_out=judge(winner, range(seen, len(x))),
        history=tuple(history),
    )


class _Judge:
    """The loss of a candidate on some rows of the states."""

    def __init__(
        self,
        denoise: DenoiseFn,
        path: Path,
        *,
        x: Tensor,
        solvers: tuple[AbstractSolver, ...],
        loss: LossFn | None,
        ends: tuple[float, float] | None,
        fine: int,
    ) -> None:
        self.denoise, self.path, self.x, self.solvers, self.loss = denoise, path, x, solvers, loss
        high, low = ends if ends is not None else (None, None)
        self.start, self.stop = end_of(path, 1.0, high), end_of(path, 0.0, low)
        top, bottom = min(self.start[1], TOP), max(self.stop[1], BOTTOM)
        if not 0.0 < bottom < top:
            raise ValueError(
                f"noise levels {self.start[1]:g} to {self.stop[1]:g} came; a search needs levels "
                f"between {TOP:g} and {BOTTOM:g}, in falling order"
            )
        self.inner = math.log(top), math.log(bottom)
        self.reference = x
        if loss is None:
            solver, times = auto(path, fine, sigma_max=high, sigma_min=low)
            self.reference = solver.plan(path, times).run(denoise, x)

    def levels(self, gene: Gene) -> np.ndarray:
        return np.array([self.start[1], *np.exp(gene.levels), self.stop[1]])

    def times(self, gene: Gene) -> np.ndarray:
        inner = self.path.time_at_sigma_hat(np.exp(gene.levels))
        return check_grid(np.concatenate([[self.start[0]], inner, [self.stop[0]]]))

    def __call__(self, gene: Gene, rows: range) -> float:
        plan = self.solvers[gene.solver].plan(self.path, self.times(gene))
        start = self.x[rows.start : rows.stop]
        end = plan.run(self.denoise, start)
        if self.loss is not None:
            value = float(self.loss(end, start))
        else:
            value = relative_error(end, self.reference[rows.start : rows.stop]).median().item()
        return value if math.isfinite(value) else math.inf
