"""`medsci models pairs`: noise and what a model makes of it, to train a few-step model on."""

__all__ = ["pairs"]

from typing import Annotated, Literal

import typer

from medsci.cli.options import Device, Json, Output, Overwrite, Quiet, Seed, Threads, Verbose
from medsci.cli.talk import talk_of


def pairs(
    model: Annotated[str, typer.Argument(help="Name or folder of a model.", show_default=False)],
    output: Output,
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="How many pairs.")] = 4096,
    steps: Annotated[int, typer.Option(min=2, help="Network calls per sample.")] = 20,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Rows and columns. Default: as the model was trained."),
    ] = None,
    seed: Seed = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time: memory, speed.")] = 16,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Numbers of the network.")
    ] = "auto",
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Scale of the guidance by the label; 1 is none.")
    ] = 1.0,
    label: Annotated[int | None, typer.Option(min=0, help="One label for all pairs.")] = None,
    labels: Annotated[
        int | None, typer.Option(min=1, help="Labels 0 to this minus one, in turn.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Numbers in the file.")
    ] = "float16",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Write pairs of noise and samples of a model as HDF5, to train a few-step model on.

    Each pair depends on the seed and its number alone. The file appears whole at the end.
    """
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.pairs import PairSettings, make_pairs
    from medsci.pipelines.run import draw_seed

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    settings = PairSettings(
        n=n,
        steps=steps,
        size=size,
        seed=draw_seed() if seed is None else seed,
        batch=batch,
        device=device,
        precision=precision,
        guidance=guidance,
        label=label,
        labels=labels,
        dtype=dtype,
    )
    with talk.progress() as progress:
        report = make_pairs(
            model, output, settings=settings, overwrite=overwrite, progress=progress
        )
    talk.tell(report)
