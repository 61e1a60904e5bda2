"""Optimal transport between the samples of a batch and its noise, on POT.

Whatever the method, the noise of a batch is permuted and never drawn twice, so its law stays what
it was. Costs are squared distances. Regularisation is given in units of their spread, the standard
deviation left when row and column means are taken off: what a plan can tell apart.

    exact        the permutation of least cost
    sinkhorn     pairs drawn from the plan of least cost plus `reg` times its negative entropy
    unbalanced   the same, where mass may also be left at home at a price of `reg_marginal`
    partial      the cheapest `mass` of all pairs; outliers are not forced together

Samples and noises that a plan leaves out meet at random.

Source: Tong et al. 2024, arXiv:2302.00482, and Pooladian et al. 2023, arXiv:2304.14772, with a
permutation in place of their draws with replacement; Cuturi 2013, arXiv:1306.0895.
"""

__all__ = ["Method", "Transport", "TransportWarning"]

import os
import warnings
from dataclasses import KW_ONLY, dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

from medsci.core.learn import Condition
from medsci.core.rng import Rng
from medsci.errors import MedsciError, UsageError

Method = Literal["exact", "sinkhorn", "unbalanced", "partial"]
_TAG_ORDER, _TAG_PICK, _TAG_KEEP = 0x071, 0x072, 0x073
_DENSE = 512  # above, the simplex of POT is faster than scipy's assignment
_EXACT_ITERATIONS = int(1e7)  # POT's own limit ends early, with a plan that is not one
_SCALING_ITERATIONS = 2000
_STOP, _TELL = 1e-3, 1e-2  # errors of the plan's marginals, relative
_BACKENDS = ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")


@final
class TransportWarning(UserWarning):
    """A plan was used before its iteration had converged."""


