"""Options that several commands share, each spelled and explained once."""

__all__ = [
    "Chunk",
    "CoilMaps",
    "Device",
    "EngineName",
    "Json",
    "Output",
    "Overwrite",
    "Precision",
    "Quiet",
    "Scheduler",
    "Seed",
    "SkipExisting",
    "SolverName",
    "Threads",
    "Verbose",
    "Workers",
    "existing_of",
    "pairs_of",
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
Precision: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Numbers of the network.")
]
Chunk: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Slices per network call: memory, not results.")
]
CoilMaps: TypeAlias = Annotated[
    Literal["espirit", "low_res", "file"], typer.Option(help="Where coil maps come from.")
]
SolverName: TypeAlias = Literal[
    "dds3d", "mbir", "red-diff", "flowchef", "diffpir", "pigdm", "dps", "ddrm", "pnp"
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


def pairs_of(words: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Take NAME=VALUE of `--option` apart; commas join several, as a record of a run has them.

    Raises:
        UsageError: a part is not NAME=VALUE.
    """
    pairs = []
    for word in (part for given in words or [] for part in given.split(",")):
        name, equals, text = (piece.strip() for piece in word.partition("="))
        if not (name and equals and text):
            raise UsageError(f"--option is {word!r}; give NAME=VALUE, for example n_steps=50")
        pairs.append((name, text))
    return tuple(pairs)
