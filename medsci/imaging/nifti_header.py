"""What a NIfTI header says about geometry, and how a volume's geometry is put back into one.

Reading, in this order (NIfTI-1 standard, section on coordinate systems):

1. sform, if its code is above 0 and it is finite and invertible. Shear is kept.
2. qform, under the same conditions.
3. Neither: voxel sizes only, centred, i towards the patient's left (`fallback_affine`), codes as
   they were, and a `GeometryWarning`. (A voxel size of 0 has become 1 by then: nibabel repairs it
   and logs that.)

When sform and qform are both valid and put a corner of the volume more than a tenth of a voxel
apart, the sform wins with a `GeometryWarning`; both codes are kept. Metre and micron become mm in
memory and are restored on writing; unknown units are taken as mm. NIfTI has no code for
centimetres: a file in cm can only claim unknown units or mm, and is read as it claims.

Writing leaves the geometry fields of an unchanged volume untouched, bit for bit. After flips,
permutations and crops both forms follow, each from its own value, so a disagreement between them
survives. A qform cannot hold shear: it then holds the nearest rotation, and the sform the truth.
"""

__all__ = ["FileGeometry", "file_geometry", "single_file_header", "store_geometry"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medsci.imaging.geometry import (
    Affine,
    fallback_affine,
    is_valid_affine,
    largest_gap_mm,
    signed_permutation,
    spacing_of,
)

_MM_PER_UNIT = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
_ALIGNED = 2


class FileGeometry(NamedTuple):
    """The geometry chosen from a header, and remarks that the reader of the file should see."""

    affine: Affine
    sform_code: int
    qform_code: int
    units: tuple[str, str]
    remarks: tuple[str, ...]


def file_geometry(header: Any, shape: Sequence[int]) -> FileGeometry:
    """Choose the affine (RAS+, mm) of a NIfTI header for a grid of this shape, by the rules above.

    The affine can still be invalid when even the voxel sizes are; the caller judges that.
    """
    units, remarks = _units(header)
    scale = _MM_PER_UNIT[units[0]]
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    sform = _in_mm(header.get_sform(), scale) if sform_code > 0 else None
    qform = _in_mm(_qform(header), scale) if qform_code > 0 else None
    for name, code, form in (("sform", sform_code, sform), ("qform", qform_code, qform)):
        if code > 0 and form is None:
            remarks.append(f"its {name} (code {code}) is no valid transform and was ignored")
    if sform is not None and qform is not None:
        remarks += _disagreement(sform, qform, shape, (sform_code, qform_code))
    affine = sform if sform is not None else qform
    if affine is None:
        spacing = np.abs(header["pixdim"][1:4].astype(np.float64)) * scale
        affine = fallback_affine(shape, spacing.tolist())
        remarks.append(
            "it states no orientation: spacing was kept, the centre put at the origin and i towards"
            " the patient's left, but left and right are not known"
        )
    return FileGeometry(affine, sform_code, qform_code, units, tuple(remarks))


def single_file_header(header: Any) -> Any:
    """Return a copy of a header fit for a `.nii` of this machine: one file, native byte order."""
    import nibabel as nib

    kind = nib.Nifti2Header if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header
    native = header.as_byteswapped(nib.volumeutils.native_code)
    copy = kind(native.binaryblock, check=False, extensions=header.extensions)
    copy["magic"] = kind.single_magic
    copy["vox_offset"] = 0
    return copy


def store_geometry(
    header: Any,
    affine: Affine,
    *,
    shape: Sequence[int],
    codes: tuple[int, int],
    units: tuple[str, str],
) -> None:
    """Put an affine in mm into a header whose data shape is set already, in the header's own unit.

    Args:
        header: changed in place.
        affine: voxel to world, RAS+, mm.
        shape: of the voxel grid, at least three axes.
        codes: of sform and qform. Where the forms these allow cannot hold the affine (a sheared
            affine under a qform alone, an offset under no code), an sform is added with the qform's
            code, or with 2, "aligned to another file".
        units: spatial and temporal unit that the file shall use.
    """
    before = file_geometry(header, shape)
    same_codes = codes == (before.sform_code, before.qform_code)
    if same_codes and units == before.units and np.array_equal(affine, before.affine):
        return
    scale = _MM_PER_UNIT[units[0]]
    change = _axis_change(before.affine, affine)
    qform = _moved_qform(header, before, affine, keep_apart=change is not None)
    header["sform_code"], header["qform_code"] = codes
    header.set_xyzt_units(*units)
    header["pixdim"][1:4] = np.array(spacing_of(affine)) / scale
    if codes[1] > 0:
        header.set_qform(_in_unit(qform, scale), code=codes[1])
    if codes[0] > 0:
        header.set_sform(_in_unit(affine, scale), code=codes[0])
    held = file_geometry(header, shape).affine
    if largest_gap_mm(held, affine, shape) > 1e-3 * min(spacing_of(affine)):
        header.set_sform(_in_unit(affine, scale), code=codes[0] or codes[1] or _ALIGNED)
    if change is None or not np.array_equal(change, [[0, 1], [1, 1], [2, 1]]):
        _forget_acquisition_order(header)


def _units(header: Any) -> tuple[tuple[str, str], list[str]]:
    """Return the unit names; codes that the standard does not know count as unknown."""
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        space, time = "unknown", "unknown"
    if space not in _MM_PER_UNIT or (space == "unknown" and int(header["xyzt_units"]) % 8):
        code = int(header["xyzt_units"])
        return ("unknown", "unknown"), [f"its unit code {code} is not in the standard; took mm"]
    return (space, time), []


def _qform(header: Any) -> Affine | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):  # quaternion longer than 1, negative voxel size
        return None


def _in_mm(affine: Affine | None, scale: float) -> Affine | None:
    if affine is None or not is_valid_affine(affine):
        return None
    return np.asarray(affine, dtype=np.float64) * [[scale], [scale], [scale], [1.0]]


def _in_unit(affine: Affine, scale: float) -> Affine:
    return affine / [[scale], [scale], [scale], [1.0]]


def _disagreement(
    sform: Affine, qform: Affine, shape: Sequence[int], codes: tuple[int, int]
) -> list[str]:
    gap = largest_gap_mm(sform, qform, shape)
    if gap <= 0.1 * min(spacing_of(sform)):
        return []
    return [
        f"its sform (code {codes[0]}) and qform (code {codes[1]}) put the same corner {gap:.3g} mm "
        "apart; took the sform"
    ]


def _axis_change(before: Affine, after: Affine) -> np.ndarray | None:
    """Return the flips and permutation between two grids, or None if there is more between them."""
    if not is_valid_affine(before):
        return None
    return signed_permutation((np.linalg.inv(before) @ after)[:3, :3])


def _moved_qform(header: Any, before: FileGeometry, affine: Affine, *, keep_apart: bool) -> Affine:
    """Return the qform that follows the grid: its old value moved along, or the affine itself."""
    old = _in_mm(_qform(header), _MM_PER_UNIT[before.units[0]])
    if not keep_apart or old is None or before.qform_code == 0 or before.sform_code == 0:
        return affine
    return old @ np.linalg.inv(before.affine) @ affine


def _forget_acquisition_order(header: Any) -> None:
    """Clear the fields that name voxel axes (phase, frequency, slice order): they would lie now."""
    header.set_dim_info(None, None, None)
    for field in ("slice_start", "slice_end", "slice_code", "slice_duration"):
        header[field] = 0
