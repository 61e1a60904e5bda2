"""Generated volumes beside real ones: are they alike, as diverse, and no copies?

    Frechet         in a space of fixed random features: texture, sharpness, contrast
    sharpness       Laplacian over gradient, one number per volume: blur and noise
    energy          voxel by voxel: anything, mostly anatomy and position
    histogram       W1 of intensities
    MS-SSIM         mean over random pairs of one set: diversity
    neighbours      distance to the nearest training volume, over that of unseen real ones
    regions         volumes in ml: Kolmogorov-Smirnov, permutation test, W1 over sd

Every volume is read once or twice, put on a common grid, scaled from its 0.1 and 99.9 percentiles
to [0, 1], and forgotten but for a small copy and a few numbers. Whatever is measured between
generated and real volumes is also measured between random halves of the real ones.
"""

__all__ = ["EvaluateSettings", "evaluate"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Float64

from medsci.brain.measures import (
    Pool,
    measure_diversity,
    measure_energy,
    measure_frechet,
    measure_histogram,
    measure_intensities,
    measure_memorisation,
    measure_regions,
    measure_sharpness,
)
from medsci.brain.portrait import Describer, Portrait, features_words, small_shape
from medsci.brain.samples import Sample, common_frame
from medsci.errors import InvalidInputError, UsageError
from medsci.metrics.evaluation import Evaluation, Memorisation
from medsci.metrics.sets import pairwise_distances
from medsci.metrics.splits import random_splits

Progress = Callable[[int, int, str], None]

_FEWEST = 4
_FEW = 10
_EQUAL = 1e-6  # root mean square difference of intensities in [0, 1]


@final
@dataclass(frozen=True)
class EvaluateSettings:
    """How to compare two sets.

    Attributes:
        labels: `auto` measures the regions of label maps where both sets have them; `none` does not
            look at them. Without, the one region is the head, found in the intensities.
        n_splits: random halves of the real volumes that every baseline is taken over.
        seed: of halves, pairs, permutations and filters.
        n_pairs: pairs of volumes per mean similarity.
        n_deals: permutations per region.
    """

    labels: Literal["auto", "none"] = "auto"
    n_splits: int = 5
    seed: int = 0
    n_pairs: int = 60
    n_deals: int = 999

    def __post_init__(self) -> None:
        if min(self.n_splits, self.n_pairs, self.n_deals) < 1:
            raise UsageError(
                f"{self.n_splits} splits, {self.n_pairs} pairs and {self.n_deals} permutations "
                "came; give at least one of each"
            )


def evaluate(
    real: Sequence[Sample],
    generated: Sequence[Sample],
    *,
    train: Sequence[Sample] | None = None,
    settings: EvaluateSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare a set of generated volumes with a set of real ones.

    Args:
        real: volumes the generated ones should look like, best ones that the model has not seen.
        generated: volumes to judge.
        train: what the model has seen. Left out, the real volumes are taken for it.
        settings: see `EvaluateSettings`.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: fewer than four volumes of a set, a volume that is not one finite 3D
            image with contrast, grids with nothing in common, or label maps missing for some.
    """
    settings = settings or EvaluateSettings()
    trained = list(train or ())
    _require_enough(real, generated, train)
    with_labels, remarks = _use_labels(real, generated, wanted=settings.labels)
    frame, n_off = common_frame([*real, *generated, *trained])
    n, m, total = len(real), len(generated), len(real) + len(generated) + len(trained)
    describer = Describer(frame, with_labels, settings.seed)
    plain = Describer(frame, with_labels=False, seed=settings.seed)
    portraits: list[Portrait] = []
    for sample in [*real, *generated, *trained]:
        chosen = describer if len(portraits) < n + m else plain
        portraits.append(chosen.portrait(sample))
        if progress is not None:
            progress(len(portraits), total, "volumes measured")
    pool = Pool(
        real=portraits[:n],
        generated=portraits[n : n + m],
        splits=random_splits(n, m, n_splits=settings.n_splits, seed=settings.seed),
        seed=settings.seed,
        n_pairs=settings.n_pairs,
        n_deals=settings.n_deals,
    )
    smalls = np.stack([p.small for p in portraits])
    apart = pairwise_distances(smalls[: n + m], smalls) / np.sqrt(smalls[0].size)
    apart, to_train = apart[:, : n + m], apart[:, n + m :] if trained else None
    memorisation = measure_memorisation(pool, apart, to_train)
    return Evaluation(
        real=tuple(s.name for s in real),
        generated=tuple(s.name for s in generated),
        train=tuple(s.name for s in trained),
        distances=(
            measure_frechet(pool),
            measure_sharpness(pool),
            measure_energy(pool, apart),
            measure_histogram(pool),
        ),
        sharpness=_sharpness(pool),
        diversity=measure_diversity(pool, smalls[: n + m]),
        memorisation=memorisation,
        regions=measure_regions(pool),
        region_kind="labels" if with_labels else "head",
        intensities=measure_intensities(pool),
        shape=frame.shape,
        voxel_mm=frame.voxel_mm,
        n_resampled=n_off,
        small_shape=small_shape(frame.shape),
        features=features_words(frame.shape),
        n_splits=settings.n_splits,
        seed=settings.seed,
        warnings=(
            *_few(n, m),
            *remarks,
            *_moved(n_off, total),
            *_copied(memorisation),
            *_equal(pool, apart, to_train),
        ),
    )


def _require_enough(
    real: Sequence[Sample], generated: Sequence[Sample], train: Sequence[Sample] | None
) -> None:
    for what, group in (("real", real), ("generated", generated)):
        if len(group) < _FEWEST:
            raise InvalidInputError(
                f"{len(group)} {what} {'volume' if len(group) == 1 else 'volumes'} came; sets are "
                f"compared, not single volumes: give at least {_FEWEST}, better 50"
            )
    if train is not None and not train:
        raise InvalidInputError("the training set is empty; leave it out, or give its volumes")


def _use_labels(
    real: Sequence[Sample], generated: Sequence[Sample], *, wanted: str
) -> tuple[bool, tuple[str, ...]]:
    """Decide whether label maps are measured, and say why not.

    Raises:
        InvalidInputError: some volumes of a set have a label map and others have none.
    """
    if wanted == "none":
        return False, ()
    there = {}
    for what, group in (("real", real), ("generated", generated)):
        missing = [sample.name for sample in group if sample.load_labels is None]
        there[what] = not missing
        if missing and len(missing) < len(group):
            raise InvalidInputError(
                f"{len(missing)} of {len(group)} {what} volumes have no label map, the first is "
                f"{missing[0]}; add the missing ones, or pass --labels none"
            )
    if all(there.values()):
        return True, ()
    without = " and ".join(f"the {what}" for what, has in there.items() if not has)
    return False, (
        f"{without[0].upper()}{without[1:]} volumes have no label maps: of regions, only the head "
        "is measured, as found in the intensities. Nothing is said about tissues or structures.",
    )


def _sharpness(pool: Pool) -> tuple[float, float]:
    real, generated = (
        float(np.mean([p.sharpness for p in group])) for group in (pool.real, pool.generated)
    )
    return real, generated


def _few(n_real: int, n_generated: int) -> tuple[str, ...]:
    if min(n_real, n_generated) >= _FEW:
        return ()
    return (
        f"There are only {n_real} real and {n_generated} generated volumes. Numbers of so few "
        "volumes say little: every distance is mostly its own noise, and a test rejects only gross "
        f"differences. Give at least {_FEW} of each, better 50.",
    )


def _moved(n_off: int, total: int) -> tuple[str, ...]:
    if n_off == 0:
        return ()
    return (
        f"{n_off} of {total} volumes do not lie on the common grid; they were cropped, and where "
        "voxels differ resampled linearly, box centre on box centre. All that is measured is of "
        "what that left: resampling takes sharpness.",
    )


def _copied(found: Memorisation) -> tuple[str, ...]:
    if found.n_copies == 0:
        return ()
    what = "a training volume" if found.against == "train" else "a real volume"
    return (
        f"{found.n_copies} of {found.ratio.n_generated} generated volumes are {what} but for "
        "rounding and noise; see the section on memorisation.",
    )


def _equal(
    pool: Pool,
    apart: Float64[np.ndarray, "n n"],
    to_train: Float64[np.ndarray, "n m"] | None,
) -> tuple[str, ...]:
    """Name volumes that are there twice."""
    n_real, found = len(pool.real), []
    for what, part in (("real", slice(None, n_real)), ("generated", slice(n_real, None))):
        block = apart[part, part]
        twice = int(((block < _EQUAL).sum(1) > 1).sum())
        if twice:
            found.append(f"{twice} {what} volumes equal another one of their set.")
    if to_train is not None:
        seen = int((to_train[:n_real] < _EQUAL).any(1).sum())
        if seen:
            found.append(
                f"{seen} of {n_real} real volumes are in the training set: they count as unseen "
                "here, and the nearest-neighbour ratio comes out too high."
            )
    return tuple(found)
