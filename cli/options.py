"""Options that several commands share, each spelled and explained once."""

__all__ = [
    "Device",
    "EngineName",
    "Json",
    "Output",
    "Overwrite",
    "Quiet",
    "Scheduler",
    "Seed",
    "SkipExisting",
    "Threads",
    "Verbose",
    "Workers",
    "existing_of",
    "seed_of",
]

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from medsci.errors import UsageError

Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write the result.", show_default=False)
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(min=0, help="The only source of randomness. Drawn if omitted, always recorded."),
]
Device: TypeAlias = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:n. Asked for but absent is an error.")
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: torch's own choice.")
]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs that exist already.")
]
SkipExisting: TypeAlias = Annotated[
    bool, typer.Option("--skip-existing", help="Leave cases alone whose output exists already.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose: TypeAlias = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="More messages; -vv adds tracebacks.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per case on stdout.")
]
EngineName: TypeAlias = Annotated[
    Literal["local", "dask"],
    typer.Option(help="For many inputs: one after the other, or on workers of a Dask cluster."),
]
Scheduler: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="local|slurm|ADDRESS",
        help="Of --engine dask: processes here (default), SLURM jobs, or a running scheduler's "
        "address or file.",
        show_default=False,
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Worker processes to start, one thread each. Default: the cores."),
]


def seed_of(asked: int | None) -> int:
    """Return the seed that was asked for, or draw one."""
    from medsci.pipelines.run import draw_seed

    return draw_seed() if asked is None else asked


def existing_of(
    overwrite: bool, skip_existing: bool = False
) -> Literal["refuse", "overwrite", "skip"]:
    """Return what to do about outputs that are there.

    Raises:
        UsageError: both were asked for.
    """
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing contradict each other; give one")
    return "overwrite" if overwrite else "skip" if skip_existing else "refuse"
