"""Evolution of grids: candidates of noise levels and a solver, and how they breed.

Every generation keeps the best few and fills up with mutations (each level is redrawn or nudged
with some probability, now and then the solver too), crossovers (each level from one of two parents,
then sorted) and newcomers.

Source: Li et al. 2023, arXiv:2309.10438, whose candidates are subsets of a table of steps; levels
are continuous here, and parents stay in the population.
"""

__all__ = ["Breeder", "Evolution", "Gene"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, final

import numpy as np

from medsci.core.rng import mix64


@final
@dataclass(frozen=True)
class Evolution:
    """How the search is carried out.

    Args:
        population: candidates per generation.
        generations: number of generations after the first.
        parents: candidates that survive and breed.
        mutations: children by mutation of one parent.
        crossovers: children of two parents; newcomers fill up.
        rate: probability with which a level, or the solver, mutates.
        part: share of the search's noise that the first half of the generations sees.
        held_out: share of all noise that is kept for the last score.
        fine: evaluations of the fine solve, the default loss measures the distance to it.
    """

    _: KW_ONLY
    population: int = 50
    generations: int = 10
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    rate: float = 0.1
    part: float = 0.5
    held_out: float = 0.5
    fine: int = 200

    def __post_init__(self) -> None:
        if not 2 <= self.parents <= self.population or self.generations < 1:
            raise ValueError(
                f"{self.parents} parents of {self.population} for {self.generations} generations "
                "came; give 2 <= parents <= population and at least one generation"
            )
        if not all(0.0 < share < 1.0 for share in (self.part, self.held_out, self.rate)):
            raise ValueError(
                f"part={self.part}, held_out={self.held_out}, rate={self.rate} came; give shares "
                "between 0 and 1"
            )


class Gene(NamedTuple):
    """A candidate: the index of its solver, and its inner levels as falling `ln sigma_hat`."""

    solver: int
    levels: tuple[float, ...]


@final
class Breeder:
    """Candidates: the first ones, and the children of parents. Deterministic given the seed."""

    def __init__(
        self, how: Evolution, n: int, *, solvers: int, ends: tuple[float, float], seed: int
    ) -> None:
        self.how, self.n, self.solvers, self.ends = how, n, solvers, ends
        self.draw = np.random.default_rng(mix64(seed, n, 0x6E7E))

    def founders(self) -> list[Gene]:
        """Return uniform log-SNR and Karras levels for every solver, then newcomers."""
        top, bottom = self.ends
        share = np.linspace(0.0, 1.0, self.n + 1)[1:-1]
        roots = (1.0 - share) * math.exp(top / 7.0) + share * math.exp(bottom / 7.0)
        known = (top + share * (bottom - top), 7.0 * np.log(roots))
        genes = [self._gene(i, levels) for i in range(self.solvers) for levels in known]
        while len(genes) < self.how.population:
            genes.append(self._newcomer())
        return genes

    def next(self, parents: list[Gene]) -> list[Gene]:
        """Return the parents and their children."""
        genes = list(parents)
        genes += [self._mutant(self._pick(parents)) for _ in range(self.how.mutations)]
        genes += [
            self._child(self._pick(parents), self._pick(parents))
            for _ in range(self.how.crossovers)
        ]
        while len(genes) < self.how.population:
            genes.append(self._newcomer())
        return genes

    def _pick(self, parents: list[Gene]) -> Gene:
        return parents[int(self.draw.integers(len(parents)))]

    def _gene(self, solver: int, levels: np.ndarray) -> Gene:
        """Sort the levels and keep them apart and inside the ends."""
        top, bottom = self.ends
        room = 1e-3 * (top - bottom) / self.n
        falling = np.sort(levels)[::-1]
        for i in range(len(falling)):
            ceiling = (falling[i - 1] if i else top) - room
            falling[i] = min(falling[i], ceiling)
        for i in reversed(range(len(falling))):
            floor = (falling[i + 1] if i + 1 < len(falling) else bottom) + room
            falling[i] = max(falling[i], floor)
        return Gene(solver, tuple(float(level) for level in falling))

    def _newcomer(self) -> Gene:
        top, bottom = self.ends
        return self._gene(
            int(self.draw.integers(self.solvers)), self.draw.uniform(bottom, top, self.n - 1)
        )

    def _mutant(self, parent: Gene) -> Gene:
        """Redraw some levels and nudge as many; at least one changes."""
        top, bottom = self.ends
        levels = np.array(parent.levels)
        if len(levels):
            hit = self.draw.uniform(size=len(levels)) < self.how.rate
            hit[self.draw.integers(len(levels))] = True
            reach = (top - bottom) / self.n * 10.0 ** -self.draw.uniform(0.0, 1.5)
            nudged = levels + reach * self.draw.normal(size=len(levels))
            fresh = self.draw.uniform(bottom, top, len(levels))
            far = self.draw.uniform(size=len(levels)) < 0.5
            levels = np.where(hit, np.where(far, fresh, nudged), levels)
        change = self.draw.uniform() < self.how.rate
        solver = int(self.draw.integers(self.solvers)) if change else parent.solver
        return self._gene(solver, levels)

    def _child(self, one: Gene, other: Gene) -> Gene:
        choose = self.draw.uniform(size=len(one.levels)) < 0.5
        levels = np.where(choose, one.levels, other.levels)
        solver = one.solver if self.draw.uniform() < 0.5 else other.solver
        return self._gene(solver, levels)
