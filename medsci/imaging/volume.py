"""A medical image in memory: voxels together with where they are."""

__all__ = ["GeometryWarning", "Volume"]

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import geometry

_SPACE_UNITS = ("unknown", "meter", "mm", "micron")
_TIME_UNITS = ("unknown", "sec", "msec", "usec", "hz", "ppm", "rads")
_AXIS_OF = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}


class GeometryWarning(UserWarning):
    """A file's geometry is incomplete or contradicts itself; the message says what was done."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """An array of voxels, the affine that places it in the patient, and what its file said.

    Attributes:
        array: (i, j, k, ...): voxel axes, then anything (time, components). Any numeric type; no
            rescaling.
        affine: (4, 4) float64, voxel index to world position, RAS+, always in mm; index 0 is a
            voxel's centre.
        sform_code, qform_code: what the NIfTI codes say about the affine (0 unknown, 1 scanner,
            2 aligned to another file, 3 Talairach, 4 MNI); both 0 means that the orientation is not
            known and the affine a convention.
        units: spatial and temporal unit of the file, restored when it is written. `"unknown"` space
            is taken as mm.
        header: the file's own `nibabel.Nifti1Header` or `Nifti2Header` with its extensions, as
            read, or None. Its geometry is that of the file; `affine` is what counts.
        path: where it was read from.

    Raises:
        InvalidInputError: fewer than three axes, an empty array, or an affine that is no affine.
    """

    # Shapes are checked below, in production too, with messages for people who bring arrays.
    array: Shaped[np.ndarray, "..."]
    affine: Shaped[np.ndarray, "..."]
    _: KW_ONLY
    sform_code: int = 2
    qform_code: int = 0
    units: tuple[str, str] = ("mm", "unknown")
    header: Any = None
    path: Path | None = None

    def __post_init__(self) -> None:
        array = np.asanyarray(self.array)
        if array.ndim < 3 or array.size == 0:
            raise InvalidInputError(
                f"a volume needs three non-empty voxel axes (i, j, k), got shape {array.shape}; "
                "add an axis to a single slice with array[..., None]"
            )
        affine = np.array(self.affine, dtype=np.float64)
        if not geometry.is_valid_affine(affine):
            raise InvalidInputError(
                "the affine must be a finite, invertible 4x4 matrix with last row 0 0 0 1, got "
                f"{np.array2string(affine, separator=',').replace(chr(10), '')}; "
                "take it from the image that the array belongs to"
            )
        if self.units[0] not in _SPACE_UNITS or self.units[1] not in _TIME_UNITS:
            raise InvalidInputError(
                f"units {self.units} are not NIfTI's; give one of {_SPACE_UNITS} and one of "
                f"{_TIME_UNITS}, and the affine in mm whatever the unit of the file"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every axis."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k in mm."""
        return geometry.spacing_of(self.affine)

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position of voxel (0, 0, 0) in mm, RAS+."""
        x, y, z = self.affine[:3, 3].tolist()
        return x, y, z

    @property
    def orientation(self) -> tuple[str, str, str]:
        """World direction of each voxel axis, e.g. `('R', 'A', 'S')`."""
        return geometry.axis_codes(self.affine)

    @property
    def has_orientation(self) -> bool:
        """Whether any code vouches for the affine; False means left and right are not known."""
        return self.sform_code > 0 or self.qform_code > 0

    @property
    def n_nonfinite(self) -> int:
        """Number of voxels that are NaN or infinite."""
        if self.array.dtype.kind not in "fc":
            return 0
        return int(self.array.size - np.isfinite(self.array).sum())

    @property
    def description(self) -> str:
        """The header's free text (`descrip`), empty without a header."""
        if self.header is None:
            return ""
        return bytes(self.header["descrip"].item()).rstrip(b"\0").decode("utf-8", "replace")

    def with_array(self, array: Shaped[np.ndarray, "..."]) -> "Volume":
        """Return other values on the same grid; trailing axes and type may differ.

        Raises:
            InvalidInputError: the first three axes have other sizes than this grid.
        """
        if np.shape(array)[:3] != self.shape[:3]:
            raise InvalidInputError(
                f"the array has shape {np.shape(array)} but this grid is {self.shape[:3]}; "
                "use slab() for a crop, or build a Volume with the array's own affine"
            )
        return replace(self, array=array)

    def canonical(self) -> "Volume":
        """Return the same image with axes nearest to R, A, S: flips and permutations only."""
        return self.to_orientation("RAS")

    def to_orientation(self, codes: str | Sequence[str]) -> "Volume":
        """Return the same image with its axes in another order, e.g. `"LPS"`; nothing is resampled.

        Every voxel keeps its world position (the affine's offset is rounded in float64, about
        1e-13 mm). The volume itself comes back when it already has that orientation.

        Raises:
            UsageError: `codes` is not one letter of each of the pairs LR, AP, SI.
        """
        import nibabel as nib

        wanted = tuple(codes)
        if sorted(_AXIS_OF.get(code, -1) for code in wanted) != [0, 1, 2]:
            raise UsageError(
                f"orientation {codes!r} is not three letters, one of each pair L/R, A/P, S/I; "
                'give for example "RAS" or "LPS"'
            )
        change = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(self.affine), nib.orientations.axcodes2ornt(wanted)
        ).astype(np.int64)
        return self._reoriented(change)

    def to_grid_of(self, reference: "Volume") -> "Volume":
        """Return these values in the reference's own axis order, geometry, codes and header.

        This undoes `canonical()` and `to_orientation()` bit for bit, for arrays computed in between
        too.

        Raises:
            InvalidInputError: the grids differ by more than flips and permutations.
        """
        to_reference = np.linalg.inv(reference.affine) @ self.affine
        change = geometry.signed_permutation(to_reference[:3, :3])
        moved = None if change is None else self._reoriented(change)
        if moved is None or not moved.same_geometry(reference):
            raise InvalidInputError(
                f"{self!r} does not lie on the grid of {reference!r}: more than axis flips and "
                "permutations is between them; resample it onto that grid first"
            )
        return replace(reference, array=moved.array)

    def same_geometry(self, other: "Volume", *, tolerance_mm: float = 1e-3) -> bool:
        """Say whether both grids have the same size and every corner within `tolerance_mm`."""
        if self.shape[:3] != other.shape[:3]:
            return False
        return geometry.largest_gap_mm(self.affine, other.affine, self.shape) <= tolerance_mm

    def slab(self, axis: int, start: int, stop: int) -> "Volume":
        """Return voxels `start <= index < stop` along i, j or k (axis 0, 1, 2), where they are.

        Raises:
            UsageError: the range is empty or reaches outside the volume.
        """
        if axis not in (0, 1, 2):
            raise UsageError(f"axis must be 0, 1 or 2 (i, j, k), got {axis}")
        if not 0 <= start < stop <= self.shape[axis]:
            raise UsageError(
                f"slab {start}:{stop} is empty or outside axis {axis}, which has "
                f"{self.shape[axis]} voxels; choose 0 <= start < stop <= {self.shape[axis]}"
            )
        cut = [slice(None)] * 3
        cut[axis] = slice(start, stop)
        offset = np.eye(3)[axis] * start
        return replace(
            self,
            array=self.array[tuple(cut)],
            affine=geometry.moved_affine(self.affine, offset.tolist()),
        )

    def _reoriented(self, change: geometry.Orientation) -> "Volume":
        import nibabel as nib

        if np.array_equal(change, [[0, 1], [1, 1], [2, 1]]):
            return self
        back = nib.orientations.inv_ornt_aff(change, self.shape[:3])
        return replace(self, array=geometry.reorient(self.array, change), affine=self.affine @ back)

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in self.shape)
        step = " x ".join(f"{mm:.4g}" for mm in self.spacing_mm)
        known = "" if self.has_orientation else " (orientation not stated)"
        return (
            f"Volume({size} {self.array.dtype}, {step} mm, {''.join(self.orientation)}{known}, "
            f"units {self.units[0]})"
        )

    def _repr_html_(self) -> str:
        from medsci.imaging.display import volume_html

        return volume_html(self)
