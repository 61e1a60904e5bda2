"""CT sinogram files: our HDF5 format, written and read, and arrays that others stored, read.

Our format, version 1. Root attributes: `medsci_format` = "sinogram", `format_version` = 1, `axes`
(3), `sform_code`, `qform_code`, `unit_space`, `unit_time`, `description`, `attributes` (JSON text);
the rays: `geometry` = "parallel", "fan" (flat detector) or "fan-curved", `bin_mm`, `offset_bins`
and for a fan `source_mm`, `detector_mm`; the image: `n_rows`, `n_cols`, `row_mm`, `col_mm`; and,
if known, `mu_water_per_mm` and `photons`. Datasets:

    sinogram       float32 (n_slices, n_angles, n_bins), line integrals -ln(N / N0)
    angles         float64 (n_angles,), with the attribute `units` = "rad" (degrees are read too)
    affine         float64 (4, 4), voxel (i, j, k) of the reconstructed volume to RAS+ mm
    reference_hu   float32 (n_slices, n_rows, n_cols), the true image; optional
    nifti_header   uint8 (348,) or (540,), header of the source volume; optional

Where rays and pixels are is written in `medsci.imaging.beam`. Each slice is one chunk, not
compressed: noise does not compress. Files hold no time, host, user or folder: equal content gives
equal bytes.
"""

__all__ = ["SINOGRAM_VERSION", "read_sinogram", "write_sinogram"]

import json
from pathlib import Path
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.atomic import atomic_path
from medsci.imaging.beam import FanBeam, ImageGrid
from medsci.imaging.sinogram import Sinogram
from medsci.imaging.sinogram_arrays import (
    SinogramLayout,
    beam_of,
    bins_of,
    number_of,
    read_hdf5_arrays,
    read_npz,
)
from medsci.imaging.sinogram_checks import in_radians

SINOGRAM_VERSION = 1
_SUFFIXES = (".h5", ".hdf5")
_NEEDED = ("sinogram", "angles", "affine")


def read_sinogram(path: str | Path, *, layout: SinogramLayout | None = None) -> Sinogram:
    """Read a sinogram from our HDF5 format, or from arrays in an HDF5 or npz file, whole.

    Args:
        path: of the file; its content, not its suffix, decides.
        layout: for files that are not ours: the names of their arrays, and the geometry where they
            do not state it.

    Raises:
        InvalidInputError: the file is missing, cut short, of another kind or version, lacks a
            dataset, states no geometry or units, or its arrays do not fit each other.
        UsageError: `layout` is given for a file of ours.

    Warns:
        GeometryWarning: the file is not ours, so nothing says how the patient lay.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as start:
            zipped = start.read(4) == b"PK\x03\x04"
        return read_npz(path, layout or SinogramLayout()) if zipped else _read_hdf5(path, layout)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error


def write_sinogram(sinogram: Sinogram, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a sinogram in our HDF5 format, atomically, and return the path.

    Raises:
        OutputExistsError: the file exists and `overwrite` is False.
        UsageError: the name does not end in `.h5` or `.hdf5`.
    """
    import h5py

    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"cannot write {path.name}: its name must end in .h5 or .hdf5")
    with atomic_path(path, overwrite=overwrite) as temporary, h5py.File(temporary, "w") as file:
        _write(file, sinogram)
    return path


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder, not a sinogram file; name one file in it")
    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; check the name and the folder")
    if path.stat().st_size == 0:
        raise InvalidInputError(f"{path} is empty (0 bytes); copy or write it again")


def _read_hdf5(path: Path, layout: SinogramLayout | None) -> Sinogram:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "medsci_format" not in file.attrs:
                return read_hdf5_arrays(file, layout or SinogramLayout())
            _check_kind(file)
            if layout is not None:
                raise UsageError("this sinogram file states its geometry; leave layout out")
            return _read_ours(file)
    except InvalidInputError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"the file is cut short, damaged or not HDF5 ({reason}); copy or write it again"
        ) from error


