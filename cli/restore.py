"""`medsci restore`: noise, holes, large voxels, blur and bias fields."""

__all__ = ["restore"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import (
    Device,
    Json,
    Output,
    Overwrite,
    Quiet,
    Seed,
    SkipExisting,
    Threads,
    Verbose,
    existing_of,
)
from medsci.cli.talk import talk_of
from medsci.errors import UsageError


def restore(
    input: Annotated[
        str,
        typer.Option(
            "--input", "-i", help="NIfTI image, a folder, or a quoted glob.", show_default=False
        ),
    ],
    output: Output,
    task: Annotated[
        Literal["denoise", "inpaint", "superres", "deblur", "bias"],
        typer.Option(help="What is wrong with the image.", show_default=False),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(help="inpaint: NIfTI, not 0 where to replace; a folder for many inputs."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A solver (dds3d, red-diff, ddrm, diffpir ...), mmse (denoise), spline "
            "(superres), n4 or prior (bias). Default: mmse, n4, spline across slices, else dds3d.",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[str, typer.Option(help="Name or folder of a model.")] = "brain-t1-2d",
    samples: Annotated[
        int, typer.Option(min=1, help="Samples drawn; the result is their mean.")
    ] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Network calls per slice and sample.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(min=0, help="Its standard deviation in image units. Default: estimated."),
    ] = None,
    factor: Annotated[
        int, typer.Option(min=2, help="superres: new voxels per old one, along each axis.")
    ] = 2,
    axes: Annotated[
        Literal["auto", "plane", "i", "j", "k"],
        typer.Option(help="superres: the prior's slice plane, or one voxel axis of the file."),
    ] = "auto",
    fwhm: Annotated[
        float | None, typer.Option(help="deblur: width of the Gaussian blur in mm.")
    ] = None,
    boundary: Annotated[
        Literal["circular", "zero", "reflect"],
        typer.Option(help="deblur: what lies beyond the border."),
    ] = "reflect",
    thickness: Annotated[
        float | None,
        typer.Option(help="Prior of volumes: slice thickness in mm. Default: slice distance."),
    ] = None,
    centre: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            help="Prior of volumes: middle of the brain in world mm (RAS+). Default: found.",
        ),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels", help="Prior of volumes: write tissues to OUTPUT_labels.nii.gz."),
    ] = False,
    set_: Annotated[
        str | None,
        typer.Option("--set", metavar="NAME=VALUE,...", help="Further options of the method."),
    ] = None,
    std: Annotated[
        Path | None,
        typer.Option(help="Uncertainty map. Default: OUTPUT_std.nii.gz if samples > 1."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Truth on the grid of the result, to compare with.")
    ] = None,
    seed: Seed = None,
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
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Restore images with a diffusion prior of axial slices, or of whole volumes.

    Writes the restored image in the input's own type and grid (superres: a finer grid that covers
    the same voxels, or the grid of a prior of volumes), the standard deviation of the samples if
    several are drawn, for bias the field, tissues if asked for, and a sidecar with how it was made.

    A prior of volumes (--prior brain-t1-small) takes any orientation and slice thickness and
    restores what its own voxels resolve, 4 mm there.
    """
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.restore import RestoreJob, restore_cases
    from medsci.pipelines.run import draw_seed
    from medsci.recon.restore_settings import RestoreSettings

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    settings = RestoreSettings(
        task=task,
        method=method,
        n_samples=samples,
        n_steps=steps,
        noise=noise,
        factor=factor,
        axes=axes,
        fwhm_mm=fwhm,
        boundary=boundary,
        thickness_mm=thickness,
        centre_mm=_point(centre),
        seed=draw_seed() if seed is None else seed,
        chunk=chunk,
        device=device,
        precision=precision,
        options=_options(set_),
    )
    job = RestoreJob(
        settings=settings,
        prior=prior,
        mask=mask,
        std=std,
        labels=labels,
        reference=reference,
        existing=existing_of(overwrite, skip_existing),
        timings=timings,
    )
    with talk.progress() as progress:
        code = restore_cases(input, output, job=job, tell=talk.tell, progress=progress)
    raise typer.Exit(code)


def _options(text: str | None) -> dict[str, str]:
    pairs = [] if text is None else [part.partition("=") for part in text.split(",")]
    for name, sign, value in pairs:
        if not (name.strip() and sign and value.strip()):
            raise UsageError(f"--set is {text!r}; give NAME=VALUE, and commas between several")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _point(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--centre is {text!r}; give three numbers X,Y,Z in mm") from error
    return x, y, z
