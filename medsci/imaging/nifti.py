"""NIfTI files in and out: `read_nifti` and `write_nifti`.

Read: `.nii`, `.nii.gz` and `.hdr` + `.img`, NIfTI-1 and NIfTI-2, of any number of axes from two
(a 2D file is one slice, and is written as 2D again). Refused with advice: Analyze 7.5 (its left and
right are a matter of belief), MGH, MINC, DICOM, colour (RGB) voxels. The gzip checksum is verified
to the end, so a file cut anywhere is noticed.

Values are as stored: integers stay integers of their type (int64 and uint64 exactly), complex stays
complex, NaN stays NaN; `scl_slope` and `scl_inter`, if set, are applied and give floats. Geometry
is chosen by the rules of `medsci.imaging.nifti_header`.

Written: by nibabel, `.nii` or `.nii.gz`, in the type asked for, slope 1 and intercept 0, gzip
without time or name, so equal volumes give equal bytes. float64, complex and 64-bit integers are
written as they are; many viewers cannot open 64-bit integers, so pass a smaller `dtype` for them.
"""

__all__ = ["from_nibabel", "read_nifti", "to_nibabel", "write_nifti"]

import gzip
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.atomic import atomic_path
from medsci.imaging.geometry import is_valid_affine
from medsci.imaging.nifti_header import file_geometry, single_file_header, store_geometry
from medsci.imaging.volume import GeometryWarning, Volume
from medsci.imaging.voxel_type import as_file_dtype

_READ = (".nii.gz", ".nii", ".hdr", ".hdr.gz", ".img", ".img.gz")
_WRITTEN = (".nii.gz", ".nii")
_GZIP_LEVEL = 1
_MAX_NIFTI_1 = 32767
_ADVICE = {
    ".mgz": "convert it with mri_convert",
    ".mgh": "convert it with mri_convert",
    ".mnc": "convert it with mnc2nii",
    ".dcm": "convert the series with dcm2niix",
    ".nrrd": "convert it with SimpleITK",
    ".mha": "convert it with SimpleITK",
    ".h5": "k-space is read with read_kspace",
}


def read_nifti(path: str | Path) -> Volume:
    """Read a NIfTI file whole, geometry in RAS+ mm, voxels as stored.

    Raises:
        InvalidInputError: the file is missing, a folder, empty, cut short, damaged or not NIfTI;
            the message is one line that names the file, what is wrong and what to do.

    Warns:
        GeometryWarning: orientation missing, contradictory or invalid; says what was taken.
    """
    path = Path(path)
    _check_file(path)
    image = _load(path)
    return from_nibabel(image, path=path)


def write_nifti(
    volume: Volume,
    path: str | Path,
    *,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
    description: str | None = None,
) -> Path:
    """Write a volume atomically in its own grid, with its codes, units and header fields.

    Args:
        volume: what to write. Its header's other fields and extensions are kept.
        path: ends in `.nii` or `.nii.gz`.
        dtype: voxel type in the file, the array's own if None (bool becomes uint8, float16
            float32). Floats are rounded to the nearest integer; values that do not fit are refused.
        overwrite: replace an existing file.
        description: new `descrip` text, at most 79 bytes; None keeps the header's.

    Raises:
        OutputExistsError: the file exists and `overwrite` is False.
        UsageError: the suffix, the type or the description cannot be written.
        InvalidInputError: the values do not fit `dtype`.
    """
    import nibabel as nib

    path = Path(path)
    if not path.name.lower().endswith(_WRITTEN):
        raise UsageError(f"cannot write {path.name}: its name must end in .nii or .nii.gz")
    with atomic_path(path, overwrite=overwrite) as temporary:
        image = to_nibabel(volume, dtype=dtype, description=description)
        with temporary.open("wb") as raw:
            if not path.name.lower().endswith(".gz"):
                image.to_stream(raw)
            else:
                with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed:
                    image.to_file_map(nib.Nifti1Image.make_file_map({"image": packed}))
    return path


