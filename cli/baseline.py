"""`medsci recon baseline`: classical reconstructions, of MRI and CT."""

__all__ = ["baseline"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import Json, Output, Overwrite, Quiet, Threads, Verbose, existing_of
from medsci.cli.talk import talk_of
from medsci.pipelines.cases import Case, CaseReport, run_cases


def baseline(
    input: Annotated[
        Path, typer.Option("--input", "-i", help="k-space or sinogram.", show_default=False)
    ],
    output: Output,
    method: Annotated[
        Literal["zero-filled", "fbp", "sense", "cg", "tv", "tv-3d", "l1-wavelet"],
        typer.Option(help="zero-filled and sense are of MRI, fbp and cg of CT, the rest of both."),
    ] = "tv",
    weight: Annotated[
        float | None, typer.Option(min=0, help="Of the penalty. Default: tuned at R = 4.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Default: enough for the method to converge.")
    ] = None,
    maps: Annotated[
        Literal["espirit", "low_res", "file"], typer.Option(help="Where coil maps come from.")
    ] = "espirit",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Reconstruct without a learnt prior: what the learnt one has to beat."""
    from medsci.pipelines.baseline import BaselineSettings, baseline_file
    from medsci.pipelines.device import use_threads

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    use_threads(threads)
    settings = BaselineSettings(method=method, weight=weight, n_iter=iterations, maps=maps)
    existing = existing_of(overwrite)

    def work(case: Case) -> CaseReport:
        return baseline_file(case.input, case.output, settings=settings, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)
