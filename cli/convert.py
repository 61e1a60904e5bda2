"""`medsci convert`: files of scanners and other toolboxes into ours."""

__all__ = ["convert"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsci.cli.options import Json, Output, Overwrite, Quiet, Verbose, existing_of
from medsci.cli.talk import talk_of
from medsci.errors import UsageError
from medsci.pipelines.cases import Case, CaseReport, run_cases


def convert(
    input: Annotated[
        Path,
        typer.Option("--input", "-i", help="A file, or a folder of DICOM.", show_default=False),
    ],
    output: Output,
    kind: Annotated[
        Literal["auto", "kspace", "sinogram", "image"], typer.Option(help="What the input is.")
    ] = "auto",
    spacing: Annotated[
        str | None,
        typer.Option(metavar="S,R,P", help="k-space: mm along slices, readout, phase."),
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="R,P", help="k-space: in-plane size of the image.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="ISMRMRD: contrast, repetition, phase, set, slice."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="Plain HDF5: which dataset is kspace, mask, maps."),
    ] = None,
    maps: Annotated[Path | None, typer.Option(help="BART: coil maps, a second .cfl.")] = None,
    no_whiten: Annotated[
        bool, typer.Option("--no-whiten", help="ISMRMRD: leave the noise of the coils as it is.")
    ] = False,
    geometry: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Plain sinogram: angle_units, bin_mm, ..."),
    ] = None,
    series: Annotated[str | None, typer.Option(help="DICOM images: UID of the series.")] = None,
    every: Annotated[int, typer.Option(min=1, help="DICOM-CT-PD: keep every so many views.")] = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    as_json: Json = False,
) -> None:
    """Convert k-space, sinograms and DICOM, with their geometry and without patients' names.

    ISMRMRD, fastMRI, BART, npz and plain HDF5 become k-space HDF5 (or BART, by the output's name);
    plain arrays and DICOM-CT-PD become sinogram HDF5; DICOM images become NIfTI.
    """
    from medsci.pipelines.convert import ConvertOptions
    from medsci.pipelines.convert import convert as converted

    talk = talk_of(quiet=quiet, verbose=verbose, as_json=as_json)
    mm = _numbers(spacing, 3, "--spacing")
    size = _numbers(crop, 2, "--crop", whole=True)
    options = ConvertOptions(
        kind=kind,
        spacing_mm=None if mm is None else (mm[0], mm[1], mm[2]),
        crop=None if size is None else (int(size[0]), int(size[1])),
        select={name: _whole(text, name) for name, text in _pairs(select, "--select").items()},
        names=_pairs(dataset, "--dataset"),
        maps=maps,
        whiten=not no_whiten,
        geometry=_pairs(geometry, "--geometry"),
        series_uid=series,
        every=every,
    )
    existing = existing_of(overwrite)

    def work(case: Case) -> CaseReport:
        return converted(case.input, case.output, options=options, existing=existing)

    run_cases([Case(input, output)], work, batch=False, tell=talk.tell)


def _numbers(
    text: str | None, count: int, option: str, *, whole: bool = False
) -> list[float] | None:
    if text is None:
        return None
    try:
        found = [float(int(word) if whole else float(word)) for word in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count:
        kind = "whole numbers" if whole else "numbers"
        raise UsageError(f"{option} is {text!r}; give {count} {kind} with a comma between them")
    return found


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for word in words or []:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise UsageError(f"{option} is {word!r}; give NAME=VALUE")
        found[name] = text
    return found


def _whole(text: str, name: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"--select {name}={text} came; give a whole number")
    return int(text)
