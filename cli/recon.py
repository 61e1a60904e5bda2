"""`medsci recon`: MRI reconstruction, simulated acquisitions, and classical baselines."""

__all__ = ["app"]

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import (
    Device,
    EngineName,
    Json,
    Output,
    Overwrite,
    Quiet,
    Scheduler,
    Seed,
    SkipExisting,
    Threads,
    Verbose,
    Workers,
)
from medsci.cli.talk import talk_of
from medsci.errors import UsageError
from medsci.pipelines.cases import Case, CaseReport, run_cases

app = typer.Typer(help="Reconstruct MRI from undersampled k-space.", no_args_is_help=True)


@app.command()
def mri(
    input: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            help="k-space HDF5 (ours or fastMRI's), a folder, or a quoted glob.",
            show_default=False,
        ),
    ],
    output: Output,
    prior: Annotated[str, typer.Option(help="Name or folder of a model.")] = "brain-t1-2d",
    samples: Annotated[
        int, typer.Option(min=1, help="Samples drawn; the result is their mean.")
    ] = 3,
    report: Annotated[
        Path | None, typer.Option(help="HTML report to write; a folder for many inputs.")
    ] = None,
    std: Annotated[
        Path | None,
        typer.Option(help="Uncertainty map. Default: OUTPUT_std.nii.gz if samples > 1."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Fully sampled truth, NIfTI. Default: as stored in the input."),
    ] = None,
    seed: Seed = None,
    steps: Annotated[
        int | None, typer.Option(min=3, help="Network calls per slice and sample.")
    ] = None,
    cg: Annotated[
        int | None, typer.Option(min=1, help="CG steps per call. Default: by acceleration.")
    ] = None,
    maps: Annotated[
        Literal["espirit", "low_res", "file"], typer.Option(help="Where coil maps come from.")
    ] = "espirit",
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Numbers of the network.")
    ] = "auto",
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Slices per network call: memory, not results.")
    ] = None,
    threads: Threads = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="Record wall time in the sidecar.")
    ] = False,
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
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.engine import engine_of
    from medsci.pipelines.recon_mri import ReconJob, recon_mri_cases
    from medsci.recon.settings import ReconSettings

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    chosen = engine_of(engine, scheduler=scheduler, workers=workers)
    if chosen.kind == "dask" and threads not in (None, 1):
        raise UsageError("--threads is 1 in every worker of --engine dask; use --workers instead")
    use_threads(threads)
    settings = ReconSettings(
        n_samples=samples,
        n_steps=steps,
        n_cg=cg,
        seed=_seed(seed),
        chunk=chunk,
        maps=maps,
        device=device,
        precision=precision,
    )
    job = ReconJob(
        settings=settings,
        prior=prior,
        report=report,
        std=std,
        reference=reference,
        existing=_existing(overwrite, skip_existing),
        timings=timings,
    )
    with talk.progress() as progress:
        code = recon_mri_cases(
            input, output, job=job, tell=talk.tell, progress=progress, engine=chosen
        )
    raise typer.Exit(code)


@app.command()
def simulate(
    input: Annotated[
        Path, typer.Option("--input", "-i", help="Magnitude image, NIfTI.", show_default=False)
    ],
    output: Output,
    acceleration: Annotated[float, typer.Option(min=1, help="All lines over kept lines.")] = 4.0,
    coils: Annotated[int, typer.Option(min=1, help="Receive coils.")] = 8,
    noise: Annotated[
        float, typer.Option(min=0, help="Complex noise, as a fraction of the bright tissue.")
    ] = 0.01,
    seed: Seed = None,
    center_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of fully sampled centre lines.")
    ] = 0.08,
    slices: Annotated[
        str | None, typer.Option(metavar="FIRST:STOP", help="Slab to acquire. Default: all.")
    ] = None,
    slice_axis: Annotated[
        int, typer.Option(min=0, max=2, help="Voxel axis that slices are counted along.")
    ] = 2,
    phase_axis: Annotated[
        Literal["auto", "0", "1", "2"],
        typer.Option(help="Undersampled voxel axis. auto: the shorter one in plane."),
    ] = "auto",
    mask: Annotated[
        Literal["random", "equispaced"], typer.Option(help="How lines are chosen.")
    ] = "random",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Simulate an undersampled multi-coil acquisition of a magnitude image."""
    from medsci.pipelines.simulate_mri import simulate_mri
    from medsci.recon.settings import SimulateSettings

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    settings = SimulateSettings(
        acceleration=acceleration,
        n_coils=coils,
        noise=noise,
        center_fraction=center_fraction,
        mask=mask,
        slices=_slab(slices),
        slice_axis=slice_axis,
        phase_axis=None if phase_axis == "auto" else int(phase_axis),
        seed=_seed(seed),
    )
    existing = _existing(overwrite, skip_existing=False)

    def work(case: Case) -> CaseReport:
        return simulate_mri(case.input, case.output, settings=settings, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)


@app.command()
def baseline(
    input: Annotated[Path, typer.Option("--input", "-i", help="k-space HDF5.", show_default=False)],
    output: Output,
    method: Annotated[
        Literal["zero-filled", "sense", "tv", "l1-wavelet"], typer.Option(help="Which one.")
    ] = "l1-wavelet",
    weight: Annotated[
        float | None, typer.Option(min=0, help="Of the penalty. Default: tuned at R = 4.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Default: enough for the method to converge.")
    ] = None,
    maps: Annotated[
        Literal["espirit", "low_res", "file"], typer.Option(help="Where coil maps come from.")
    ] = "espirit",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Reconstruct without a learnt prior: what `mri` has to beat."""
    from medsci.pipelines.baseline_mri import BaselineSettings, baseline_mri
    from medsci.pipelines.device import use_threads

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    settings = BaselineSettings(method=method, weight=weight, n_iter=iterations, maps=maps)
    existing = _existing(overwrite, skip_existing=False)

    def work(case: Case) -> CaseReport:
        return baseline_mri(case.input, case.output, settings=settings, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)


def _seed(asked: int | None) -> int:
    from medsci.pipelines.run import draw_seed

    return draw_seed() if asked is None else asked


def _slab(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+:\d+", text):
        raise UsageError(f"--slices is {text!r}; give FIRST:STOP, for example 70:106")
    start, stop = text.split(":")
    return int(start), int(stop)


def _existing(overwrite: bool, skip_existing: bool) -> Literal["refuse", "overwrite", "skip"]:
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; give one")
    return "overwrite" if overwrite else "skip" if skip_existing else "refuse"
