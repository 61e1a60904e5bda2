"""The sections of a report on generated volumes, one function each."""

__all__ = [
    "distance_section",
    "distribution_section",
    "diversity_section",
    "how_section",
    "intensity_section",
    "memory_section",
    "region_section",
    "spread_words",
]

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medsci.metrics.evaluation import Evaluation, Region
from medsci.metrics.splits import SetDistance, Spread
from medsci.report import brain_text as words
from medsci.report.curves import curve
from medsci.report.document import Cell, Column, Figure, Section, Table, format_number

_MOST_CURVES = 4
_MOST_NEIGHBOURS = 10


def spread_words(spread: Spread, decimals: int) -> str:
    """Spell mean and range."""
    mean, low, high = (
        format_number(v, decimals=decimals) for v in (spread.mean, spread.low, spread.high)
    )
    return f"{mean} ({low} to {high})"


_COMPARED = (
    Column(title="Measure"),
    Column(title="Generated–real", is_text=True),
    Column(title="Real–real", is_text=True),
    Column(title="n each side"),
    Column(title="Stands out", is_text=True),
    Column(title="All volumes", decimals=4),
    Column(title="n real, generated", is_text=True),
)


def _row(distance: SetDistance, *, stands_out: bool) -> list[Cell]:
    decimals = 1 if distance.key == "frechet" else 4 if distance.key == "histogram" else 3
    return [
        distance.title,
        spread_words(distance.matched, decimals),
        spread_words(distance.baseline, decimals),
        distance.n_matched,
        "yes" if stands_out else "no",
        distance.value,
        f"{distance.n_real}, {distance.n_generated}",
    ]


def distance_section(evaluation: Evaluation) -> Section:
    """Show Fréchet, energy and histogram distance beside those of real from real."""
    table = Table(
        title=f"Distances, over {evaluation.n_splits} random splits",
        columns=_COMPARED,
        rows=[_row(found, stands_out=found.stands_out) for found in evaluation.distances],
        caption=words.BASELINE.format(
            real=format_number(evaluation.sharpness[0], decimals=3),
            generated=format_number(evaluation.sharpness[1], decimals=3),
        ),
    )
    return Section(
        title="Distances, beside real against real",
        paragraphs=[f"Fréchet distance in this space: {evaluation.features}."],
        tables=[table],
    )


def diversity_section(evaluation: Evaluation) -> Section:
    """Show how alike the volumes of one set are."""
    found = evaluation.diversity
    rows = [
        ("real", found.real, spread_words(found.halves, 4), len(evaluation.real), found.n_matched),
        (
            "generated",
            found.generated,
            spread_words(found.matched, 4),
            len(evaluation.generated),
            found.n_matched,
        ),
    ]
    table = Table(
        title="Mean MS-SSIM of pairs",
        columns=[
            Column(title="Set"),
            Column(title="All", decimals=4),
            Column(title="Splits", is_text=True),
            Column(title="n"),
            Column(title="n in a split"),
        ],
        rows=rows,
        caption="Generated volumes are on average "
        + ("more alike than" if found.stands_out else "not more alike than")
        + " any half of the real ones.",
    )
    text = words.DIVERSITY.format(pairs=found.n_pairs, scales=found.n_scales)
    return Section(title="Diversity", paragraphs=[text], tables=[table])


def memory_section(evaluation: Evaluation, picture: Figure | None) -> Section:
    """Show how near generated volumes are to training volumes, and the nearest ones."""
    found = evaluation.memorisation
    from_train = found.against == "train"
    pool = evaluation.train if from_train else evaluation.real
    expected = len(evaluation.generated) / (len(evaluation.real) + 1)
    closest = Table(
        title="Nearest to a training volume",
        columns=[
            Column(title="Generated"),
            Column(title="Nearest", is_text=True),
            Column(title="Distance / median unseen", decimals=3, best="lowest"),
        ],
        rows=[
            (evaluation.generated[near.generated], pool[near.train], near.ratio)
            for near in found.closest[:_MOST_NEIGHBOURS]
        ],
        caption=f"{found.n_closer} of {len(evaluation.generated)} generated volumes are nearer to "
        f"a training volume than any unseen real one (of new people, {expected:.1f} are expected); "
        f"{found.n_copies} are one but for rounding and noise.",
    )
    table = Table(
        title="Ratio",
        columns=_COMPARED,
        rows=[_row(found.ratio, stands_out=found.stands_out)],
        caption="It stands out where generated volumes are nearer than any split of real ones.",
    )
    return Section(
        title="Memorisation",
        paragraphs=[words.MEMORISED_TRAIN if from_train else words.MEMORISED_REAL],
        figures=[] if picture is None else [picture],
        tables=[table, closest],
    )


