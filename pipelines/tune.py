"""Scans in, the options of a solver that suit them out: a search, offline."""

__all__ = ["tune_files"]

import dataclasses
import logging
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medsci.errors import UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import check_outputs, existing_file, staged
from medsci.pipelines.recon import ReconWork
from medsci.pipelines.recon_job import Prior, ReconJob, resolved
from medsci.pipelines.run import Option, Run, sha256_of
from medsci.pipelines.scans import read_scan
from medsci.pipelines.tune_job import TuneJob
from medsci.pipelines.tuned_file import write_tuned

if TYPE_CHECKING:
    from torch import Tensor

    from medsci.inverse.tuning import Tuned
    from medsci.pipelines.tune_problem import Encoded, Judged

_log = logging.getLogger(__name__)


def tune_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    job: TuneJob,
    prior: Prior | None = None,
    progress: Progress | None = None,
) -> CaseReport:
    """Search the options of a solver on a few slices of scans, and write what was found.

    Equal jobs give equal bytes. The options that were found are written only if they beat the
    defaults twice: in the search, and with noise and held-out data that it has not seen.

    Args:
        inputs: scans of one kind; the mean of their scores counts.
        output: the settings, `*.yaml`.
        job: see `TuneJob`.
        prior: an already loaded prior, which `job.prior` then only names.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: an input is not a usable scan, or has no data to hold out.
        UsageError: a truth is asked for and not there, or no run gave a number.
        OutputExistsError: the output exists and is not to be replaced.
        WeightsError: the prior is missing or damaged.
    """
    start = time.perf_counter()
    sources, target = [existing_file(path) for path in inputs], Path(output)
    if not sources:
        raise UsageError("no scan came; give at least one")
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"the output is {target.name}; settings are YAML, name it *.yaml")
    check_outputs([target], inputs=sources, existing=job.existing)
    named = resolved(ReconJob(domain=job.domain, settings=job.settings, prior=job.prior))
    job = dataclasses.replace(job, settings=named.settings)
    scans = [read_scan(path, job.domain) for path in sources]
    judged = _judged(job, sources, scans)
    if prior is None:
        prior = ReconWork(named).prior
    if progress is not None:
        progress(0, job.budget, "scans")
    cases = _encoded(job, sources, scans, prior=prior)
    found = _search(job, cases, prior=prior, judged=judged, progress=progress)
    record = _record(job, found, judged=judged) | {
        "prior": {"name": prior.name, "sha256": prior.sha256},
        "provenance": _provenance(job, sources, target, prior=prior),
    }
    with staged([target], overwrite=job.existing != "refuse") as places:
        write_tuned(places[target], record)
    _log.info("wrote %s: %s", target, _in_words(record))
    names = ("solver", "options", "beats_defaults", "judged_by", "score", "default_score")
    result = {name: record[name] for name in names}
    seconds = time.perf_counter() - start
    return CaseReport(
        sources[0].name, "done", outputs={"settings": target}, result=result, seconds=seconds
    )


@final
@dataclass(frozen=True)
class _Found:
    """A search, and the second look at its best and at the defaults, where one was taken."""

    tuned: "Tuned"
    score: float
    default_score: float

    @property
    def is_better(self) -> bool:
        return self.score > self.default_score


def _search(
    job: TuneJob,
    cases: "Sequence[Encoded]",
    *,
    prior: Prior,
    judged: "Judged",
    progress: Progress | None,
) -> _Found:
    from medsci.core import mix64
    from medsci.inverse.tuning import LogUniform, tune

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "runs")

    seed = job.settings.seed
    run = _runner(job, cases, prior=prior, judged=judged, seed=seed)
    space = {name: LogUniform(low, high) for name, (low, high) in job.space.items()}
    tuned = tune(run, space, judge=float, budget=job.budget, seed=seed, first=({},), progress=tell)
    default = tuned.trials[0]
    if tuned.best is default:
        return _Found(tuned, default.score, default.score)
    again = _runner(job, cases, prior=prior, judged=judged, seed=mix64(seed, 1))
    return _Found(tuned, float(again(tuned.settings)), float(again({})))


