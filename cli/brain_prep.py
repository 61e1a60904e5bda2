"""`medsci brain prep`: heads as they were scanned onto the grid of a volume model."""

__all__ = ["prep"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import (
    EngineName,
    Json,
    Overwrite,
    Quiet,
    Scheduler,
    SkipExisting,
    Verbose,
    Workers,
    existing_of,
)
from medsci.cli.talk import talk_of
from medsci.errors import UsageError


def prep(
    input: Annotated[
        str,
        typer.Option(
            "--input", "-i", help="NIfTI image, a folder, or a quoted glob.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: INPUT_prep.nii.gz, or a folder INPUT_prep."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Of the brain, NIfTI, any grid; a folder for many inputs. Found if omitted."
        ),
    ] = None,
    fov: Annotated[
        str, typer.Option(metavar="MM,MM,MM", help="Field of view along the axes of the result.")
    ] = "192,224,192",
    spacing: Annotated[
        str,
        typer.Option(
            metavar="rule|none|MM",
            help="rule: axes finer than 1 mm become 1 mm. none: as it is. Or the side of a voxel.",
        ),
    ] = "rule",
    percentiles: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Of the whole image, that become 0 and 1.")
    ] = "0.1,99.9",
    orientation: Annotated[
        Literal["LPS", "RAS"], typer.Option(help="Where the axes of the result run to.")
    ] = "LPS",
    dtype: Annotated[
        Literal["uint16", "float32"], typer.Option(help="uint16: 0 to 65535. float32: 0 to 1.")
    ] = "uint16",
    save_mask: Annotated[
        bool, typer.Option("--save-mask", help="Write the brain used to OUTPUT_mask.nii.gz.")
    ] = False,
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
    """Prepare T1-weighted heads for a volume model: orientation, voxels, grey scale, window.

    The window is centred on the brain: a mask of yours, or one found without a network (the
    sidecar says which). Every voxel keeps its place in the patient.
    """
    from medsci.brain.prep_settings import PrepSettings
    from medsci.pipelines.brain_prep import PrepJob, prep_cases
    from medsci.pipelines.engine import engine_of

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    extent, ends = _numbers(fov, 3, "--fov"), _numbers(percentiles, 2, "--percentiles")
    settings = PrepSettings(
        fov_mm=(extent[0], extent[1], extent[2]),
        spacing_mm=_spacing(spacing),
        percentiles=(ends[0], ends[1]),
        orientation=orientation,
        dtype=dtype,
    )
    job = PrepJob(
        settings=settings,
        mask=mask,
        save_mask=save_mask,
        existing=existing_of(overwrite, skip_existing),
        timings=timings,
    )
    place = engine_of(engine, scheduler=scheduler, workers=workers)
    with talk.progress() as progress:
        code = prep_cases(input, output, job=job, tell=talk.tell, progress=progress, engine=place)
    raise typer.Exit(code)


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) != count:
        raise UsageError(f"{option} is {text!r}; give {count} numbers with commas between them")
    return found


def _spacing(text: str) -> float | Literal["rule", "keep"]:
    if text in ("rule", "none"):
        return "keep" if text == "none" else "rule"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--spacing is {text!r}; give rule, none or a size in mm") from None
