"""Reading the data of the registry, each in the format it comes in."""

__all__ = ["read_data"]

import gzip
import io
import plistlib
import tarfile
from pathlib import Path

import numpy as np

from medsci.data.registry import find_data, list_data
from medsci.errors import InvalidInputError
from medsci.imaging import Volume, as_volume, read_nifti


def read_data(name: str) -> Volume:
    """Read a volume of the registry, in the units it is stored in (CT: Hounsfield units).

    Raises:
        InvalidInputError: no entry has that name, or its file is not on this machine; says how to
            get it.
    """
    path = find_data(name)
    if path is None:
        entry = next(e for e in list_data() if e.name == name)
        raise InvalidInputError(
            f"{name} ({entry.content}) is not on this machine; get it by: {entry.provider}"
        )
    if path.suffix == ".inv3":
        return _invesalius(path)
    if path.suffix == ".nrrd":
        import SimpleITK

        return as_volume(SimpleITK.ReadImage(str(path)))
    return read_nifti(path)


def _invesalius(path: Path) -> Volume:
    """Read the image of an InVesalius project, whose rows run to the front and slices upwards."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(path.read_bytes()))) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers()}
        plist = plistlib.loads(_content(tar, members["main.plist"]))
        raw = np.frombuffer(_content(tar, members["matrix.dat"]), dtype=plist["matrix"]["dtype"])
    array = raw.reshape(plist["matrix"]["shape"]).transpose(2, 1, 0)
    spacing = np.array([float(v) for v in plist["spacing"]])
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(array.shape) - 1.0))
    return Volume(np.ascontiguousarray(array), affine)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None:
        raise InvalidInputError(f"{member.name} is not a file in this project; install it again")
    return stream.read()
