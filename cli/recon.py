"""`medsci recon`: reconstruct MRI and CT from incomplete data with a prior."""

__all__ = ["app"]

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from medsci.cli import simulate, tune
from medsci.cli.baseline import baseline
from medsci.cli.options import (
    Chunk,
    CoilMaps,
    Device,
    EngineName,
    Json,
    Output,
    Overwrite,
    Precision,
    Quiet,
    Scheduler,
    Seed,
    SkipExisting,
    SolverName,
    Threads,
    Verbose,
    Workers,
    existing_of,
    pairs_of,
    seed_of,
)
from medsci.cli.talk import talk_of
from medsci.errors import UsageError

app = typer.Typer(help="Reconstruct MRI and CT from incomplete data.", no_args_is_help=True)
app.add_typer(simulate.app, name="simulate")
app.add_typer(tune.app, name="tune")
app.command(name="baseline")(baseline)

Solver: TypeAlias = Annotated[
    SolverName,
    typer.Option(help="How the prior and the data are brought together; see docs/inverse.md."),
]
Option: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="NAME=VALUE", help="Further setting of the solver; may be repeated."
    ),
]
Tuned: TypeAlias = Annotated[
    Path | None,
    typer.Option("--settings", help="Solver and settings from `recon tune`; --option overrides."),
]
Samples: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, help="Samples drawn; the result is their mean. Default: 3, or 1 where none differ."
    ),
]
Report: TypeAlias = Annotated[
    Path | None, typer.Option(help="HTML report to write; a folder for many inputs.")
]
Std: TypeAlias = Annotated[
    Path | None, typer.Option(help="Uncertainty map. Default: OUTPUT_std.nii.gz if samples > 1.")
]
Reference: TypeAlias = Annotated[
    Path | None, typer.Option(help="The truth, NIfTI. Default: as stored in the input.")
]
Steps: TypeAlias = Annotated[
    int | None, typer.Option(min=3, help="Network calls per slice and sample.")
]
Cg: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="CG steps per call. Default: tuned.")
]
Timings: TypeAlias = Annotated[
    bool, typer.Option("--timings", help="Record wall time in the sidecar.")
]


@app.command()
def mri(
    input: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            help="k-space: HDF5 (ours, fastMRI, ISMRMRD), BART, npz; a folder or a quoted glob.",
            show_default=False,
        ),
    ],
    output: Output,
    prior: Annotated[str, typer.Option(help="Name or folder of a model.")] = "brain-t1-2d",
    solver: Solver = "dds3d",
    option: Option = None,
    tuned: Tuned = None,
    samples: Samples = None,
    report: Report = None,
    std: Std = None,
    reference: Reference = None,
    seed: Seed = None,
    steps: Steps = None,
    cg: Cg = None,
    maps: CoilMaps = "espirit",
    device: Device = "auto",
    precision: Precision = "auto",
    chunk: Chunk = None,
    threads: Threads = None,
    timings: Timings = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    engine: EngineName = "local",
    scheduler: Scheduler = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Reconstruct undersampled multi-coil MRI with a diffusion prior.

    Writes the mean of the samples, their standard deviation, a sidecar with how it was made, and,
    if asked, a report. A folder or glob loads the prior once; a case that fails is reported and
    the others go on. With --engine dask they are shared out to workers, and a case whose worker
    dies is done again by another.
    """
    _run(
        input,
        output,
        domain="mri",
        job={
            "prior": prior,
            "report": report,
            "std": std,
            "reference": reference,
            "existing": existing_of(overwrite, skip_existing),
            "timings": timings,
        },
        settings={
            "solver": solver,
            "options": pairs_of(option),
            "n_samples": samples,
            "n_steps": steps,
            "n_cg": cg,
            "seed": seed_of(seed),
            "chunk": chunk,
            "maps": maps,
            "device": device,
            "precision": precision,
        },
        talk=talk_of(quiet=quiet, verbose=verbose, as_json=as_json),
        threads=threads,
        engine=(engine, scheduler, workers),
        tuned=tuned,
    )


@app.command()
def ct(
    input: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            help="Sinogram: HDF5 or npz; a folder or a quoted glob.",
            show_default=False,
        ),
    ],
    output: Output,
    prior: Annotated[str, typer.Option(help="Name or folder of a model.")] = "ct-2d",
    solver: Solver = "dds3d",
    option: Option = None,
    tuned: Tuned = None,
    samples: Samples = None,
    report: Report = None,
    std: Std = None,
    reference: Reference = None,
    seed: Seed = None,
    steps: Steps = None,
    cg: Cg = None,
    device: Device = "auto",
    precision: Precision = "auto",
    chunk: Chunk = None,
    threads: Threads = None,
    timings: Timings = False,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    engine: EngineName = "local",
    scheduler: Scheduler = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Reconstruct sparse-view or limited-angle CT with a diffusion prior, in Hounsfield units.

    Writes what `recon mri` writes. Parallel and fan beams; slices share their rays.
    """
    _run(
        input,
        output,
        domain="ct",
        job={
            "prior": prior,
            "report": report,
            "std": std,
            "reference": reference,
            "existing": existing_of(overwrite, skip_existing),
            "timings": timings,
        },
        settings={
            "solver": solver,
            "options": pairs_of(option),
            "n_samples": samples,
            "n_steps": steps,
            "n_cg": cg,
            "seed": seed_of(seed),
            "chunk": chunk,
            "device": device,
            "precision": precision,
        },
        talk=talk_of(quiet=quiet, verbose=verbose, as_json=as_json),
        threads=threads,
        engine=(engine, scheduler, workers),
        tuned=tuned,
    )


def _run(
    input: str,
    output: Path,
    *,
    domain: Literal["mri", "ct"],
    job: dict[str, Any],
    settings: dict[str, Any],
    talk: Any,
    threads: int | None,
    engine: tuple[Literal["local", "dask"], str | None, int | None],
    tuned: Path | None,
) -> None:
    from medsci.inverse.methods import method_of
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.engine import engine_of
    from medsci.pipelines.recon import ReconJob, recon_cases
    from medsci.recon.settings import ReconSettings

    chosen = engine_of(engine[0], scheduler=engine[1], workers=engine[2])
    if chosen.kind == "dask" and threads not in (None, 1):
        raise UsageError("--threads is 1 in every worker of --engine dask; use --workers instead")
    use_threads(threads)
    if tuned is not None:
        from medsci.pipelines.tuned_file import read_tuned

        settings["solver"], found = read_tuned(tuned, domain=domain)
        settings["options"] = (*found, *settings["options"])
    if settings["n_samples"] is None:
        settings["n_samples"] = 3 if method_of(settings["solver"]).samples else 1
    with talk.progress() as progress:
        code = recon_cases(
            input,
            output,
            job=ReconJob(domain=domain, settings=ReconSettings(**settings), **job),
            tell=talk.tell,
            progress=progress,
            engine=chosen,
        )
    raise typer.Exit(code)
