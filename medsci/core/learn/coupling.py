"""Couplings: which noise goes with which sample.

A coupling may reorder the noise of a batch or redraw it. Reordering keeps the law of the noise
exactly; choosing among draws does not, because what is near the data is no longer normal. Measure
it: `medsci.core.check.miscibility.law_shift`.

A coupling that looks at the data makes noise and condition dependent, and a model that is sampled
with independent noise then answers the wrong question. `ConditionAware` keeps noise with the
condition it was drawn for.

Reordering makes a sample's noise depend on its batch; all else here does not.
"""

__all__ = ["KNN", "Assignment", "Condition", "ConditionAware", "Coupling", "Independent"]

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from medsci.core.learn.assignment import AssignmentSolver, assign
from medsci.core.rng import Rng, mix64

Condition = Mapping[str, Tensor]
_TAG_NEIGHBOURS = 0x6B
_BLOCK = 8  # candidates of KNN held at a time


@runtime_checkable
class Coupling(Protocol):
    """Anything that pairs the samples of a batch with noise."""

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return samples and noise, reordered or redrawn so that row `b` of one meets the other.

        Args:
            x0: samples.
            z: independent noise of the same shape.
            rng: streams of the samples.
            step: of the training, for couplings that change as it goes on.
            cond: what the samples are conditioned on, one row per sample in every entry.
        """
        ...


@final
class Independent:
    """Leave the pairs as they were drawn: the law of data and noise is a product."""

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return both unchanged."""
        return x0, z


@final
@dataclass(frozen=True)
class Assignment:
    """Permute the noise of a batch so that the sum of distances to the samples is smallest.

    The condition is not looked at: for conditional models use `ConditionAware`.

    Args:
        cost: `l2`, the distance, as published, or `l2_squared`, the cost of optimal transport.
        chunk: samples that are matched with one another. The time grows with its cube, the gain
            slowly: in 3072 dimensions (data of sd .5) pairs come nearer by 1.6, 1.9 and 2.3 % for
            64, 256 and 1024.
        solver: `cost matrix -> (rows, columns)`. Ours needs 20 ms at 256;
            `scipy.optimize.linear_sum_assignment` fits here and needs a third of that.

    Source: Li et al. 2024, arXiv:2406.12303.
    """

    cost: Literal["l2", "l2_squared"] = "l2"
    _: KW_ONLY
    chunk: int = 256
    solver: AssignmentSolver | None = None

    def __post_init__(self) -> None:
        if self.cost not in ("l2", "l2_squared"):
            raise ValueError(f"cost {self.cost!r} came; choose l2 or l2_squared")
        if self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} came; give the number of samples to match")

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples as they are and the noise permuted."""
        return x0, z[self.order(x0, z)]

    def order(self, x0: Tensor, z: Tensor, *, extra: Tensor | None = None) -> Tensor:
        """Return the row of noise for every sample.

        `extra` (b, b) is added to the cost; infinite entries are taken only if nothing else is
        left. The diagonal must be finite.
        """
        rows = []
        for start in range(0, len(x0), self.chunk):
            part = slice(start, start + self.chunk)
            cost = torch.cdist(_real(x0[part]), _real(z[part])).double()
            if self.cost == "l2_squared":
                cost = cost.square()
            if extra is not None:
                cost = cost + extra[part, part].to(cost)
                dear = 1.0 + 2.0 * len(cost) * cost[cost.isfinite()].max()  # than all together
                cost = torch.where(cost.isfinite(), cost, dear)
            rows.append(start + torch.from_numpy((self.solver or assign)(cost.cpu().numpy())[1]))
        return torch.cat(rows).to(z.device)


@final
@dataclass(frozen=True)
class ConditionAware:
    """Assign noise to samples with a price on taking noise that came with another condition.

    Noise keeps the condition of the row it was drawn for, which is independent of it. With an
    infinite weight noise never changes its condition, and every conditional law of the noise stays
    what it was; a finite one trades that for nearer pairs. Zero is plain `Assignment`.

    Args:
        weight: price per unit of distance between conditions: 1 for unequal integers (labels), the
            Euclidean distance otherwise, summed over the entries of `cond`.
        assignment: distance, chunk and solver.

    Source: Cheng and Schwing 2025, arXiv:2503.10636, here for any mixture of conditions.
    """

    weight: float
    assignment: Assignment = field(default_factory=Assignment)

    def __post_init__(self) -> None:
        if not self.weight >= 0.0:
            raise ValueError(f"weight={self.weight} came; give a price of zero or more, or inf")

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples as they are and the noise permuted."""
        if not cond:
            raise ValueError("no condition came; pass cond={'name': rows} or use Assignment()")
        distance = torch.stack([_condition_distance(rows) for rows in cond.values()]).sum(0)
        price = torch.where(distance > 0.0, self.weight * distance, 0.0)
        return x0, z[self.assignment.order(x0, z, extra=price)]


@final
@dataclass(frozen=True)
class KNN:
    """Give every sample the nearest of `k` noises: the one that came and `k - 1` fresh ones.

    Cheap, independent of the batch, and a change of the law: noise shrinks and correlates with the
    data, the more the fewer dimensions the data have and the larger k (in 64 dimensions to 0.7 of
    its variance along the weakest directions at k = 64). `law_shift` warns.

    The fresh noises are a function of the noise that came, so they are new at every step and equal
    in every batch.

    Source: Li et al. 2025, arXiv:2505.18521.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k} came; give the number of noises to choose from")

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples as they are and the noise chosen for them."""
        bits = _real(z)[:, :4].detach().cpu().double().contiguous().view(torch.int64)
        own = Rng(rng.seed, [mix64(i, *w) for i, w in zip(rng.ids, bits.tolist(), strict=True)])
        best, least = z, _square_distance(x0, z)
        for block, start in enumerate(range(1, self.k, _BLOCK)):
            shape = (z.shape[0], min(_BLOCK, self.k - start), *z.shape[1:])
            drawn = own.normal(
                shape, step=block, tag=_TAG_NEIGHBOURS, dtype=z.dtype, device=z.device
            )
            for candidate in drawn.unbind(1):
                distance = _square_distance(x0, candidate)
                nearer = distance < least
                least = torch.where(nearer, distance, least)
                best = torch.where(nearer.reshape(-1, *(1,) * (z.ndim - 1)), candidate, best)
        return x0, best


def _real(x: Tensor) -> Tensor:
    """Return real rows with the same distances."""
    return (torch.view_as_real(x) if x.is_complex() else x).reshape(len(x), -1)


def _square_distance(x: Tensor, y: Tensor) -> Tensor:
    return (_real(x) - _real(y)).square().sum(1)


def _condition_distance(rows: Tensor) -> Tensor:
    """Return the distances (b, b) between the conditions of every two samples."""
    flat = rows.reshape(len(rows), -1)
    if flat.is_floating_point() or flat.is_complex():
        exact = "donot_use_mm_for_euclid_dist"  # zero for equal conditions, not nearly so
        return torch.cdist(_real(flat), _real(flat), compute_mode=exact).double()
    return (flat[:, None] != flat[None]).any(-1).double()
