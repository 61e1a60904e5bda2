"""A damaged image in, a restored one with its uncertainty out."""

__all__ = ["RestoreJob", "RestorePrior", "load_restore_prior", "restore_cases", "restore_file"]

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from medsci.errors import ExitCode, InvalidInputError, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.cases import Case, CaseReport, find_cases, run_cases
from medsci.pipelines.device import choose_device, warn_if_busy
from medsci.pipelines.outputs import Existing, check_outputs, existing_file, staged
from medsci.pipelines.restore_volume import check_fits, restored_by, units_of
from medsci.pipelines.run import Option, Run, sha256_of, sidecar_of
from medsci.recon.restore_settings import PriorUnits, RestoreSettings
from medsci.recon.volume_frame import VolumePrior

if TYPE_CHECKING:
    from medsci.imaging import Volume
    from medsci.recon.restoration import Restored

_log = logging.getLogger(__name__)
_NIFTI = (".nii.gz", ".nii")
_OWN_METHODS = ("mmse", "n4", "prior", "spline")
_DONE = {
    "denoise": "Noise removed",
    "inpaint": "Masked voxels filled in",
    "superres": "Divided into smaller voxels",
    "deblur": "Blur removed",
    "bias": "Multiplicative bias field removed",
}


@final
@dataclass(frozen=True)
class RestoreJob:
    """How to restore and what to write; the same for every case of a batch.

    Attributes:
        settings: see `RestoreSettings`; its device may be `auto` here.
        prior: name or folder of a stored denoiser.
        mask: of inpainting; in a batch a folder with a mask of every image's name.
        std: uncertainty map to write; `OUT_std.nii.gz` if None and more than one sample is drawn.
        labels: whether to write `OUT_labels.nii.gz`, of a prior of volumes that knows tissues.
        reference: truth on the grid of the result, to compare with.
        existing: what to do about an output that is there.
        timings: record wall time in the sidecar, which then differs from run to run.
    """

    settings: RestoreSettings
    prior: str = "brain-t1-2d"
    mask: Path | None = None
    std: Path | None = None
    labels: bool = False
    reference: Path | None = None
    existing: Existing = "refuse"
    timings: bool = False

    def __post_init__(self) -> None:
        if self.settings.task == "inpaint" and self.mask is None:
            raise UsageError("inpaint needs --mask, not 0 where the image is to be replaced")
        if self.settings.task != "inpaint" and self.mask is not None:
            raise UsageError(f"--mask belongs to the task inpaint, not to {self.settings.task}")
        if self.std is not None and self.settings.n_samples < 2:
            raise UsageError("--std needs at least --samples 2; one sample has no spread")
        if self.labels and not self.settings.needs_prior:
            raise UsageError(
                f"--labels came, but the method {self.settings.chosen} uses no prior and knows no "
                "tissues; choose another --method"
            )


@final
@dataclass(frozen=True, eq=False)
class RestorePrior:
    """A denoiser ready to run, with what scaling and a record need to know of it.

    `units` are those of a prior of slices, or of one of volumes.
    """

    name: str
    sha256: str
    denoiser: Any
    units: PriorUnits | VolumePrior


def load_restore_prior(name: str, *, settings: RestoreSettings) -> RestorePrior:
    """Load a stored denoiser onto the device of the settings.

    Raises:
        WeightsError: there is none of that name, or its weights are not the recorded ones.
    """
    from medsci.models import load_denoiser, verify_model

    info = verify_model(name)
    units = units_of(info.config)
    denoiser = load_denoiser(name, device=settings.device, precision=settings.precision)
    return RestorePrior(info.name, info.config.sha256, denoiser, units)


