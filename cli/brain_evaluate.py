"""`medsci brain evaluate`: generated brain volumes beside real ones."""

__all__ = ["evaluate"]

from typing import Annotated, Literal

import typer

from medsci.cli.options import (
    Json,
    Output,
    Overwrite,
    Quiet,
    SkipExisting,
    Threads,
    Verbose,
    existing_of,
)
from medsci.cli.talk import talk_of


def evaluate(
    real: Annotated[
        str, typer.Argument(help="Real volumes: a folder, a quoted glob, or a CSV or TSV table.")
    ],
    generated: Annotated[str, typer.Argument(help="Generated volumes, given the same way.")],
    output: Output,
    train: Annotated[
        str | None,
        typer.Option(
            help="What the model was trained on, to look for copies. REAL should then be unseen.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: volumes of regions where both sets have *_dseg label maps."),
    ] = "auto",
    splits: Annotated[
        int, typer.Option(min=1, help="Random halves of REAL behind every baseline.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The only source of randomness.")] = 0,
    threads: Threads = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Compare generated volumes with real ones in one HTML report.

    Fréchet distance, energy distance, histograms, diversity, copies of training volumes and volumes
    of regions, each beside the same of real against real, with pictures. All figures go to a JSON
    file of the same name. Volumes are compared box centre on box centre: prepare both sets alike.
    """
    from medsci.pipelines.brain_evaluate import EvaluateJob, evaluate_volumes
    from medsci.pipelines.device import use_threads

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    job = EvaluateJob(
        train=train,
        labels=labels,
        splits=splits,
        seed=seed,
        existing=existing_of(overwrite, skip_existing),
    )
    with talk.progress() as progress:
        report = evaluate_volumes(real, generated, output, job=job, progress=progress)
    talk.tell(report)