def from_nibabel(image: Any, *, path: Path | None = None) -> Volume:
    """Make a volume of a nibabel NIfTI image; an image in memory shares its array.

    Raises:
        InvalidInputError: not a NIfTI image, colour voxels, damaged data, or no usable geometry.
    """
    import nibabel as nib

    name = "the image" if path is None else str(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise InvalidInputError(
            f"{name} is {type(image).__name__}, not NIfTI; convert it with "
            "nibabel.Nifti1Image.from_image after checking that its orientation is right"
        )
    array = _voxels(image, name)
    header = image.header.copy()
    grid = array if array.ndim > 2 else array[:, :, None]
    found = file_geometry(header, grid.shape)
    if not is_valid_affine(found.affine):
        raise InvalidInputError(
            f"{name} has no usable geometry (voxel size {header['pixdim'][1:4].tolist()}, no valid "
            "sform or qform); repair its header, or give the array and an affine"
        )
    for remark in found.remarks:
        warnings.warn(f"{name}: {remark}", GeometryWarning, stacklevel=3)
    return Volume(
        grid,
        found.affine,
        sform_code=found.sform_code,
        qform_code=found.qform_code,
        units=found.units,
        header=header,
        path=path,
    )


def to_nibabel(
    volume: Volume, *, dtype: DTypeLike | None = None, description: str | None = None
) -> Any:
    """Make the nibabel image that `write_nifti` writes: same header, explicit type, no scaling."""
    import nibabel as nib

    array = as_file_dtype(volume.array, dtype)
    header = _fresh_header(volume)
    if volume.header is not None and len(volume.header.get_data_shape()) == 2:
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if header.get_data_shape() != array.shape:  # setting it clears pixdim beyond the last axis
        header.set_data_shape(array.shape)
    try:
        header.set_data_dtype(array.dtype)
    except nib.spatialimages.HeaderDataError as error:
        raise UsageError(
            f"NIfTI cannot hold voxels of type {array.dtype}; pass dtype='float32'"
        ) from error
    store_geometry(
        header,
        volume.affine,
        shape=volume.shape,
        codes=(volume.sform_code, volume.qform_code),
        units=volume.units,
    )
    header.set_slope_inter(1, 0)
    if description is not None:
        header["descrip"] = _descrip(description)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return kind(array, header.get_best_affine(), header)


def _fresh_header(volume: Volume) -> Any:
    import nibabel as nib

    header = nib.Nifti1Header() if volume.header is None else single_file_header(volume.header)
    if max(volume.shape) > _MAX_NIFTI_1 and not isinstance(header, nib.Nifti2Header):
        header = nib.Nifti2Header.from_header(header)
    return header


def _descrip(text: str) -> bytes:
    encoded = text.encode("utf-8")
    if len(encoded) > 79:
        raise UsageError(
            f"the description has {len(encoded)} bytes and NIfTI holds 79; shorten it, or put it "
            "into the sidecar JSON"
        )
    return encoded


def _check_file(path: Path) -> None:
    """Refuse what cannot be NIfTI before nibabel sees it, with advice that fits."""
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder, not a NIfTI file; name one file in it")
    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; check the name and the folder")
    name = path.name.lower()
    if not name.endswith(_READ):
        advice = next((a for s, a in _ADVICE.items() if name.endswith(s)), "rename or convert it")
        raise InvalidInputError(f"{path} does not end in .nii, .nii.gz or .hdr/.img; {advice}")
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InvalidInputError(
            f"{path} cannot be opened ({error.strerror}); check its permissions"
        ) from error
    if not start:
        raise InvalidInputError(f"{path} is empty (0 bytes); copy or write it again")
    if (start == b"\x1f\x8b") != name.endswith(".gz"):
        wrong, right = ("not gzip-compressed", "without") if name.endswith(".gz") else (
            "gzip-compressed", "with")  # fmt: skip
        raise InvalidInputError(f"{path} is {wrong}; rename it {right} .gz")


def _load(path: Path) -> Any:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        n_bytes = _content_size(path)
        image = nib.load(path, mmap=False)
        if isinstance(image, nib.Nifti1Pair):
            stored = Path(image.file_map["image"].filename or path)
            _check_size(image.header, stored, n_bytes if stored == path else _content_size(stored))
    except InvalidInputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(
            f"{path} is cut short or damaged ({error}); copy or download it again"
        ) from error
    except (ImageFileError, HeaderDataError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"{path} is not a readable NIfTI file ({reason}); write it again with the program it "
            "came from, or convert DICOM with dcm2niix"
        ) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise InvalidInputError(
            f"{path} is {type(image).__name__}, not plain NIfTI: Analyze does not say where left "
            "is, CIFTI is no voxel grid; convert it with a program that knows, e.g. mri_convert"
        )
    return image


def _content_size(path: Path) -> int:
    """Return the unpacked size; reads gzip to its end, so that its checksum is verified."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    n_bytes = 0
    with gzip.open(path, "rb") as file:
        while part := file.read(1 << 22):
            n_bytes += len(part)
    return n_bytes


def _check_size(header: Any, path: Path, n_bytes: int) -> None:
    """Refuse a header that promises more than the file holds, before memory is taken for it."""
    shape = header.get_data_shape()
    if len(shape) < 2 or min(shape) < 1:
        raise InvalidInputError(
            f"{path} has shape {shape}, which is no image; it needs two non-empty axes"
        )
    needed = header.get_data_offset() + math.prod(shape) * header.get_data_dtype().itemsize
    if n_bytes < needed:
        raise InvalidInputError(
            f"{path} holds {n_bytes} bytes but its header promises {needed} (shape {shape}); it is "
            "cut short or its header is wrong, copy or write it again"
        )


def _voxels(image: Any, name: str) -> np.ndarray:
    """Return the voxels in native byte order, at least 2D."""
    try:
        array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"{name} holds fewer voxels than its header says ({reason}); copy or write it again"
        ) from error
    if array.dtype.kind not in "iufcb":
        raise InvalidInputError(
            f"{name} has colour voxels ({array.dtype}), which are no measured quantity; convert it "
            "to one channel"
        )
    if array.ndim < 2 or array.size == 0:
        raise InvalidInputError(
            f"{name} has shape {array.shape}, which is no image; it needs two non-empty axes"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)
