"""Search at sampling time: spend more evaluations on samples that score higher.

`BestOf` walks several times and keeps the best end; `Particles` draws several next states at every
stochastic step and goes on from the one whose x0 is best; `Rollover`, next door, does so under one
budget. Every sample of a batch is a search of its own and does not depend on the others.

    found = Particles(reward, 8).run(plan, denoise, start=prior, rng=Rng(0, range(4)))
    found.x, found.reward, found.nfe

These loops compare rewards on the host: they wait for the device once per proposal.
"""

__all__ = ["BestOf", "Particles", "RewardFn", "SearchResult", "StartFn"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

if TYPE_CHECKING:
    from medsci.core.rng import Rng
    from medsci.core.solve.plan import Plan

RewardFn = Callable[[Tensor, Tensor], Tensor]
StartFn = Callable[["Rng"], Tensor]


@final
@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        x: the samples.
        reward: of every sample, at the last x0 that was judged.
        spent: evaluations of the denoiser per sample: at the start, then at each step.
    """

    x: Shaped[Tensor, " b *d"]
    reward: Float[Tensor, " b"]
    spent: Int[Tensor, "b n"]

    @property
    def nfe(self) -> Int[Tensor, " b"]:
        """Evaluations of the denoiser that each sample took."""
        return self.spent.sum(1)


@final
class BestOf:
    """Walk `n` times and keep, for every sample, the end of highest reward.

    The arguments are those of `Particles`; `n = 1` is the plain walk.
    """

    def __init__(self, reward: RewardFn, n: int) -> None:
        self.reward = reward
        self.n = at_least_one("n", n)

    def run(
        self,
        plan: "Plan",
        denoise: Callable[..., Tensor],
        *,
        start: StartFn,
        rng: "Rng",
        cond: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """Return the best of the walks; the arguments are those of `Particles.run`."""
        best: tuple[Tensor, ...] = ()
        for k in range(self.n):
            own = _proposal(rng, k)
            x = plan.run(denoise, start(own), rng=own, cond=cond)
            found = (x, _judge(self.reward, x, range(len(rng.ids))))
            best = _better(found, best) if best else found
        spent = torch.full((len(rng.ids), 1), self.n * plan.nfe)
        return SearchResult(best[0], best[1], spent)


@final
class Particles:
    """Draw `n` next states at every stochastic step and go on from the one whose x0 is best.

    Greedy search: with a constant reward, and with `n = 1`, it is the plain walk, bit for bit.
    Steps without noise have one outcome and cost one evaluation.

    Args:
        reward: `reward(x0, rows) -> (k,)`, higher is better, NaN the lowest; `rows` says which
            samples of the batch these are. Ties go to the earlier proposal.
        n: proposals per stochastic step.
        n_start: initial states to choose from.

    Source: the greedy search over stochastic steps of Li et al. 2024, arXiv:2408.08252 (SVDD).
    """

    def __init__(self, reward: RewardFn, n: int, *, n_start: int = 1) -> None:
        self.reward = reward
        self.n = at_least_one("n", n)
        self.n_start = at_least_one("n_start", n_start)

    def run(
        self,
        plan: "Plan",
        denoise: Callable[..., Tensor],
        *,
        start: StartFn,
        rng: "Rng",
        cond: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """Walk and search.

        Args:
            plan: of any solver that evaluates once per step, such as `Ancestral` or `Sde`; every
                step is taken on its own, so solvers with a memory walk at order 1.
            denoise: `denoise(x, t, **cond) -> x0`.
            start: draws the first state, e.g. `lambda rng: sigma * rng.normal(shape, step=-1)`.
            rng: one stream per sample.
            cond: keyword arguments of every denoiser call; tensors with one entry per sample are
                taken apart with the batch.

        Raises:
            ValueError: the plan has stages or jumps, or the reward is not one real number per
                sample.
        """
        walk = Walk(plan, denoise, reward=self.reward, rng=rng, cond=cond or {})
        walk.begin(start, self.n_start)
        for i, step in enumerate(plan.steps):
            walk.advance(i, [self.n if step.z else 1] * len(rng.ids), rolls=False)
        return walk.result()


class Walk:
    """The state of a search: one current sample per row, its x0 and reward, and the account."""

    def __init__(
        self,
        plan: "Plan",
        denoise: Callable[..., Tensor],
        *,
        reward: RewardFn,
        rng: "Rng",
        cond: Mapping[str, Any],
    ) -> None:
        if any(step.stage or not step.evaluate for step in plan.steps):
            raise ValueError(
                "this plan has Runge-Kutta stages or jumps back; search with a solver that goes "
                "down and evaluates once per step, such as Ancestral or Sde"
            )
        self.plan, self.denoise, self.reward = plan, denoise, reward
        self.rng, self.cond = rng, cond
        self.now: tuple[Tensor, ...] = ()
        self.rows = range(len(rng.ids))
        self.spent = torch.zeros(len(rng.ids), len(plan.steps) + 1, dtype=torch.int64)

    @torch.no_grad()
    def begin(self, start: StartFn, n: int) -> None:
        """Choose the best of `n` initial states."""
        for k in range(n):
            x = start(_proposal(self.rng, k))
            found = self._judged(x, self.plan.steps[0].t, self.rows)
            self.now = found if k == 0 else _better(found, self.now)
        self.spent[:, 0] = n

    @torch.no_grad()
    def advance(self, i: int, quotas: Sequence[int], *, rolls: bool) -> list[int]:
        """Take step `i` with up to `quotas` proposals per sample; return what is left of them.

        With `rolls` a sample moves on as soon as a proposal beats its present reward.
        """
        step, (x, x0, reward) = self.plan.steps[i], self.now
        left, active = list(quotas), list(self.rows)
        if step.z == 0.0 and i == len(self.plan.steps) - 1:  # nothing to choose or to judge
            self.now = (self._step(i, x, x0, self.rng), x0, reward)
            return left
        best = [torch.empty_like(part) for part in self.now]
        k = 0
        while active:
            rows = torch.tensor(active, device=x.device)
            own = replace(self.rng, ids=tuple(self.rng.ids[j] for j in active))
            y = self._step(i, x[rows], x0[rows], _proposal(own, k))
            found = self._judged(y, step.s, active)
            if k > 0:
                found = _better(found, tuple(part[rows] for part in best))
            for part, new in zip(best, found, strict=True):
                part[rows] = new
            content = (found[-1] > reward[rows]).tolist() if rolls else [False] * len(active)
            for j in active:
                left[j] -= 1
                self.spent[j, i + 1] += 1
            pairs = zip(active, content, strict=True)
            active = [j for j, done in pairs if not done and left[j] > 0]
            k += 1
        self.now = tuple(best)
        return left

    def result(self) -> SearchResult:
        """Return what was found."""
        x, _, reward = self.now
        return SearchResult(x, reward, self.spent)

    def _step(self, i: int, x: Tensor, x0: Tensor, rng: "Rng") -> Tensor:
        return self.plan.run(lambda x, t: x0, x, rng=rng, start=i, stop=i + 1)

    def _judged(self, x: Tensor, t: float, rows: Sequence[int]) -> tuple[Tensor, ...]:
        cond = self.cond
        if len(rows) < len(self.rows):
            cond = {key: _take(value, rows, len(self.rows)) for key, value in cond.items()}
        x0 = self.denoise(x, t, **cond)
        return x, x0, _judge(self.reward, x0, rows)


def _proposal(rng: "Rng", k: int) -> "Rng":
    """Return the streams of proposal k; the first has those of the plain walk."""
    return rng if k == 0 else rng.spawn(k)


def _judge(reward: RewardFn, x0: Tensor, rows: Sequence[int]) -> Float[Tensor, " k"]:
    value = reward(x0, torch.tensor(list(rows), device=x0.device))
    if value.shape != x0.shape[:1] or not value.is_floating_point():
        raise ValueError(
            f"the reward has shape {tuple(value.shape)} and dtype {value.dtype} for {x0.shape[0]} "
            "samples; return one real number per sample"
        )
    return value.nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def at_least_one(name: str, n: int) -> int:
    """Return n if it is positive, else raise a `ValueError`."""
    if n < 1:
        raise ValueError(f"{name}={n} came; give at least 1")
    return n


def _better(new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return, sample by sample, the tuple whose last entry, the reward, is higher."""
    wins = new[-1] > old[-1]
    return tuple(
        torch.where(wins.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
        for a, b in zip(new, old, strict=True)
    )


def _take(value: Any, rows: Sequence[int], n: int) -> Any:
    """Return the entries of the given samples of a condition that has one per sample."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n:
        return value[torch.tensor(list(rows), device=value.device)]
    return value
