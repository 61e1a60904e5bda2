"""The measures of an evaluation, from the portraits of both sets."""

__all__ = [
    "Pool",
    "measure_diversity",
    "measure_energy",
    "measure_frechet",
    "measure_histogram",
    "measure_intensities",
    "measure_memorisation",
    "measure_regions",
    "measure_sharpness",
]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32, Float64

from medsci.brain.portrait import Portrait
from medsci.errors import InvalidInputError
from medsci.metrics.evaluation import Diversity, Intensities, Memorisation, Neighbour, Region
from medsci.metrics.frechet import FeatureStatistics
from medsci.metrics.ms_ssim import mean_pair_similarity, n_scales_of
from medsci.metrics.permutation import holm, permutation_p
from medsci.metrics.sets import (
    counts_wasserstein,
    energy_of_distances,
    neighbour_distances,
    wasserstein,
)
from medsci.metrics.splits import Indices, SetDistance, Split, Spread

_COPY = 0.02  # of the median nearest distance of unseen volumes


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """The portraits of all volumes, real ones first, and what is common to every measure."""

    real: list[Portrait]
    generated: list[Portrait]
    splits: tuple[Split, ...]
    seed: int
    n_pairs: int
    n_deals: int

    @property
    def all(self) -> list[Portrait]:
        """All of them; positions of a measure count through this list."""
        return self.real + self.generated

    def distance(
        self, measure: Callable[[Indices, Indices], float], *, key: str, title: str
    ) -> SetDistance:
        """Measure all against all, and over the splits."""
        return SetDistance.measured(
            measure,
            names=(key, title, ""),
            sizes=(len(self.real), len(self.generated)),
            splits=self.splits,
        )


def measure_frechet(pool: Pool) -> SetDistance:
    """Return the Fréchet distance of features, each over its deviation between real volumes."""
    rows = np.stack([p.features for p in pool.all])
    sd = rows[: len(pool.real)].std(0)
    rows = rows / np.where(sd > 1e-12, sd, 1.0)

    def measure(a: Indices, b: Indices) -> float:
        return FeatureStatistics.of(rows[a]).distance(FeatureStatistics.of(rows[b]))

    return pool.distance(measure, key="frechet", title="Fréchet distance of features")


def measure_energy(pool: Pool, apart: Float64[np.ndarray, "n n"]) -> SetDistance:
    """Return the energy distance, given how far apart all volumes are."""

    def measure(a: Indices, b: Indices) -> float:
        within_a, within_b = apart[np.ix_(a, a)], apart[np.ix_(b, b)]
        return energy_of_distances(within_a, within_b, across=apart[np.ix_(a, b)])

    return pool.distance(measure, key="energy", title="Energy distance of voxels")


def measure_histogram(pool: Pool) -> SetDistance:
    """Return W1 of the intensities of all voxels; 0.01 is one per cent of the grey scale."""
    counts = np.stack([p.counts for p in pool.all])

    def measure(a: Indices, b: Indices) -> float:
        return counts_wasserstein(counts[a].sum(0), counts[b].sum(0), width=1.0 / counts.shape[1])

    return pool.distance(measure, key="histogram", title="W1 of intensities")


def measure_sharpness(pool: Pool) -> SetDistance:
    """Return W1 of sharpness over its deviation between real volumes."""
    values = np.array([p.sharpness for p in pool.all])
    return _over_sd(pool, values, key="sharpness", title="Sharpness, W1 / sd")


def measure_diversity(pool: Pool, smalls: Float32[np.ndarray, "n i j k"]) -> Diversity:
    """Return the mean similarity of random pairs, of generated, real and half the real volumes."""

    def alike(chosen: Indices) -> float:
        n_pairs, seed = pool.n_pairs, pool.seed
        return mean_pair_similarity(smalls[chosen], data_range=1.0, n_pairs=n_pairs, seed=seed)

    n_real = len(pool.real)
    return Diversity(
        real=alike(np.arange(n_real)),
        generated=alike(n_real + np.arange(len(pool.generated))),
        halves=Spread.of([alike(s.real) for s in pool.splits]),
        matched=Spread.of([alike(n_real + s.generated) for s in pool.splits]),
        n_pairs=pool.n_pairs,
        n_matched=len(pool.splits[0].real),
        n_scales=n_scales_of(smalls.shape[1:]),
    )


