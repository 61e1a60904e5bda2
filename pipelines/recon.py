"""A scan in, a reconstructed volume with its uncertainty and a report out: MRI and CT."""

__all__ = [
    "PRIORS",
    "Prior",
    "ReconJob",
    "ReconWork",
    "load_prior",
    "recon",
    "recon_cases",
]

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medsci.errors import ExitCode, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import Case, CaseReport, find_cases, run_cases
from medsci.pipelines.device import use_threads, warn_if_busy
from medsci.pipelines.engine import LOCAL, Engine
from medsci.pipelines.outputs import check_outputs, existing_file
from medsci.pipelines.recon_job import PRIORS, Prior, ReconJob, files_of, job_of, resolved, run_of
from medsci.pipelines.scans import Domain, read_scan
from medsci.recon.settings import ReconSettings

if TYPE_CHECKING:
    from medsci.pipelines.recon_results import Outcome
    from medsci.recon.drawing import Posterior

_log = logging.getLogger(__name__)

_PATTERNS: dict[Domain, tuple[str, ...]] = {
    "mri": ("*.h5", "*.hdf5", "*.mrd", "*.cfl", "*.npz"),
    "ct": ("*.h5", "*.hdf5", "*.npz"),
}


def load_prior(name: str, *, settings: ReconSettings) -> Prior:
    """Load a stored denoiser onto the device of the settings.

    Raises:
        WeightsError: there is none of that name, or its weights are not the recorded ones.
    """
    from medsci.models import load_denoiser, verify_model

    info = verify_model(name)
    denoiser = load_denoiser(name, device=settings.device, precision=settings.precision)
    config = info.config
    channels = int(getattr(config.network, "in_channels", len(config.image_channels)))
    return Prior(info.name, config.sha256, config.data, denoiser, config.window_hu, channels)


def recon(
    input: str | Path,
    output: str | Path,
    *,
    job: ReconJob | None = None,
    prior: Prior | None = None,
    progress: Progress | None = None,
) -> CaseReport:
    """Reconstruct one scan and write volume, uncertainty, sidecar and report.

    Nothing is computed before all outputs are known to be writable names, and nothing appears
    under its final name before all is computed. Equal jobs give equal bytes in every file.

    Args:
        input: k-space or a sinogram, as the job's domain has it, in any format that can be read.
        output: the reconstruction, `.nii.gz` or `.nii`, float32, in the grid of the acquisition.
        job: see `ReconJob`.
        prior: an already loaded prior, which `job.prior` then only names.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: the input, or the reference, is not what it should be.
        UsageError: options contradict each other, or the device is absent.
        OutputExistsError: an output exists and is not to be replaced.
        WeightsError: the prior is missing or damaged.
    """
    start = time.perf_counter()
    job = ReconJob() if job is None else job
    source = existing_file(input)
    files = files_of(job, Path(output))
    inputs = [source, *([] if job.reference is None else [existing_file(job.reference)])]
    if not check_outputs(list(files.values()), inputs=inputs, existing=job.existing):
        return CaseReport(source.name, "skipped", outputs=files)
    job = resolved(job)

    from medsci.pipelines.recon_results import write_results

    outcome, prior = _reconstruct(source, job, prior=prior, progress=progress)
    seconds = time.perf_counter() - start
    write_results(
        outcome,
        files,
        run=run_of(job, source, files["reconstruction"], prior=prior),
        overwrite=job.existing != "refuse",
        timings={"Seconds": round(seconds, 3)} if job.timings else None,
    )
    _log.info("wrote %s%s", files["reconstruction"], outcome.in_words())
    if "report" in files:
        _log.info("report: %s", files["report"])
    result = outcome.as_dict()
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def _reconstruct(
    source: Path, job: ReconJob, *, prior: Prior | None, progress: Progress | None
) -> "tuple[Outcome, Prior]":
    """Read, draw samples, compare with a truth; nothing is written."""
    from medsci.pipelines.recon_results import measure, on_grid

    _check_options(job)
    scan = read_scan(source, job.domain)
    reference = None if job.reference is None else on_grid(job.reference, scan)
    if prior is None:
        prior = _prior_of(job)
        warn_if_busy()
    draw = _posterior_ct if job.domain == "ct" else _posterior_mri
    drawn = draw(scan, prior, job.settings, progress=progress)
    return measure(drawn, scan, reference=reference, prior_seen=prior.data), prior


def _check_options(job: ReconJob) -> None:
    """Let a wrong option of the solver end the run before the work."""
    from medsci.recon.drawing import walk_of

    walk_of(job.settings)


def _posterior_mri(
    scan: Any, prior: Prior, settings: ReconSettings, *, progress: Progress | None
) -> "Posterior":
    from medsci.recon import posterior

    return posterior(scan, prior.denoiser, settings=settings, progress=progress)


