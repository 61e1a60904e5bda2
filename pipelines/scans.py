"""Reading a scan of either domain, whatever format it comes in."""

__all__ = ["Domain", "domain_of", "read_scan"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from medsci.imaging import KSpace
    from medsci.imaging.sinogram import Sinogram

Domain: TypeAlias = Literal["mri", "ct"]


def read_scan(path: Path, domain: Domain) -> "Any | KSpace | Sinogram":
    """Read k-space or a sinogram.

    Raises:
        InvalidInputError: the file is not what the domain needs.
    """
    if domain == "mri":
        from medsci.imaging import read_kspace

        return read_kspace(path)
    from medsci.imaging.sinogram_file import read_sinogram

    return read_sinogram(path)


def domain_of(path: Path) -> Domain:
    """Tell a sinogram by its name in the file; everything else is taken for k-space."""
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "ct" if "sinogram.npy" in archive.namelist() else "mri"
    import h5py

    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            return "ct" if "sinogram" in file else "mri"
    return "mri"
