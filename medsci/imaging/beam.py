"""Two-dimensional CT geometry: which line every detector bin of every view looks along.

World coordinates are millimetres in the plane of a slice, origin at the rotation centre, x along
the columns of the image and y along its rows, *both growing with the index*. With
`e = (cos, sin)(theta)` (detector axis) and `d = (-sin, cos)(theta)` (direction of the central ray):

- pixel (i, j) of an image is centred at `x = (j - (n_cols - 1) / 2) col_mm`,
  `y = (i - (n_rows - 1) / 2) row_mm`; the grid is centred on the rotation axis for even and odd
  sizes alike, there is no half-pixel shift;
- bin k is centred at `s = (k - (n_bins - 1) / 2 + offset_bins) bin_mm` on the detector;
- a parallel ray is `s e + r d`, so that a point c is seen at `s = c . e`;
- a fan ray starts at the source, `-source_mm d`, and goes to the detector point
  `detector_mm d + s e`. With the fan angle `gamma = atan(s / (source_mm + detector_mm))` (flat) or
  `s / (source_mm + detector_mm)` (curved) it is the parallel ray of angle `theta - gamma` at
  `source_mm sin(gamma)`.

On a screen with the first row on top, theta turns clockwise. Software that lets y grow upwards
(ASTRA) calls our theta `-theta`.
"""

__all__ = ["Beam", "FanBeam", "ImageGrid", "ParallelBeam"]

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Integer, Shaped

from medsci.errors import InvalidInputError


@final
@dataclass(frozen=True, eq=False)
class ParallelBeam:
    """Parallel rays, as many views as angles.

    Attributes:
        angles: float64 (n_angles,), theta in rad, in any order.
        n_bins: detector bins of a view.
        bin_mm: distance of neighbouring bins.
        offset_bins: shift of the detector along its axis; 0 puts its middle before the rotation
            centre.

    Raises:
        InvalidInputError: a value that no scanner can have; says which.
    """

    angles: Shaped[np.ndarray, "..."]
    n_bins: int
    bin_mm: float
    offset_bins: float = 0.0

    def __post_init__(self) -> None:
        _settle(self, positive=("bin_mm",), finite=("offset_bins",))

    @property
    def n_angles(self) -> int:
        """The number of views."""
        return len(self.angles)

    def __eq__(self, other: object) -> bool:
        """Compare every value, the angles exactly."""
        return isinstance(other, ParallelBeam) and _values(self) == _values(other)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(_values(self))

    def subset(self, views: Integer[np.ndarray, " n_kept"] | list[int]) -> "ParallelBeam":
        """Return the beam of some views, in the order given."""
        return dataclasses.replace(self, angles=self.angles[_checked_views(views, self.n_angles)])

    def bin_positions(self) -> Float64[np.ndarray, " n_bins"]:
        """Return s of every bin, in mm along the detector."""
        return _bin_positions(self)

    def rays(
        self,
    ) -> tuple[Float64[np.ndarray, "n_angles n_bins 2"], Float64[np.ndarray, "n_angles n_bins 2"]]:
        """Return a point (mm) and the unit direction of every ray, both as (x, y)."""
        e, d = _axes(self.angles)
        points = self.bin_positions()[:, None] * e[:, None]
        return points, np.broadcast_to(d[:, None], points.shape)


@final
@dataclass(frozen=True, eq=False)
class FanBeam:
    """Rays from one point source per view to a flat or a curved detector.

    Attributes:
        angles: float64 (n_angles,), theta in rad: the direction of the central ray is that of the
            parallel rays of the same angle.
        n_bins: detector bins of a view.
        bin_mm: distance of neighbouring bins, on the detector (along the arc if curved).
        source_mm: source to rotation centre.
        detector_mm: rotation centre to detector; 0 for a virtual detector through the centre.
        offset_bins: shift of the detector along its axis (a quarter offset is 0.25).
        curved: the detector is an arc around the source, so that bins are equal angles.

    Raises:
        InvalidInputError: a value that no scanner can have; says which.
    """

    angles: Shaped[np.ndarray, "..."]
    n_bins: int
    bin_mm: float
    source_mm: float
    detector_mm: float
    offset_bins: float = 0.0
    curved: bool = False

    def __post_init__(self) -> None:
        _settle(self, positive=("bin_mm", "source_mm"), finite=("offset_bins", "detector_mm"))
        if self.detector_mm < 0.0:
            raise InvalidInputError(
                f"detector_mm={self.detector_mm} came; give the distance from the rotation centre "
                "to the detector, 0 or more"
            )
        if np.abs(self.fan_angles()).max() >= math.pi / 2:
            raise InvalidInputError(
                f"{self.n_bins} bins of {self.bin_mm} mm see 180 degrees or more from "
                f"{self.source_mm + self.detector_mm} mm away; bin_mm is measured at the detector"
            )

    @property
    def n_angles(self) -> int:
        """The number of views."""
        return len(self.angles)

    def __eq__(self, other: object) -> bool:
        """Compare every value, the angles exactly."""
        return isinstance(other, FanBeam) and _values(self) == _values(other)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(_values(self))

    def subset(self, views: Integer[np.ndarray, " n_kept"] | list[int]) -> "FanBeam":
        """Return the beam of some views, in the order given."""
        return dataclasses.replace(self, angles=self.angles[_checked_views(views, self.n_angles)])

    def bin_positions(self) -> Float64[np.ndarray, " n_bins"]:
        """Return s of every bin, in mm along the detector."""
        return _bin_positions(self)

    def fan_angles(self) -> Float64[np.ndarray, " n_bins"]:
        """Return gamma of every bin in rad, 0 for the ray through the rotation centre."""
        ratio = self.bin_positions() / (self.source_mm + self.detector_mm)
        return ratio if self.curved else np.arctan(ratio)

    def rays(
        self,
    ) -> tuple[Float64[np.ndarray, "n_angles n_bins 2"], Float64[np.ndarray, "n_angles n_bins 2"]]:
        """Return a point (mm) and the unit direction of every ray, both as (x, y).

        The point is the one next to the rotation centre, for the accuracy of what follows.
        """
        gamma = self.fan_angles()
        e, d = _axes(self.angles[:, None] - gamma)
        return (self.source_mm * np.sin(gamma))[:, None] * e, d


