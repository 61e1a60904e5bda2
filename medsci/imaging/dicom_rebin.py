"""Multi-row fan views, of a circle or a helix, become fan sinograms of planes.

Single-slice rebinning: the line of a plane at z through a source angle is replaced by the measured
oblique line above or below it that crosses z next to the rotation axis, times the cosine of its
tilt. Exact for what does not change along z; otherwise good for small cone angles. For each angle
of a turn the two source positions nearest to z, one on either side, are interpolated linearly; what
the detector does not reach of one of them is taken from the other.

A flying focal spot moves the source by a known way. Its lines are real lines, only not those of the
nominal fan: their fan angle is computed, and each view interpolated onto the nominal bins.

Source: Noo et al. 1999, doi:10.1088/0031-9155/44/2/019 (single-slice rebinning); Chen et al. 2015,
doi:10.1118/1.4935406 (the coordinates).
"""

__all__ = ["Lines", "Scanner", "lines_of", "plane_sinogram"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError


@final
@dataclass(frozen=True, eq=False)
class Scanner:
    """A scan in the coordinates of DICOM-CT-PD.

    The focal centre of a view is at `rho (-sin phi, cos phi)` and z; the element in column i and
    row j, counted from 1, is seen from there under `(i - column) column_mm / detector_mm` (arc) or
    the arc tangent of it (flat), which grows against the clock as phi does, and at
    `z + (j - row) row_mm`.

    Attributes:
        phi, z_mm: focal centre of every view, phi unwrapped, in order.
        shift: (n_views, 3), what a flying focal spot adds to phi, z and rho.
        rho_mm: focal centre to rotation axis.
        detector_mm: focal centre to detector.
        shape: columns and rows of the detector.
        element_mm: size of an element along columns (on the arc) and rows.
        centre: column and row, from 1, with fractions, that the axis is seen in.
        curved: the detector is an arc around the focal centre.
    """

    phi: Shaped[np.ndarray, " n"]
    z_mm: Shaped[np.ndarray, " n"]
    shift: Shaped[np.ndarray, "n 3"]
    rho_mm: float
    detector_mm: float
    shape: tuple[int, int]
    element_mm: tuple[float, float]
    centre: tuple[float, float]
    curved: bool

    @property
    def pitch_mm(self) -> float:
        """How far the source moves along z in a turn; 0 for a circle."""
        turns = (self.phi[-1] - self.phi[0]) / (2 * np.pi)
        way = float(self.z_mm[-1] - self.z_mm[0])
        return 0.0 if abs(way) < 1e-3 * self.element_mm[1] else way / float(turns)

    @property
    def row_at_axis_mm(self) -> float:
        """Height of a row, seen at the rotation axis."""
        return self.element_mm[1] * self.rho_mm / self.detector_mm

    @property
    def bins_offset(self) -> float:
        """Shift of the detector in our bins, which count the columns from the other end."""
        return self.centre[0] - (self.shape[0] + 1) / 2


@final
@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of one view in the coordinates of `FanBeam`, bins in its order.

    Attributes:
        theta: angle of the fan beam that they belong to, rad.
        gamma: fan angle of every bin, rad, growing.
        reach: distance in the plane from the source to the point nearest to the axis, over that to
            the detector.
        in_plane_mm: distance in the plane from the source to the detector.
    """

    theta: float
    gamma: Float64[np.ndarray, " n_bins"]
    reach: Float64[np.ndarray, " n_bins"]
    in_plane_mm: Float64[np.ndarray, " n_bins"]


def lines_of(scanner: Scanner, view: int) -> Lines:
    """Work out where the lines of a view run."""
    phi, rho = scanner.phi[view], scanner.rho_mm
    along = (np.arange(scanner.shape[0], 0, -1) - scanner.centre[0]) * scanner.element_mm[0]
    centre = rho * np.array([-np.sin(phi), np.cos(phi)])
    if scanner.curved:
        angle = phi + along / scanner.detector_mm
        element = scanner.detector_mm * np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    else:
        middle = scanner.detector_mm * np.array([np.sin(phi), -np.cos(phi)])
        element = middle + along[:, None] * np.array([np.cos(phi), np.sin(phi)])
    d_phi, _, d_rho = scanner.shift[view]
    source = (rho + d_rho) * np.array([-np.sin(phi + d_phi), np.cos(phi + d_phi)])
    way = centre + element - source
    length = np.hypot(*way.T)
    # The line as a parallel ray: direction (-sin, cos)(t), at the distance s along (cos, sin)(t).
    parallel = np.arctan2(-way[:, 0], way[:, 1])
    distance = source[0] * np.cos(parallel) + source[1] * np.sin(parallel)
    gamma = np.arcsin(distance / rho)
    turned = parallel + gamma - (phi + np.pi)
    theta = phi + np.pi + float(np.mean((turned + np.pi) % (2 * np.pi) - np.pi))
    return Lines(float(theta), gamma, rho * np.cos(gamma) / length, length)


def plane_sinogram(
    scanner: Scanner,
    rows_of: Callable[[int], Shaped[np.ndarray, "n_rows n_bins"]],
    z: float,
    *,
    theta: Shaped[np.ndarray, " n_angles"],
    gamma: Shaped[np.ndarray, " n_bins"],
) -> Shaped[np.ndarray, "n_angles n_bins"]:
    """Return the fan sinogram of the plane at z.

    Args:
        scanner: see there.
        rows_of: gives the line integrals of a view, bins in the order of `FanBeam`.
        z: of the plane, mm.
        theta: angles wanted, rad, within one turn.
        gamma: fan angles of the bins wanted, rad.

    Raises:
        InvalidInputError: an angle has no view near enough that the detector reaches the plane.
    """
    seen = _views_near(scanner, z).tolist()
    lines = [lines_of(scanner, view) for view in seen]
    views = [
        _view_line(scanner, view, rows_of(view), lines=one, z=z, gamma=gamma)
        for view, one in zip(seen, lines, strict=True)
    ]
    stack, good = (np.array(part) for part in zip(*views, strict=True))
    angles = np.array([one.theta for one in lines])
    heights = scanner.z_mm[seen]
    out = np.zeros((len(theta), len(gamma)))
    weight = np.zeros_like(out)
    turn = 2 * np.pi
    first, last = (angles.min() - theta.max()) / turn, (angles.max() - theta.min()) / turn
    for n in range(int(np.floor(first)) - 1, int(np.ceil(last)) + 2):
        low, high, part = _between(angles, theta + n * turn, closed=scanner.pitch_mm == 0)
        near = (1 - part) * heights[low] + part * heights[high]
        share = np.nan_to_num(part)[:, None]
        there = (1 - share) * good[low] + share * good[high] > 1 - 1e-6
        trust = _trust(scanner, z - np.nan_to_num(near))[:, None] * there
        trust = trust * np.isfinite(part)[:, None]
        out += trust * ((1 - share) * stack[low] + share * stack[high])
        weight += trust
    if (weight <= 0).any():
        raise InvalidInputError(
            f"the plane at z = {z:.4g} mm is not seen from {(weight <= 0).any(axis=1).sum()} of "
            f"{len(theta)} angles (the pitch is {scanner.pitch_mm:.4g} mm, the detector covers "
            f"{scanner.row_at_axis_mm * scanner.shape[1]:.4g} mm); choose planes further inside"
        )
    return (out / weight).astype(np.float32)


def _views_near(scanner: Scanner, z: float) -> Shaped[np.ndarray, " n"]:
    """Return the views whose source is within a turn of the plane, in order of angle."""
    pitch = abs(scanner.pitch_mm)
    if pitch == 0:
        return np.arange(len(scanner.phi))
    margin = 2 * pitch / len(scanner.phi) + 1e-6
    return np.flatnonzero(np.abs(scanner.z_mm - z) <= pitch + margin)


def _trust(scanner: Scanner, away: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Return linear weights: 1 at the plane, almost 0 a turn away."""
    pitch = abs(scanner.pitch_mm)
    if pitch == 0:
        return np.ones(len(away))
    return np.clip(1 - np.abs(away) / pitch, 1e-6, 1)


def _between(
    angles: Shaped[np.ndarray, " n"], wanted: Shaped[np.ndarray, " m"], *, closed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the views on either side of each angle and the share of the later; NaN if outside.

    On a circle (closed) the first view follows the last, and no angle is outside.
    """
    order = np.argsort(angles)
    if closed:
        order = np.argsort(angles % (2 * np.pi))
        known = np.concatenate([angles[order] % (2 * np.pi) + n * 2 * np.pi for n in (-1, 0, 1)])
        order, wanted = np.tile(order, 3), wanted % (2 * np.pi)
    else:
        known = angles[order]
    place = np.interp(wanted, known, np.arange(len(known)), left=np.nan, right=np.nan)
    # An angle that is a view's own but for rounding.
    for end, value in ((0, 0.0), (-1, len(known) - 1.0)):
        place[np.abs(wanted - known[end]) < 1e-6] = value
    low = np.clip(np.floor(np.nan_to_num(place)).astype(int), 0, len(known) - 2)
    return order[low], order[low + 1], place - low


def _view_line(
    scanner: Scanner,
    view: int,
    rows: Shaped[np.ndarray, "n_rows n_bins"],
    *,
    lines: Lines,
    z: float,
    gamma: Shaped[np.ndarray, " n_bins"],
) -> tuple[Shaped[np.ndarray, " n_bins"], Shaped[np.ndarray, " n_bins"]]:
    """Return a view's line integrals in the plane, on the bins wanted, and which it reaches."""
    d_z = scanner.shift[view, 1]
    height = d_z + (z - scanner.z_mm[view] - d_z) / lines.reach
    n_rows = scanner.shape[1]
    row = height / scanner.element_mm[1] + scanner.centre[1] - 1
    # Half a row beyond the outermost centres still lies on the detector.
    reached = (row >= -0.5) & (row <= n_rows - 0.5)
    row = np.clip(row, 0, n_rows - 1)
    low = np.clip(np.floor(row).astype(int), 0, max(n_rows - 2, 0))
    high, bins = np.minimum(low + 1, n_rows - 1), np.arange(rows.shape[1])
    part = row - low
    line = (1 - part) * rows[low, bins] + part * rows[high, bins]
    line = line * lines.in_plane_mm / np.hypot(lines.in_plane_mm, height - d_z)
    if np.allclose(lines.gamma, gamma, atol=1e-9):
        return line, reached
    nearest = np.clip(np.rint(np.interp(gamma, lines.gamma, bins)).astype(int), 0, len(bins) - 1)
    return np.interp(gamma, lines.gamma, line), reached[nearest]
