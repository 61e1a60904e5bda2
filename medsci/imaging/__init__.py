"""Images and k-space as files and in memory: `Volume`, NIfTI, k-space HDF5, atomic writing.

Names are imported when they are first used, so that a command line that only prints its help
loads neither nibabel nor h5py.
"""

__all__ = [
    "FanBeam",
    "GeometryWarning",
    "ImageGrid",
    "KSpace",
    "ParallelBeam",
    "Sinogram",
    "SinogramLayout",
    "Volume",
    "as_volume",
    "atomic_path",
    "fallback_affine",
    "mid_planes",
    "read_bart",
    "read_cfl",
    "read_dicom_ct_pd",
    "read_dicom_series",
    "read_kspace",
    "read_nifti",
    "read_sinogram",
    "resample_spacing",
    "resample_to",
    "return_kind",
    "to_nibabel",
    "window",
    "write_bart",
    "write_cfl",
    "write_json",
    "write_kspace",
    "write_nifti",
    "write_sinogram",
    "write_text",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.imaging.atomic import atomic_path, write_json, write_text
    from medsci.imaging.bart import read_bart, read_cfl, write_bart, write_cfl
    from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
    from medsci.imaging.convert import as_volume, return_kind
    from medsci.imaging.dicom_ct_pd import read_dicom_ct_pd
    from medsci.imaging.dicom_series import read_dicom_series
    from medsci.imaging.display import mid_planes
    from medsci.imaging.geometry import fallback_affine
    from medsci.imaging.kspace import KSpace
    from medsci.imaging.kspace_file import read_kspace, write_kspace
    from medsci.imaging.nifti import read_nifti, to_nibabel, write_nifti
    from medsci.imaging.resample import resample_spacing, resample_to, window
    from medsci.imaging.sinogram import Sinogram
    from medsci.imaging.sinogram_arrays import SinogramLayout
    from medsci.imaging.sinogram_file import read_sinogram, write_sinogram
    from medsci.imaging.volume import GeometryWarning, Volume

_HOME = {
    "FanBeam": "beam",
    "GeometryWarning": "volume",
    "ImageGrid": "beam",
    "KSpace": "kspace",
    "ParallelBeam": "beam",
    "Sinogram": "sinogram",
    "SinogramLayout": "sinogram_arrays",
    "Volume": "volume",
    "as_volume": "convert",
    "atomic_path": "atomic",
    "fallback_affine": "geometry",
    "mid_planes": "display",
    "read_bart": "bart",
    "read_cfl": "bart",
    "read_dicom_ct_pd": "dicom_ct_pd",
    "read_dicom_series": "dicom_series",
    "read_kspace": "kspace_file",
    "read_nifti": "nifti",
    "read_sinogram": "sinogram_file",
    "resample_spacing": "resample",
    "resample_to": "resample",
    "return_kind": "convert",
    "to_nibabel": "nifti",
    "window": "resample",
    "write_bart": "bart",
    "write_cfl": "bart",
    "write_json": "atomic",
    "write_kspace": "kspace_file",
    "write_nifti": "nifti",
    "write_sinogram": "sinogram_file",
    "write_text": "atomic",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted([*__all__])
