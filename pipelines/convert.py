"""Files of scanners and other toolboxes in, files of ours out (and k-space as BART reads it)."""

__all__ = ["ConvertOptions", "convert"]

import difflib
import logging
import tempfile
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from medsci.errors import InvalidInputError, UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, staged
from medsci.pipelines.scans import domain_of

if TYPE_CHECKING:
    from medsci.imaging import SinogramLayout

_log = logging.getLogger(__name__)
_HDF5, _NIFTI = (".h5", ".hdf5"), (".nii", ".nii.gz")
_ENDINGS = {"kspace": (*_HDF5, ".cfl"), "sinogram": _HDF5, "projections": _HDF5, "image": _NIFTI}
_USES = {  # options -> the kinds of input they are for
    "spacing_mm": ("kspace",),
    "crop": ("kspace",),
    "select": ("kspace",),
    "names": ("kspace",),
    "maps": ("kspace",),
    "whiten": ("kspace",),
    "geometry": ("sinogram",),
    "series_uid": ("image",),
    "every": ("projections",),
}
_CT_PD_TAG = b"\x29\x70\x10\x10"  # (7029,1010), NumberofDetectorRows


@final
@dataclass(frozen=True)
class ConvertOptions:
    """What the input does not say of itself; None asks the file.

    Attributes:
        kind: `kspace`, `sinogram` or `image`; found by looking if `auto`.
        spacing_mm: k-space: distances along slices, readout and phase.
        crop: k-space: in-plane size (readout, phase) of the image.
        select: ISMRMRD: which `contrast`, `repetition`, `phase`, `set` or `slice`.
        names: generic HDF5: which dataset is `kspace`, `mask`, `maps`, `affine`, `reference`.
        maps: BART: the coil maps, a second pair of files.
        whiten: ISMRMRD: make the noise of the coils white.
        geometry: plain arrays: fields of `SinogramLayout`, such as `angle_units` and `bin_mm`.
        series_uid: DICOM images: which series of a folder.
        every: DICOM-CT-PD: keep every so many views.
    """

    kind: Literal["auto", "kspace", "sinogram", "image"] = "auto"
    spacing_mm: tuple[float, float, float] | None = None
    crop: tuple[int, int] | None = None
    select: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    maps: Path | None = None
    whiten: bool = True
    geometry: dict[str, str] = field(default_factory=dict)
    series_uid: str | None = None
    every: int = 1


def convert(
    input: str | Path,
    output: str | Path,
    *,
    options: ConvertOptions | None = None,
    existing: Existing = "refuse",
) -> CaseReport:
    """Convert one file or DICOM folder; geometry comes along, names of patients do not.

    k-space (fastMRI, ISMRMRD, BART, npz, HDF5) becomes our HDF5 (`.h5`) or BART (`.cfl`, with a
    `.hdr` and, where there are coil maps, a pair `NAME_maps`); sinograms (plain arrays, a folder of
    DICOM-CT-PD) become our HDF5; a folder of DICOM images becomes NIfTI.

    Raises:
        InvalidInputError: the input is not what its kind should be.
        UsageError: that kind is not written in the form the output's name asks for, or an option
            is for another kind.
        OutputExistsError: the output exists and is not to be replaced.
    """
    start = time.perf_counter()
    options = ConvertOptions() if options is None else options
    source, target = Path(input), Path(output)
    if not source.exists():
        raise InvalidInputError(f"the input {source} does not exist; check its name")
    kind = _kind(source, options)
    _check_uses(kind, options)
    _check_name(target, kind)
    files = _files(target)
    if not check_outputs(list(files.values()), inputs=[source], existing=existing):
        return CaseReport(source.name, "skipped", outputs=files)
    found, write = _READERS[kind](source, options)
    if target.suffix == ".cfl" and found.maps is not None:
        files = _files(target.with_name(f"{target.stem}_maps.cfl"), "maps") | files
        check_outputs(list(files.values()), inputs=[source], existing=existing)
    _write_all(list(files.values()), write, overwrite=existing != "refuse")
    _log.info("wrote %s: %r", target, found)
    seconds = time.perf_counter() - start
    return CaseReport(
        source.name, "done", outputs=files, result={"content": repr(found)}, seconds=seconds
    )


