"""k-space files: our own HDF5, written and read, and the formats of others, read.

What a file holds decides, not its name: our HDF5, fastMRI's layout (`fastmri`), ISMRMRD raw data
(`ismrmrd`), NumPy's `.npz` and `.npy` (`kspace_npz`), any HDF5 whose dataset names are given, and
BART's pair of `.cfl` and `.hdr` (`bart`), which is known by its suffix.

Our format, version 1. Root attributes: `medsci_format` = "kspace", `format_version` = 1, `axes`
(3), `sform_code`, `qform_code`, `unit_space`, `unit_time`, `description`, `attributes` (JSON text),
and `crop` (2) if there is one. Datasets:

    kspace              complex64 (n_slices, n_coils, n_readout, n_phase), full width, zeros where
                        nothing was acquired; zero frequency at n // 2
    mask                bool (n_phase,), True for acquired lines
    affine              float64 (4, 4), voxel (i, j, k) of the reconstructed volume to RAS+ mm
    reconstruction_rss  float32 (n_slices, rows, columns), fully sampled magnitude; optional
    maps                complex64, shape of kspace, coil sensitivities; optional
    nifti_header        uint8 (348,) or (540,), header of the source volume; optional
    ismrmrd_header      XML text with matrix sizes and fields of view

The names and the full width are fastMRI's, so that its tools read our files. Each slice is one
chunk, gzip level 1: noise does not compress, but the zeros of lines that were not acquired do (80
MB to 34 MB at R = 4, 1.2 s to write and 0.4 s to read). Files hold no time, host, user or folder:
equal content gives equal bytes.
"""

__all__ = ["FORMAT_VERSION", "read_kspace", "write_kspace"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.atomic import atomic_path
from medsci.imaging.bart import read_bart
from medsci.imaging.fastmri import geometry_xml, read_fastmri
from medsci.imaging.ismrmrd import find_group, read_ismrmrd
from medsci.imaging.kspace import KSpace
from medsci.imaging.kspace_npz import read_named_hdf5, read_npz

FORMAT_VERSION = 1
_SUFFIXES = (".h5", ".hdf5")


def read_kspace(
    path: str | Path,
    *,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
    names: Mapping[str, str] | None = None,
    maps: str | Path | None = None,
    select: Mapping[str, int] | None = None,
    whiten: bool = True,
) -> KSpace:
    """Read k-space, whole, from any of the formats above.

    Args:
        path: of the file.
        spacing_mm: slice, readout and phase spacing for files without geometry, or with a wrong
            ISMRMRD header in fastMRI's layout; 1 mm with a `GeometryWarning` if there is neither.
        crop: readout, phase; in-plane size to cut images to, where the file does not say.
        names: which dataset of an HDF5 file is `kspace`, `mask`, `maps`, `affine`, `reference`.
        maps: BART: the coil maps, a second pair of files.
        select: ISMRMRD: which `contrast`, `repetition`, `phase`, `set` or `slice` to take.
        whiten: ISMRMRD: make the noise of the coils white, by the noise scan in the file.

    Raises:
        InvalidInputError: the file is missing, cut short, of an unknown format or version, lacks a
            dataset, or its arrays do not fit each other (see `KSpace`).
        UsageError: `spacing_mm` is not three positive numbers, or an argument is given that this
            format has no use for.
    """
    path = Path(path)
    _check_spacing(spacing_mm)
    try:
        kind = _kind(path)
        given = {"names": names, "maps": maps, "select": select}
        _check_uses(kind, [name for name, value in given.items() if value is not None])
        options = _Options(spacing_mm, crop, names=names, select=select, whiten=whiten)
        if kind == "bart":
            kspace = read_bart(path, maps=maps, spacing_mm=spacing_mm, crop=crop)
        elif kind == "numpy":
            kspace = read_npz(path, spacing_mm=spacing_mm, crop=crop)
        else:
            kspace = _read_hdf5(path, options)
        return _not_empty(kspace)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"{path} is cut short, damaged or not HDF5 ({reason}); copy or write it again"
        ) from error


