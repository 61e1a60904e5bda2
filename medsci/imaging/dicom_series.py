"""DICOM image series: one folder of slices becomes a volume, in HU where it is CT.

Pixel values come rescaled by slope and intercept. Position and orientation in the files are LPS and
belong to the centre of the first pixel; the volume has columns along i, rows along j, slices along
k, in RAS+. A tilted gantry gives an affine with shear, as the slices lie. Nothing about the patient
is kept.

Source: DICOM PS3.3, C.7.6.2 (image plane).
"""

__all__ = ["read_dicom_series"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.volume import Volume

_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_NAMES = {
    _POSITION: "ImagePositionPatient",
    _ORIENTATION: "ImageOrientationPatient",
    _SPACING: "PixelSpacing",
}
_EVEN = 0.05  # of the slice distance, how far a slice may lie from its place


@final
@dataclass(frozen=True, eq=False)
class _Plane:
    """Where one file's pixels lie, LPS in mm."""

    path: str
    position: Shaped[np.ndarray, " 3"]
    orientation: Shaped[np.ndarray, " 6"]
    spacing: Shaped[np.ndarray, " 2"]
    size: tuple[int, ...]


def read_dicom_series(folder: str | Path, *, series_uid: str | None = None) -> Volume:
    """Read one series.

    Args:
        folder: with the files of the series; subfolders are not searched.
        series_uid: SeriesInstanceUID to read, where the folder has several.

    Raises:
        InvalidInputError: the folder has no series or several and none is chosen; a slice lacks its
            position, has another size or orientation; slices are missing or doubled.
        UsageError: `series_uid` is not in the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidInputError(
            f"{folder} is not a folder; name the folder that holds the files of a DICOM series"
        )
    try:
        with _quiet() as sitk:
            names = _files(sitk, folder, series_uid)
            planes = [_plane(sitk, name) for name in names]
            ordered = _stacked(planes)
            array = _pixels(sitk, [plane.path for plane in ordered])
    except InvalidInputError as error:
        raise InvalidInputError(f"{folder}: {error}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise InvalidInputError(
            f"{folder}: a file is cut short, damaged or of an unknown compression ({reason}); copy "
            "it again, or convert the series with another tool"
        ) from error
    return Volume(array, _affine(ordered), sform_code=1, path=folder)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Yield SimpleITK without its warnings on stderr: what they say, our errors say."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield SimpleITK
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _files(sitk: Any, folder: Path, wanted: str | None) -> list[str]:
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    series = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found}
    _check_readable(folder, {name for names in series.values() for name in names})
    listed = ", ".join(f"{uid} ({len(names)} files)" for uid, names in sorted(series.items()))
    if not series:
        raise InvalidInputError(
            "no DICOM image series is in this folder; name the folder that holds the files itself"
        )
    if wanted is not None and wanted not in series:
        raise UsageError(f"{folder}: there is no series {wanted}; the folder has {listed}")
    if wanted is None and len(series) > 1:
        raise InvalidInputError(
            f"there are {len(series)} series: {listed}; choose one with series_uid"
        )
    return list(series[wanted or next(iter(series))])


def _check_readable(folder: Path, known: set[str]) -> None:
    """Refuse DICOM files that the library left out: a slice would silently be missing."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or str(path) in known or path.name.upper() == "DICOMDIR":
            continue
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                raise InvalidInputError(
                    f"{path.name} is cut short or damaged, or holds no image; copy it again, or "
                    "move it out of the folder"
                )


def _plane(sitk: Any, name: str) -> _Plane:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    reader.ReadImageInformation()
    numbers = {}
    for tag, count in ((_POSITION, 3), (_ORIENTATION, 6), (_SPACING, 2)):
        text = reader.GetMetaData(tag) if reader.HasMetaDataKey(tag) else ""
        numbers[tag] = _numbers(text, count, f"{_NAMES[tag]} of {Path(name).name}")
    if not numbers[_SPACING].min() > 0:
        raise InvalidInputError(
            f"PixelSpacing of {Path(name).name} is {numbers[_SPACING].tolist()}; it must be two "
            "positive numbers of mm, so correct the file"
        )
    x, y = np.split(numbers[_ORIENTATION], 2)
    if abs(x @ y) > 1e-3 or max(abs(x @ x - 1), abs(y @ y - 1)) > 1e-2:
        raise InvalidInputError(
            f"ImageOrientationPatient of {Path(name).name} is {numbers[_ORIENTATION].tolist()}; it "
            "must be two unit vectors at a right angle, so correct the file"
        )
    size = (*reader.GetSize(), reader.GetNumberOfComponents())
    return _Plane(name, numbers[_POSITION], numbers[_ORIENTATION], numbers[_SPACING], size)


def _numbers(text: str, count: int, name: str) -> Shaped[np.ndarray, " n"]:
    try:
        values = np.array([float(word) for word in text.split("\\")])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InvalidInputError(
            f"{name} is {text.strip()!r}, not {count} numbers; the file says not where its pixels "
            "lie, so export the series again with its geometry"
        )
    return values


def _stacked(planes: Sequence[_Plane]) -> list[_Plane]:
    """Return the slices in order along their normal; refuse what is no even stack."""
    first = planes[0]
    if first.size[2:] != (1, 1):
        raise InvalidInputError(
            f"{Path(first.path).name} has size {first.size}: several frames or colours in a file "
            "are not read; convert it to one grey slice per file"
        )
    for plane in planes:
        same = plane.size == first.size and np.allclose(plane.spacing, first.spacing, rtol=1e-4)
        if not same or np.abs(plane.orientation - first.orientation).max() > 1e-3:
            raise InvalidInputError(
                f"{Path(plane.path).name} has another size, spacing or orientation than "
                f"{Path(first.path).name}; put each stack into a folder of its own"
            )
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    places = np.array([plane.position for plane in ordered])
    if len(places) < 2:
        return ordered
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    if steps.min() < 1e-3:
        raise InvalidInputError(
            f"two slices lie at the same place (after slice {int(steps.argmin()) + 1} of "
            f"{len(places)}); remove the copy, or split the phases of the series"
        )
    if np.abs(np.diff(places, axis=0) - np.median(np.diff(places, axis=0), axis=0)).max() > (
        _EVEN * usual
    ):
        raise InvalidInputError(
            f"slices are {steps.min():.4g} to {steps.max():.4g} mm apart, largest gap after slice "
            f"{int(steps.argmax()) + 1} of {len(places)}; find the missing files"
        )
    return ordered


def _pixels(sitk: Any, names: list[str]) -> Shaped[np.ndarray, "i j k"]:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    array = sitk.GetArrayFromImage(reader.Execute())
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return np.ascontiguousarray(np.atleast_3d(array.reshape(len(names), *array.shape[-2:]).T))


def _affine(planes: Sequence[_Plane]) -> Float64[np.ndarray, "4 4"]:
    first, last = planes[0], planes[-1]
    x, y = np.split(first.orientation, 2)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = x * first.spacing[1], y * first.spacing[0]
    # A single slice has no distance to the next; 1 mm keeps the affine invertible.
    step = np.cross(x, y)
    lps[:3, 2] = step if len(planes) < 2 else (last.position - first.position) / (len(planes) - 1)
    lps[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
