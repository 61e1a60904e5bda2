import dataclasses
import warnings

import nibabel as nib
import numpy as np
import pytest
from imaging_grids import SHAPE, SPACING, oriented_affine

from medsci.errors import InvalidInputError
from medsci.imaging import GeometryWarning, Volume, fallback_affine, read_nifti, write_nifti

ARRAY = np.arange(60, dtype=np.int16).reshape(SHAPE)
SFORM = oriented_affine((0, 1, 2), (1, 1, 1), tilt=0.3)
QFORM = oriented_affine((0, 1, 2), (-1, -1, 1), tilt=0.1)


def save(path, *, sform=None, qform=None, codes=(0, 0), edit=None):
    image = nib.Nifti1Image(ARRAY, np.diag([*SPACING, 1]))
    header = image.header
    if qform is not None:
        header.set_qform(qform)
    if sform is not None:
        header.set_sform(sform)
    header["sform_code"], header["qform_code"] = codes
    header["pixdim"][1:4] = SPACING
    if edit is not None:
        edit(header)
    nib.Nifti1Image(ARRAY, None, header).to_filename(path)
    return path


def fields(path):
    header = nib.load(path).header
    parts = ("code", "srow", "quatern", "qoffset", "pixdim", "xyzt")
    return {name: header[name].tolist() for name in header if any(p in name for p in parts)}


def read_silently(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeometryWarning)
        return read_nifti(path)


def test_valid_sform_comes_first_without_a_word(tmp_path):
    path = save(tmp_path / "a.nii", sform=SFORM, qform=SFORM, codes=(1, 1))
    np.testing.assert_allclose(read_nifti(path).affine, SFORM, atol=1e-5)


def test_qform_alone(tmp_path):
    path = save(tmp_path / "a.nii", sform=SFORM, qform=QFORM, codes=(0, 3))
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-5)
    assert (volume.sform_code, volume.qform_code) == (0, 3)
    copy = write_nifti(volume, tmp_path / "b.nii")
    assert fields(copy) == fields(path)
    turned = read_nifti(write_nifti(volume.to_orientation("SPL"), tmp_path / "c.nii"))
    assert turned.same_geometry(volume.to_orientation("SPL"))
    assert (turned.sform_code, turned.qform_code) == (0, 3)


def test_disagreement_is_told_and_survives(tmp_path):
    path = save(tmp_path / "a.nii", sform=SFORM, qform=QFORM, codes=(4, 1))
    with pytest.warns(GeometryWarning, match=r"sform \(code 4\) and qform \(code 1\).*took"):
        volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, SFORM, atol=1e-5)
    assert fields(write_nifti(volume, tmp_path / "b.nii")) == fields(path)
    crop = volume.slab(1, 1, 4).to_orientation("LIP")
    header = nib.load(write_nifti(crop, tmp_path / "c.nii")).header
    np.testing.assert_allclose(header.get_sform(), crop.affine, atol=1e-5)
    # the qform followed the same voxels from its own old value
    to_old = np.linalg.inv(volume.affine) @ crop.affine
    np.testing.assert_allclose(header.get_qform(), QFORM @ to_old, atol=1e-4)
    assert not np.allclose(header.get_qform(), crop.affine, atol=1)


def test_tiny_disagreement_of_rounding_is_silent(tmp_path):
    moved = SFORM.copy()
    moved[0, 3] += 0.05
    path = save(tmp_path / "a.nii", sform=SFORM, qform=moved, codes=(1, 1))
    read_nifti(path)  # a warning would be an error here
    moved[0, 3] += 0.05
    path = save(tmp_path / "b.nii", sform=SFORM, qform=moved, codes=(1, 1))
    with pytest.warns(GeometryWarning, match="apart"):
        read_nifti(path)


def test_shear_is_kept_in_the_sform(tmp_path):
    sheared = SFORM @ np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = save(tmp_path / "a.nii", sform=sheared, codes=(2, 0))
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, sheared, atol=1e-5)
    again = read_nifti(write_nifti(volume.canonical(), tmp_path / "b.nii"))
    assert again.same_geometry(volume.canonical())
    # a qform cannot say it: an sform is added that can, and wins on reading
    alone = dataclasses.replace(volume, sform_code=0, qform_code=1, header=None)
    with pytest.warns(GeometryWarning, match="apart"):
        again = read_nifti(write_nifti(alone, tmp_path / "c.nii"))
    assert again.same_geometry(volume)
    assert (again.sform_code, again.qform_code) == (1, 1)


