"""What sinogram arrays must satisfy; each failure is one line: what came, and what to do."""

__all__ = [
    "check_fits_beam",
    "check_plane",
    "checked_lines",
    "checked_positive",
    "checked_truth",
    "in_radians",
]

import math
from typing import Any

import numpy as np

from medsci.errors import InvalidInputError
from medsci.imaging.beam import Beam, ImageGrid
from medsci.imaging.geometry import Affine, spacing_of

_LAYOUT = "(n_slices, n_angles, n_bins)"
_RADIANS = ("rad", "radian", "radians")
_DEGREES = ("deg", "degree", "degrees")


def checked_lines(data: Any) -> np.ndarray:
    """Return float32 line integrals of three non-empty axes without NaN or infinity."""
    data = np.asarray(data)
    if data.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"the sinogram is {data.dtype}, but it must hold real line integrals; give -ln(N / N0)"
        )
    if data.ndim != 3 or data.size == 0:
        raise InvalidInputError(
            f"the sinogram has shape {data.shape}, but it must be {_LAYOUT} with none of them 0; "
            "add an axis of length 1 in front for a single slice"
        )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, see below
        data = np.ascontiguousarray(data, dtype=np.float32)
    n_bad = int(data.size - np.isfinite(data).sum())
    if n_bad:
        raise InvalidInputError(
            f"the sinogram holds {n_bad} NaN or infinite line integrals; a detector that counted "
            "nothing has log(0): set a floor of counts, and interpolate dead bins"
        )
    return data


def check_fits_beam(data: np.ndarray, beam: Beam) -> None:
    """Refuse a sinogram that is not of the size of its geometry."""
    _, n_angles, n_bins = data.shape
    if (n_angles, n_bins) == (beam.n_bins, beam.n_angles) != (beam.n_angles, beam.n_bins):
        raise InvalidInputError(
            f"the sinogram has shape {data.shape}, with the {beam.n_bins} bins before the "
            f"{beam.n_angles} angles; swap its last two axes to {_LAYOUT}"
        )
    if n_angles != beam.n_angles:
        raise InvalidInputError(
            f"the sinogram has {n_angles} views but there are {beam.n_angles} angles; give one "
            f"angle per view, layout {_LAYOUT}"
        )
    if n_bins != beam.n_bins:
        raise InvalidInputError(
            f"the sinogram has {n_bins} detector bins but the geometry {beam.n_bins}; give the "
            "geometry of this very scan"
        )


def check_plane(grid: ImageGrid, affine: Affine, axes: tuple[int, int, int]) -> None:
    """Refuse an image grid whose pixels are not those of the affine, or not rectangles."""
    steps = spacing_of(affine)
    rows, columns = axes[1], axes[2]
    wanted = (steps[rows], steps[columns])
    if not np.allclose((grid.row_mm, grid.col_mm), wanted, rtol=1e-3):
        raise InvalidInputError(
            f"the image grid has pixels of {grid.row_mm:.5g} x {grid.col_mm:.5g} mm (rows, "
            f"columns) but the affine says {wanted[0]:.5g} x {wanted[1]:.5g} mm along axes {rows} "
            f"and {columns}; correct one of them"
        )
    cosine = float(affine[:3, rows] @ affine[:3, columns]) / (wanted[0] * wanted[1])
    if abs(cosine) > 1e-3:
        raise InvalidInputError(
            f"rows and columns of a slice meet at {math.degrees(math.acos(cosine)):.2f} degrees; "
            "rays need rectangular pixels: resample the volume to a grid without shear"
        )


def checked_truth(reference: Any, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return a finite float32 stack of Hounsfield units of the image's size, or None."""
    if reference is None:
        return None
    reference = np.asarray(reference)
    if reference.shape != shape or reference.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"the reference is {reference.dtype} of shape {reference.shape}, but it must be the "
            f"true image in Hounsfield units, {shape} (slices, rows, columns); leave it out if "
            "there is none"
        )
    if not np.isfinite(reference).all():
        raise InvalidInputError("the reference holds NaN or infinite values; leave it out instead")
    return np.ascontiguousarray(reference, dtype=np.float32)


def checked_positive(value: Any, name: str) -> float | None:
    """Return a positive finite number, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidInputError(f"{name}={value!r} came; give a number, or leave it out")
    if not (math.isfinite(value) and value > 0.0):
        raise InvalidInputError(f"{name}={value} came; give a positive number, or leave it out")
    return float(value)


def in_radians(angles: Any, unit: str | None) -> np.ndarray:
    """Return angles in rad.

    Raises:
        InvalidInputError: the unit is unknown or not given, or the angles are no numbers.
    """
    angles = np.asarray(angles)
    if angles.dtype.kind not in "fiu":
        raise InvalidInputError(f"the angles are {angles.dtype}; give one number per view")
    angles = angles.astype(np.float64)
    if unit is None:
        raise InvalidInputError(
            f"the unit of the angles is not stated (they run from {angles.min(initial=0.0):.4g} to "
            f"{angles.max(initial=0.0):.4g}); set the attribute units of the angles dataset to "
            "degrees or radians, or say it with angle_units"
        )
    word = unit.strip().lower()
    if word not in (*_RADIANS, *_DEGREES):
        raise InvalidInputError(f"the angles are in {unit!r}; give degrees or radians")
    return np.radians(angles) if word in _DEGREES else angles