def _check_kind(file: Any) -> None:
    import h5py

    kind, version = file.attrs["medsci_format"], file.attrs.get("format_version")
    if kind != "sinogram":
        raise InvalidInputError(
            f"this is a medsci {kind!s} file, not a sinogram; give a sinogram file"
        )
    if version != SINOGRAM_VERSION:
        raise InvalidInputError(
            f"format_version is {version}, this medsci reads {SINOGRAM_VERSION}; update medsci, or "
            "write the file again with this version"
        )
    missing = [name for name in _NEEDED if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise InvalidInputError(
            f"dataset {' and '.join(missing)} is missing; the file has "
            f"{sorted(file) or 'nothing'}, sinogram files need {', '.join(_NEEDED)}"
        )


def _read_ours(file: Any) -> Sinogram:
    angles = in_radians(file["angles"][()], _text(file["angles"].attrs.get("units")))
    data = np.asarray(file["sinogram"][()])
    try:
        beam = beam_of(dict(file.attrs), angles, bins_of(data, angles))
        facts = _facts(file.attrs)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"a root attribute is missing or of the wrong type ({error}); write the file again"
        ) from error
    header, grid = _array(file, "nifti_header"), facts.pop("grid")
    return Sinogram(
        data,
        beam,
        grid,
        affine=np.asarray(file["affine"][()]),
        reference=_array(file, "reference_hu"),
        header=None if header is None else header.tobytes(),
        **facts,
    )


def _array(file: Any, name: str) -> np.ndarray | None:
    return np.asarray(file[name][()]) if name in file else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _facts(attrs: Any) -> dict[str, Any]:
    """Return what the root attributes say, as arguments of `Sinogram`."""
    return {
        "grid": ImageGrid(
            int(attrs["n_rows"]),
            int(attrs["n_cols"]),
            row_mm=float(attrs["row_mm"]),
            col_mm=float(attrs["col_mm"]),
        ),
        "axes": tuple(attrs["axes"].tolist()),
        "mu_water": number_of(attrs, "mu_water_per_mm"),
        "photons": number_of(attrs, "photons"),
        "sform_code": int(attrs["sform_code"]),
        "qform_code": int(attrs["qform_code"]),
        "units": (str(attrs["unit_space"]), str(attrs["unit_time"])),
        "description": str(attrs["description"]),
        "attributes": dict(json.loads(attrs["attributes"])),
    }


def _write(file: Any, sinogram: Sinogram) -> None:
    for name, stack in (("sinogram", sinogram.data), ("reference_hu", sinogram.reference)):
        if stack is not None:
            chunk = (1, *stack.shape[1:])
            file.create_dataset(name, data=stack, chunks=chunk, track_times=False)
    file.create_dataset("angles", data=sinogram.beam.angles, track_times=False)
    file["angles"].attrs["units"] = "rad"
    file.create_dataset("affine", data=sinogram.affine, track_times=False)
    if sinogram.header is not None:
        header = np.frombuffer(sinogram.header, dtype=np.uint8)
        file.create_dataset("nifti_header", data=header, track_times=False)
    file.attrs.update(_attributes(sinogram))


def _attributes(sinogram: Sinogram) -> dict[str, Any]:
    beam, grid = sinogram.beam, sinogram.grid
    attrs: dict[str, Any] = {
        "medsci_format": "sinogram",
        "format_version": SINOGRAM_VERSION,
        "axes": sinogram.axes,
        "sform_code": sinogram.sform_code,
        "qform_code": sinogram.qform_code,
        "unit_space": sinogram.units[0],
        "unit_time": sinogram.units[1],
        "description": sinogram.description,
        "attributes": json.dumps(sinogram.attributes, sort_keys=True),
        "geometry": "parallel",
        "bin_mm": beam.bin_mm,
        "offset_bins": beam.offset_bins,
        "n_rows": grid.n_rows,
        "n_cols": grid.n_cols,
        "row_mm": grid.row_mm,
        "col_mm": grid.col_mm,
    }
    if isinstance(beam, FanBeam):
        attrs["geometry"] = "fan-curved" if beam.curved else "fan"
        attrs |= {"source_mm": beam.source_mm, "detector_mm": beam.detector_mm}
    for name, value in (("mu_water_per_mm", sinogram.mu_water), ("photons", sinogram.photons)):
        if value is not None:
            attrs[name] = value
    return attrs