def restore_file(
    input: str | Path,
    output: str | Path,
    *,
    job: RestoreJob,
    prior: RestorePrior | None = None,
    progress: Progress | None = None,
) -> CaseReport:
    """Restore one image and write it, its uncertainty and a sidecar.

    Nothing is computed before all outputs are known to be writable names, and nothing appears
    under its final name before all is computed. Equal jobs give equal bytes in every file.

    Args:
        input: NIfTI, one volume.
        output: the restored image, `.nii.gz` or `.nii`, in the type of the input.
        job: see `RestoreJob`.
        prior: an already loaded prior, which `job.prior` then only names.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: image, mask or reference are not what they should be.
        UsageError: options contradict each other, or the device is absent.
        OutputExistsError: an output exists and is not to be replaced.
        WeightsError: the prior is missing or damaged.
    """
    start = time.perf_counter()
    source = existing_file(input)
    files = _files(job, Path(output))
    inputs = [source, *(existing_file(path) for path in (job.mask, job.reference) if path)]
    if not check_outputs(list(files.values()), inputs=inputs, existing=job.existing):
        return CaseReport(source.name, "skipped", outputs=files)
    job = _resolved(job)

    from medsci.imaging import read_nifti

    volume = read_nifti(source)
    mask = None if job.mask is None else read_nifti(job.mask)
    reference = None if job.reference is None else read_nifti(job.reference)
    if prior is None and job.settings.needs_prior:
        prior = load_restore_prior(job.prior, settings=job.settings)
        warn_if_busy()
    if prior is not None:
        check_fits(prior, job.settings, labels=job.labels)
    found = restored_by(prior, volume, settings=job.settings, mask=mask, progress=progress)
    scores = _scores(found, volume, reference)
    seconds = time.perf_counter() - start
    record: dict[str, Any] = {"Metrics": scores} if scores else {}
    if job.mask is not None:
        record["Mask"] = {"Name": job.mask.name, "Sha256": sha256_of(job.mask)}
    _write(
        found,
        files,
        run=_run(job, source, files["restored"], prior=prior),
        overwrite=job.existing != "refuse",
        record=record | ({"Timings": {"Seconds": round(seconds, 3)}} if job.timings else {}),
    )
    _log.info("wrote %s%s", files["restored"], _in_words(scores))
    result = {"metrics": scores, "data_misfit": found.info.get("data_misfit")}
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def restore_cases(
    source: str | Path,
    output: str | Path,
    *,
    job: RestoreJob,
    tell: Callable[[CaseReport], None],
    progress: Progress | None = None,
) -> ExitCode:
    """Restore a file, or every NIfTI file of a folder or glob, with one loaded prior.

    In a batch the outputs of all cases are checked before the first starts, `output` is a folder,
    a case that fails is told about and the others go on.

    Returns:
        DONE, or SOME_CASES_FAILED.
    """
    cases, batch = find_cases(
        source, Path(output), patterns=("*.nii.gz", "*.nii"), suffix=".nii.gz"
    )
    if not batch:
        return run_cases(
            cases,
            lambda case: restore_file(case.input, case.output, job=job, progress=progress),
            batch=False,
            tell=tell,
        )
    if job.std is not None or job.reference is not None:
        raise UsageError(
            "--std and --reference name one file, but the input stands for many; leave them out"
        )
    if job.mask is not None and not job.mask.is_dir():
        raise UsageError("--mask names one file, but the input stands for many; name a folder")
    planned = [path for case in cases for path in _files(job, case.output).values()]
    if job.existing == "refuse":
        check_outputs(planned, inputs=[case.input for case in cases], existing="refuse")
    settings = _resolved(job).settings
    prior = None
    if settings.needs_prior:
        prior = load_restore_prior(job.prior, settings=settings)
        warn_if_busy()

    def work(case: Case) -> CaseReport:
        own = job if job.mask is None else dataclasses.replace(job, mask=job.mask / case.input.name)
        return restore_file(case.input, case.output, job=own, prior=prior, progress=progress)

    return run_cases(cases, work, batch=True, tell=tell)


def _resolved(job: RestoreJob) -> RestoreJob:
    """Replace every `auto` by what it means here, and refuse a method that is not there."""
    settings = job.settings
    if settings.chosen not in _OWN_METHODS:
        from medsci.inverse.methods import settings_of

        settings_of(settings.chosen, settings.options)
    device = choose_device(settings.device)
    if not settings.needs_prior:
        settings = dataclasses.replace(settings, device="cpu", precision="float32")
        return dataclasses.replace(job, settings=settings)
    from medsci.core.precision import resolve_precision

    dtype = resolve_precision(settings.precision, device)
    precision: Literal["float32", "bfloat16"]
    precision = "bfloat16" if str(dtype) == "torch.bfloat16" else "float32"
    settings = dataclasses.replace(settings, device=device, precision=precision)
    return dataclasses.replace(job, settings=settings)


