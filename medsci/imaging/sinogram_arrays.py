"""Sinograms that other software stored as plain arrays, in HDF5 or npz.

The file has an array of line integrals, `(n_slices, n_angles, n_bins)` or without the slices, and
one of angles, one per view. Numbers and words of the geometry are attributes of the HDF5 file or
scalar entries of the npz file, by the names of `SinogramLayout`; what the caller says there comes
first. The unit of the angles is the attribute `units` of their dataset, or `angle_units`.

Rays follow `medsci.imaging.beam`, where y grows with the row index. For software that lets y grow
upwards (ASTRA among others), negate the angles.
"""

__all__ = [
    "SinogramLayout",
    "beam_of",
    "bins_of",
    "number_of",
    "read_hdf5_arrays",
    "read_npz",
]

import dataclasses
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medsci.errors import InvalidInputError
from medsci.imaging.beam import Beam, FanBeam, ImageGrid, ParallelBeam
from medsci.imaging.geometry import fallback_affine
from medsci.imaging.sinogram import Sinogram
from medsci.imaging.sinogram_checks import in_radians
from medsci.imaging.volume import GeometryWarning

_GEOMETRIES = ("parallel", "fan", "fan-curved")


@final
@dataclass(frozen=True)
class SinogramLayout:
    """How to read a file of plain arrays; None asks the file.

    Attributes:
        sinogram: name of the line integrals.
        angles: name of the angles.
        angle_units: `degrees` or `radians`.
        geometry: `parallel`, `fan` (flat detector) or `fan-curved`.
        bin_mm: distance of neighbouring bins, on the detector.
        offset_bins: shift of the detector; 0 if nobody says.
        source_mm, detector_mm: distances from the rotation centre, for a fan.
        n_rows, n_cols: size of the image; as many as bins if nobody says.
        pixel_mm: its pixels; the pitch of the rays at the rotation centre if nobody says.
        slice_mm: distance of slices; `pixel_mm` if nobody says.
        mu_water_per_mm: attenuation of water.
        photons: photons per ray without an object.
    """

    sinogram: str = "sinogram"
    angles: str = "angles"
    angle_units: str | None = None
    geometry: str | None = None
    bin_mm: float | None = None
    offset_bins: float | None = None
    source_mm: float | None = None
    detector_mm: float | None = None
    n_rows: int | None = None
    n_cols: int | None = None
    pixel_mm: float | None = None
    slice_mm: float | None = None
    mu_water_per_mm: float | None = None
    photons: float | None = None


def beam_of(facts: Mapping[str, Any], angles: np.ndarray, n_bins: int) -> Beam:
    """Build the rays from named numbers.

    Raises:
        InvalidInputError: the geometry or one of its numbers is not stated, or no geometry.
    """
    kind = _word(facts.get("geometry"))
    if kind is None:
        raise InvalidInputError(
            f"the geometry is not stated; set geometry to one of {', '.join(_GEOMETRIES)}, and "
            "bin_mm, for a fan source_mm and detector_mm too"
        )
    if kind not in _GEOMETRIES:
        raise InvalidInputError(f"geometry is {kind!r}; give one of {', '.join(_GEOMETRIES)}")
    needed = ("bin_mm",) if kind == "parallel" else ("bin_mm", "source_mm", "detector_mm")
    missing = [name for name in needed if facts.get(name) is None]
    if missing:
        raise InvalidInputError(
            f"{' and '.join(missing)} of the {kind} geometry is not stated; give it in mm"
        )
    bin_mm, offset = number_of(facts, "bin_mm"), number_of(facts, "offset_bins", 0.0)
    if kind == "parallel":
        return ParallelBeam(angles, n_bins, bin_mm=bin_mm, offset_bins=offset)
    return FanBeam(
        angles,
        n_bins,
        bin_mm=bin_mm,
        source_mm=number_of(facts, "source_mm"),
        detector_mm=number_of(facts, "detector_mm"),
        offset_bins=offset,
        curved=kind == "fan-curved",
    )