_Found = tuple[Any, Callable[[Path], Any]]
"""What was read, and what writes it to a path."""


def _files(target: Path, name: str = "converted") -> dict[str, Path]:
    """Name the files that one path stands for, the main one last."""
    header = {f"{name}_header": target.with_suffix(".hdr")} if target.suffix == ".cfl" else {}
    return {**header, name: target}


def _write_all(files: list[Path], write: Callable[[Path], Any], *, overwrite: bool) -> None:
    """Write the main file, the last, and what its writer puts beside it: all of them or none."""
    with staged(files, overwrite=overwrite) as places:
        folder = places[files[-1]].parent
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as room:
            write(Path(room) / files[-1].name)
            for file in files:
                (Path(room) / file.name).replace(places[file])


def _kind(source: Path, options: ConvertOptions) -> str:
    """Tell what the input is: what was said, else what it looks like."""
    if source.is_dir():
        looks = "projections" if _is_ct_pd(source) else "image"
        return "projections" if options.kind == "sinogram" else looks
    if options.kind != "auto":
        return options.kind
    return "sinogram" if options.geometry or domain_of(source) == "ct" else "kspace"


def _is_ct_pd(folder: Path) -> bool:
    """Look for the private tag of projection data near the start of the first DICOM file."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as stream:
                start = stream.read(1 << 16)
            if start[128:132] == b"DICM":
                return _CT_PD_TAG in start
    return False


def _check_uses(kind: str, options: ConvertOptions) -> None:
    """Refuse options that this kind of input has no use for, rather than ignore them."""
    plain = ConvertOptions()
    changed = [
        name
        for name in _USES
        if getattr(options, name) != getattr(plain, name) and kind not in _USES[name]
    ]
    if changed:
        raise UsageError(
            f"{changed[0]} is for {' or '.join(_USES[changed[0]])}, and the input is {kind}; leave "
            "it out, or say --kind"
        )


def _check_name(target: Path, kind: str) -> None:
    if not target.name.endswith(_ENDINGS[kind]):
        raise UsageError(
            f"the output is {target.name}, and the input is {kind}, which is written as "
            f"{' or '.join(_ENDINGS[kind])}; name it so, or say --kind"
        )


def _kspace(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_kspace, write_bart, write_kspace

    kspace = read_kspace(
        source,
        spacing_mm=options.spacing_mm,
        crop=options.crop,
        select=options.select or None,
        names=options.names or None,
        maps=options.maps,
        whiten=options.whiten,
    )

    def write(place: Path) -> None:
        (write_bart if place.suffix == ".cfl" else write_kspace)(kspace, place)

    return kspace, write


def _sinogram(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_sinogram, write_sinogram

    scan = read_sinogram(source, layout=_layout(options.geometry))
    return scan, lambda place: write_sinogram(scan, place)


def _projections(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_dicom_ct_pd, write_sinogram

    scan = read_dicom_ct_pd(source, every=options.every)
    return scan, lambda place: write_sinogram(scan, place)


def _layout(given: dict[str, str]) -> "SinogramLayout | None":
    """Build the layout of plain arrays from fields written as text."""
    from medsci.imaging import SinogramLayout

    if not given:
        return None
    kinds = {
        name: typing.get_args(kind) for name, kind in typing.get_type_hints(SinogramLayout).items()
    }
    unknown = [name for name in given if name not in kinds]
    if unknown:
        near = difflib.get_close_matches(unknown[0], kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(kinds)}"
        raise UsageError(f"a sinogram's geometry has no {unknown[0]!r}; {hint}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        number = next((kind for kind in (int, float) if kind in kinds[name]), str)
        try:
            values[name] = number(text)
        except ValueError as error:
            wanted = "a whole number" if number is int else "a number"
            raise UsageError(f"{name}={text} came; {name} is {wanted}") from error
    return SinogramLayout(**values)


def _image(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_dicom_series, write_nifti

    volume = read_dicom_series(source, series_uid=options.series_uid)
    return volume, lambda place: write_nifti(volume, place)


_READERS: dict[str, Callable[[Path, ConvertOptions], _Found]] = {
    "kspace": _kspace,
    "sinogram": _sinogram,
    "projections": _projections,
    "image": _image,
}