Beam = ParallelBeam | FanBeam


@final
@dataclass(frozen=True)
class ImageGrid:
    """The pixels of a slice: square or not, centred on the rotation axis.

    Attributes:
        n_rows, n_cols: pixels along y and x.
        row_mm, col_mm: distance of neighbouring rows (along y) and columns (along x).

    Raises:
        InvalidInputError: a size below 1 or a spacing that is not positive.
    """

    n_rows: int
    n_cols: int
    row_mm: float
    col_mm: float

    def __post_init__(self) -> None:
        _check_count(self.n_rows, "n_rows")
        _check_count(self.n_cols, "n_cols")
        _check_numbers(self, positive=("row_mm", "col_mm"), finite=())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.n_rows, self.n_cols

    @property
    def radius_mm(self) -> float:
        """Distance of the centre of a corner pixel from the rotation axis."""
        return math.hypot((self.n_rows - 1) * self.row_mm, (self.n_cols - 1) * self.col_mm) / 2

    def centres(
        self,
    ) -> tuple[Float64[np.ndarray, " n_rows"], Float64[np.ndarray, " n_cols"]]:
        """Return y of every row and x of every column, in mm."""
        rows = (np.arange(self.n_rows) - (self.n_rows - 1) / 2) * self.row_mm
        return rows, (np.arange(self.n_cols) - (self.n_cols - 1) / 2) * self.col_mm


def _settle(beam: Beam, *, positive: tuple[str, ...], finite: tuple[str, ...]) -> None:
    """Check the values of a beam and keep a read-only float64 copy of its angles."""
    _check_count(beam.n_bins, "n_bins")
    _check_numbers(beam, positive=positive, finite=finite)
    angles = np.array(beam.angles)
    if angles.dtype.kind not in "fiu" or angles.ndim != 1 or angles.size == 0:
        raise InvalidInputError(
            f"the angles are {angles.dtype} of shape {angles.shape}; give one number in rad for "
            "each view, in one dimension"
        )
    angles = angles.astype(np.float64)
    if not np.isfinite(angles).all():
        bad = int(np.flatnonzero(~np.isfinite(angles))[0])
        raise InvalidInputError(f"angle {bad} is {angles[bad]}; give finite angles in rad")
    angles.flags.writeable = False
    object.__setattr__(beam, "angles", angles)


def _check_count(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidInputError(f"{name}={value!r} came; give a whole number of 1 or more")


def _check_numbers(
    holder: "Beam | ImageGrid", *, positive: tuple[str, ...], finite: tuple[str, ...]
) -> None:
    """Check numbers and keep them as Python's, so that equal geometries have equal text."""
    for name in (*positive, *finite):
        value = getattr(holder, name)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InvalidInputError(f"{name}={value!r} came; give a number")
        if not math.isfinite(value) or (name in positive and value <= 0.0):
            wanted = "a positive number of mm" if name in positive else "a finite number"
            raise InvalidInputError(f"{name}={value} came; give {wanted}")
        object.__setattr__(holder, name, float(value))


def _checked_views(views: object, n_angles: int) -> Integer[np.ndarray, " n_kept"]:
    kept = np.asarray(views)
    if kept.ndim != 1 or kept.size == 0 or kept.dtype.kind not in "iu":
        raise InvalidInputError(
            f"the views are {kept.dtype} of shape {kept.shape}; give the indices of those to keep"
        )
    if kept.min() < -n_angles or kept.max() >= n_angles:
        raise InvalidInputError(
            f"views {kept.min()} to {kept.max()} were asked for but there are {n_angles}; "
            f"give indices from 0 to {n_angles - 1}"
        )
    return kept % n_angles


def _values(beam: Beam) -> tuple[object, ...]:
    """Return all values of a beam as one hashable tuple."""
    names = [field.name for field in dataclasses.fields(beam) if field.name != "angles"]
    return (beam.angles.tobytes(), *(getattr(beam, name) for name in names))


def _bin_positions(beam: Beam) -> Float64[np.ndarray, " n_bins"]:
    return (np.arange(beam.n_bins) - (beam.n_bins - 1) / 2 + beam.offset_bins) * beam.bin_mm


def _axes(
    angles: Float64[np.ndarray, "*n"],
) -> tuple[Float64[np.ndarray, "*n 2"], Float64[np.ndarray, "*n 2"]]:
    """Return e and d for every angle."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack((cos, sin), axis=-1), np.stack((-sin, cos), axis=-1)
