"""Two folders of brain volumes in; a report on how alike they are, and all figures, out."""

__all__ = ["EvaluateJob", "evaluate_volumes"]

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import medsci
from medsci.errors import UsageError
from medsci.pipelines import Progress
from medsci.pipelines.brain_evaluate_files import (
    VolumeFiles,
    find_volumes,
    label_names,
    samples_of,
)
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, staged

if TYPE_CHECKING:
    from medsci.brain.samples import Sample
    from medsci.metrics.evaluation import Evaluation
    from medsci.report.brain import BrainPictures

_log = logging.getLogger(__name__)
_SHOWN = 3


@final
@dataclass(frozen=True)
class EvaluateJob:
    """How to compare and what to do about outputs that are there.

    Attributes:
        train: folder, glob or table of the volumes that the model was trained on.
        labels: `auto` measures regions where both sets have label maps; `none` does not look.
        splits: random halves of the real volumes behind every baseline.
        seed: of all randomness.
        existing: what to do about an output that is there.
    """

    train: str | Path | None = None
    labels: Literal["auto", "none"] = "auto"
    splits: int = 5
    seed: int = 0
    existing: Existing = "refuse"


def evaluate_volumes(
    real: str | Path,
    generated: str | Path,
    output: str | Path,
    *,
    job: EvaluateJob | None = None,
    progress: Progress | None = None,
) -> CaseReport:
    """Compare generated with real volumes; write the page and, beside it, all figures as JSON.

    Equal volumes and seeds give equal bytes in both files.

    Args:
        real: folder (searched in depth), quoted glob, or table of volumes.
        generated: the same of generated ones.
        output: the report, `*.html`; figures go to the same name with `.json`.
        job: see `EvaluateJob`.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: too few volumes, volumes that cannot be compared, or label maps missing
            for some of a set.
        OutputExistsError: an output exists and is not to be replaced.
        UsageError: the output is no `*.html`, or an option is wrong.
    """
    start = time.perf_counter()
    job = job or EvaluateJob()
    page = Path(output)
    if page.suffix != ".html":
        raise UsageError(f"the output is {page.name}; the report is a page, name it *.html")
    sets = {"real": find_volumes(real), "generated": find_volumes(generated)}
    if job.train is not None:
        sets["train"] = find_volumes(job.train)
    outputs = {"figures": page.with_suffix(".json"), "report": page}
    inputs = [path for files in sets.values() for path in files.paths]
    if not check_outputs(list(outputs.values()), inputs=inputs, existing=job.existing):
        return CaseReport(page.name, "skipped", outputs=outputs)
    samples = _samples(sets, job)

    from medsci.brain.evaluating import EvaluateSettings, evaluate

    found = evaluate(
        samples["real"],
        samples["generated"],
        train=samples.get("train"),
        settings=EvaluateSettings(labels=job.labels, n_splits=job.splits, seed=job.seed),
        progress=progress,
    )
    for warning in found.warnings:
        _log.warning("%s", warning)
    pictures = _pictures(found, samples)
    records = {side: files.record() for side, files in sets.items()}
    _write(
        found,
        pictures,
        outputs,
        provenance=_provenance(job, (str(real), str(generated), page), sets, records),
        records=records,
        overwrite=job.existing != "refuse",
    )
    _log.info("wrote %s: %s", page, _in_words(found))
    seconds = time.perf_counter() - start
    return CaseReport(page.name, "done", outputs=outputs, result=_result(found), seconds=seconds)


def _samples(sets: Mapping[str, VolumeFiles], job: EvaluateJob) -> "dict[str, tuple[Sample, ...]]":
    for side, files in sets.items():
        if files.n_left_out:
            _log.info("%s: %d files are no images by their names", side, files.n_left_out)
    wanted = job.labels == "auto"
    names: Sequence[Mapping[int, str]] = ({}, {})
    if wanted:
        names = label_names(sets["real"], sets["generated"])
    found = {
        side: samples_of(sets[side], names=own, labels=wanted)
        for side, own in zip(("real", "generated"), names, strict=True)
    }
    if "train" in sets:
        found["train"] = samples_of(sets["train"], labels=False)
    return found


