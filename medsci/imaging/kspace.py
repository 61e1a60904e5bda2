"""Cartesian multi-coil k-space in memory, with the grid that its reconstruction belongs to."""

__all__ = ["KSpace"]

import sys
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Shaped

from medsci.errors import InvalidInputError
from medsci.imaging.kspace_checks import (
    check_crop,
    checked_attributes,
    checked_maps,
    checked_mask,
    checked_reference,
    checked_samples,
)
from medsci.imaging.nifti_header import single_file_header
from medsci.imaging.volume import Volume


@final
@dataclass(frozen=True, eq=False, repr=False)
class KSpace:
    """Measured samples, which of them were measured, and where their image is.

    The centred orthonormal FFT over the last two axes takes an image to k-space; zero frequency is
    at index `n // 2` of each. Lines that were not acquired are zero.

    Attributes:
        data: complex64 (n_slices, n_coils, n_readout, n_phase), arbitrary units; complex128 is
            converted.
        mask: bool (n_phase,), True for acquired lines along the last axis (phase encoding).
        affine: (4, 4) float64, voxel index to world mm, RAS+, of the reconstructed volume's own
            (i, j, k) grid.
        axes: which axis of that volume the slices, the readout and the phase encoding run along;
            `(2, 1, 0)` means slices along k, readout along j, phase along i. No axis is flipped.
        reference: float32 (n_slices, n_readout, n_phase), magnitude of the fully sampled image in
            the units of `data`, if known; in plane it may have the size of `crop`.
        maps: complex64, coil sensitivities of the size of `data`, if known.
        sform_code, qform_code, units: as of `Volume`; both codes 0 where orientation is unknown.
        description: `descrip` of reconstructed volumes; empty keeps the header's.
        header: raw NIfTI header of the volume the data stands for (348 or 540 bytes), so that a
            reconstruction carries its fields, or None.
        crop: in-plane size (readout, phase) to which `to_volume` cuts around the centre, e.g. to
            remove readout oversampling; None keeps all. `affine` is that of the cropped grid.
        ismrmrd_header: XML of a fastMRI file, as read, or None.
        attributes: what else is known (noise_std, seed ...): JSON values, nothing about a patient.

    Raises:
        InvalidInputError: shapes, types or values do not fit each other; says which and what to do.
    """

    # Shapes are checked below, in production too, with messages for people who bring arrays.
    data: Shaped[np.ndarray, "..."]
    mask: Shaped[np.ndarray, "..."]
    _: KW_ONLY
    affine: Shaped[np.ndarray, "..."]
    axes: tuple[int, int, int] = (2, 1, 0)
    reference: Shaped[np.ndarray, "..."] | None = None
    maps: Shaped[np.ndarray, "..."] | None = None
    sform_code: int = 2
    qform_code: int = 0
    units: tuple[str, str] = ("mm", "unknown")
    description: str = ""
    header: bytes | None = None
    crop: tuple[int, int] | None = None
    ismrmrd_header: bytes | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = checked_samples("k-space", self.data)
        mask = checked_mask(self.mask, data)
        voxel = Volume(np.zeros((1, 1, 1), np.uint8), self.affine, units=self.units)
        axes = tuple(int(axis) for axis in self.axes)
        if sorted(axes) != [0, 1, 2]:
            raise InvalidInputError(
                f"axes {self.axes} must be 0, 1, 2 in some order (slice, readout, phase axis); "
                "(2, 1, 0) means slices along k, readout along j, phase along i"
            )
        check_crop(self.crop, data.shape)
        for name, value in (
            ("data", data),
            ("mask", mask),
            ("affine", voxel.affine),
            ("axes", axes),
            ("reference", checked_reference(self.reference, data.shape, self.crop)),
            ("maps", checked_maps(self.maps, data.shape)),
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
        mask: Shaped[np.ndarray, "..."],
        axes: tuple[int, int, int] = (2, 1, 0),
        reference: Shaped[np.ndarray, "..."] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> "KSpace":
        """Build the k-space of a volume: its affine, codes, units and header come along.

        The header's free text `descrip` is kept; `db_name`, `aux_file` and the extensions, where
        patients and folders may be named, are not.

        Raises:
            InvalidInputError: `data` is not of the volume's size along `axes`.
        """
        grid = tuple(volume.shape[axis] for axis in axes)
        if np.ndim(data) == 4 and (np.shape(data)[0], *np.shape(data)[2:]) != grid:
            raise InvalidInputError(
                f"k-space of shape {np.shape(data)} is not that of a volume {volume.shape} with "
                f"axes {axes}: slices, readout and phase must be {grid}"
            )
        return cls(
            data,
            mask,
            affine=volume.affine,
            axes=axes,
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
    def n_coils(self) -> int:
        """Number of receive coils."""
        return self.data.shape[1]

    @property
    def acceleration(self) -> float:
        """Effective acceleration: lines of the full grid divided by lines acquired."""
        return float(self.mask.size / self.mask.sum())

    @property
    def center_lines(self) -> range:
        """The unbroken block of acquired lines around zero frequency, as indices."""
        missing = np.flatnonzero(~self.mask)
        centre = self.mask.size // 2
        below, above = missing[missing < centre], missing[missing > centre]
        start = int(below[-1]) + 1 if below.size else 0
        return range(start, int(above[0]) if above.size else self.mask.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Slices, rows (readout) and columns (phase) of the reconstruction after cropping."""
        return (self.n_slices, *(self.crop or self.data.shape[2:]))

    def to_volume(self, image: Shaped[np.ndarray, "..."]) -> Volume:
        """Put an image stack onto its (i, j, k) grid, cropped, with affine, codes and header.

        Args:
            image: slices, readout, phase; of the full or the cropped in-plane size.

        Raises:
            InvalidInputError: the shape is neither.
        """
        full = (self.n_slices, *self.data.shape[2:])
        if image.shape not in (full, self.image_shape):
            raise InvalidInputError(
                f"the image has shape {image.shape}, the k-space makes {full} (slices, readout, "
                f"phase){f' or cropped {self.image_shape}' if self.crop else ''}; give it that "
                "shape"
            )
        inside = tuple(map(_centre, image.shape, self.image_shape))
        return Volume(
            np.ascontiguousarray(image[inside].transpose(np.argsort(self.axes).tolist())),
            self.affine,
            sform_code=self.sform_code,
            qform_code=self.qform_code,
            units=self.units,
            header=_parse_header(self.header, self.description),
        )

    def from_volume_array(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Put an array on the volume's (i, j, k) grid back into (slices, readout, phase) order.

        The inverse of `to_volume`; what a crop removed comes back as zero.

        Raises:
            InvalidInputError: the array does not have the size of the reconstructed volume.
        """
        image = array.transpose(self.axes) if array.ndim == 3 else array
        if image.shape != self.image_shape:
            wanted = tuple(np.array(self.image_shape)[np.argsort(self.axes)].tolist())
            raise InvalidInputError(
                f"the array has shape {array.shape}, the volume of this k-space is {wanted}; "
                "bring it onto that grid first"
            )
        full = np.zeros((self.n_slices, *self.data.shape[2:]), dtype=image.dtype)
        full[tuple(map(_centre, full.shape, image.shape))] = image
        return full

    def __repr__(self) -> str:
        readout, phase = self.data.shape[2:]
        extras = [n for n in ("reference", "maps") if getattr(self, n) is not None]
        crop = f", cropped to {self.crop[0]} x {self.crop[1]}" if self.crop else ""
        return (
            f"KSpace({self.n_slices} slices, {self.n_coils} coils, {readout} x {phase}{crop}, "
            f"R = {self.acceleration:.2f}, {len(self.center_lines)} centre lines"
            f"{', with ' + ' and '.join(extras) if extras else ''})"
        )


def _centre(size: int, kept: int) -> slice:
    """Return the middle `kept` of `size` entries, as fastMRI cuts: the extra one is at the end."""
    start = (size - kept) // 2
    return slice(start, start + kept)


def _parse_header(raw: bytes | None, description: str) -> Any:
    """Return the nibabel header of the raw bytes, or a fresh one if there is a description."""
    import nibabel as nib

    if raw is None and not description:
        return None
    if raw is None:
        header = nib.Nifti1Header()
    else:
        header = (nib.Nifti2Header if len(raw) == 540 else nib.Nifti1Header)(raw, check=False)
    if description:
        header["descrip"] = description.encode("utf-8")[:79]
    return header


def _header_bytes(volume: Volume) -> bytes | None:
    if volume.header is None:
        return None
    header = single_file_header(volume.header)
    header["db_name"], header["aux_file"] = b"", b""
    return bytes(header.binaryblock)


def _checked_header(raw: Any) -> bytes | None:
    if raw is None:
        return None
    raw = bytes(raw)
    if len(raw) not in (348, 540) or int.from_bytes(raw[:4], sys.byteorder) != len(raw):
        raise InvalidInputError(
            f"the NIfTI header kept with k-space ({len(raw)} bytes) is damaged; it must be 348 or "
            "540 bytes as nibabel's binaryblock gives them, or left out"
        )
    return raw
