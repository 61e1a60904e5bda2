"""DICOM series: voxel by voxel where the files say, in HU, without the patient's name."""

import shutil

import numpy as np
import pytest
import SimpleITK
from dicom_samples import (
    INTERCEPT,
    ORIENTATION,
    ORIGIN,
    SLOPE,
    SPACING,
    STEP,
    UID,
    save_series,
    stored,
)

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import read_nifti, write_nifti
from medsci.imaging.dicom_series import read_dicom_series

pydicom = pytest.importorskip("pydicom")

RAS = np.array([-1.0, -1.0, 1.0])


def place(column, row, k):
    """World position of a pixel by the words of the standard, RAS mm."""
    x, y = np.split(np.array(ORIENTATION), 2)
    lps = np.array(ORIGIN) + column * SPACING[1] * x + row * SPACING[0] * y
    return RAS * (lps + k * STEP * np.cross(x, y))


def test_every_voxel_is_where_it_was(tmp_path):
    volume = read_dicom_series(save_series(tmp_path / "a"))
    assert volume.shape == (7, 5, 4)
    assert volume.array.dtype.kind in "if"
    np.testing.assert_array_equal(volume.array, SLOPE * stored().T.astype(float) + INTERCEPT)
    for index in ((0, 0, 0), (6, 0, 0), (0, 4, 0), (3, 2, 3)):
        np.testing.assert_allclose((volume.affine @ (*index, 1))[:3], place(*index), atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, (1.25, 0.75, 2.5), atol=1e-5)
    # control: LPS taken for RAS, or row spacing for column spacing, would be seen
    assert np.linalg.norm(place(6, 4, 0) - RAS * place(6, 4, 0)) > 5
    assert volume.spacing_mm[0] != volume.spacing_mm[1]


def test_agrees_with_itk_on_its_own_nifti(tmp_path):
    folder = save_series(tmp_path / "a")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    SimpleITK.WriteImage(SimpleITK.ReadImage(names), str(tmp_path / "itk.nii"))
    ours, theirs = read_dicom_series(folder), read_nifti(tmp_path / "itk.nii")
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_array_equal(ours.array, theirs.array)
    written = read_nifti(write_nifti(ours, tmp_path / "ours.nii"))
    assert written.same_geometry(ours)


def test_series_written_by_itk(tmp_path):
    image = SimpleITK.GetImageFromArray(stored().astype(np.int16))
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(4):
        part = image[:, :, k]
        for tag, value in (
            ("0008|0060", "CT"),
            ("0020|000e", "1.2.3"),
            ("0020|0032", f"1\\2\\{3 + 2 * k}"),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0028|0030", "1\\1"),
        ):
            part.SetMetaData(tag, value)
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.Execute(part)
    volume = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(volume.array, stored().T)
    np.testing.assert_array_equal(
        volume.affine, [[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    )


def test_tilted_gantry_is_a_shear(tmp_path):
    def shift(dataset, k):
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + 0.8 * k, z]

    volume = read_dicom_series(save_series(tmp_path / "a", edit=shift))
    expected = place(2, 3, 3) + RAS * (0, 2.4, 0)
    np.testing.assert_allclose((volume.affine @ (2, 3, 3, 1))[:3], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_real_files(tmp_path, name):
    from pydicom.data import get_testdata_file

    source = get_testdata_file(name)
    shutil.copy(source, tmp_path / name)
    volume, truth = read_dicom_series(tmp_path), pydicom.dcmread(source)
    slope = float(truth.get("RescaleSlope", 1))
    pixels = slope * truth.pixel_array.T + float(truth.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(volume.array[..., 0], pixels)
    np.testing.assert_allclose(
        volume.affine[:3, 3], RAS * [float(v) for v in truth.ImagePositionPatient], atol=1e-6
    )


def test_nothing_about_the_patient(tmp_path):
    volume = read_dicom_series(save_series(tmp_path / "a"))
    content = write_nifti(volume, tmp_path / "a.nii").read_bytes()
    assert volume.header is None
    assert b"Some" not in content
    assert b"42424242" not in content


def test_choosing_a_series(tmp_path):
    folder = save_series(tmp_path / "a")
    save_series(folder, series="2", n=3)
    with pytest.raises(InvalidInputError, match=rf"2 series: {UID}1 \(4 files\), .*choose one"):
        read_dicom_series(folder)
    assert read_dicom_series(folder, series_uid=f"{UID}2").shape == (7, 5, 3)
    with pytest.raises(UsageError, match=r"no series 1.2.3; the folder has"):
        read_dicom_series(folder, series_uid="1.2.3")


def absent(name):
    return lambda dataset, k: delattr(dataset, name)


def changed(name, value, *, at=2):
    def edit(dataset, k):
        if at is None or k == at:
            setattr(dataset, name, value)

    return edit


def smaller(dataset, k):
    if k == 1:
        dataset.Rows = 4
        dataset.PixelData = dataset.PixelData[: 2 * 4 * 7]


@pytest.mark.parametrize(("options", "words"), [
    ({"skip": (2,)}, "5 mm apart, largest gap after slice 2 of 3; find the missing"),
    ({"edit": absent("ImagePositionPatient")}, "ImagePositionPatient of .* is '', not 3"),
    ({"edit": absent("ImageOrientationPatient")}, "ImageOrientationPatient of .* not 6"),
    ({"edit": absent("PixelSpacing")}, "PixelSpacing of .* not 2 numbers"),
    ({"edit": changed("PixelSpacing", ["-1", "1"], at=None)}, "must be two positive numbers"),
    ({"edit": changed("PixelSpacing", ["2", "2"])}, "another size, spacing or orientation"),
    ({"edit": changed("ImageOrientationPatient", list("100001"))}, "another size, spacing or"),
    ({"edit": changed("ImageOrientationPatient", list("100100"), at=None)}, "right angle"),
    ({"edit": changed("ImagePositionPatient", [str(v) for v in ORIGIN])}, "the same place"),
    ({"edit": smaller}, "another size"),
])  # fmt: skip
def test_malformed_series(tmp_path, options, words):
    folder = save_series(tmp_path / "a", **options)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_dicom_series(folder)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_no_series(tmp_path, capfd):
    with pytest.raises(InvalidInputError, match="is not a folder; name"):
        read_dicom_series(tmp_path / "gone")
    (tmp_path / "text.dcm").write_text("not DICOM")
    with pytest.raises(InvalidInputError, match="no DICOM image series is in this folder; name"):
        read_dicom_series(tmp_path)
    folder = save_series(tmp_path / "a")
    last = folder / "001_1"  # a slice at the end, whose loss would leave no gap
    last.write_bytes(last.read_bytes()[:-40])
    with pytest.raises(InvalidInputError, match=r"001_1 is cut short or damaged.*; copy"):
        read_dicom_series(folder)
    assert capfd.readouterr().err == ""
