"""`medsci train`: a recipe in, a model folder out."""

__all__ = ["DryRun", "Overrides", "PrintConfig", "Resume", "RunFolder", "train"]

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from medsci.cli.options import Device, Overwrite, Quiet, Verbose
from medsci.cli.talk import talk_of

RunFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the run. Default: runs/NAME."),
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace one entry; may be repeated."),
]
Resume: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Go on from a checkpoint, a run's folder, or auto, as if never stopped."),
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Build everything, time a few steps.")
]
PrintConfig: TypeAlias = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved recipe and stop.")
]


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
    output: RunFolder = None,
    overrides: Overrides = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
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