def measure_memorisation(
    pool: Pool, apart: Float64[np.ndarray, "n n"], to_train: Float64[np.ndarray, "n m"] | None
) -> Memorisation:
    """Compare nearest distances; where no training set came, real volumes are it.

    In the halves, the one half is what was seen and the other what was not.
    """
    n_real, n = len(pool.real), len(apart)
    generated = np.arange(n_real, n)

    def ratio(seen: Indices, judged: Indices) -> float:
        if to_train is not None:
            near, usual = to_train[judged].min(1), to_train[seen].min(1)
        else:
            near = apart[np.ix_(judged, seen)].min(1)
            usual = neighbour_distances(apart[np.ix_(seen, seen)], to_itself=True)
        if not usual.mean() > 0.0:
            raise InvalidInputError(
                "every real volume is also a training volume, or there twice, so there is no usual "
                "distance to compare with; give real volumes that the model has not seen"
            )
        return float(near.mean() / usual.mean())

    if to_train is None:
        table = apart[n_real:, :n_real]
        usual = neighbour_distances(apart[:n_real, :n_real], to_itself=True)
    else:
        table, usual = to_train[generated], to_train[:n_real].min(1)
    scale = float(np.median(usual)) or float(usual.mean())
    nearest = table.min(1)
    order = np.argsort(nearest, kind="stable")
    return Memorisation(
        ratio=pool.distance(ratio, key="neighbours", title="Nearest-neighbour ratio"),
        against="real" if to_train is None else "train",
        closest=tuple(
            Neighbour(int(g), int(table[g].argmin()), float(nearest[g] / scale)) for g in order
        ),
        n_closer=int((nearest < usual.min()).sum()),
        n_copies=int((nearest < _COPY * scale).sum()),
    )


def measure_regions(pool: Pool) -> tuple[Region, ...]:
    """Return every region of any volume, with its tests; a region that is missing has 0 ml."""
    from scipy.stats import ks_2samp

    names = list(dict.fromkeys(name for p in pool.all for name in p.volumes_ml))
    table = np.array([[p.volumes_ml.get(name, 0.0) for p in pool.all] for name in names])
    n = len(pool.real)
    ks = [ks_2samp(row[:n], row[n:]) for row in table]
    ks_p = [float(found.pvalue) for found in ks]
    p = [permutation_p(ml[:n], ml[n:], n_deals=pool.n_deals, seed=pool.seed) for ml in table]
    ks_p_holm, p_holm = holm(ks_p), holm(p)
    return tuple(
        Region(
            name=name,
            real_ml=tuple(table[i, :n].tolist()),
            generated_ml=tuple(table[i, n:].tolist()),
            distance=_over_sd(pool, table[i], key="volume", title=f"Volume of {name}, W1 / sd"),
            ks=float(ks[i].statistic),
            ks_p=ks_p[i],
            ks_p_holm=ks_p_holm[i],
            permutation_p=p[i],
            permutation_p_holm=p_holm[i],
        )
        for i, name in enumerate(names)
    )


def _over_sd(pool: Pool, values: Float64[np.ndarray, " n"], *, key: str, title: str) -> SetDistance:
    """Return W1 of one number per volume over the deviation of all real ones."""
    sd = float(values[: len(pool.real)].std(ddof=1))
    varies = sd > 1e-12 * float(np.abs(values).max())

    def measure(a: Indices, b: Indices) -> float:
        gap = wasserstein(values[a], values[b])
        return gap / sd if varies else (0.0 if gap == 0.0 else float("inf"))

    return pool.distance(measure, key=key, title=title)


def measure_intensities(pool: Pool) -> Intensities:
    """Return the summed histograms of both sets, and the medians of their windows."""
    counts, windows = [], []
    for group in (pool.real, pool.generated):
        counts.append(tuple(np.sum([p.counts for p in group], axis=0).tolist()))
        low, high = np.median([p.window for p in group], axis=0).tolist()
        windows.append((low, high))
    return Intensities(counts[0], counts[1], windows[0], windows[1])
