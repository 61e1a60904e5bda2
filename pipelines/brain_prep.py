"""A head as it was scanned in, a head on the grid of a volume model out."""

__all__ = ["PrepJob", "PrepWork", "prep_cases", "prep_file"]

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from medsci.errors import ExitCode, InvalidInputError, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.brain_prep_results import (
    PrepJob,
    record_of,
    result_of,
    run_of,
    write_prepared,
)
from medsci.pipelines.cases import Case, CaseReport, find_cases, run_cases, stem_of
from medsci.pipelines.engine import LOCAL, Engine
from medsci.pipelines.outputs import check_outputs, existing_file
from medsci.pipelines.run import sidecar_of

if TYPE_CHECKING:
    from medsci.imaging import Volume

_log = logging.getLogger(__name__)
_NIFTI = (".nii.gz", ".nii")
_NOT_IMAGES = ("_mask", "_seg", "_dseg", "_labels", "_probseg")


def prep_file(
    input: str | Path, output: str | Path | None = None, *, job: PrepJob | None = None
) -> CaseReport:
    """Prepare one image and write it, its sidecar and, if asked for, the brain mask.

    Equal jobs give equal bytes in every file. uint16 holds 0 to 65535 without a slope; the sidecar
    says which values of the input these are.

    Args:
        input: NIfTI, one volume.
        output: `.nii.gz` or `.nii`; `INPUT_prep.nii.gz` beside the input if None.
        job: see `PrepJob`.

    Raises:
        InvalidInputError: image or mask are not what they should be.
        UsageError: the output cannot be named so.
        OutputExistsError: an output exists and is not to be replaced.
    """
    start = time.perf_counter()
    job = PrepJob() if job is None else job
    source = existing_file(input)
    files = _files(job, _output_of(source) if output is None else Path(output))
    inputs = [source, *([] if job.mask is None else [_mask_file(job.mask)])]
    if not check_outputs(list(files.values()), inputs=inputs, existing=job.existing):
        return CaseReport(source.name, "skipped", outputs=files)

    from medsci.brain.prep import prepare
    from medsci.imaging import read_nifti

    image = read_nifti(source)
    _check_geometry(image, source)
    mask = None
    if job.mask is not None:
        mask = read_nifti(job.mask)
        _check_geometry(mask, job.mask)
    found = prepare(image, mask=mask, settings=job.settings)
    seconds = time.perf_counter() - start
    record = {"Preparation": record_of(found, image, job)}
    if job.timings:
        record["Timings"] = {"Seconds": round(seconds, 3)}
    write_prepared(found, files, run=run_of(job, source, files["prepared"]), job=job, record=record)
    brain = f"{found.brain.volume_ml:.0f} ml of brain ({found.brain.method})"
    _log.info("wrote %s, %s", files["prepared"], brain)
    return CaseReport(
        source.name, "done", outputs=files, result=result_of(record["Preparation"]), seconds=seconds
    )


@final
@dataclass(frozen=True)
class PrepWork:
    """What a case goes through.

    Attributes:
        job: the same for all.
        batch: the job's mask is a folder with one for each case.
    """

    job: PrepJob
    batch: bool = True

    def __call__(self, case: Case) -> CaseReport:
        """Prepare one case."""
        return prep_file(case.input, case.output, job=self._job(case))

    def again(self, case: Case) -> CaseReport:
        """Prepare a case over what a dead worker left of it."""
        job = self._job(case)
        if job.existing == "refuse":
            job = dataclasses.replace(job, existing="overwrite")
        return prep_file(case.input, case.output, job=job)

    def finished(self, case: Case) -> CaseReport:
        """Report on a complete case from its sidecar."""
        files = self.files(case)
        record = json.loads(files["sidecar"].read_text(encoding="utf-8"))
        result = result_of(record["Preparation"])
        return CaseReport(case.input.name, "done", outputs=files, result=result)

    def files(self, case: Case) -> dict[str, Path]:
        """Name every file of a case, the prepared image last."""
        return _files(self.job, case.output)

    def _job(self, case: Case) -> PrepJob:
        if self.job.mask is None or not self.batch:
            return self.job
        return dataclasses.replace(self.job, mask=self.job.mask / case.input.name)