def _files(job: RestoreJob, output: Path) -> dict[str, Path]:
    """Name every file of a case, the restored image last."""
    suffix = next((end for end in _NIFTI if output.name.endswith(end)), None)
    if suffix is None:
        raise UsageError(
            f"the output is {output.name}; a restored image is written as NIfTI, name it *.nii.gz"
        )
    stem = output.name.removesuffix(suffix)
    std = job.std
    if std is None and job.settings.n_samples > 1:
        std = output.with_name(f"{stem}_std{suffix}")
    field = output.with_name(f"{stem}_field{suffix}") if job.settings.task == "bias" else None
    labels = output.with_name(f"{stem}_labels{suffix}") if job.labels else None
    found = {"std": std, "field": field, "labels": labels, "sidecar": sidecar_of(output)}
    return {kind: path for kind, path in found.items() if path} | {"restored": output}


def _run(job: RestoreJob, source: Path, output: Path, *, prior: RestorePrior | None) -> Run:
    s = job.settings
    options: dict[str, Option] = {
        "task": s.task,
        "method": s.method,
        "prior": None if prior is None else prior.name,
        "mask": job.mask,
        "samples": s.n_samples,
        "steps": s.n_steps,
        "noise": s.noise,
        "factor": s.factor if s.task == "superres" else None,
        "axes": s.axes if s.task == "superres" else None,
        "fwhm": s.fwhm_mm,
        "boundary": s.boundary if s.task == "deblur" else None,
        "thickness": s.thickness_mm,
        "centre": None if s.centre_mm is None else ",".join(f"{x:g}" for x in s.centre_mm),
        "set": ",".join(f"{k}={v}" for k, v in s.options.items()) or None,
        "device": s.device,
        "precision": s.precision,
        "chunk": s.chunk,
        "reference": job.reference,
        "std": job.std,
    }
    model = None if prior is None else {"Name": prior.name, "Sha256": prior.sha256}
    return Run(("restore",), source, output, s.seed, s.device, options, model)


def _write(
    found: "Restored",
    files: Mapping[str, Path],
    *,
    run: Run,
    overwrite: bool,
    record: Mapping[str, Any],
) -> None:
    """Write image, uncertainty, field and sidecar: all of them or none."""
    from medsci.imaging import write_json, write_nifti

    with staged(list(files.values()), overwrite=overwrite) as places:
        place = {kind: places[path] for kind, path in files.items()}
        for kind, extra in (("std", found.std), ("field", found.bias_field)):
            if kind in place and extra is not None:
                write_nifti(extra, place[kind], dtype="float32", overwrite=True)
        if "labels" in place and found.labels is not None:
            write_nifti(found.labels, place["labels"], overwrite=True)
        sidecar = {
            "Description": _DONE[found.info["task"]],
            "Sources": [run.input.name],
            "Outputs": {kind: path.name for kind, path in files.items()},
            "Restoration": found.info,
            **record,
            "MedsciProvenance": run.provenance(),
        }
        write_json(place["sidecar"], sidecar, overwrite=True)
        write_nifti(found.mean, place["restored"], overwrite=True)


def _scores(
    found: "Restored", volume: "Volume", reference: "Volume | None"
) -> dict[str, dict[str, float]]:
    """Compare the result, and the input where it has the same grid, with the truth."""
    if reference is None:
        return {}
    from medsci.metrics import head_mask, psnr, ssim

    if not found.mean.same_geometry(reference) or found.mean.shape != reference.shape:
        _log.warning(
            "the result was not compared with the reference: %r lies on another grid than %r",
            reference,
            found.mean,
        )
        return {}
    try:
        mask = head_mask(reference.array, spacing_mm=reference.spacing_mm)
    except InvalidInputError:
        mask = None
    scores = {}
    for name, image in (("input", volume), ("restored", found.mean)):
        if image.shape != reference.shape:
            continue
        try:
            row = {
                "psnr_db": psnr(image.array, reference.array, mask=mask),
                "ssim": ssim(image.array, reference.array, mask=mask),
            }
        except InvalidInputError as error:
            _log.warning("the %s was not compared with the reference: %s", name, error)
            continue
        scores[name] = {metric: value for metric, value in row.items() if math.isfinite(value)}
    return scores


def _in_words(scores: Mapping[str, Mapping[str, float]]) -> str:
    after = scores.get("restored", {}).get("psnr_db")
    before = scores.get("input", {}).get("psnr_db")
    if after is None:
        return ""
    return f", PSNR {after:.2f} dB" + ("" if before is None else f" (input {before:.2f} dB)")
