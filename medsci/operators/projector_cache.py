"""Projection matrices on disk, found again by what they were made from.

A file holds A as plain arrays (`.npz`, no pickle) under a name that is the hash of the geometry,
the number type and the version of the weights, and a checksum of its content. A file that is not
whole is made again. Files may be deleted at any time.
"""

__all__ = ["WEIGHTS_VERSION", "cached_matrices", "geometry_hash"]

import dataclasses
import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from scipy import sparse

from medsci.imaging.atomic import atomic_path
from medsci.imaging.beam import Beam, ImageGrid
from medsci.operators.joseph import joseph_matrix

WEIGHTS_VERSION = 1  # raise it with any change of the weights, so that old files are not found
# RuntimeError is what zipfile says when a damaged flag asks for a password or an unknown method.
_DAMAGED = OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
_PARTS = ("indptr", "indices", "data")


def geometry_hash(beam: Beam, grid: ImageGrid, *, dtype: type[np.floating]) -> str:
    """Return 32 hexadecimal digits that stand for the matrix of a beam, a grid and a type."""
    text = f"{WEIGHTS_VERSION} {np.dtype(dtype)} {type(beam).__name__} {grid!r}"
    for field in dataclasses.fields(beam):
        if field.name != "angles":
            text += f" {field.name}={getattr(beam, field.name)!r}"
    return _digest(text.encode(), beam.angles.tobytes())


def cached_matrices(
    beam: Beam,
    grid: ImageGrid,
    *,
    dtype: type[np.float32] | type[np.float64],
    folder: str | Path,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return A and its transpose, from the folder if they are there, otherwise made and kept.

    Raises:
        UsageError: If the folder cannot be written to.
    """
    path = Path(folder) / f"joseph-{geometry_hash(beam, grid, dtype=dtype)}.npz"
    shape = (beam.n_angles * beam.n_bins, grid.n_rows * grid.n_cols)
    matrix = _read(path, shape, np.dtype(dtype))
    if matrix is not None:
        return matrix, matrix.T.tocsr()
    pair = joseph_matrix(beam, grid, dtype=dtype)
    arrays = {name: getattr(pair[0], name) for name in _PARTS}
    checksum = np.frombuffer(
        bytes.fromhex(_digest(*(array.data for array in arrays.values()))), np.uint8
    )
    with atomic_path(path, overwrite=True) as temporary:
        np.savez(temporary, allow_pickle=False, checksum=checksum, **arrays)
    return pair


def _read(path: Path, shape: tuple[int, int], dtype: np.dtype) -> sparse.csr_array | None:
    """Return the matrix of a file, or None if there is none or it is not as it was written."""
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as file:
            indptr, indices, data = (file[name] for name in _PARTS)
            checksum = file["checksum"].tobytes().hex()
    except _DAMAGED:
        return None
    whole = (
        checksum == _digest(indptr.data, indices.data, data.data)
        and indptr.shape == (shape[0] + 1,)
        and indptr[-1] == len(indices) == len(data)
        and indptr.dtype == indices.dtype == np.int32
        and data.dtype == dtype
        and (len(indices) == 0 or int(indices.max()) < shape[1])
    )
    return sparse.csr_array((data, indices, indptr), shape=shape) if whole else None


def _digest(*parts: bytes | memoryview) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:32]
