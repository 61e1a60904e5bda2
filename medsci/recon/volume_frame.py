"""A prior of whole volumes and where its box lies in a patient, without importing torch."""

__all__ = ["VolumePrior", "brain_centre_mm", "thinned"]

import math
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Float

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_UPPER_MM = 90.0  # below the vertex: the part of a head that neck and face do not widen
_BELOW_MM = 90.0  # from the vertex of the scalp to the middle of the brain's box, of adults
_ON_GRID = 1e-3  # of a model voxel


@final
@dataclass(frozen=True)
class VolumePrior:
    """What a restoration needs to know of a prior of volumes beside its denoiser.

    Attributes:
        shape: voxels along i, j, k.
        voxel_mm: their size.
        orientation: where the axes point to, RAS or LPS.
        channels: names, the image first; the others are tissue fractions.
        value_range: what air and the brightest tissue are in the image, and 0 and 1 in a fraction.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    orientation: str = "RAS"
    channels: tuple[str, ...] = ("t1",)
    value_range: tuple[float, float] = (-1.0, 1.0)

    @classmethod
    def of(cls, config: Any) -> "VolumePrior":
        """Return what a stored model's configuration states.

        Raises:
            UsageError: it is no model of volumes, or does not say its grid and range.
        """
        if not cls.is_described_by(config):
            raise UsageError(
                f"the model {config.name} does not state training_size, voxel_size_mm and "
                "value_range of volumes; restoration needs all three"
            )
        i, j, k = config.training_size
        size = tuple(float(step) for step in config.voxel_size_mm)
        return cls(
            (i, j, k), (size[0], size[1], size[2]), config.orientation,
            tuple(config.image_channels), config.value_range,
        )  # fmt: skip

    @staticmethod
    def is_described_by(config: Any) -> bool:
        """Say whether a model is one of volumes in a known range."""
        sizes = len(config.training_size), len(config.voxel_size_mm)
        return sizes == (3, 3) and getattr(config, "value_range", None) is not None

    def affine_at(
        self, centre_mm: Float[np.ndarray, "3"], *, like: Volume | None = None
    ) -> Float[np.ndarray, "4 4"]:
        """Return the affine of the box around a point.

        The box may move by half a voxel: where the axes of `like` run along its own and voxels
        have equal widths, or whole multiples of it, it is moved so that voxels of `like` are
        exact means of its own, and nothing has to be interpolated.
        """
        affine = np.eye(4)
        axes = [_DIRECTIONS[code] for code in self.orientation]
        for axis, (world, sign) in enumerate(axes):
            affine[:3, axis] = 0.0
            affine[world, axis] = sign * self.voxel_mm[axis]
        affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(self.shape) - 1.0) / 2.0)
        return affine if like is None else _snapped(affine, like)

    def grid(self, affine: Float[np.ndarray, "4 4"], *, like: Volume) -> Volume:
        """Return an empty volume of the box, with the codes and units of another."""
        code = max(like.sform_code, like.qform_code)
        return Volume(
            np.zeros(self.shape, np.float32), affine,
            sform_code=code, qform_code=min(code, 1), units=like.units,
        )  # fmt: skip


def brain_centre_mm(volume: Volume) -> Float[np.ndarray, "3"]:
    """Estimate the middle of the brain's bounding box from the outline of the head, in world mm.

    To the sides and front to back it is the middle of the upper 90 mm of the head, in height 90 mm
    below the vertex. That is right to about 10 mm for adults whose vertex is in the image; give the
    position yourself for a slab or a child.

    Raises:
        InvalidInputError: there is no contrast to find a head by.
    """
    from medsci.metrics import head_mask

    mask = head_mask(volume.array, spacing_mm=volume.spacing_mm)
    places = np.argwhere(mask) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    vertex = float(np.percentile(places[:, 2], 99.9))
    upper = places[places[:, 2] > vertex - _UPPER_MM]
    low, high = np.percentile(upper[:, :2], [0.5, 99.5], axis=0)
    middle: np.ndarray = np.append((low + high) / 2.0, vertex - _BELOW_MM)
    return middle


def thinned(volume: Volume, voxel_mm: float, *, holes: np.ndarray | None = None) -> Volume:
    """Return means over blocks along axes with voxels finer than `voxel_mm`, where they are.

    A model of 4 mm says nothing about detail of 1 mm, and means of blocks are what its own voxels
    are. Voxels in `holes` do not take part, and a block that touches one is NaN.

    Raises:
        InvalidInputError: the volume has fewer voxels than one block.
    """
    factors = [max(1, math.floor(voxel_mm / step + 0.01)) for step in volume.spacing_mm]
    values = volume.array.astype(np.float32)
    if holes is not None:
        values = np.where(holes, np.nan, values)
    kept = [n // f for n, f in zip(values.shape, factors, strict=True)]
    if min(kept) < 1:
        raise InvalidInputError(
            f"the image has shape {volume.shape} and voxels of {volume.spacing_mm} mm, less than "
            f"a voxel of {voxel_mm:g} mm; give a larger image"
        )
    start = [(n - m * f) // 2 for n, m, f in zip(values.shape, kept, factors, strict=True)]
    cut = tuple(slice(s, s + m * f) for s, m, f in zip(start, kept, factors, strict=True))
    shape = [size for m, f in zip(kept, factors, strict=True) for size in (m, f)]
    means = values[cut].reshape(shape).mean(axis=(1, 3, 5), dtype=np.float64)
    step = np.diag([*map(float, factors), 1.0])
    step[:3, 3] = np.array(start) + (np.array(factors) - 1.0) / 2.0
    return replace(volume, array=means.astype(np.float32), affine=volume.affine @ step, header=None)


def _snapped(affine: Float[np.ndarray, "4 4"], like: Volume) -> Float[np.ndarray, "4 4"]:
    to_box = np.linalg.inv(affine) @ like.affine
    shift = np.zeros(3)
    for axis in range(3):
        along = np.abs(to_box[axis, :3])
        other = int(along.argmax())
        width = along[other]
        alone = (
            along.sum() - width < _ON_GRID and np.abs(to_box[:3, other]).sum() - width < _ON_GRID
        )
        whole = round(width)
        if not alone or whole < 1 or abs(width - whole) > _ON_GRID:
            continue
        phase = to_box[axis, 3] - (0.0 if whole % 2 else 0.5)
        shift[axis] = phase - round(phase)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, 3] + affine[:3, :3] @ shift
    return moved
