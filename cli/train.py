"""`medsci train`: a recipe in, a model folder out."""

__all__ = ["train"]

from pathlib import Path
from typing import Annotated

import typer

from medsci.cli.options import Device, Overwrite, Quiet, Verbose
from medsci.cli.talk import talk_of


def _print_schema(asked: bool) -> bool:
    if asked:
        import json

        from medsci.training.reading import export_schema

        typer.echo(json.dumps(export_schema(), indent=2))
        raise typer.Exit
    return asked


def train(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a packaged one.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run. Default: runs/NAME."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one entry; may be repeated."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on from a checkpoint, a run's folder, or auto, as if never stopped."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, time a few steps.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            is_eager=True,
            callback=_print_schema,
            help="Print the JSON schema of all recipes and stop.",
        ),
    ] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train a model as a recipe describes it.

    A recipe names its task (prior or distill) and says everything about a run. --print-config
    writes it out with every default; --schema prints the JSON schema with which editors complete
    and check recipes. Results go to a folder: model/, last.ckpt, metrics.csv, tensorboard/.
    """
    from medsci.pipelines.train import train_from_recipe

    talk = talk_of(quiet=quiet, verbose=verbose)
    answer = train_from_recipe(
        recipe,
        overrides=tuple(overrides or ()),
        resume=resume,
        dry_run=dry_run,
        print_config=print_config,
        device=device,
        output=output,
        overwrite=overwrite,
        quiet=quiet,
    )
    if isinstance(answer, str):
        talk.say(answer.rstrip())
