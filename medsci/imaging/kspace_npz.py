"""k-space in arrays with names: `.npz` and `.npy` files, and HDF5 whose dataset names are given.

    kspace      complex (n_slices, n_coils, n_readout, n_phase), or (n_slices, n_readout, n_phase)
                for one coil; zero frequency at n // 2
    mask        (n_phase,), 1 for acquired lines; optional: lines that hold anything
    maps        complex, shape of kspace, coil sensitivities; optional
    affine      (4, 4), voxel (i, j, k) to RAS+ mm, with slices along k, readout along j, phase
                along i; optional: from the spacing, with the orientation unknown
    reference   float (n_slices, n_readout, n_phase), fully sampled magnitude; optional

A `.npy` file is its kspace. Pickled objects are refused: they can run code.
"""

__all__ = ["ROLES", "kspace_from_arrays", "read_named_hdf5", "read_npz"]

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.geometry import fallback_affine
from medsci.imaging.kspace import KSpace
from medsci.imaging.volume import GeometryWarning

ROLES = ("kspace", "mask", "maps", "affine", "reference")


def kspace_from_arrays(
    arrays: Mapping[str, Any],
    *,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
    layout: str = "arrays",
) -> KSpace:
    """Make a `KSpace` of named arrays.

    Args:
        arrays: by role, see above; `kspace` is needed.
        spacing_mm: slice, readout, phase; 1 mm with a `GeometryWarning` without it and an affine.
        crop: readout, phase; in-plane size to cut images to.
        layout: kept as an attribute.

    Raises:
        InvalidInputError: `kspace` is missing, or the arrays do not fit each other.
        UsageError: both a spacing and an affine came.
    """
    if "kspace" not in arrays:
        raise InvalidInputError(
            f"array kspace is missing; there is {', '.join(sorted(arrays)) or 'nothing'}, and the "
            f"names read are {', '.join(ROLES)}"
        )
    samples = _four_axes("kspace", arrays["kspace"])
    maps = None if arrays.get("maps") is None else _four_axes("maps", arrays["maps"])
    mask = _mask(arrays.get("mask"), samples)
    affine = arrays.get("affine")
    if affine is not None and spacing_mm is not None:
        raise UsageError("the file has its own affine; leave spacing_mm out")
    known = affine is not None
    if affine is None:
        n_slices, _, rows, columns = (*samples.shape[:2], *(crop or samples.shape[2:]))
        affine = fallback_affine((columns, rows, n_slices), _spacing(spacing_mm))
    return KSpace(
        samples,
        mask,
        affine=np.asarray(affine),
        reference=arrays.get("reference"),
        maps=maps,
        sform_code=1 if known else 0,
        crop=crop,
        attributes={"layout": layout},
    )


def read_npz(
    path: Path,
    *,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
) -> KSpace:
    """Read a `.npz` or `.npy` file.

    Raises:
        InvalidInputError: it is damaged, holds pickled objects, or see `kspace_from_arrays`.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                arrays = {"kspace": content}
            else:
                arrays = {name: content[name] for name in content.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"this is cut short, damaged or no NumPy file of plain numbers ({reason}); write it "
            "again with numpy.savez"
        ) from error
    return kspace_from_arrays(arrays, spacing_mm=spacing_mm, crop=crop, layout="npz")


def read_named_hdf5(
    file: Any,
    names: Mapping[str, str],
    *,
    spacing_mm: Sequence[float | int] | None = None,
    crop: tuple[int, int] | None = None,
) -> KSpace:
    """Read the datasets of an open HDF5 file that `names` gives for each role.

    Raises:
        InvalidInputError: a dataset is not there; the message lists what is.
        UsageError: `names` has a role that is none.
    """
    unknown = sorted(set(names) - set(ROLES))
    if unknown:
        raise UsageError(f"names has {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
    arrays = {}
    for role, name in names.items():
        if not hasattr(file.get(name), "dtype"):
            raise InvalidInputError(
                f"dataset {name} ({role}) is missing; the file has {_datasets(file) or 'none'}"
            )
        arrays[role] = file[name][()]
    return kspace_from_arrays(arrays, spacing_mm=spacing_mm, crop=crop, layout="hdf5")


def _datasets(file: Any) -> str:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if hasattr(item, "dtype") else None)
    return ", ".join(found[:12])


def _four_axes(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind != "c" or array.ndim not in (3, 4):
        raise InvalidInputError(
            f"{name} is {array.dtype} of shape {array.shape}, but it must be complex, (slices, "
            "coils, readout, phase) or (slices, readout, phase); reorder the axes, join real and "
            "imaginary parts"
        )
    return array if array.ndim == 4 else array[:, None]


def _mask(given: Any, samples: np.ndarray) -> np.ndarray:
    """Return the given mask, else the lines that hold anything in any slice."""
    if given is not None:
        given = np.squeeze(np.asarray(given))
        return given[None] if given.ndim == 0 else given
    acquired = np.zeros(samples.shape[-1], dtype=bool)
    for part in samples:
        acquired |= part.any(axis=(0, 1))
    return acquired


def _spacing(spacing_mm: Sequence[float | int] | None) -> tuple[float, float, float]:
    """Return phase, readout, slice spacing: along i, j, k."""
    if spacing_mm is None:
        warnings.warn(
            "the file has no affine and no voxel spacing was given; took 1 mm, so distances and "
            "slice coupling may be wrong",
            GeometryWarning,
            stacklevel=5,
        )
        return 1.0, 1.0, 1.0
    across, readout, phase = (float(mm) for mm in spacing_mm)
    return phase, readout, across