def write_kspace(kspace: KSpace, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write k-space in our HDF5 format, atomically, and return the path.

    Raises:
        OutputExistsError: the file exists and `overwrite` is False.
        UsageError: the name does not end in `.h5` or `.hdf5`.
    """
    import h5py

    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"cannot write {path.name}: its name must end in .h5 or .hdf5")
    with atomic_path(path, overwrite=overwrite) as temporary, h5py.File(temporary, "w") as file:
        _write(file, kspace)
    return path


@final
@dataclass(frozen=True)
class _Options:
    spacing_mm: Sequence[float | int] | None
    crop: tuple[int, int] | None
    _: KW_ONLY
    names: Mapping[str, str] | None
    select: Mapping[str, int] | None
    whiten: bool


def _check_spacing(spacing_mm: Sequence[float | int] | None) -> None:
    if spacing_mm is not None and not (len(spacing_mm) == 3 and min(spacing_mm) > 0):
        raise UsageError(
            f"spacing_mm {spacing_mm} must be three positive numbers: slice, readout, phase"
        )


def _kind(path: Path) -> str:
    """Return `bart`, `numpy` or `hdf5`; refuse what is no k-space file at all."""
    if path.suffix.lower() in (".cfl", ".hdr") or (
        not path.exists() and path.with_name(path.name + ".cfl").is_file()
    ):
        return "bart"
    if path.is_dir():
        raise InvalidInputError("this is a folder, not a k-space file; name one file in it")
    if not path.exists():
        raise InvalidInputError("the file does not exist; check the name and the folder")
    if path.stat().st_size == 0:
        raise InvalidInputError("the file is empty (0 bytes); copy or write it again")
    with path.open("rb") as file:
        start = file.read(352)
    if start.startswith((b"PK\x03\x04", b"\x93NUMPY")):
        return "numpy"
    images = {start[128:132] == b"DICM": "DICOM", start[344:347] in (b"n+1", b"ni1"): "NIfTI"}
    image = images.get(True, "a compressed file" if start[:2] == b"\x1f\x8b" else None)
    if image is not None:
        raise InvalidInputError(
            f"this is {image}, not k-space; give raw data (HDF5, ISMRMRD, BART, npz), or make some "
            "of an image with 'medsci recon simulate'"
        )
    return "hdf5"


def _not_empty(kspace: KSpace) -> KSpace:
    """Refuse what has the right form and says nothing."""
    if not kspace.data.any():
        raise InvalidInputError(
            "k-space holds nothing but zeros; check the scan, or what exported it"
        )
    if kspace.maps is not None and not kspace.maps.any():
        raise InvalidInputError(
            "the coil maps hold nothing but zeros; leave them out to have them estimated"
        )
    return kspace


def _check_uses(kind: str, given: Sequence[str]) -> None:
    """Refuse arguments that a format has no use for, rather than ignore them."""
    uses = {"bart": ("maps",), "numpy": (), "hdf5": ("names", "select")}[kind]
    idle = [name for name in given if name not in uses]
    if idle:
        raise UsageError(f"{' and '.join(idle)} came, and {kind} files have no use for it")


def _read_hdf5(path: Path, options: _Options) -> KSpace:
    import h5py

    with h5py.File(path, "r") as file:
        return _read(file, options)


def _read(file: Any, options: _Options) -> KSpace:
    import h5py

    spacing_mm, crop = options.spacing_mm, options.crop
    if options.names is not None:
        return read_named_hdf5(file, options.names, spacing_mm=spacing_mm, crop=crop)
    group = None if "medsci_format" in file.attrs else find_group(file)
    if group is not None:
        if spacing_mm is not None or crop is not None:
            raise UsageError("ISMRMRD files have their own geometry; leave spacing_mm and crop out")
        return read_ismrmrd(file, group, select=options.select, whiten=options.whiten)
    if options.select is not None:
        raise UsageError("select is for ISMRMRD raw data, which this file is not; leave it out")
    _check_names(file, h5py.Dataset)
    if "medsci_format" not in file.attrs:
        return read_fastmri(file, spacing_mm=spacing_mm, crop=crop)
    _check_version(file.attrs)
    if spacing_mm is not None or crop is not None:
        raise UsageError("this k-space file has its own affine; leave spacing_mm and crop out")
    return _read_ours(file)


def _check_names(file: Any, dataset_type: type) -> None:
    """Refuse a file without the datasets that its format needs, naming what it has."""
    needed = ["kspace"]
    if file.attrs.get("medsci_format") == "kspace":
        needed += ["mask", "affine"]
    missing = [name for name in needed if not isinstance(file.get(name), dataset_type)]
    if not missing or file.attrs.get("medsci_format", "kspace") != "kspace":
        return
    raise InvalidInputError(
        f"dataset {' and '.join(missing)} is missing; the file has {sorted(file) or 'nothing'}, "
        "k-space files need kspace, and ours mask and affine too: give names if they are others"
    )


def _check_version(attrs: Any) -> None:
    kind, version = attrs["medsci_format"], attrs.get("format_version")
    if kind != "kspace":
        raise InvalidInputError(f"this is a medsci {kind!s} file, not k-space; give a k-space file")
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"format_version is {version}, this medsci reads {FORMAT_VERSION}; update medsci, or "
            "write the file again with this version"
        )


def _read_ours(file: Any) -> KSpace:
    try:
        facts = _facts(file.attrs)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"a root attribute is missing or of the wrong type ({error}); write the file again"
        ) from error
    header, xml = _array(file, "nifti_header"), _array(file, "ismrmrd_header")
    return KSpace(
        np.asarray(file["kspace"][()]),
        np.asarray(file["mask"][()]),
        affine=np.asarray(file["affine"][()]),
        reference=_array(file, "reconstruction_rss"),
        maps=_array(file, "maps"),
        header=None if header is None else header.tobytes(),
        ismrmrd_header=None if xml is None else bytes(xml.item()),
        **facts,
    )


def _array(file: Any, name: str) -> np.ndarray | None:
    return np.asarray(file[name][()]) if name in file else None


def _facts(attrs: Any) -> dict[str, Any]:
    """Return what the root attributes say, as arguments of `KSpace`."""
    return {
        "axes": tuple(attrs["axes"].tolist()),
        "sform_code": int(attrs["sform_code"]),
        "qform_code": int(attrs["qform_code"]),
        "units": (str(attrs["unit_space"]), str(attrs["unit_time"])),
        "description": str(attrs["description"]),
        "crop": tuple(attrs["crop"].tolist()) if "crop" in attrs else None,
        "attributes": dict(json.loads(attrs["attributes"])),
    }


def _write(file: Any, kspace: KSpace) -> None:
    stacks = {"kspace": kspace.data, "reconstruction_rss": kspace.reference, "maps": kspace.maps}
    for name, stack in stacks.items():
        if stack is not None:
            chunk = (1, *stack.shape[1:])
            file.create_dataset(
                name, data=stack, chunks=chunk, compression="gzip", compression_opts=1,
                track_times=False,
            )  # fmt: skip
    small: dict[str, Any] = {"mask": kspace.mask, "affine": kspace.affine}
    small["ismrmrd_header"] = np.bytes_(geometry_xml(kspace))
    if kspace.header is not None:
        small["nifti_header"] = np.frombuffer(kspace.header, dtype=np.uint8)
    for name, content in small.items():
        file.create_dataset(name, data=content, track_times=False)
    attrs: dict[str, Any] = {
        "medsci_format": "kspace",
        "format_version": FORMAT_VERSION,
        "axes": kspace.axes,
        "sform_code": kspace.sform_code,
        "qform_code": kspace.qform_code,
        "unit_space": kspace.units[0],
        "unit_time": kspace.units[1],
        "description": kspace.description,
        "attributes": json.dumps(kspace.attributes, sort_keys=True),
    }
    if kspace.crop is not None:
        attrs["crop"] = kspace.crop
    file.attrs.update(attrs)
