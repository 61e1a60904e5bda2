"""`medsci recon tune`: find the options of a solver that suit a kind of scan."""

__all__ = ["app"]

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from medsci.cli.options import (
    Chunk,
    CoilMaps,
    Device,
    Json,
    Output,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    SolverName,
    Threads,
    Verbose,
    existing_of,
    pairs_of,
    seed_of,
)
from medsci.cli.talk import talk_of
from medsci.errors import UsageError
from medsci.pipelines.cases import Case, CaseReport, run_cases

app = typer.Typer(
    help="Find the options of a solver that suit a kind of scan, offline.", no_args_is_help=True
)

Scans: TypeAlias = Annotated[
    list[Path],
    typer.Option(
        "--input", "-i", help="A scan; may be repeated, the mean counts.", show_default=False
    ),
]
Prior: TypeAlias = Annotated[str, typer.Option(help="Name or folder of a model.")]
Solver: TypeAlias = Annotated[
    SolverName,
    typer.Option(help="Whose options to search; see docs/inverse.md."),
]
Ranges: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="NAME=LOW:HIGH",
        help="Search this option, log-uniformly; may be repeated. Default: those that matter.",
    ),
]
Fixed: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Keep this option fixed; may be repeated."),
]
Samples: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Samples drawn in every run; their mean is judged.")
]
Budget: TypeAlias = Annotated[
    int, typer.Option(help="Runs of the solver; the defaults are the first.")
]
Judge: TypeAlias = Annotated[
    Literal["auto", "truth", "held-out"],
    typer.Option(help="PSNR against the stored truth, or misfit of data that were not fitted."),
]
Slices: TypeAlias = Annotated[
    int, typer.Option(help="Neighbouring slices in the middle of each scan.")
]


@app.command()
def mri(
    input: Scans,
    output: Output,
    prior: Prior = "brain-t1-2d",
    solver: Solver = "red-diff",
    range_: Ranges = None,
    option: Fixed = None,
    budget: Budget = 40,
    judge: Judge = "auto",
    slices: Slices = 4,
    samples: Samples = 1,
    seed: Seed = None,
    maps: CoilMaps = "espirit",
    device: Device = "auto",
    precision: Precision = "auto",
    chunk: Chunk = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Search a solver's options on a few slices of k-space; writes a YAML file.

    The defaults are the first run, and what is found is compared with them once more on noise, and
    held-out lines, that the search has not seen. If it does not win, the file says so and holds no
    options but the fixed ones.
    """
    _run(
        input,
        output,
        job={"domain": "mri", "prior": prior, "budget": budget, "judge": judge, "slices": slices,
             "ranges": _ranges(range_), "existing": existing_of(overwrite)},
        settings={"solver": solver, "options": pairs_of(option), "n_samples": samples,
                  "seed": seed_of(seed), "maps": maps, "device": device, "precision": precision,
                  "chunk": chunk},
        talk=talk_of(quiet=quiet, verbose=verbose, as_json=as_json),
        threads=threads,
    )  # fmt: skip


@app.command()
def ct(
    input: Scans,
    output: Output,
    prior: Prior = "ct-2d",
    solver: Solver = "red-diff",
    range_: Ranges = None,
    option: Fixed = None,
    budget: Budget = 40,
    judge: Judge = "auto",
    slices: Slices = 4,
    samples: Samples = 1,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    chunk: Chunk = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Search a solver's options on a few slices of a sinogram; writes a YAML file.

    As `tune mri`; without a truth, views are held out.
    """
    _run(
        input,
        output,
        job={"domain": "ct", "prior": prior, "budget": budget, "judge": judge, "slices": slices,
             "ranges": _ranges(range_), "existing": existing_of(overwrite)},
        settings={"solver": solver, "options": pairs_of(option), "n_samples": samples,
                  "seed": seed_of(seed), "device": device, "precision": precision,
                  "chunk": chunk},
        talk=talk_of(quiet=quiet, verbose=verbose, as_json=as_json),
        threads=threads,
    )  # fmt: skip


def _run(
    inputs: list[Path],
    output: Path,
    *,
    job: dict[str, Any],
    settings: dict[str, Any],
    talk: Any,
    threads: int | None,
) -> None:
    from medsci.pipelines.device import use_threads
    from medsci.pipelines.tune import tune_files
    from medsci.pipelines.tune_job import TuneJob
    from medsci.recon.settings import ReconSettings

    use_threads(threads)
    chosen = TuneJob(settings=ReconSettings(**settings), **job)
    with talk.progress() as progress:

        def work(case: Case) -> CaseReport:
            return tune_files(inputs, case.output, job=chosen, progress=progress)

        run_cases([Case(inputs[0], output)], work, batch=False, tell=talk.tell)


def _ranges(words: list[str] | None) -> tuple[tuple[str, float, float], ...]:
    """Take NAME=LOW:HIGH apart; commas join several, as a record of a run has them."""
    found = []
    for word in (part for given in words or [] for part in given.split(",")):
        name, _, ends = (piece.strip() for piece in word.partition("="))
        low, _, high = ends.partition(":")
        try:
            found.append((name, float(low), float(high)))
        except ValueError as error:
            raise UsageError(
                f"--range is {word!r}; give NAME=LOW:HIGH, for example lam=0.001:1"
            ) from error
    return tuple(found)
