"""`medsci recon simulate`: incomplete data of a known image, to try things on."""

__all__ = ["app"]

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from medsci.cli.options import Json, Output, Overwrite, Quiet, Seed, Verbose, existing_of, seed_of
from medsci.cli.talk import talk_of
from medsci.errors import UsageError
from medsci.pipelines.cases import Case, CaseReport, run_cases

app = typer.Typer(help="Simulate an incomplete acquisition of an image.", no_args_is_help=True)

Slices: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FIRST:STOP", help="Slab to acquire. Default: all.")
]
SliceAxis: TypeAlias = Annotated[
    int, typer.Option(min=0, max=2, help="Voxel axis that slices are counted along.")
]


@app.command()
def mri(
    input: Annotated[
        Path, typer.Option("--input", "-i", help="Magnitude image, NIfTI.", show_default=False)
    ],
    output: Output,
    acceleration: Annotated[float, typer.Option(min=1, help="All lines over kept lines.")] = 4.0,
    coils: Annotated[int, typer.Option(min=1, help="Receive coils.")] = 8,
    noise: Annotated[
        float, typer.Option(min=0, help="Complex noise, as a fraction of the bright tissue.")
    ] = 0.01,
    seed: Seed = None,
    center_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of fully sampled centre lines.")
    ] = 0.08,
    slices: Slices = None,
    slice_axis: SliceAxis = 2,
    phase_axis: Annotated[
        Literal["auto", "0", "1", "2"],
        typer.Option(help="Undersampled voxel axis. auto: the shorter one in plane."),
    ] = "auto",
    mask: Annotated[
        Literal["random", "equispaced"], typer.Option(help="How lines are chosen.")
    ] = "random",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Simulate an undersampled multi-coil acquisition of a magnitude image."""
    from medsci.pipelines.simulate import simulate_mri
    from medsci.recon.settings import SimulateSettings

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    settings = SimulateSettings(
        acceleration=acceleration,
        n_coils=coils,
        noise=noise,
        center_fraction=center_fraction,
        mask=mask,
        slices=_slab(slices),
        slice_axis=slice_axis,
        phase_axis=None if phase_axis == "auto" else int(phase_axis),
        seed=seed_of(seed),
    )
    existing = existing_of(overwrite)

    def work(case: Case) -> CaseReport:
        return simulate_mri(case.input, case.output, settings=settings, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)


@app.command()
def ct(
    input: Annotated[
        Path,
        typer.Option("--input", "-i", help="Image in Hounsfield units, NIfTI.", show_default=False),
    ],
    output: Output,
    views: Annotated[int, typer.Option(min=1, help="Views, equally spaced.")] = 60,
    span: Annotated[
        float | None,
        typer.Option(help="Degrees they cover: 180, or 360 for a fan; less is a limited angle."),
    ] = None,
    start: Annotated[float, typer.Option(help="Degrees of the first view.")] = 0.0,
    geometry: Annotated[
        Literal["parallel", "fan", "fan-curved"], typer.Option(help="Rays and detector.")
    ] = "parallel",
    bins: Annotated[
        int | None, typer.Option(min=1, help="Detector bins. Default: the image fits.")
    ] = None,
    photons: Annotated[
        float, typer.Option(min=0, help="Photons per ray without an object; 0 adds no noise.")
    ] = 1e5,
    seed: Seed = None,
    slices: Slices = None,
    slice_axis: SliceAxis = 2,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Simulate a sparse-view or limited-angle CT scan; projected on a finer grid than it is
    reconstructed on."""
    from medsci.pipelines.simulate import simulate_ct
    from medsci.recon.ct_settings import SimulateCtSettings

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    settings = SimulateCtSettings(
        n_views=views,
        start_deg=start,
        span_deg=span,
        geometry=geometry,
        n_bins=bins,
        photons=photons or None,
        slices=_slab(slices),
        slice_axis=slice_axis,
        seed=seed_of(seed),
    )
    existing = existing_of(overwrite)

    def work(case: Case) -> CaseReport:
        return simulate_ct(case.input, case.output, settings=settings, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)


def _slab(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d+:\d+", text):
        raise UsageError(f"--slices is {text!r}; give FIRST:STOP, for example 70:106")
    start, stop = text.split(":")
    return int(start), int(stop)
