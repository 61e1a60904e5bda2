"""Cut planes out of a volume so that they look the same whatever the file's orientation."""

__all__ = ["PLANES", "Grid", "Plane", "content_box", "plane_picture", "to_grid"]

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64

from medsci.errors import InvalidInputError
from medsci.imaging import Volume


@final
@dataclass(frozen=True, slots=True)
class Plane:
    """One of the three anatomical planes, drawn in radiological convention.

    Args:
        name: axial, coronal or sagittal.
        normal: the RAS axis it is perpendicular to.
        axes: the RAS axes drawn to the left and upwards.
        letters: what lies at the left, right, top and bottom edge of the picture.
        axis_name: name of the world axis that gives its position.
    """

    name: str
    normal: int
    axes: tuple[int, int]
    letters: tuple[str, str, str, str]
    axis_name: str


PLANES = (
    Plane("axial", 2, (0, 1), ("R", "L", "A", "P"), "z"),
    Plane("coronal", 1, (0, 2), ("R", "L", "S", "I"), "y"),
    Plane("sagittal", 0, (1, 2), ("A", "P", "S", "I"), "x"),
)


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """A volume in canonical orientation: axes run to the patient's right, front and top."""

    array: Float64[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def position_mm(self, axis: int, index: int) -> float:
        """World coordinate of a slice's centre along its own axis, in mm."""
        voxel = (np.array(self.array.shape) - 1) / 2
        voxel[axis] = index
        return float((self.affine[:3, :3] @ voxel + self.affine[:3, 3])[axis])

    def index_at(self, axis: int, position_mm: float) -> int:
        """Slice whose centre is nearest to this world coordinate."""
        positions = [self.position_mm(axis, i) for i in range(self.array.shape[axis])]
        return int(np.argmin(np.abs(np.array(positions) - position_mm)))


def to_grid(volume: Volume, *, name: str) -> Grid:
    """Return the volume with its axes permuted and flipped to the nearest RAS+ orientation.

    No value is interpolated: an oblique volume stays on its own grid.

    Raises:
        InvalidInputError: not 3D, complex, or not finite.
    """
    if volume.array.ndim != 3 or np.iscomplexobj(volume.array):
        raise InvalidInputError(
            f"{name}: a picture needs a real 3D volume; came {volume.array.dtype} of shape "
            f"{volume.shape}"
        )
    if volume.n_nonfinite:
        raise InvalidInputError(
            f"{name} holds {volume.n_nonfinite} values that are NaN or infinite; "
            "replace them before drawing"
        )
    turned = volume.canonical()
    return Grid(np.ascontiguousarray(turned.array, dtype=np.float64), turned.affine)


def plane_picture(
    values: Float64[np.ndarray, "x y z"],
    plane: Plane,
    *,
    index: int,
    crop: tuple[slice, slice] = (slice(None), slice(None)),
) -> Float64[np.ndarray, "rows columns"]:
    """Return one slice as a picture: first row at the top, patient's right (or front) at the left.

    Args:
        values: volume in RAS+ orientation.
        plane: which plane.
        index: position along the plane's normal axis.
        crop: voxel ranges along the plane's two axes.
    """
    return np.take(values, index, axis=plane.normal)[crop].T[::-1, ::-1]


def content_box(
    values: Float64[np.ndarray, "x y z"], *, level: float, margin: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """Return the box around what is brighter than `level`, a margin in voxels added.

    A plane belongs to the box when more than 0.5 % of it is bright, so a noisy border does not.
    """
    bright = values > level
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (found,) = np.nonzero(bright.mean(axis=others) > 0.005)
        size = values.shape[axis]
        low, high = (int(found[0]), int(found[-1])) if found.size else (0, size - 1)
        box.append(slice(max(0, low - margin[axis]), min(size, high + 1 + margin[axis])))
    return box[0], box[1], box[2]
