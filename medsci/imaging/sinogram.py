"""Line integrals of a CT scan in memory, with the grid that their reconstruction belongs to."""

__all__ = ["Sinogram"]

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError
from medsci.imaging.beam import Beam, FanBeam, ImageGrid
from medsci.imaging.kspace import _checked_header, _header_bytes, _parse_header
from medsci.imaging.kspace_checks import checked_attributes
from medsci.imaging.sinogram_checks import (
    check_fits_beam,
    check_plane,
    checked_lines,
    checked_positive,
    checked_truth,
)
from medsci.imaging.volume import Volume


@final
@dataclass(frozen=True, eq=False, repr=False)
class Sinogram:
    """Measured line integrals, along which lines, and where their image is.

    Every slice was seen by the same rays. How rays, rows and columns lie to each other is written
    in `medsci.imaging.beam`; rows and columns grow with the index of their volume axis, so that no
    axis is flipped between the image, the volume and the rays.

    Attributes:
        data: float32 (n_slices, n_angles, n_bins), `-ln(N / N0)`, the sum of attenuation [1/mm]
            times length [mm]; other real types are converted.
        beam: the rays.
        grid: rows and columns of the image.
        affine: (4, 4) float64, voxel index to world mm, RAS+, of the reconstructed volume's own
            (i, j, k) grid.
        axes: which axis of that volume the slices, the rows and the columns run along; `(2, 1, 0)`
            means slices along k, rows along j, columns along i.
        mu_water: attenuation of water at the energy of the scan in 1/mm, if known.
        photons: photons per ray without an object, if known.
        reference: float32 (n_slices, n_rows, n_cols), true image in Hounsfield units, if known.
        sform_code, qform_code, units: as of `Volume`; both codes 0 where orientation is unknown.
        description: `descrip` of reconstructed volumes; empty keeps the header's.
        header: raw NIfTI header of the volume the data stands for (348 or 540 bytes), so that a
            reconstruction carries its fields, or None.
        attributes: what else is known: JSON values, nothing about a patient.

    Raises:
        InvalidInputError: shapes, types or values do not fit each other; says which and what to do.
    """

    # Shapes are checked below, in production too, with messages for people who bring arrays.
    data: Shaped[np.ndarray, "..."]
    beam: Beam
    grid: ImageGrid
    _: KW_ONLY
    affine: Shaped[np.ndarray, "..."]
    axes: tuple[int, int, int] = (2, 1, 0)
    mu_water: float | None = None
    photons: float | None = None
    reference: Shaped[np.ndarray, "..."] | None = None
    sform_code: int = 2
    qform_code: int = 0
    units: tuple[str, str] = ("mm", "unknown")
    description: str = ""
    header: bytes | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = checked_lines(self.data)
        check_fits_beam(data, self.beam)
        voxel = Volume(np.zeros((1, 1, 1), np.uint8), self.affine, units=self.units)
        axes = tuple(int(axis) for axis in self.axes)
        if sorted(axes) != [0, 1, 2]:
            raise InvalidInputError(
                f"axes {self.axes} must be 0, 1, 2 in some order (slice, row, column axis); "
                "(2, 1, 0) means slices along k, rows along j, columns along i"
            )
        check_plane(self.grid, voxel.affine, (axes[0], axes[1], axes[2]))
        for name, value in (
            ("data", data),
            ("affine", voxel.affine),
            ("axes", axes),
            ("mu_water", checked_positive(self.mu_water, "mu_water")),
            ("photons", checked_positive(self.photons, "photons")),
            ("reference", checked_truth(self.reference, (len(data), *self.grid.shape))),
            ("header", _checked_header(self.header)),
            ("attributes", checked_attributes(self.attributes)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def on_grid_of(
        cls,
        volume: Volume,
        data: Shaped[np.ndarray, "..."],
        *,
        beam: Beam,
        axes: tuple[int, int, int] = (2, 1, 0),
        mu_water: float | None = None,
        photons: float | None = None,
        reference: Shaped[np.ndarray, "..."] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> "Sinogram":
        """Build the sinogram of a volume: its grid, affine, codes, units and header come along.

        The header's free text `descrip` is kept; `db_name`, `aux_file` and the extensions, where
        patients and folders may be named, are not.

        Raises:
            InvalidInputError: `data` has another number of slices than the volume along `axes`.
        """
        n_slices, n_rows, n_cols = (volume.shape[axis] for axis in axes)
        if np.ndim(data) == 3 and np.shape(data)[0] != n_slices:
            raise InvalidInputError(
                f"a sinogram of shape {np.shape(data)} is not that of a volume {volume.shape} with "
                f"axes {axes}: it must have {n_slices} slices"
            )
        row_mm, col_mm = volume.spacing_mm[axes[1]], volume.spacing_mm[axes[2]]
        return cls(
            data,
            beam,
            ImageGrid(n_rows, n_cols, row_mm, col_mm),
            affine=volume.affine,
            axes=axes,
            mu_water=mu_water,
            photons=photons,
            reference=reference,
            sform_code=volume.sform_code,
            qform_code=volume.qform_code,
            units=volume.units,
            header=_header_bytes(volume),
            attributes=attributes or {},
        )

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.data.shape[0]

    @property
    def n_angles(self) -> int:
        """Number of views."""
        return self.data.shape[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the reconstruction."""
        return (self.n_slices, *self.grid.shape)

    def to_volume(self, image: Shaped[np.ndarray, "..."]) -> Volume:
        """Put an image stack onto its (i, j, k) grid, with affine, codes and header.

        Args:
            image: slices, rows, columns.

        Raises:
            InvalidInputError: another shape.
        """
        if image.shape != self.image_shape:
            raise InvalidInputError(
                f"the image has shape {image.shape}, the sinogram makes {self.image_shape} "
                "(slices, rows, columns); give it that shape"
            )
        return Volume(
            np.ascontiguousarray(image.transpose(np.argsort(self.axes).tolist())),
            self.affine,
            sform_code=self.sform_code,
            qform_code=self.qform_code,
            units=self.units,
            header=_parse_header(self.header, self.description),
        )

    def from_volume_array(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Put an array on the volume's (i, j, k) grid into (slices, rows, columns) order.

        Raises:
            InvalidInputError: the array does not have the size of the reconstructed volume.
        """
        image = array.transpose(self.axes) if array.ndim == 3 else array
        if image.shape != self.image_shape:
            wanted = tuple(np.array(self.image_shape)[np.argsort(self.axes)].tolist())
            raise InvalidInputError(
                f"the array has shape {array.shape}, the volume of this sinogram is {wanted}; "
                "bring it onto that grid first"
            )
        return np.ascontiguousarray(image)

    def __repr__(self) -> str:
        rows, columns = self.grid.shape
        kind = "fan beam" if isinstance(self.beam, FanBeam) else "parallel beam"
        known = ", with reference" if self.reference is not None else ""
        return (
            f"Sinogram({self.n_slices} slices, {self.n_angles} views, {self.beam.n_bins} bins, "
            f"{kind}, image {rows} x {columns}{known})"
        )
