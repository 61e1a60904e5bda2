"""Where a generated volume lies: the box of a model in the world, and the grid of somebody else."""

__all__ = ["Centre", "Frame", "Place", "head_centre_mm"]

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import numpy as np
from jaxtyping import Float64, Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume

if TYPE_CHECKING:
    from medsci.models import ModelConfig

Centre = Literal["auto", "fov", "head"]
"""What of a reference the generated head is centred on; `auto` is its head, if it shows one."""

_DIRECTIONS = {
    "R": (1.0, 0.0, 0.0),
    "L": (-1.0, 0.0, 0.0),
    "A": (0.0, 1.0, 0.0),
    "P": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}


@final
@dataclass(frozen=True)
class Frame:
    """The box of voxels that a model draws in; the world's origin is its centre.

    Args:
        shape: voxels along i, j, k.
        voxel_mm: their size in mm.
        orientation: where the axes point to, e.g. `"RAS"`: i to the right, j to anterior, k to
            superior.

    Raises:
        UsageError: the size is not positive, or the orientation is not one letter of each of the
            pairs LR, AP, SI.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    orientation: str = "RAS"

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not all(0.0 < size < math.inf for size in self.voxel_mm):
            raise UsageError(
                f"a box of {self.shape} voxels of {self.voxel_mm} mm came; give positive sizes"
            )
        pairs = [next((p for p in ("LR", "AP", "SI") if c in p), c) for c in self.orientation]
        if sorted(pairs) != ["AP", "LR", "SI"]:
            raise UsageError(
                f"orientation {self.orientation!r} came; give one letter of each pair L/R, A/P, "
                'S/I, for example "RAS" or "LPS"'
            )

    @classmethod
    def of(cls, config: "ModelConfig") -> "Frame":
        """Return the box that a stored model was trained in.

        Raises:
            UsageError: the model is not one of volumes, or does not say its grid.
        """
        if config.network.spatial_dims != 3:
            raise UsageError(
                f"the model {config.name} is one of {config.network.spatial_dims}D images and a "
                "volume is to be generated; choose a 3D model, see medsci models list"
            )
        if len(config.training_size) != 3 or len(config.voxel_size_mm) != 3:
            raise UsageError(
                f"the model {config.name} says training_size {tuple(config.training_size)} and "
                f"voxel_size_mm {tuple(config.voxel_size_mm)}; a generator needs three of each, "
                "import or export it again with both"
            )
        i, j, k = config.training_size
        di, dj, dk = config.voxel_size_mm
        return cls((i, j, k), (float(di), float(dj), float(dk)), config.orientation)

    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]:
        """Return voxel index to world mm, RAS+; the centre of the box is at (0, 0, 0)."""
        affine = np.eye(4)
        for axis, (code, size) in enumerate(zip(self.orientation, self.voxel_mm, strict=True)):
            affine[:3, axis] = size * np.array(_DIRECTIONS[code])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1.0) / 2.0)
        return affine + 0.0  # no negative zeros

    @property
    def voxel_ml(self) -> float:
        """Return the volume of one voxel."""
        return math.prod(self.voxel_mm) / 1000.0

    def volume(self, array: Shaped[np.ndarray, "..."]) -> Volume:
        """Return the array as a volume in this box, sform and qform both set with code 1.

        Raises:
            InvalidInputError: its first three axes are not those of the box.
        """
        if array.shape[:3] != self.shape:
            raise InvalidInputError(
                f"an array of shape {array.shape} came for a box of {self.shape}; give one value "
                "per voxel of the box"
            )
        return Volume(array, self.affine, sform_code=1, qform_code=1)


@final
@dataclass(frozen=True, eq=False)
class Place:
    """The grid of a reference, and the world position that generated heads are centred on.

    Attributes:
        reference: its grid and geometry are kept exactly; its values and header go no further.
        centre: `head`, then the centroid of a generated head comes to lie on the centroid of the
            reference's head, or `fov`, then centre of box on centre of the field of view.
        target_mm: that position, in the world of the reference.
    """

    reference: Volume
    centre: Literal["fov", "head"]
    target_mm: tuple[float, float, float]

    @classmethod
    def on(cls, reference: Volume, *, centre: Centre = "auto") -> "Place":
        """Find the position.

        Raises:
            InvalidInputError: the reference is not one 3D volume, or shows no head and one is
                asked for.
        """
        if reference.array.ndim != 3:
            raise InvalidInputError(
                f"the reference has shape {reference.shape}; give one 3D volume, for example the "
                "first of the series"
            )
        box = replace(reference, header=None)
        middle = reference.affine @ [*((np.array(reference.shape) - 1.0) / 2.0), 1.0]
        if centre == "fov":
            return cls(box, "fov", _point(middle[:3]))
        try:
            return cls(box, "head", head_centre_mm(reference))
        except InvalidInputError as error:
            if centre == "head":
                raise InvalidInputError(
                    f"no head was found in the reference ({error}); centre on its field of view"
                ) from error
            return cls(box, "fov", _point(middle[:3]))

    def shift_mm(self, image: Volume) -> tuple[float, float, float]:
        """Return how far a generated image has to be moved, in world mm."""
        start = (0.0, 0.0, 0.0)
        if self.centre == "head":
            try:
                start = head_centre_mm(image)
            except InvalidInputError:  # an image without contrast has no head: its box is centred
                start = (0.0, 0.0, 0.0)
        return _point(np.array(self.target_mm) - start)

    def onto(self, volume: Volume, shift_mm: tuple[float, float, float]) -> Volume:
        """Return the volume, moved by `shift_mm`, on the grid of the reference; 0 outside its box.

        Linear by world coordinates; smoothed first where the reference's voxels are larger.
        """
        from medsci.imaging.resample import resample_to

        affine = volume.affine.copy()
        affine[:3, 3] += shift_mm
        found = resample_to(replace(volume, affine=affine), self.reference)
        vouched = self.reference.sform_code or self.reference.qform_code
        return replace(found, sform_code=vouched, units=(found.units[0], "unknown"))


def head_centre_mm(volume: Volume) -> tuple[float, float, float]:
    """Return the world position of the centroid of the head.

    Raises:
        InvalidInputError: there is no contrast to find a head by.
    """
    from medsci.metrics import head_mask

    mask = head_mask(volume.array, spacing_mm=volume.spacing_mm)
    centroid = np.argwhere(mask).mean(axis=0)
    return _point((volume.affine @ [*centroid, 1.0])[:3])


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