@final
@dataclass(frozen=True)
class Transport:
    """Permute the noise of a batch along a transport plan.

    Args:
        method: see the module.
        reg: entropy of the plan, in units of the spread of the costs; more is more random.
        reg_marginal: price of mass left at home, in the same units.
        mass: fraction of the pairs that `partial` transports, in (0, 1].
        within: name of a condition of whole numbers (labels): pairs are made among equal values,
            so noise stays independent of it. Without it conditions are not looked at, which skews
            the noise of every condition.
        max_iterations: of POT; its default is 1e7 for the simplex and 2000 for scalings.

    Raises:
        MedsciError: POT ended without a plan.

    Warns:
        TransportWarning: a scaling stopped before it had converged.
    """

    method: Method = "exact"
    _: KW_ONLY
    reg: float = 0.1
    reg_marginal: float = 1.0
    mass: float = 0.9
    within: str | None = None
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            choices = ", ".join(get_args(Method))
            raise UsageError(f"method {self.method!r} came; choose one of {choices}")
        for name in ("reg", "reg_marginal"):
            if not getattr(self, name) > 0.0:
                raise UsageError(f"{name}={getattr(self, name)} came; give a positive number")
        if not 0.0 < self.mass <= 1.0:
            raise UsageError(f"mass={self.mass} came; give the fraction to transport, in (0, 1]")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise UsageError(f"max_iterations={self.max_iterations} came; give at least 1")

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples as they are and the noise permuted."""
        draws = [rng.uniform(step=step, tag=t).numpy() for t in (_TAG_ORDER, _TAG_PICK, _TAG_KEEP)]
        order = np.empty(len(x0), dtype=np.int64)
        for rows in self._groups(len(x0), cond):
            index = torch.from_numpy(rows)
            cost = _cost(x0[index.to(x0.device)], z[index.to(z.device)])
            order[rows] = rows[self._order(cost, *(draw[rows] for draw in draws))]
        return x0, z[torch.from_numpy(order).to(z.device)]

    def plan(self, cost: np.ndarray) -> np.ndarray:
        """Return the plan (n, n) of a square cost matrix, of total mass 1 where all is moved."""
        n = len(cost)
        if self.method == "exact" and n <= _DENSE:
            from scipy.optimize import linear_sum_assignment

            plan = np.zeros((n, n))
            plan[linear_sum_assignment(cost)] = 1.0 / n
            return plan
        unit = _spread(cost)
        scaled = np.ascontiguousarray((cost - cost.min()) / unit)
        if self.method in ("exact", "partial"):
            return self._simplex(scaled)
        return self._scaling(scaled)

    def _groups(self, n: int, cond: Condition | None) -> list[np.ndarray]:
        """Return the rows of every group that is paired within itself."""
        if self.within is None:
            return [np.arange(n)]
        label = (cond or {}).get(self.within)
        if label is None or label.is_floating_point() or label.numel() != n:
            raise UsageError(
                f"within={self.within!r} was asked for; pass that condition as one whole number "
                "per sample"
            )
        values = label.detach().reshape(n).cpu().numpy()
        return [np.flatnonzero(values == value) for value in np.unique(values)]

    def _order(
        self, cost: np.ndarray, order: np.ndarray, pick: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        """Return the column of every row: drawn from the plan, none twice."""
        plan = self.plan(cost)
        if self.method == "exact":
            columns = plan.argmax(1)
            if len(np.unique(columns)) < len(columns):
                raise MedsciError(
                    "the exact plan is no permutation; raise max_iterations, or use smaller batches"
                )
            return columns
        return _permutation(plan, order=order, pick=pick, keep=keep)

    def _simplex(self, cost: np.ndarray) -> np.ndarray:
        pot, n = _pot(), len(cost)
        same = np.full(n, 1.0 / n)
        limit = self.max_iterations or _EXACT_ITERATIONS
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                if self.method == "exact":
                    plan = pot.emd(same, same, cost, numItermax=limit)
                else:  # whole pairs: the plan is then zero or 1 / n everywhere
                    moved = min(max(1, round(self.mass * n)) / n, float(same.sum()))
                    plan = pot.partial.partial_wasserstein(
                        same, same, cost, m=moved, numItermax=limit
                    )
            except ValueError as error:
                raise MedsciError(_unfinished(limit, n, error)) from error
        if seen:
            raise MedsciError(_unfinished(limit, n, seen[0].message))
        return np.asarray(plan)

    def _scaling(self, cost: np.ndarray) -> np.ndarray:
        pot, n = _pot(), len(cost)
        same = np.full(n, 1.0 / n)
        limit = self.max_iterations or _SCALING_ITERATIONS
        options: dict[str, Any] = {"numItermax": limit, "stopThr": _STOP / n**0.5, "log": True}
        with np.errstate(all="ignore"):  # what is not finite is reported below
            if self.method == "sinkhorn":
                plan, log = pot.bregman.sinkhorn_log(
                    same, same, cost, self.reg, warn=False, **options
                )
            else:  # of POT's unbalanced solvers the one that converges at every price
                options["method"] = "sinkhorn_translation_invariant"
                prices = self.reg, self.reg_marginal
                plan, log = pot.unbalanced.sinkhorn_unbalanced(same, same, cost, *prices, **options)
        error = float(log["err"][-1]) * n**0.5 if log["err"] else np.inf
        if not np.isfinite(plan).all():
            raise MedsciError(f"the plan is not finite; raise reg={self.reg}")
        if not error <= _TELL:
            warnings.warn(
                f"{self.method} stopped after {limit} iterations with an error of {error:.1e}; "
                f"raise reg={self.reg} or max_iterations",
                TransportWarning,
                stacklevel=2,
            )
        return np.asarray(plan)


def _permutation(
    plan: np.ndarray, *, order: np.ndarray, pick: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """Draw a permutation along a plan: row after row, from the columns that are left.

    A row takes part with the probability that its mass was moved. The others, and rows whose
    columns are all taken, get what is left.
    """
    n = len(plan)
    takes_part = keep < n * plan.sum(1) + 1e-9
    columns, free = np.full(n, -1), np.ones(n)
    rows = np.argsort(order, kind="stable")
    for i in rows[takes_part[rows]]:
        share = np.cumsum(plan[i] * free)
        if share[-1] > 0.0:
            mark = min(pick[i] * share[-1], np.nextafter(share[-1], 0.0))
            columns[i] = np.searchsorted(share, mark, side="right")
            free[columns[i]] = 0.0
    left = rows[columns[rows] < 0]
    rest = np.flatnonzero(free)
    columns[left] = rest[np.argsort(pick[rest], kind="stable")]
    return columns


def _unfinished(limit: int, n: int, reason: object) -> str:
    return (
        f"POT found no plan for {n} pairs in {limit} iterations; raise max_iterations or use "
        f"smaller batches ({reason})"
    )


def _cost(x0: Tensor, z: Tensor) -> np.ndarray:
    """Return the squared distances (n, n) in double precision."""
    rows = [torch.view_as_real(v) if v.is_complex() else v for v in (x0, z)]
    left, right = (v.detach().reshape(len(v), -1).double() for v in rows)
    return torch.cdist(left, right).square().cpu().numpy()


def _spread(cost: np.ndarray) -> float:
    rest = cost - cost.mean(0) - cost.mean(1)[:, None] + cost.mean()
    spread = float(rest.std())
    return spread if spread > 1e-12 * max(float(np.abs(cost).max()), 1e-300) else 1.0


@cache
def _pot() -> ModuleType:
    """Import POT without the array libraries that it would load on sight; it gets numpy only."""
    names = [f"POT_BACKEND_DISABLE_{name}" for name in _BACKENDS]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        import ot
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return ot