def prep_cases(
    source: str | Path,
    output: str | Path | None,
    *,
    job: PrepJob,
    tell: Callable[[CaseReport], None],
    progress: Progress | None = None,
    engine: Engine = LOCAL,
) -> ExitCode:
    """Prepare a file, or every NIfTI file of a folder or glob.

    Of a folder, files named as masks and label maps are (`*_mask`, `*_seg`, `*_dseg`, `*_labels`,
    `*_probseg`) are left out. In a batch the outputs of all cases are checked before the first
    starts, `output` is a folder, a case that fails is told about and the others go on.

    Args:
        source: see above.
        output: if None `FILE_prep.nii.gz` beside a file, or a folder `FOLDER_prep` beside a folder.
        job: see `PrepJob`.
        tell: called once for each case.
        progress: told as cases end on a cluster.
        engine: where the cases are done.

    Returns:
        DONE, or SOME_CASES_FAILED.
    """
    target = _output_of(Path(source)) if output is None else Path(output)
    cases, batch = find_cases(source, target, patterns=("*.nii.gz", "*.nii"), suffix=".nii.gz")
    if Path(source).is_dir():
        cases = _images_of(cases, Path(source))
    if batch and job.mask is not None and not job.mask.is_dir():
        raise UsageError("--mask names one file, but the input stands for many; name a folder")
    work = PrepWork(job, batch)
    planned = [path for case in cases for path in work.files(case).values()]
    given = [] if job.mask is None else [job.mask]
    engine.check_paths([*planned, *given, *(case.input for case in cases)])
    if batch and job.existing == "refuse":
        check_outputs(planned, inputs=[case.input for case in cases], existing="refuse")
    return run_cases(cases, work, batch=batch, tell=tell, engine=engine, progress=progress)


def _output_of(source: Path) -> Path:
    if source.is_dir():
        return source.resolve().with_name(f"{source.resolve().name}_prep")
    if source.is_file():
        return source.with_name(f"{stem_of(source)}_prep.nii.gz")
    raise UsageError(f"the input {source} is no file and no folder; name the output with -o")


def _images_of(cases: tuple[Case, ...], folder: Path) -> tuple[Case, ...]:
    kept = tuple(case for case in cases if not stem_of(case.input).endswith(_NOT_IMAGES))
    if len(kept) < len(cases):
        _log.info("%d files are named as masks are, left out", len(cases) - len(kept))
    if not kept:
        raise InvalidInputError(
            f"the input folder {folder} holds masks only; name a folder with images"
        )
    return kept


def _mask_file(mask: Path) -> Path:
    if not mask.is_file():
        what = "is a folder" if mask.is_dir() else "does not exist"
        raise InvalidInputError(f"the mask {mask} {what}; check its name")
    return mask


def _files(job: PrepJob, output: Path) -> dict[str, Path]:
    """Name every file of a case, the prepared image last."""
    suffix = next((end for end in _NIFTI if output.name.endswith(end)), None)
    if suffix is None:
        raise UsageError(
            f"the output is {output.name}; an image is written as NIfTI, name it *.nii.gz"
        )
    stem = output.name.removesuffix(suffix)
    mask = {"mask": output.with_name(f"{stem}_mask{suffix}")} if job.save_mask else {}
    return {**mask, "sidecar": sidecar_of(output), "prepared": output}


def _check_geometry(image: "Volume", source: Path) -> None:
    """Refuse a header that claims an orientation and holds none that can be used."""
    from nibabel.spatialimages import HeaderDataError

    from medsci.imaging.geometry import is_valid_affine

    header = image.header
    if header is None or not image.has_orientation:
        return
    forms = []
    for code, form in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if header[code] > 0:
            try:
                forms.append(is_valid_affine(form()))
            except (HeaderDataError, ValueError):
                forms.append(False)
    if not any(forms):
        raise InvalidInputError(
            f"{source} has no invertible affine, though its header claims one; repair its sform or "
            "qform"
        )
