"""Find the few numbers of a solver that matter, offline, against a truth or against held-out data.

There is no universal lambda: the best one depends on the operator, the noise and the number of
steps. Tune on a few cases of the kind to be reconstructed,

    best = tune(
        lambda s: red_diff(fit, prior, rng=rng, settings=RedDiffSettings(**s)).image,
        {"lam": LogUniform(1e-3, 1.0), "lr": LogUniform(0.02, 0.2)},
        judge=data_judge(test), budget=40, seed=0,
    ).settings

with `fit, test = held_out(measured, share=0.1, seed=0)` where no truth exists.
"""

__all__ = ["LogUniform", "RowsOp", "Space", "Trial", "Tuned", "data_judge", "held_out", "tune"]

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from medsci.errors import UsageError
from medsci.inverse.measurement import Measurement, Progress
from medsci.operators import LinearOp


@final
@dataclass(frozen=True)
class LogUniform:
    """All positive numbers between two, equally likely per decade.

    Attributes:
        low: smallest value, positive.
        high: largest value.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high < math.inf:
            raise ValueError(
                f"a range from {self.low} to {self.high} came; give 0 < low < high < inf"
            )

    def at(self, u: float) -> float:
        """Return the value at a share u of the way."""
        return self.low * (self.high / self.low) ** u


Space = Mapping[str, LogUniform | Sequence[float]]
Settings = Mapping[str, float]


@final
@dataclass(frozen=True)
class Trial:
    """One run of the solver.

    Attributes:
        settings: what it was given.
        score: what the judge said; more is better, minus infinity for what is not a number.
    """

    settings: Settings
    score: float


@final
@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        trials: every run, in order.
    """

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The run of the highest score, the first of them if there are several."""
        return max(self.trials, key=lambda trial: trial.score)

    @property
    def settings(self) -> dict[str, float]:
        """The settings of the best run."""
        return dict(self.best.settings)


def tune(
    solve_with: Callable[[Settings], Tensor],
    space: Space,
    *,
    judge: Callable[[Tensor], float],
    budget: int = 40,
    seed: int = 0,
    first: Sequence[Settings] = (),
    progress: Progress | None = None,
) -> Tuned:
    """Run a solver with settings from a space, and keep what the judge likes best.

    Where every entry is a list, their grid is searched, in order, and must fit the budget. Where
    one is a range, the rest of the budget is drawn at random, ranges log-uniform, lists uniform: a
    Latin hypercube, so that each setting is spread evenly on its own.

    Args:
        solve_with: settings to image.
        space: by name, a `LogUniform` or a list of numbers.
        judge: image to score, more is better; for instance `data_judge(test)`, or
            `lambda image: psnr(image.numpy(), truth)`.
        budget: most runs of the solver.
        seed: of the draws.
        first: settings to run before those of the space, part of the budget; `({},)` for what the
            solver does if told nothing, which wins wherever nothing is better.
        progress: called as `progress(done, total)` after every run.

    Raises:
        ValueError: the space or a list in it is empty, or a grid is larger than the budget.
        UsageError: no run gave a number.

    Source: McKay, Beckman and Conover 1979, doi:10.1080/00401706.1979.10489755.
    """
    points = [dict(settings) for settings in first] + _points(space, budget - len(first), seed)
    trials = []
    for i, settings in enumerate(points):
        score = float(judge(solve_with(settings)))
        trials.append(Trial(settings, -math.inf if math.isnan(score) else score))
        if progress is not None:
            progress(i + 1, len(points))
    tuned = Tuned(tuple(trials))
    if tuned.best.score == -math.inf:
        raise UsageError(
            f"none of {len(points)} runs gave a number; narrow the space, or check the judge"
        )
    return tuned


def _points(space: Space, budget: int, seed: int) -> list[dict[str, float]]:
    lists = {name: values for name, values in space.items() if not isinstance(values, LogUniform)}
    if not space or budget < 1 or any(len(values) == 0 for values in lists.values()):
        raise ValueError(
            f"space={dict(space)}, budget={budget} came; give at least one value of one setting, "
            "and at least one run"
        )
    if len(lists) == len(space):
        grid = [
            dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
        ]
        if len(grid) > budget:
            raise ValueError(
                f"a grid of {len(grid)} settings came with budget={budget}; shorten the lists, "
                "raise the budget, or give LogUniform ranges"
            )
        return grid
    rng = np.random.default_rng(seed)
    shares = {name: (rng.permutation(budget) + rng.uniform(size=budget)) / budget for name in space}
    return [
        {name: _at(values, float(shares[name][i])) for name, values in space.items()}
        for i in range(budget)
    ]


def _at(values: LogUniform | Sequence[float], u: float) -> float:
    return values.at(u) if isinstance(values, LogUniform) else values[int(u * len(values))]


@final
class RowsOp(LinearOp):
    """Another operator of which only some rows are seen: `y = keep * (A x)`.

    The range keeps its shape, with zeros in place of what is not seen.

    Args:
        op: A.
        keep: True where data are seen; broadcasts against them.
    """

    keep: Tensor

    def __init__(self, op: LinearOp, keep: Tensor) -> None:
        super().__init__()
        self.op = op
        self.matched = op.matched
        self.register_buffer("keep", keep)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows of A x that are kept."""
        return self.op(x) * self.keep

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H of the rows that are kept."""
        return self.op.adjoint(y * self.keep)


def held_out(
    measured: Measurement,
    *,
    share: float = 0.1,
    seed: int = 0,
    axis: int = -1,
    among: Sequence[int] | None = None,
) -> tuple[Measurement, Measurement]:
    """Split data into those to fit and those to judge by, whole rows at a time.

    Args:
        measured: all data.
        share: of the rows that hold data, to be held out; at least one is, and one is kept.
        seed: of the choice.
        axis: of y, along which rows are counted: -2 for the views of sinograms
            `(slices, views, bins)`, that of phase encoding for k-space. Rows of zeros, which were
            not measured, are in neither part.
        among: the rows that may be held out, for instance the lines outside the centre of k-space,
            where the share is counted of; all if None.

    Returns:
        `(fit, test)`, with operators that see their part only.

    Raises:
        ValueError: the share is not inside (0, 1), fewer than two rows hold data, or none of those
            that may be held out does.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share={share} came; give a share inside (0, 1), about 0.1")
    y = measured.y
    rest = [dim for dim in range(y.ndim) if dim != axis % y.ndim]
    full = (y != 0).any(dim=rest[0]) if len(rest) == 1 else (y != 0).sum(dim=rest) > 0
    rows = torch.nonzero(full).flatten().cpu().numpy()
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} rows along axis {axis} of data of shape {tuple(y.shape)} hold data; "
            "at least two are needed to hold one out"
        )
    free = rows if among is None else np.intersect1d(rows, among)
    if len(free) == 0:
        raise ValueError(
            f"among={among} came, and none of these rows holds data; name some that do"
        )
    n = min(max(round(share * len(free)), 1), len(rows) - 1)
    chosen = np.random.default_rng(seed).choice(free, size=n, replace=False)
    shape = [1] * y.ndim
    shape[axis] = y.shape[axis]
    test = torch.zeros(y.shape[axis], dtype=torch.bool)
    test[torch.from_numpy(chosen)] = True
    test = test.to(y.device)
    parts = (full & ~test, full & test)
    fit, judged = (_part(measured, keep.reshape(shape), len(rows)) for keep in parts)
    return fit, judged


def _part(measured: Measurement, keep: Tensor, n_rows: int) -> Measurement:
    count = max(round(measured.count * int(keep.sum()) / n_rows), 1)
    return dataclasses.replace(
        measured, y=measured.y * keep, op=RowsOp(measured.op, keep), n_data=count
    )


def data_judge(test: Measurement) -> Callable[[Tensor], float]:
    """Return a judge that prefers images which predict data that they were not fitted to."""
    return lambda image: -test.misfit(image)
