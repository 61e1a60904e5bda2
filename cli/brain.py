"""`medsci brain`: three-dimensional T1 heads, from preparing scans to judging generated ones."""

__all__ = ["app"]

import typer

from medsci.cli.brain_evaluate import evaluate
from medsci.cli.brain_generate import generate
from medsci.cli.brain_prep import prep
from medsci.cli.brain_train import train

app = typer.Typer(
    help="Generate T1-weighted heads: prepare, train, generate, evaluate.", no_args_is_help=True
)
app.command()(prep)
app.command()(train)
app.command()(generate)
app.command()(evaluate)