def test_no_code_is_told_and_kept(tmp_path):
    path = save(tmp_path / "a.nii", sform=SFORM, qform=QFORM, codes=(0, 0))
    with pytest.warns(GeometryWarning, match="left and right are not known"):
        volume = read_nifti(path)
    assert not volume.has_orientation
    np.testing.assert_allclose(volume.affine, nib.load(path).affine, atol=1e-6)  # as nibabel does
    assert volume.affine.tobytes() == fallback_affine(SHAPE, SPACING).tobytes()
    np.testing.assert_allclose(volume.affine @ [1, 1.5, 2, 1], (0, 0, 0, 1), atol=1e-12)
    assert fields(write_nifti(volume, tmp_path / "b.nii")) == fields(path)
    same = dataclasses.replace(volume, header=None)
    again = read_silently(write_nifti(same, tmp_path / "c.nii"))
    assert (again.sform_code, again.qform_code) == (0, 0)
    assert again.same_geometry(volume)


def test_crop_of_no_code_is_aligned_to_its_parent(tmp_path):
    volume = read_silently(save(tmp_path / "a.nii"))
    crop = volume.slab(2, 3, 5)
    again = read_nifti(write_nifti(crop, tmp_path / "b.nii"))
    assert again.same_geometry(crop)
    assert (again.sform_code, again.qform_code) == (2, 0)


def zero_sform(header):
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = 0


def nan_sform(header):
    header["srow_y"] = np.nan


def long_quaternion(header):
    header["quatern_b"], header["quatern_c"] = 0.9, 0.9


@pytest.mark.parametrize("edit", [zero_sform, nan_sform])
def test_invalid_sform_gives_way_to_the_qform(tmp_path, edit):
    path = save(tmp_path / "a.nii", sform=SFORM, qform=QFORM, codes=(1, 1), edit=edit)
    with pytest.warns(GeometryWarning, match="its sform .* is no valid transform"):
        volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-5)


def test_both_invalid_gives_the_fallback(tmp_path):
    def both(header):
        zero_sform(header)
        long_quaternion(header)

    path = save(tmp_path / "a.nii", codes=(1, 1), edit=both)
    with pytest.warns(GeometryWarning) as told:
        volume = read_nifti(path)
    words = " ".join(str(w.message) for w in told)
    assert "its sform" in words
    assert "its qform" in words
    assert "states no orientation" in words
    np.testing.assert_allclose(volume.affine, fallback_affine(SHAPE, SPACING))


def test_nothing_usable_is_an_error(tmp_path):
    def nothing(header):
        header["pixdim"][2] = np.nan

    with pytest.raises(InvalidInputError, match="no usable geometry"):
        read_silently(save(tmp_path / "a.nii", edit=nothing))


@pytest.mark.parametrize(
    ("unit", "factor"), [("meter", 1e3), ("mm", 1), ("micron", 1e-3), (None, 1)]
)
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_units_become_mm_and_come_back(tmp_path, unit, factor, codes):
    def set_unit(header):
        header.set_xyzt_units(unit, "msec")

    path = save(tmp_path / "a.nii", sform=SFORM, qform=SFORM, codes=codes, edit=set_unit)
    volume = read_silently(path)
    np.testing.assert_allclose(volume.spacing_mm, np.array(SPACING) * factor, rtol=1e-5)
    assert volume.units == (unit or "unknown", "msec")
    if codes != (0, 0):
        np.testing.assert_allclose(volume.origin_mm, SFORM[:3, 3] * factor, rtol=1e-5)
    assert fields(write_nifti(volume, tmp_path / "b.nii")) == fields(path)
    turned = read_silently(write_nifti(volume.to_orientation("PIR"), tmp_path / "c.nii"))
    assert turned.same_geometry(volume.to_orientation("PIR"), tolerance_mm=1e-4 * factor)
    assert turned.units == volume.units
    in_mm = dataclasses.replace(volume, units=("mm", "msec"))
    assert read_silently(write_nifti(in_mm, tmp_path / "d.nii")).same_geometry(
        volume, tolerance_mm=1e-4 * factor
    )


def test_unit_code_outside_the_standard(tmp_path):
    def odd(header):
        header["xyzt_units"] = 5  # what a program that means centimetres might invent

    path = save(tmp_path / "a.nii", sform=SFORM, codes=(1, 0), edit=odd)
    with pytest.warns(GeometryWarning, match="unit code 5 is not in the standard; took mm"):
        volume = read_nifti(path)
    assert volume.units == ("unknown", "unknown")
    np.testing.assert_allclose(volume.affine, SFORM, atol=1e-5)
    assert fields(write_nifti(volume, tmp_path / "b.nii")) == fields(path)


def test_deliberately_wrong_affine_on_disk_is_detected(tmp_path):
    """Control of every geometry test above: the comparison fails when it should."""
    volume = Volume(ARRAY, SFORM)
    for wrong in (
        SFORM @ np.diag([-1, 1, 1, 1]),
        SFORM[:, [1, 0, 2, 3]],
        SFORM @ np.diag([1, 1, 1.01, 1]),
    ):
        path = write_nifti(
            dataclasses.replace(volume, affine=wrong), tmp_path / "a.nii", overwrite=True
        )
        assert not read_nifti(path).same_geometry(volume)
