"""Reading a scan of either domain, whatever format it comes in."""

__all__ = ["Domain", "domain_of", "read_scan"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from medsci.errors import InvalidInputError

if TYPE_CHECKING:
    from medsci.imaging import KSpace, Sinogram

Domain: TypeAlias = Literal["mri", "ct"]

_GZIP = b"\x1f\x8b"


@overload
def read_scan(path: Path, domain: Literal["mri"]) -> "KSpace": ...
@overload
def read_scan(path: Path, domain: Literal["ct"]) -> "Sinogram": ...
@overload
def read_scan(path: Path, domain: Domain) -> "KSpace | Sinogram": ...
def read_scan(path: Path, domain: Domain) -> "Any":
    """Read k-space or a sinogram.

    Raises:
        InvalidInputError: the file is not what the domain needs, or says nothing.
    """
    if domain == "mri":
        from medsci.imaging import read_kspace

        return read_kspace(path)
    from medsci.imaging import read_sinogram

    _check_not_an_image(path)
    scan = read_sinogram(path)
    if not scan.data.any():
        raise InvalidInputError(
            f"{path}: the sinogram holds nothing but zeros; check the scan, or what exported it"
        )
    return scan


def domain_of(path: Path) -> Domain:
    """Tell a sinogram by what the file says of itself; everything else is taken for k-space.

    A file that cannot be opened is left to the reader of k-space, which says what is wrong.
    """
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "ct" if "sinogram.npy" in archive.namelist() else "mri"
    import h5py

    try:
        with h5py.File(path, "r") as file:
            says = file.attrs.get("medsci_format", "sinogram" if "sinogram" in file else None)
    except OSError:
        return "mri"
    return "ct" if says == "sinogram" else "mri"


def _check_not_an_image(path: Path) -> None:
    """Refuse the commonest mistake in words of its own."""
    with path.open("rb") as file:
        start = file.read(352)
    images = {start[128:132] == b"DICM": "DICOM", start[344:347] in (b"n+1", b"ni1"): "NIfTI"}
    image = images.get(True, "a compressed file" if start.startswith(_GZIP) else None)
    if image is not None:
        raise InvalidInputError(
            f"{path}: this is {image}, not a sinogram; give line integrals (HDF5, npz), or make "
            "some of an image with 'medsci recon simulate ct'"
        )
