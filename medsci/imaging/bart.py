"""BART's `.cfl` and `.hdr`: complex64 in column-major order, and its dimensions in text.

    0 readout   1 phase   2 partition   3 coil   4 maps   ...   13 slice

Transforms are centred, as ours. Partitions (dimension 2) of k-space are a Fourier direction, which
must be fully sampled and becomes slices by an inverse transform; slices (13) are slices already.
Of several sets of maps the first counts, that of the largest eigenvalue. Files hold no geometry:
give the spacing.

Source: BART toolbox, Uecker et al. 2015, doi:10.5281/zenodo.592960.
"""

__all__ = ["read_bart", "read_cfl", "write_bart", "write_cfl"]

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError
from medsci.imaging.atomic import atomic_path
from medsci.imaging.kspace import KSpace
from medsci.imaging.kspace_npz import kspace_from_arrays

_N_DIMS = 16
_READ, _PHASE, _PARTITION, _COIL, _MAPS, _SLICE = 0, 1, 2, 3, 4, 13


def read_cfl(path: str | Path) -> Shaped[np.ndarray, "..."]:
    """Return the array of a pair of files, complex64, with 16 axes (those not in use of size 1).

    Args:
        path: of either file, or their common name without a suffix.

    Raises:
        InvalidInputError: one of the pair is missing, or their sizes do not fit.
    """
    base = _base(Path(path))
    header, data = base.with_name(base.name + ".hdr"), base.with_name(base.name + ".cfl")
    for part in (header, data):
        if not part.is_file():
            raise InvalidInputError(
                f"{part.name} is missing; BART data are a pair, {data.name} and {header.name}"
            )
    dims = _dims(header)
    expected, size = 8 * math.prod(dims), data.stat().st_size
    if size != expected:
        raise InvalidInputError(
            f"{data.name} has {size} bytes, {header.name} ({' x '.join(map(str, dims))} complex64) "
            f"needs {expected}; copy or write both files again"
        )
    array = np.fromfile(data, dtype="<c8").reshape(dims, order="F")
    return array.reshape(*dims, *([1] * (_N_DIMS - len(dims))), order="F")


def read_bart(
    path: str | Path,
    *,
    maps: str | Path | None = None,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
) -> KSpace:
    """Read Cartesian k-space, and coil maps from a second pair of files.

    Args:
        path: of the k-space.
        maps: of the maps, of the same size as images.
        spacing_mm: slice, readout, phase; 1 mm with a `GeometryWarning` without it.
        crop: readout, phase; in-plane size to cut images to.

    Raises:
        InvalidInputError: the files are damaged, not Cartesian, or have other dimensions in use.
    """
    samples = _coil_slices(read_cfl(path), "k-space", fourier=True)
    arrays = {"kspace": samples}
    if maps is not None:
        arrays["maps"] = _coil_slices(
            read_cfl(maps)[(slice(None),) * _MAPS + (slice(0, 1),)], "coil maps", fourier=False
        )
    return kspace_from_arrays(arrays, spacing_mm=spacing_mm, crop=crop, layout="bart")


def write_cfl(
    array: Shaped[np.ndarray, "..."], path: str | Path, *, overwrite: bool = False
) -> Path:
    """Write an array of up to 16 axes as a pair of files; return the path of the `.cfl`.

    Raises:
        OutputExistsError: one of them exists and `overwrite` is False.
        InvalidInputError: there are more than 16 axes.
    """
    if array.ndim > _N_DIMS or array.size == 0:
        raise InvalidInputError(
            f"an array of shape {array.shape} is empty or has more than {_N_DIMS} axes; BART has "
            f"{_N_DIMS}"
        )
    base = _base(Path(path))
    header, data = base.with_name(base.name + ".hdr"), base.with_name(base.name + ".cfl")
    dims = (*array.shape, *([1] * (_N_DIMS - array.ndim)))
    with (
        atomic_path(header, overwrite=overwrite) as head,
        atomic_path(data, overwrite=overwrite) as body,
    ):
        head.write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n", encoding="ascii")
        body.write_bytes(np.asarray(array, dtype="<c8").tobytes(order="F"))
    return data


def write_bart(kspace: KSpace, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write k-space with slices in dimension 13; its maps, if any, go to `NAME_maps`.

    Geometry, mask and reference have no place in the format and are left out.

    Raises:
        OutputExistsError: a file exists and `overwrite` is False.
    """
    base = _base(Path(path))
    if kspace.maps is not None:
        maps = base.with_name(base.name + "_maps")
        write_cfl(_to_bart(kspace.maps), maps, overwrite=overwrite)
    return write_cfl(_to_bart(kspace.data), base, overwrite=overwrite)


def _base(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in (".cfl", ".hdr") else path


def _to_bart(data: np.ndarray) -> np.ndarray:
    """Turn (slices, coils, readout, phase) into BART's 16 axes."""
    moved = data.transpose(2, 3, 1, 0)
    return moved.reshape(*moved.shape[:2], 1, moved.shape[2], *([1] * 9), moved.shape[3], 1, 1)


def _dims(header: Path) -> tuple[int, ...]:
    try:
        lines = header.read_text(encoding="utf-8").splitlines()
        place = [line.strip() for line in lines].index("# Dimensions")
        dims = tuple(int(word) for word in lines[place + 1].split())
    except (ValueError, IndexError) as error:
        raise InvalidInputError(
            f"{header.name} is no BART header ({error}); it must hold the line '# Dimensions' and "
            "then whole numbers"
        ) from error
    if not dims or min(dims) < 1 or len(dims) > _N_DIMS:
        raise InvalidInputError(
            f"{header.name} has dimensions {dims}; they must be 1 to {_N_DIMS} positive numbers"
        )
    return dims


def _coil_slices(array: np.ndarray, name: str, *, fourier: bool) -> np.ndarray:
    """Return (n_slices, n_coils, n_readout, n_phase)."""
    used = {d: n for d, n in enumerate(array.shape) if n > 1}
    others = sorted(set(used) - {_READ, _PHASE, _PARTITION, _COIL, _SLICE})
    if others or (_PARTITION in used and _SLICE in used):
        raise InvalidInputError(
            f"the BART {name} have sizes {used} by dimension; only readout (0), phase (1), "
            "partition (2) or slice (13), and coil (3) are read: pick the rest with 'bart slice'"
        )
    if array.shape[_READ] == 1:
        raise InvalidInputError(
            f"the BART {name} have no readout (dimension 0 is 1), as radial and spiral samples "
            "have; grid them first, for example with 'bart nufft'"
        )
    volume = array.reshape((*array.shape[: _COIL + 1], array.shape[_SLICE]), order="F")
    if fourier and _PARTITION in used:
        volume = _partitions_to_slices(volume)
    stack = volume[:, :, 0] if _SLICE in used else np.moveaxis(volume[..., 0], _PARTITION, 3)
    return np.ascontiguousarray(stack.transpose(3, 2, 0, 1))


def _partitions_to_slices(volume: np.ndarray) -> np.ndarray:
    there = np.any(volume != 0, axis=(_READ, 3, 4))
    lines = there[np.any(there, axis=1)]
    if not lines.all():
        raise InvalidInputError(
            "the BART k-space is undersampled along partitions (dimension 2) as well, and only "
            "phase (dimension 1) may be; reconstruct that direction with BART first"
        )
    moved = np.fft.ifft(np.fft.ifftshift(volume, _PARTITION), axis=_PARTITION, norm="ortho")
    return np.fft.fftshift(moved, _PARTITION).astype(np.complex64)
