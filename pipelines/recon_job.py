"""What a reconstruction job is told, the files it writes, and the record that goes beside them."""

__all__ = ["PRIORS", "Prior", "ReconJob", "files_of", "job_of", "resolved", "run_of"]

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from medsci.errors import UsageError
from medsci.pipelines.cases import Case, stem_of
from medsci.pipelines.device import choose_device
from medsci.pipelines.outputs import Existing
from medsci.pipelines.run import Option, Run, sidecar_of
from medsci.pipelines.scans import Domain
from medsci.recon.settings import ReconSettings

_NIFTI = (".nii.gz", ".nii")

PRIORS: dict[Domain, str] = {"mri": "brain-t1-2d", "ct": "ct-2d"}
"""The prior that a domain takes if none is named."""


@final
@dataclass(frozen=True)
class ReconJob:
    """How to reconstruct and what to write; the same for every case of a batch.

    Attributes:
        domain: `mri` or `ct`.
        settings: see `ReconSettings`; its device may be `auto` here.
        prior: name or folder of a stored denoiser; that of `PRIORS` if empty.
        report: HTML file to write; in a batch a folder that receives one for each case.
        std: uncertainty map to write; `OUT_std.nii.gz` beside the output if None and more than one
            sample is drawn.
        reference: fully sampled truth to compare with; the one in the k-space file if None.
        existing: what to do about an output that is there.
        timings: record wall time in the sidecar, which then differs from run to run.
    """

    domain: Domain = "mri"
    settings: ReconSettings = field(default_factory=ReconSettings)
    prior: str = ""
    report: Path | None = None
    std: Path | None = None
    reference: Path | None = None
    existing: Existing = "refuse"
    timings: bool = False

    def __post_init__(self) -> None:
        if not self.prior:
            object.__setattr__(self, "prior", PRIORS[self.domain])


@final
@dataclass(frozen=True, eq=False)
class Prior:
    """A denoiser ready to run, with what a record, and for CT the scaling, needs to know of it."""

    name: str
    sha256: str
    data: str
    denoiser: Any
    window_hu: tuple[float, float] | None = None
    channels: int = 2


def resolved(job: ReconJob) -> ReconJob:
    """Replace every `auto` by what it means on this machine, so that the record says it."""
    device = choose_device(job.settings.device)
    from medsci.core.precision import resolve_precision

    dtype = resolve_precision(job.settings.precision, device)
    precision: Literal["float32", "bfloat16"]
    precision = "bfloat16" if str(dtype) == "torch.bfloat16" else "float32"
    settings = dataclasses.replace(job.settings, device=device, precision=precision)
    return dataclasses.replace(job, settings=settings)


def job_of(job: ReconJob, case: Case) -> ReconJob:
    """Return the job of one case of a batch: with a report of its own."""
    if job.report is None:
        return job
    return dataclasses.replace(job, report=job.report / f"{stem_of(case.input)}.html")


def files_of(job: ReconJob, output: Path) -> dict[str, Path]:
    """Name every file of a case, the reconstruction last."""
    suffix = next((end for end in _NIFTI if output.name.endswith(end)), None)
    if suffix is None:
        raise UsageError(
            f"the output is {output.name}; a reconstruction is written as NIfTI, name it *.nii.gz"
        )
    if job.std is not None and job.settings.n_samples < 2:
        raise UsageError("--std needs at least --samples 2; one sample has no spread")
    std = job.std
    if std is None and job.settings.n_samples > 1:
        std = output.with_name(f"{output.name.removesuffix(suffix)}_std{suffix}")
    found = {"std": std, "report": job.report, "sidecar": sidecar_of(output)}
    return {kind: path for kind, path in found.items() if path} | {"reconstruction": output}


def run_of(job: ReconJob, source: Path, output: Path, *, prior: Prior) -> Run:
    """Return the record of a case."""
    settings = job.settings
    options: dict[str, Option] = {
        "prior": prior.name,
        "solver": settings.solver,
        "samples": settings.n_samples,
        "steps": settings.n_steps,
        "cg": settings.n_cg,
        "option": ",".join(f"{name}={text}" for name, text in settings.options) or None,
        "maps": settings.maps if job.domain == "mri" else None,
        "device": settings.device,
        "precision": settings.precision,
        "chunk": settings.chunk,
        "reference": job.reference,
        "report": job.report,
        "std": job.std,
    }
    model = {"Name": prior.name, "Sha256": prior.sha256}
    return Run(
        ("recon", job.domain), source, output, settings.seed, settings.device, options, model
    )
