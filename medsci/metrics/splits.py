"""A distance between two sets beside the distance of real from real, at equal numbers.

Every distance comes three times: between all images; between equally many of both sets (`matched`);
and between two sets of that size that are both real (`baseline`). The last two carry the same bias
and compare with each other; the first compares with nothing but itself.
"""

__all__ = ["Indices", "SetDistance", "Split", "Spread", "random_splits"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Int64

from medsci.errors import InvalidInputError

Indices: TypeAlias = Int64[np.ndarray, " _"]  # of any length each


@final
@dataclass(frozen=True)
class Split:
    """Positions of equally many images: real ones, other real ones, generated ones."""

    real: Indices
    others: Indices
    generated: Indices


def random_splits(n_real: int, n_generated: int, *, n_splits: int, seed: int) -> tuple[Split, ...]:
    """Return random halves of the real images, each with as many generated ones.

    Raises:
        InvalidInputError: fewer than four real or two generated images, or no split.
    """
    if n_real < 4 or n_generated < 2 or n_splits < 1:
        raise InvalidInputError(
            f"{n_real} real and {n_generated} generated images and {n_splits} splits came; give at "
            "least 4, 2 and 1"
        )
    n = min(n_real // 2, n_generated)
    generator = np.random.default_rng([seed, 0x5B117])
    splits = []
    for _ in range(n_splits):
        order, chosen = generator.permutation(n_real), generator.permutation(n_generated)
        splits.append(Split(order[:n], order[n : 2 * n], chosen[:n]))
    return tuple(splits)


@final
@dataclass(frozen=True)
class Spread:
    """Mean and range of a number over random splits."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Return mean and range of some numbers."""
        return Spread(float(np.mean(values)), float(min(values)), float(max(values)))


@final
@dataclass(frozen=True)
class SetDistance:
    """One distance of generated from real images with its yardstick.

    Attributes:
        key: its name in a file.
        title: its name for people.
        unit: of the numbers; empty for a pure number.
        value: all images against all; its size depends on their numbers.
        matched: `n_matched` generated against `n_matched` real images, over the splits.
        baseline: `n_matched` real against as many other real images, over the same splits.
        n_real: images in `value`.
        n_generated: images in `value`.
        n_matched: images on either side of `matched` and `baseline`.
    """

    key: str
    title: str
    unit: str
    value: float
    matched: Spread
    baseline: Spread
    n_real: int
    n_generated: int
    n_matched: int

    @staticmethod
    def measured(
        distance: Callable[[Indices, Indices], float],
        *,
        names: tuple[str, str, str],
        sizes: tuple[int, int],
        splits: Sequence[Split],
    ) -> "SetDistance":
        """Measure.

        Args:
            distance: of two lists of positions in the pool: real images first, then generated ones.
            names: key, title, unit.
            sizes: number of real and of generated images.
            splits: see `random_splits`.
        """
        n_real, n_generated = sizes
        real, generated = np.arange(n_real), n_real + np.arange(n_generated)
        return SetDistance(
            *names,
            value=distance(real, generated),
            matched=Spread.of([distance(s.real, n_real + s.generated) for s in splits]),
            baseline=Spread.of([distance(s.real, s.others) for s in splits]),
            n_real=n_real,
            n_generated=n_generated,
            n_matched=len(splits[0].real),
        )

    @property
    def stands_out(self) -> bool:
        """Whether generated images are on average further than any split of real ones was."""
        return self.matched.mean > self.baseline.high
