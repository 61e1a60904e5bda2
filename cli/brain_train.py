"""`medsci brain train`: a model of brain volumes from a recipe and a folder of volumes."""

__all__ = ["train"]

from pathlib import Path
from typing import Annotated

import typer

from medsci.cli.options import Device, Overwrite, Quiet, Verbose
from medsci.cli.talk import talk_of
from medsci.cli.train import DryRun, Overrides, PrintConfig, Resume, RunFolder


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="brain_small, brain_flow_1mm, brain_flow_4mm, brain_tiny, or a YAML file."
        ),
    ] = "brain_small",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of prepared volumes, or a table of them. Default: the recipe's data."
        ),
    ] = None,
    output: RunFolder = None,
    overrides: Overrides = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train a model of brain volumes.

    Without --data, brain_small and brain_tiny learn from simulated heads, and need no files. With
    --data they take images with label maps NAME_dseg.nii.gz beside them (1 fluid, 2 grey matter,
    3 white matter); brain_flow_1mm and brain_flow_4mm take images alone, as brain prep writes them.
    """
    from medsci.pipelines.brain_train import data_overrides
    from medsci.pipelines.train import train_from_recipe

    talk = talk_of(quiet=quiet, verbose=verbose)
    answer = train_from_recipe(
        recipe,
        overrides=(*data_overrides(recipe, data), *(overrides or ())),
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
