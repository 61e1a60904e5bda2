"""`medsci brain generate`: brain volumes from noise."""

__all__ = ["generate"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import (
    Device,
    Json,
    Overwrite,
    Quiet,
    Seed,
    SkipExisting,
    Threads,
    Verbose,
    existing_of,
    seed_of,
)
from medsci.cli.talk import talk_of

_PRECISIONS: dict[str, Literal["auto", "float32", "bfloat16"]] = {
    "auto": "auto",
    "bf16": "bfloat16",
    "fp32": "float32",
}


def generate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to.", show_default=False)
    ],
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="Volumes. Default: rows of the condition file, else 1."),
    ] = None,
    model: Annotated[str, typer.Option(help="Name or folder of a 3D model.")] = "brain-t1-small",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Network calls per volume. Default: the model's own.")
    ] = None,
    solver: Annotated[
        Literal["auto", "ddim", "dpmpp2m", "heun", "ancestral"],
        typer.Option(help="auto: what the model asks for, else the best for that many calls."),
    ] = "auto",
    seed: Seed = None,
    first: Annotated[
        int, typer.Option(min=1, help="Number of the first volume: machines can share a seed.")
    ] = 1,
    like: Annotated[
        Path | None, typer.Option(help="NIfTI image whose grid the volumes are written on.")
    ] = None,
    centre: Annotated[
        Literal["auto", "fov", "head"],
        typer.Option(help="--like: heads go to its head, or to the middle of its field of view."),
    ] = "auto",
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What volumes shall be like; may be repeated."),
    ] = None,
    condition_file: Annotated[
        Path | None, typer.Option(help="CSV or TSV of conditions, one row per volume.")
    ] = None,
    unasked: Annotated[
        Literal["population", "unknown"],
        typer.Option(help="Conditions not asked for: drawn from the training population, or none."),
    ] = "population",
    guidance: Annotated[
        float, typer.Option(min=0, help="Weight of the condition: 1 as trained, more is stricter.")
    ] = 1.0,
    clip: Annotated[
        Literal["consistent", "ddim", "none"],
        typer.Option(help="Keep estimates in the data's range; ddim as published code does it."),
    ] = "consistent",
    labels: Annotated[bool, typer.Option("--labels", help="Write label maps as well.")] = False,
    hallucination: Annotated[
        bool, typer.Option("--hallucination", help="Write maps of where the model wavered.")
    ] = False,
    dtype: Annotated[
        Literal["float32", "uint16"],
        typer.Option(help="float32: 0 to 1. uint16: each volume stretched to 0..65535."),
    ] = "float32",
    batch: Annotated[
        int, typer.Option(min=1, help="Volumes drawn together on a GPU, if memory allows.")
    ] = 4,
    memory: Annotated[
        Literal["auto", "plain", "sliced", "tiled"],
        typer.Option(help="auto: what fits. sliced: slower, the same. tiled: an approximation."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], typer.Option(help="Numbers of the network.")
    ] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Generate T1-weighted brain volumes from noise.

    Writes sub-gen0001_T1w.nii.gz and so on with a sidecar each. Volume k of a seed is the same
    however many are drawn.
    """
    from medsci.brain.conditions import parse_conditions
    from medsci.brain.generation import GenerateSettings
    from medsci.pipelines.brain_generate import generate_volumes
    from medsci.pipelines.brain_generate_files import GenerateJob
    from medsci.pipelines.device import use_threads

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    job = GenerateJob(
        settings=GenerateSettings(
            seed=seed_of(seed),
            solver=solver,
            n_steps=steps,
            guidance=guidance,
            clip=clip,
            batch=batch,
            maps=hallucination,
        ),
        n=n,
        first=first,
        model=model,
        conditions=parse_conditions(condition or []),
        condition_file=condition_file,
        like=like,
        centre=centre,
        labels=labels,
        dtype=dtype,
        existing=existing_of(overwrite, skip_existing),
        device=device,
        precision=_PRECISIONS[precision],
        memory=memory,
        unasked=unasked,
    )
    with talk.progress() as progress:
        code = generate_volumes(output, job=job, tell=talk.tell, progress=progress)
    raise typer.Exit(code)
