"""What is known about a set of generated images beside a set of real ones: plain values."""

__all__ = ["Diversity", "Evaluation", "Intensities", "Memorisation", "Neighbour", "Region"]

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, final

from medsci.metrics.splits import SetDistance, Spread


@final
@dataclass(frozen=True)
class Diversity:
    """Mean similarity of random pairs within a set; above that of real images: too alike.

    Attributes:
        real: over pairs of real images.
        generated: over pairs of generated images.
        halves: over pairs within random halves of the real images.
        matched: over pairs within as many generated images.
        n_pairs: at most so many pairs of a set, half or not.
        n_matched: images in a half.
        n_scales: of the similarity.
    """

    real: float
    generated: float
    halves: Spread
    matched: Spread
    n_pairs: int
    n_matched: int
    n_scales: int

    @property
    def stands_out(self) -> bool:
        """Whether generated images are on average more alike than any half of real ones was."""
        return self.matched.mean > self.halves.high


@final
@dataclass(frozen=True)
class Neighbour:
    """A generated image and the training image nearest to it.

    Attributes:
        generated: position in its set.
        train: position in the training set.
        ratio: their distance over the median one of unseen real images; 0 is a copy.
    """

    generated: int
    train: int
    ratio: float


@final
@dataclass(frozen=True)
class Memorisation:
    """How near generated images are to training images.

    Attributes:
        ratio: mean nearest distance of generated over that of unseen real images, with the same
            of real images in their place.
        against: `train`, a training set of its own, or `real`: the real images take its part.
        closest: generated images, nearest to a training image first.
        n_closer: generated images nearer to a training image than every unseen real one.
        n_copies: generated images at less than a fiftieth of the median distance of unseen ones:
            a training image but for rounding and noise.
    """

    ratio: SetDistance
    against: Literal["train", "real"]
    closest: tuple[Neighbour, ...]
    n_closer: int
    n_copies: int

    @property
    def stands_out(self) -> bool:
        """Whether generated images are on average nearer than any split of real ones was."""
        return self.ratio.matched.mean < self.ratio.baseline.low


@final
@dataclass(frozen=True)
class Region:
    """Volumes of one region in ml, one number per image, and whether they have one law.

    Attributes:
        name: of the region.
        real_ml: of the real images.
        generated_ml: of the generated ones.
        distance: W1 over the standard deviation of the real volumes.
        ks: largest gap between the two distribution functions.
        ks_p: its exact p-value.
        ks_p_holm: corrected for the number of regions.
        permutation_p: of W1.
        permutation_p_holm: corrected for the number of regions.
    """

    name: str
    real_ml: tuple[float, ...]
    generated_ml: tuple[float, ...]
    distance: SetDistance
    ks: float
    ks_p: float
    ks_p_holm: float
    permutation_p: float
    permutation_p_holm: float


@final
@dataclass(frozen=True)
class Intensities:
    """Histograms over [0, 1] after scaling, and medians of what was scaled to 0 and to 1."""

    real_counts: tuple[int, ...]
    generated_counts: tuple[int, ...]
    real_window: tuple[float, float]
    generated_window: tuple[float, float]


@final
@dataclass(frozen=True)
class Evaluation:
    """Everything measured between a set of real and a set of generated volumes.

    Attributes:
        real: names of the real volumes.
        generated: names of the generated ones.
        train: names of the training volumes, empty if none were given.
        distances: Frechet distance, sharpness, energy and histogram distance.
        sharpness: mean of the real and of the generated volumes.
        diversity: similarity of pairs.
        memorisation: nearest neighbours.
        regions: volumes by region.
        region_kind: where regions come from, `labels` or `head`.
        intensities: histograms.
        shape: voxels of the common frame.
        voxel_mm: their size.
        n_resampled: volumes that did not lie on it.
        small_shape: voxels of the copies that pairs and neighbours are measured on.
        features: the space of the Frechet distance, in words.
        n_splits: random splits.
        seed: of all randomness.
        warnings: what a reader must know first.
    """

    real: tuple[str, ...]
    generated: tuple[str, ...]
    train: tuple[str, ...]
    distances: tuple[SetDistance, ...]
    sharpness: tuple[float, float]
    diversity: Diversity
    memorisation: Memorisation
    regions: tuple[Region, ...]
    region_kind: Literal["labels", "head"]
    intensities: Intensities
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    n_resampled: int
    small_shape: tuple[int, int, int]
    features: str
    n_splits: int
    seed: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give all of it as JSON types; what is not finite becomes None."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