def _posterior_ct(
    scan: Any, prior: Prior, settings: ReconSettings, *, progress: Progress | None
) -> "Posterior":
    from medsci.recon import posterior_ct

    window = prior.window_hu
    return posterior_ct(
        scan, prior.denoiser, settings=settings, window_hu=window, progress=progress
    )


def _prior_of(job: ReconJob) -> Prior:
    """Load the prior of a job and refuse one of other images than its domain's."""
    prior = load_prior(job.prior, settings=job.settings)
    wanted = 1 if job.domain == "ct" else 2
    if prior.channels != wanted:
        raise UsageError(
            f"the prior {prior.name} is of images with {prior.channels} channels, and recon "
            f"{job.domain} needs {wanted}; see 'medsci models list' for another"
        )
    if job.domain == "ct" and prior.window_hu is None:
        raise UsageError(
            f"the prior {prior.name} does not say which Hounsfield units it knows as 0 and 1; it "
            "is not of CT, or its config.json lacks window_hu"
        )
    return prior


@final
@dataclass(frozen=True, eq=False)
class ReconWork:
    """What a case goes through; the prior is loaded once in each process.

    Attributes:
        job: the same for all.
        batch: the job's report is a folder that receives one for each case.
        n_threads: torch's in this process; its own choice if None.
        progress: told about the steps of a case; stays at home when the work goes to a cluster.
    """

    job: ReconJob
    batch: bool = True
    n_threads: int | None = None
    progress: Progress | None = None

    @functools.cached_property
    def prior(self) -> Prior:
        """The denoiser, loaded when first asked for."""
        use_threads(self.n_threads)
        if self.n_threads is None:
            warn_if_busy()
        return _prior_of(resolved(self.job))

    def __call__(self, case: Case) -> CaseReport:
        """Reconstruct one case."""
        return self._do(case, self._job(case))

    def again(self, case: Case) -> CaseReport:
        """Reconstruct a case over what a dead worker left of it."""
        job = self._job(case)
        if job.existing == "refuse":
            job = dataclasses.replace(job, existing="overwrite")
        return self._do(case, job)

    def finished(self, case: Case) -> CaseReport:
        """Report on a complete case from its sidecar."""
        files = self.files(case)
        record = json.loads(files["sidecar"].read_text(encoding="utf-8"))
        result = {
            "metrics": record["Metrics"],
            "acceleration": record.get("ParallelReductionFactorInPlane"),
            "data_misfit": record["Reconstruction"].get("relative_data_misfit"),
        }
        return CaseReport(case.input.name, "done", outputs=files, result=result)

    def files(self, case: Case) -> dict[str, Path]:
        """Name every file of a case, the reconstruction last."""
        return files_of(self._job(case), case.output)

    def _job(self, case: Case) -> ReconJob:
        return job_of(self.job, case) if self.batch else self.job

    def _do(self, case: Case, job: ReconJob) -> CaseReport:
        progress = self.progress
        return recon(case.input, case.output, job=job, prior=self.prior, progress=progress)


def recon_cases(
    source: str | Path,
    output: str | Path,
    *,
    job: ReconJob,
    tell: Callable[[CaseReport], None],
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> ExitCode:
    """Reconstruct a file, or every scan of a folder or glob, with one loaded prior.

    In a batch the outputs of all cases are checked before the first starts, `output` is a folder,
    a case that fails is told about and the others go on. On a cluster each worker process loads
    the prior once and uses one thread.

    Returns:
        DONE, or SOME_CASES_FAILED.
    """
    patterns = _PATTERNS[job.domain]
    cases, batch = find_cases(source, Path(output), patterns=patterns, suffix=".nii.gz")
    if not batch and engine.kind == "local":
        return run_cases(
            cases,
            lambda case: recon(case.input, case.output, job=job, progress=progress),
            batch=False,
            tell=tell,
        )
    if batch and (job.std is not None or job.reference is not None):
        raise UsageError(
            "--std and --reference name one file, but the input stands for many; leave them out"
        )
    _check_options(job)
    work = ReconWork(job, batch, progress=progress)
    planned = [path for case in cases for path in work.files(case).values()]
    given = [] if job.reference is None else [job.reference]
    engine.check_paths([*planned, *given, *(case.input for case in cases)])
    if job.existing == "refuse":
        check_outputs(planned, inputs=[case.input for case in cases], existing="refuse")
    if engine.kind == "dask":
        _check_prior(job, engine)
        work = ReconWork(job, batch, n_threads=1)
    else:
        _ = work.prior  # a missing one ends the run before the first case
    return run_cases(cases, work, batch=batch, tell=tell, engine=engine, progress=progress)


def _check_prior(job: ReconJob, engine: Engine) -> None:
    """Miss the prior here and now where the workers will look in the same place."""
    if engine.is_here:
        from medsci.models import verify_model

        verify_model(job.prior)
