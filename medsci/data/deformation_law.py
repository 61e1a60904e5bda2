"""A random smooth deformation with the statistics of a real one, and how to measure them.

The law is a sum of independent Gaussian fields, each white noise smoothed by a Gaussian of its own
width, taken as a stationary velocity and exponentiated, so that the map is a diffeomorphism. The
default is fitted to one real registration (atlas to subject, `real_warp`). A field of amplitude `a`
and width `s`, smoothed once more by a Gaussian of width `q`, keeps the variance
`a^2 (s^2 / (s^2 + q^2))^(3/2)`; the amplitudes are the non-negative least-squares fit of that
formula to the variances which the real warp keeps.

Source: scaling and squaring, Arsigny et al. 2006, doi:10.1007/11866565_113.
"""

__all__ = [
    "SMOOTHING_MM",
    "DeformationLaw",
    "DeformationStatistics",
    "measure_deformation",
    "real_warp",
    "resampled_field",
]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch.nn import functional

from medsci.data.registry import find_data
from medsci.errors import InvalidInputError

SMOOTHING_MM = (4.0, 8.0, 12.0, 16.0, 32.0)


@final
@dataclass(frozen=True)
class DeformationLaw:
    """What random deformations are drawn from.

    Attributes:
        widths_mm: standard deviation of the Gaussian that smooths the noise of each scale.
        amplitudes_mm: standard deviation of each scale's velocity, mean over the axes.
        axis_factors: relative strength along i, j and k.
        turn_deg: standard deviation of a rotation about each axis.
        log_scale: standard deviation of the logarithm of a scaling along each axis.
        shift_mm: standard deviation of a shift along each axis.
        lattice_mm: spacing of the lattice on which velocities are drawn and exponentiated.
    """

    widths_mm: tuple[float, ...] = (4.0, 12.0, 20.0)
    amplitudes_mm: tuple[float, ...] = (0.4, 1.45, 0.85)
    axis_factors: tuple[float, float, float] = (0.87, 1.09, 1.04)
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    log_scale: float = 0.0
    shift_mm: float = 0.0
    lattice_mm: float = 3.0

    def __post_init__(self) -> None:
        if len(self.widths_mm) != len(self.amplitudes_mm):
            raise ValueError(
                f"{len(self.widths_mm)} widths and {len(self.amplitudes_mm)} amplitudes came; "
                "give one of each per scale"
            )
        if min(self.widths_mm) < self.lattice_mm:
            raise ValueError(
                f"a width of {min(self.widths_mm)} mm came with a lattice of {self.lattice_mm} mm; "
                "give widths of at least the lattice's spacing"
            )

    def draw(
        self, shape: Sequence[int], *, spacing_mm: float, generator: np.random.Generator
    ) -> Float[np.ndarray, "3 i j k"]:
        """Draw one displacement in mm: the point at `x` goes to `x + u(x)`.

        Args:
            shape: voxels of the grid.
            spacing_mm: side of its voxels.
            generator: where the numbers come from.
        """
        extent = [(n - 1) * spacing_mm for n in shape]
        lattice = [int(np.ceil(e / self.lattice_mm)) + 1 for e in extent]
        velocity = np.zeros((3, *lattice), dtype=np.float32)
        for width, amplitude in zip(self.widths_mm, self.amplitudes_mm, strict=True):
            cells = width / self.lattice_mm
            gain = amplitude * (2.0 * np.sqrt(np.pi) * cells) ** 1.5
            for axis, factor in enumerate(self.axis_factors):
                noise = _noise(lattice, margin=int(2.0 * cells), generator=generator)
                smooth = ndimage.gaussian_filter(noise, cells, mode="wrap", truncate=4.0)
                velocity[axis] += factor * gain * smooth[tuple(slice(n) for n in lattice)]
        field = _exponential(velocity / self.lattice_mm) * self.lattice_mm
        bent = resampled_field(field, shape, step=spacing_mm / self.lattice_mm)
        return bent + self._affine(shape, spacing_mm, generator)

    def _affine(
        self, shape: Sequence[int], spacing_mm: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Return the displacement of the random affine about the centre of the grid."""
        a, b, c = np.deg2rad(generator.normal(0.0, self.turn_deg))
        turn = np.eye(3)
        for (first, second), angle in (((1, 2), a), ((0, 2), b), ((0, 1), c)):
            plane = np.eye(3)
            plane[first, first] = plane[second, second] = np.cos(angle)
            plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
            turn = turn @ plane
        moved = turn @ np.diag(np.exp(generator.normal(0.0, self.log_scale, 3))) - np.eye(3)
        shift = generator.normal(0.0, self.shift_mm, 3)
        axes = [spacing_mm * (np.arange(n) - 0.5 * (n - 1)) for n in shape]
        parts = [
            sum(
                moved[row, axis] * line.reshape([-1 if a == axis else 1 for a in range(3)])
                for axis, line in enumerate(axes)
            )
            for row in range(3)
        ]
        return np.stack([part + s for part, s in zip(parts, shift, strict=True)]).astype(np.float32)


def _noise(
    lattice: Sequence[int], *, margin: int, generator: np.random.Generator
) -> Float[np.ndarray, "i j k"]:
    # smoothing wraps round, so a margin keeps opposite faces apart
    shape = [n + 2 * margin for n in lattice]
    return generator.standard_normal(shape, dtype=np.float32)


def _exponential(
    velocity: Float[np.ndarray, "3 i j k"], *, squarings: int = 5
) -> Float[np.ndarray, "3 i j k"]:
    """Integrate a stationary velocity (in cells) over unit time by scaling and squaring."""
    field = torch.from_numpy(velocity) / 2.0**squarings
    shape = torch.tensor(field.shape[1:], dtype=torch.float32)
    axes = [torch.arange(n, dtype=torch.float32) for n in field.shape[1:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    for _ in range(squarings):
        points = 2.0 * (grid + field.permute(1, 2, 3, 0)) / (shape - 1.0) - 1.0
        field = field + functional.grid_sample(
            field[None], points.flip(-1)[None], padding_mode="border", align_corners=True
        ).squeeze(0)
    return field.numpy()


def resampled_field(
    field: Float[np.ndarray, "channels a b c"], shape: Sequence[int], *, step: float
) -> Float[np.ndarray, "channels i j k"]:
    """Read a field linearly at the points `step * (i, j, k)` of its lattice, from the first on."""
    out = field
    for axis, n in enumerate(shape, start=1):
        at = np.minimum(step * np.arange(n), out.shape[axis] - 1.0)
        low = np.minimum(at.astype(int), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        out = out.take(low, axis=axis) * (1.0 - share) + out.take(high, axis=axis) * share
    return out


@final
@dataclass(frozen=True)
class DeformationStatistics:
    """Statistics of a displacement inside a mask, after its best affine map was taken off.

    Attributes:
        std_mm: standard deviation along each axis.
        range_mm: largest length of the displacement.
        correlation_mm: width of the Gaussian smoothing that halves the variance.
        kept: fractions of the variance that Gaussians of `SMOOTHING_MM` leave.
        log_jacobian_std: spread of the logarithm of the local change of volume.
        folded: fraction of voxels whose Jacobian determinant is not positive.
    """

    std_mm: tuple[float, float, float]
    range_mm: float
    correlation_mm: float
    kept: tuple[float, ...]
    log_jacobian_std: float
    folded: float


def measure_deformation(
    displacement_mm: Float[np.ndarray, "3 i j k"],
    spacing_mm: float,
    *,
    mask: np.ndarray | None = None,
) -> DeformationStatistics:
    """Measure a displacement field.

    Args:
        displacement_mm: (3, i, j, k), along the axes of the array.
        spacing_mm: side of a voxel.
        mask: where to measure; everywhere if None.
    """
    where = np.ones(displacement_mm.shape[1:], dtype=bool) if mask is None else mask
    seen = [np.flatnonzero(where.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(max(line[0] - 1, 0), line[-1] + 2) for line in seen)
    where, field = where[box], displacement_mm[(slice(None), *box)].astype(np.float64)
    rest = _without_affine(field, where)
    inside = rest[:, where]
    whole = float(np.square(inside).mean())
    kept = [_kept(rest, where, q / spacing_mm) / whole for q in SMOOTHING_MM]
    gradient = np.stack([np.stack(np.gradient(part, spacing_mm)) for part in field])
    jacobian = np.moveaxis(gradient, (0, 1), (-2, -1))[where] + np.eye(3)
    volume = np.linalg.det(jacobian)
    return DeformationStatistics(
        std_mm=tuple(inside.std(axis=1).tolist()),
        range_mm=float(np.sqrt(np.square(inside).sum(0)).max()),
        correlation_mm=float(np.interp(-0.5, [-1.0, *(-k for k in kept)], (0.0, *SMOOTHING_MM))),
        kept=tuple(kept),
        log_jacobian_std=float(np.log(volume[volume > 0.0]).std()),
        folded=float((volume <= 0.0).mean()),
    )


def _without_affine(field: np.ndarray, where: np.ndarray) -> np.ndarray:
    axes = [np.arange(n) - 0.5 * (n - 1) for n in field.shape[1:]]
    grid = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones(field.shape[1:])])
    fit = np.linalg.lstsq(grid[:, where].T, field[:, where].T, rcond=None)[0]
    return field - np.tensordot(fit.T, grid, axes=1)


def _kept(field: np.ndarray, where: np.ndarray, width: float) -> float:
    """Return the variance that is left of a field, known inside a mask, after smoothing."""
    inside = where.astype(np.float32)

    def smooth(part: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(part, width, mode="constant", truncate=3.0)[where]

    weight = smooth(inside)
    kept = [smooth(part.astype(np.float32) * inside) / weight for part in field]
    return float(np.mean(np.square(kept)))


def real_warp() -> tuple[Float[np.ndarray, "3 i j k"], float, np.ndarray]:
    """Read the real warp that the default law is fitted to.

    Returns:
        displacement in mm (3, i, j, k), the side of its voxels in mm, and the mask of the head,
        within which the warp acts.

    Raises:
        InvalidInputError: the package nitransforms is not installed.
    """
    import nibabel as nib

    path = find_data("oasis-to-t1-warp")
    if path is None:
        raise InvalidInputError(
            "the real warp lives among the test data of the package nitransforms, which is not "
            "installed; run `pip install --no-deps nitransforms`"
        )
    image = nib.Nifti1Image.from_filename(path)
    field = np.moveaxis(np.asanyarray(image.dataobj).astype(np.float32), -1, 0)
    spacing = float(image.header.get_zooms()[0])
    moving = (np.sqrt(np.square(field).sum(0)) > 0.3).astype(np.float32)
    return field, spacing, ndimage.gaussian_filter(moving, 12.0 / spacing) > 0.85
