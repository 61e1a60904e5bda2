"""The report on generated volumes: beside real ones, as diverse, no copies, regions as large."""

__all__ = ["BrainPictures", "NearestPair", "brain_report"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from medsci.imaging import Volume
from medsci.metrics.evaluation import Evaluation, Region
from medsci.metrics.splits import SetDistance
from medsci.report import brain_text as words
from medsci.report.brain_sections import (
    distance_section,
    distribution_section,
    diversity_section,
    how_section,
    intensity_section,
    memory_section,
    region_section,
    spread_words,
)
from medsci.report.document import (
    Figure,
    KeyNumber,
    Report,
    Section,
    format_number,
)
from medsci.report.planes import three_planes

_ALPHA = 0.05


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NearestPair:
    """A generated volume and its nearest training volume, on one grid, with their names."""

    generated: Volume
    train: Volume
    names: tuple[str, str]
    ratio: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BrainPictures:
    """What there is to see, all on one grid and scaled alike.

    Args:
        real: some real volumes.
        generated: some generated ones.
        names: of the real and of the generated ones.
        pairs: generated volumes nearest to a training volume, the nearest first.
    """

    real: Sequence[Volume]
    generated: Sequence[Volume]
    names: tuple[Sequence[str], Sequence[str]]
    pairs: Sequence[NearestPair]


def brain_report(
    evaluation: Evaluation, *, pictures: BrainPictures, provenance: Mapping[str, object]
) -> Report:
    """Build the report of an evaluation.

    Args:
        evaluation: the numbers.
        pictures: the volumes to show.
        provenance: what ran, as in the file of figures; shown as it is.

    Raises:
        InvalidInputError: pictures on different grids, or that cannot be drawn.
    """
    shown = [*pictures.real, *pictures.generated, *(pair.train for pair in pictures.pairs)]
    known = all(volume.has_orientation for volume in shown)
    return Report(
        title="Generated brain volumes beside real ones",
        subtitle=f"{_count(evaluation.generated, 'generated')}, {_count(evaluation.real, 'real')}"
        + (f", {_count(evaluation.train, 'training')}" if evaluation.train else ""),
        summary=_summary(evaluation),
        sections=[
            Section(title="What they look like", figures=[_mosaic(pictures)]),
            distance_section(evaluation),
            diversity_section(evaluation),
            memory_section(evaluation, _suspects(pictures.pairs)),
            region_section(evaluation),
            distribution_section(evaluation),
            intensity_section(evaluation),
            how_section(evaluation),
        ],
        warnings=[*evaluation.warnings, *([] if known else [words.SIDES_UNKNOWN])],
        limits=words.LIMITS,
        provenance=provenance,
    )


def _count(names: Sequence[str], kind: str) -> str:
    return f"{len(names)} {kind} {'volume' if len(names) == 1 else 'volumes'}"


def _summary(evaluation: Evaluation) -> list[KeyNumber]:
    memory, alike = evaluation.memorisation, evaluation.diversity
    by_key = {distance.key: distance for distance in evaluation.distances}
    different = [r for r in evaluation.regions if min(_corrected(r)) < _ALPHA]
    return [
        _key(by_key["frechet"], label="Fréchet distance", decimals=1),
        _key(by_key["sharpness"], label="Sharpness, W1 / sd", decimals=2),
        KeyNumber(
            label="Similarity of pairs (MS-SSIM)",
            value=alike.matched.mean,
            decimals=3,
            note=f"real–real {spread_words(alike.halves, 3)}, n = {alike.n_matched}",
        ),
        KeyNumber(
            label="Nearest-neighbour ratio",
            value=memory.ratio.value,
            note="1: as far as new people; real–real "
            f"{spread_words(memory.ratio.baseline, 2)}, n = {memory.ratio.n_matched}",
        ),
        _key(by_key["histogram"], label="Histogram distance (W1)", decimals=4),
        KeyNumber(
            label="Regions of other volume",
            value=f"{len(different)} of {len(evaluation.regions)}",
            note=f"p < {_ALPHA:g} in either test, Holm corrected",
        ),
    ]


def _key(distance: SetDistance, *, label: str, decimals: int) -> KeyNumber:
    note = f"real–real {spread_words(distance.baseline, decimals)}, n = {distance.n_matched}"
    return KeyNumber(label=label, value=distance.matched.mean, decimals=decimals, note=note)


def _corrected(region: Region) -> tuple[float, float]:
    return region.ks_p_holm, region.permutation_p_holm


def _mosaic(pictures: BrainPictures) -> Figure:
    named = {f"real {i}": v for i, v in enumerate(pictures.real, start=1)}
    named |= {f"generated {i}": v for i, v in enumerate(pictures.generated, start=1)}
    legend = [
        f"{kind} {i}: {name}"
        for kind, names in zip(("real", "generated"), pictures.names, strict=True)
        for i, name in enumerate(names, start=1)
    ]
    return Figure(
        title="Real at the left, generated at the right",
        png=three_planes(named, at_mm=(0.0, 0.0, 0.0)),
        caption=words.MOSAIC + "; ".join(legend) + ".",
        alt=f"Axial, coronal and sagittal slices of {len(pictures.real)} real and "
        f"{len(pictures.generated)} generated volumes in one grey window.",
    )


def _suspects(pairs: Sequence[NearestPair]) -> Figure | None:
    if not pairs:
        return None
    named: dict[str, Volume] = {}
    for number, pair in enumerate(pairs, start=1):
        named[f"generated {number}"] = pair.generated
        named[f"nearest {number}"] = pair.train
    legend = "; ".join(
        f"{number}: {pair.names[0]} and {pair.names[1]}, {format_number(pair.ratio)}"
        for number, pair in enumerate(pairs, start=1)
    )
    return Figure(
        title="The generated volumes nearest to a training volume",
        png=three_planes(named, at_mm=(0.0, 0.0, 0.0)),
        caption=f"{words.NEIGHBOURS} {legend}.",
        alt=f"{len(pairs)} generated volumes, each beside its nearest training volume, three "
        "planes.",
    )