def _runner(
    job: TuneJob, cases: "Sequence[Encoded]", *, prior: Prior, judged: "Judged", seed: int
) -> "Callable[[Mapping[str, float]], Tensor]":
    """Return what runs the solver on all scans and gives the mean of their scores."""
    import torch

    from medsci.core import mix64
    from medsci.pipelines.tune_problem import posed
    from medsci.recon.drawing import draw, walk_of

    problems = [
        posed(case, judged=judged, seed=mix64(seed, index)) for index, case in enumerate(cases)
    ]

    def run(drawn: Mapping[str, float]) -> "Tensor":
        options = (*job.settings.options, *job.texts(drawn).items())
        settings = dataclasses.replace(job.settings, options=options, seed=seed)
        scores = []
        for problem in problems:
            walk, view = walk_of(settings, base=problem.encoded.base), problem.encoded.view
            samples, _ = draw(
                problem.measured, prior.denoiser, settings=settings, walk=walk, view=view
            )
            scores.append(problem.judge(samples.mean(dim=0)))
        return torch.tensor(scores, dtype=torch.float64).mean()

    return run


def _encoded(
    job: TuneJob, sources: Sequence[Path], scans: Sequence[Any], *, prior: Prior
) -> "list[Encoded]":
    from medsci.pipelines.tune_problem import encoded, middle_slices

    return [
        encoded(
            middle_slices(scan, job.slices),
            path.name,
            solver=job.solver,
            maps=job.settings.maps,
            window_hu=prior.window_hu,
            device=job.settings.device,
        )
        for path, scan in zip(sources, scans, strict=True)
    ]


def _judged(job: TuneJob, sources: Sequence[Path], scans: Sequence[Any]) -> "Judged":
    """Decide who judges; the truth only if every scan has one."""
    pairs = zip(sources, scans, strict=True)
    without = [path.name for path, scan in pairs if scan.reference is None]
    if job.judge == "truth" and without:
        raise UsageError(
            f"--judge truth came, but {', '.join(without)} stores no truth; use held-out or auto"
        )
    return "held-out" if job.judge == "held-out" or without else "truth"


def _record(job: TuneJob, found: _Found, *, judged: "Judged") -> dict[str, Any]:
    fixed = {name.replace("-", "_"): text for name, text in job.settings.options}
    best = job.texts(found.tuned.settings) if found.is_better else {}
    score = found.score if found.is_better else found.default_score
    return {
        "domain": job.domain,
        "solver": job.solver,
        "options": _plain(fixed | best),
        "beats_defaults": found.is_better,
        "judged_by": judged,
        "unit": "PSNR in dB" if judged == "truth" else "minus misfit of held-out data",
        "score": _number(score),
        "default_score": _number(found.default_score),
        "trials": [
            {"score": _number(trial.score), "options": _plain(job.texts(trial.settings))}
            for trial in found.tuned.trials
        ],
    }


def _in_words(record: Mapping[str, Any]) -> str:
    solver, default = record["solver"], record["default_score"]
    scores = f"{'no number' if default is None else f'{default:.4g}'} ({record['unit']})"
    if not record["beats_defaults"]:
        return f"nothing that was tried surely beats the defaults of {solver}, {scores}"
    chosen = ", ".join(f"{name}={value}" for name, value in record["options"].items())
    return f"{solver} with {chosen} scores {record['score']:.4g}, its defaults {scores}"


def _plain(texts: Mapping[str, str]) -> dict[str, Any]:
    """Turn texts into values that read back as the same text."""
    words = {"true": True, "false": False, "none": None}
    return {name: words[text] if text in words else _value(text) for name, text in texts.items()}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text


def _number(score: float) -> float | None:
    return round(score, 6) if math.isfinite(score) else None


def _provenance(
    job: TuneJob, sources: Sequence[Path], target: Path, *, prior: Prior
) -> dict[str, Any]:
    settings = job.settings
    options: dict[str, Option] = {
        "prior": prior.name,
        "solver": settings.solver,
        "samples": settings.n_samples if settings.n_samples > 1 else None,
        "option": ",".join(f"{name}={text}" for name, text in settings.options) or None,
        "range": ",".join(f"{name}={low!r}:{high!r}" for name, (low, high) in job.space.items()),
        "budget": job.budget,
        "judge": job.judge,
        "slices": job.slices,
        "maps": settings.maps if job.domain == "mri" else None,
        "device": settings.device,
        "precision": settings.precision,
        "chunk": settings.chunk,
    }
    model = {"Name": prior.name, "Sha256": prior.sha256}
    action = ("recon", "tune", job.domain)
    run = Run(action, sources[0], target, settings.seed, settings.device, options, model)
    record = run.provenance()
    others = sources[1:]
    record["Inputs"] += [{"Name": path.name, "Sha256": sha256_of(path)} for path in others]
    words = shlex.split(record["Command"])
    place = words.index("-o")
    words[place:place] = [word for path in others for word in ("-i", path.name)]
    return record | {"Command": shlex.join(words)}