def region_section(evaluation: Evaluation) -> Section:
    """Show volumes by region with their tests."""
    table = Table(
        title="Volumes by region",
        columns=[
            Column(title="Region"),
            Column(title="Real, mean ± sd", unit="ml", is_text=True),
            Column(title="Generated, mean ± sd", unit="ml", is_text=True),
            Column(title="W1 / sd, matched", is_text=True),
            Column(title="W1 / sd, real–real", is_text=True),
            Column(title="KS", decimals=3),
            Column(title="KS p, Holm", decimals=3),
            Column(title="Permutation p, Holm", decimals=3),
        ],
        rows=[
            (
                region.name,
                _mean_sd(region.real_ml),
                _mean_sd(region.generated_ml),
                spread_words(region.distance.matched, 2),
                spread_words(region.distance.baseline, 2),
                region.ks,
                region.ks_p_holm,
                region.permutation_p_holm,
            )
            for region in evaluation.regions
        ],
        caption=f"{len(evaluation.real)} real and {len(evaluation.generated)} generated volumes; "
        f"W1 / sd over splits of {evaluation.distances[0].n_matched} on either side.",
    )
    text = words.REGIONS_LABELS if evaluation.region_kind == "labels" else words.REGIONS_HEAD
    return Section(title="Volumes of regions", paragraphs=[text], tables=[table])


def distribution_section(evaluation: Evaluation) -> Section:
    """Show the distribution functions of the regions that differ most."""
    worst = sorted(evaluation.regions, key=lambda r: -r.distance.value)[:_MOST_CURVES]
    figures = [_distribution(region) for region in worst]
    return Section(title="Distributions of these volumes", figures=figures)


def _mean_sd(values: Sequence[float]) -> str:
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    return f"{format_number(mean, decimals=1)} ± {format_number(sd, decimals=1)}"


def _distribution(region: Region) -> Figure:
    series = {
        name: _steps(np.sort(np.array(values, dtype=np.float64)))
        for name, values in (("real", region.real_ml), ("generated", region.generated_ml))
    }
    return Figure(
        title=f"Volume of {region.name}",
        png=curve(series, x_label="volume / ml", y_label="share of volumes below"),
        alt=f"Distribution functions of the volume of {region.name}: real "
        f"{_mean_sd(region.real_ml)} ml, generated {_mean_sd(region.generated_ml)} ml.",
    )


def _steps(
    values: Float64[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Return the corners of an empirical distribution function."""
    n = len(values)
    heights = np.repeat(np.arange(n + 1) / n, 2)[1:-1]
    return np.repeat(values, 2), heights


def intensity_section(evaluation: Evaluation) -> Section:
    """Show both histograms."""
    found = evaluation.intensities
    series = {}
    for name, counts in (("real", found.real_counts), ("generated", found.generated_counts)):
        share = np.array(counts, dtype=np.float64).reshape(-1, 4).sum(1)
        centres = (np.arange(len(share)) + 0.5) / len(share)
        series[name] = (centres, np.where(share > 0, share / share.sum(), np.nan))
    low_high = [
        f"{format_number(low, decimals=3)} to {format_number(high, decimals=3)}"
        for low, high in (found.real_window, found.generated_window)
    ]
    figure = Figure(
        title="Histogram of intensities",
        png=curve(series, x_label="scaled intensity", y_label="share of voxels", y_scale="log"),
        alt="Histograms of the scaled intensities of all real and all generated volumes.",
    )
    text = words.INTENSITIES.format(real=low_high[0], generated=low_high[1])
    return Section(title="Intensities", paragraphs=[text], figures=[figure])


def how_section(evaluation: Evaluation) -> Section:
    """Show what was done to the volumes."""
    table = Table(
        title="Settings",
        columns=[Column(title="What"), Column(title="How", is_text=True)],
        rows=list(words.how(evaluation)),
    )
    return Section(title="How it was measured", tables=[table])