def read_hdf5_arrays(file: Any, layout: SinogramLayout) -> Sinogram:
    """Read an open HDF5 file that is not ours."""
    import h5py

    named = {name: file.get(name) for name in (layout.sinogram, layout.angles)}
    found = {name: item for name, item in named.items() if isinstance(item, h5py.Dataset)}
    _check_present(layout, found, sorted(file))
    facts = dict(file.attrs) | dict(found[layout.sinogram].attrs)
    units = found[layout.angles].attrs.get("units")
    if units is not None:
        facts["angle_units"] = units
    return _build({name: np.asarray(item[()]) for name, item in found.items()}, facts, layout)


def read_npz(path: Path, layout: SinogramLayout) -> Sinogram:
    """Read a numpy archive."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"the npz file is cut short, damaged or holds objects ({reason}); write it again with "
            "plain numeric arrays"
        ) from error
    _check_present(layout, arrays, sorted(arrays))
    facts = {name: value[()] for name, value in arrays.items() if value.ndim == 0}
    return _build(arrays, facts, layout)


def _check_present(layout: SinogramLayout, found: Mapping[str, Any], has: list[str]) -> None:
    missing = [name for name in (layout.sinogram, layout.angles) if name not in found]
    if missing:
        raise InvalidInputError(
            f"no array is named {' or '.join(missing)}; the file has {has or 'nothing'}: name the "
            "ones to read"
        )


def _build(
    arrays: Mapping[str, np.ndarray], found: Mapping[str, Any], layout: SinogramLayout
) -> Sinogram:
    """Put what the file has and what the caller says together."""
    said = {name: value for name, value in dataclasses.asdict(layout).items() if value is not None}
    facts = dict(found) | said
    data = arrays[layout.sinogram]
    data = data[None] if data.ndim == 2 else data
    angles = in_radians(arrays[layout.angles], _word(facts.get("angle_units")))
    beam = beam_of(facts, angles, bins_of(data, angles))
    grid, slice_mm = _image(facts, beam)
    n_slices = data.shape[0] if data.ndim == 3 else 1
    warnings.warn(
        "the file does not say how the patient lay; the volume gets slices along k, rows along j, "
        "columns along i and orientation codes 0 (unknown)",
        GeometryWarning,
        stacklevel=4,
    )
    return Sinogram(
        data,
        beam,
        grid,
        affine=fallback_affine(
            (grid.n_cols, grid.n_rows, n_slices), (grid.col_mm, grid.row_mm, slice_mm)
        ),
        mu_water=number_of(facts, "mu_water_per_mm"),
        photons=number_of(facts, "photons"),
        sform_code=0,
    )


def bins_of(data: np.ndarray, angles: np.ndarray) -> int:
    """Return which size counts the bins: not the one of the angles, if only one of them fits."""
    if data.ndim != 3:
        return max(data.shape[-1] if data.ndim else 0, 1)  # refused later, with its shape
    n_angles = angles.size
    swapped = data.shape[1] != n_angles and data.shape[2] == n_angles
    return max(data.shape[1] if swapped else data.shape[2], 1)


def _image(facts: Mapping[str, Any], beam: Beam) -> tuple[ImageGrid, float]:
    """Return the image grid and the distance of slices."""
    pitch = beam.bin_mm
    if isinstance(beam, FanBeam):
        pitch *= beam.source_mm / (beam.source_mm + beam.detector_mm)
    pixel_mm = number_of(facts, "pixel_mm", pitch)
    n_rows, n_cols = (
        number_of(facts, "n_rows", beam.n_bins),
        number_of(facts, "n_cols", beam.n_bins),
    )
    for name, size in (("n_rows", n_rows), ("n_cols", n_cols)):
        if not float(size).is_integer():
            raise InvalidInputError(f"{name}={size} came; give a whole number")
    grid = ImageGrid(round(n_rows), round(n_cols), pixel_mm, pixel_mm)
    return grid, number_of(facts, "slice_mm", pixel_mm)


def number_of(facts: Mapping[str, Any], name: str, default: float | int | None = None) -> Any:
    """Return a named number as a float, or the default if it is absent.

    Raises:
        InvalidInputError: it is there and no number.
    """
    value = facts.get(name)
    if value is None:
        return default
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise InvalidInputError(f"{name} is '{value}'; give one number")
    return float(value)


def _word(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