def _pictures(found: "Evaluation", samples: "Mapping[str, Sequence[Sample]]") -> "BrainPictures":
    """Read the volumes that are shown once more."""
    import numpy as np

    from medsci.brain.frame import Frame
    from medsci.brain.portrait import Describer
    from medsci.report.brain import BrainPictures, NearestPair

    describer = Describer(Frame(found.shape, found.voxel_mm), with_labels=False)
    generator = np.random.default_rng([found.seed, 0x3103])
    chosen = {
        side: [samples[side][i] for i in sorted(generator.permutation(len(samples[side]))[:_SHOWN])]
        for side in ("real", "generated")
    }
    pool = samples[found.memorisation.against]
    pairs = [
        (samples["generated"][near.generated], pool[near.train], near.ratio)
        for near in found.memorisation.closest[:_SHOWN]
    ]
    return BrainPictures(
        real=[describer.scaled(sample)[0] for sample in chosen["real"]],
        generated=[describer.scaled(sample)[0] for sample in chosen["generated"]],
        names=([s.name for s in chosen["real"]], [s.name for s in chosen["generated"]]),
        pairs=[
            NearestPair(
                generated=describer.scaled(drawn)[0],
                train=describer.scaled(near)[0],
                names=(drawn.name, near.name),
                ratio=ratio,
            )
            for drawn, near, ratio in pairs
        ],
    )


def _provenance(
    job: EvaluateJob,
    places: tuple[str, str, Path],
    sets: Mapping[str, VolumeFiles],
    records: Mapping[str, Sequence[Mapping[str, str]]],
) -> dict[str, Any]:
    """Give the record of the run; like every record it names files and folders, never where."""
    real, generated, page = (Path(place).name for place in places)
    options: dict[str, str | int] = {"labels": job.labels, "splits": job.splits}
    if job.train is not None:
        options["train"] = Path(job.train).name
    words = ["medsci", "brain", "evaluate", real, generated, "-o", page]
    for name, value in {**options, "seed": job.seed}.items():
        words += [f"--{name}", str(value)]
    return {
        "Version": medsci.__version__,
        "Command": shlex.join(words),
        "Inputs": {side: files.summary(records[side]) for side, files in sets.items()},
        "Seed": job.seed,
        "Device": "cpu",
        "Options": options,
    }


def _write(
    found: "Evaluation",
    pictures: "BrainPictures",
    outputs: Mapping[str, Path],
    *,
    provenance: Mapping[str, Any],
    records: Mapping[str, Sequence[Mapping[str, str]]],
    overwrite: bool,
) -> None:
    from medsci.imaging import write_json
    from medsci.report import write_report
    from medsci.report.brain import brain_report

    page = brain_report(found, pictures=pictures, provenance=provenance)
    content = {
        "Description": "Generated brain volumes compared with real ones",
        "Evaluation": found.as_dict(),
        "Files": records,
        "MedsciProvenance": provenance,
    }
    with staged(list(outputs.values()), overwrite=overwrite) as places:
        write_json(places[outputs["figures"]], content, overwrite=True)
        write_report(page, places[outputs["report"]], overwrite=True)


def _result(found: "Evaluation") -> dict[str, Any]:
    """Give the figures of a line of `--json`."""
    rows = [*found.distances, found.memorisation.ratio]
    measured: dict[str, Any] = {
        row.key: {
            "generated_real": row.matched.mean,
            "real_real": row.baseline.mean,
            "n": row.n_matched,
        }
        for row in rows
    }
    measured["ms_ssim"] = {
        "generated": found.diversity.matched.mean,
        "real": found.diversity.halves.mean,
        "n": found.diversity.n_matched,
    }
    measured["regions"] = {
        region.name: {"ks_p": region.ks_p_holm, "permutation_p": region.permutation_p_holm}
        for region in found.regions
    }
    return {
        "n_real": len(found.real),
        "n_generated": len(found.generated),
        "n_train": len(found.train),
        **measured,
        "warnings": list(found.warnings),
    }


def _in_words(found: "Evaluation") -> str:
    frechet, ratio = found.distances[0], found.memorisation.ratio
    return (
        f"Fréchet distance {frechet.matched.mean:.3g} (real from real {frechet.baseline.mean:.3g}, "
        f"n = {frechet.n_matched}), nearest-neighbour ratio {ratio.value:.2f}"
    )
