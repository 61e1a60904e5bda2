"""Files of scanners and other toolboxes in, files of ours out (and k-space as BART reads it)."""

__all__ = ["ConvertOptions", "convert"]

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from medsci.errors import InvalidInputError, UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, staged
from medsci.pipelines.scans import domain_of

_log = logging.getLogger(__name__)
_HDF5, _NIFTI = (".h5", ".hdf5"), (".nii", ".nii.gz")


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

    k-space (fastMRI, ISMRMRD, BART, npz, HDF5) becomes our HDF5 (`.h5`) or BART (`.cfl`);
    sinograms (plain arrays, a folder of DICOM-CT-PD) become our HDF5; a folder of DICOM images
    becomes NIfTI.

    Raises:
        InvalidInputError: the input is not what its kind should be.
        UsageError: that kind is not written in the form the output's name asks for.
        OutputExistsError: the output exists and is not to be replaced.
    """
    start = time.perf_counter()
    options = ConvertOptions() if options is None else options
    source, target = Path(input), Path(output)
    if not source.exists():
        raise InvalidInputError(f"{source} does not exist; check the name and the folder")
    write = _writer(target, _kind(source, options))
    files = {"converted": target}
    if target.suffix == ".cfl":
        files["header"] = target.with_suffix(".hdr")
    if not check_outputs(list(files.values()), inputs=[source], existing=existing):
        return CaseReport(source.name, "skipped", outputs=files)
    found = write(source, options)
    with staged(list(files.values()), overwrite=existing != "refuse") as places:
        found[1](places[target])
        if "header" in files:
            places[target].with_suffix(".hdr").replace(places[files["header"]])
    _log.info("wrote %s: %r", target, found[0])
    seconds = time.perf_counter() - start
    result = {"content": repr(found[0])}
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


_Found = tuple[Any, Callable[[Path], Any]]


def _kind(source: Path, options: ConvertOptions) -> str:
    if options.kind != "auto":
        return options.kind
    if source.is_dir():
        return "projections" if _is_ct_pd(source) else "image"
    return "sinogram" if domain_of(source) == "ct" else "kspace"


def _is_ct_pd(folder: Path) -> bool:
    """Look for the private tag of projection data near the start of the first file."""
    first = next((path for path in sorted(folder.iterdir()) if path.is_file()), None)
    if first is None:
        raise InvalidInputError(f"{folder} holds no files; give a folder of DICOM files")
    with first.open("rb") as stream:
        return b"\x29\x70\x10\x10" in stream.read(1 << 16)


def _writer(target: Path, kind: str) -> Callable[[Path, ConvertOptions], _Found]:
    endings = {"kspace": (*_HDF5, ".cfl"), "sinogram": _HDF5, "projections": _HDF5, "image": _NIFTI}
    if not target.name.endswith(endings[kind]):
        raise UsageError(
            f"the output is {target.name}, and the input is {kind}, which is written as "
            f"{' or '.join(endings[kind])}; name it so, or say --kind"
        )
    if kind == "image":
        return _image
    return _kspace if kind == "kspace" else _sinogram


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
        if place.suffix == ".cfl":
            write_bart(kspace, place, overwrite=True)
        else:
            write_kspace(kspace, place, overwrite=True)

    return kspace, write


def _sinogram(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_dicom_ct_pd, read_sinogram, write_sinogram

    if source.is_dir():
        scan = read_dicom_ct_pd(source, every=options.every)
    else:
        scan = read_sinogram(source, layout=_layout(options.geometry))
    return scan, lambda place: write_sinogram(scan, place, overwrite=True)


def _layout(given: dict[str, str]) -> Any:
    import dataclasses

    from medsci.imaging import SinogramLayout

    if not given:
        return None
    kinds = {f.name: str(f.type) for f in dataclasses.fields(SinogramLayout)}
    unknown = sorted(set(given) - set(kinds))
    if unknown:
        raise UsageError(f"geometry has no {unknown[0]!r}; it has {', '.join(kinds)}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        try:
            number = "int" if "int" in kinds[name] else "float" if "float" in kinds[name] else ""
            values[name] = {"int": int, "float": float}[number](text) if number else text
        except ValueError as error:
            raise UsageError(f"{name}={text} came; {name} is a number") from error
    return SinogramLayout(**values)


def _image(source: Path, options: ConvertOptions) -> _Found:
    from medsci.imaging import read_dicom_series, write_nifti

    volume = read_dicom_series(source, series_uid=options.series_uid)
    return volume, lambda place: write_nifti(volume, place, overwrite=True)
