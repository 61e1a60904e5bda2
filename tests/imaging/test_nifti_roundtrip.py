import dataclasses
import gzip
import os
import time

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from imaging_grids import ORIENTATIONS, SHAPE, name_of, oriented_affine
from nibabel.nifti1 import Nifti1Extension

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.imaging.voxel_type import as_file_dtype


def values(rng, dtype, shape=SHAPE):
    if np.dtype(dtype).kind == "f":
        array = rng.normal(size=shape).astype(dtype)
        array.flat[0] = np.nan
        return array
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)


def save_rich(path, array, affine, *, image_type=nib.Nifti1Image, unit="mm"):
    """A file with everything set that must survive."""
    image = image_type(array, affine)
    header = image.header
    header.set_sform(affine, code=4)
    header.set_qform(affine, code=1)
    header.set_xyzt_units(unit, "sec")
    header["descrip"] = b"made for a test"
    header["cal_max"] = 77
    header["pixdim"][4] = 2.5  # repetition time, kept by some programs in 3D files too
    header["intent_name"] = b"T1w"
    header.set_dim_info(0, 1, 2)
    header.extensions.append(Nifti1Extension(6, b"a comment that must survive"))
    image.to_filename(path)


def raw_header(path):
    """Every header byte but the three fields that are ours to set: offset, slope, intercept."""
    header = nib.load(path).header.copy()
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 0, 1, 0
    return header.binaryblock, [(e.get_code(), bytes(e.get_content())) for e in header.extensions]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_read_write_changes_no_bit(tmp_path, rng, orientation, dtype):
    source, copy = tmp_path / "a.nii", tmp_path / "b.nii"
    save_rich(source, values(rng, dtype), oriented_affine(*orientation, tilt=0.3))
    volume = read_nifti(source)
    assert volume.array.dtype == dtype
    assert (volume.sform_code, volume.qform_code, volume.units) == (4, 1, ("mm", "sec"))
    write_nifti(volume, copy)
    assert raw_header(copy) == raw_header(source)
    written = nib.load(copy)
    assert np.frombuffer(copy.read_bytes()[112:120], "f4").tolist() == [1, 0]  # slope, intercept
    assert written.affine.tobytes() == nib.load(source).affine.tobytes() == volume.affine.tobytes()
    assert np.asarray(written.dataobj).tobytes() == volume.array.tobytes()
    back = volume.canonical().to_grid_of(volume)
    write_nifti(back, copy, overwrite=True)
    assert raw_header(copy) == raw_header(source)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5], ids=name_of)
def test_canonical_file_says_the_same_world(tmp_path, rng, orientation):
    source, turned = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    save_rich(source, values(rng, np.int16), oriented_affine(*orientation, tilt=0.3))
    volume = read_nifti(source)
    write_nifti(volume.canonical(), turned)
    again = read_nifti(turned)
    assert again.orientation == ("R", "A", "S")
    assert (again.sform_code, again.qform_code) == (4, 1)
    assert again.same_geometry(volume.canonical())
    assert np.array_equal(again.to_grid_of(volume).array, volume.array)
    qform = nib.load(turned).header.get_qform()
    np.testing.assert_allclose(qform, again.affine, atol=1e-4)
    same_axes = np.array_equal(np.argmax(abs(volume.affine[:3, :3]), 0), range(3))
    assert same_axes or again.header.get_dim_info() == (None, None, None)


def sitk_world(path, value):
    """Where SimpleITK sees the voxel of a value, in RAS+."""
    image = SimpleITK.ReadImage(str(path))
    index = np.argwhere(SimpleITK.GetArrayFromImage(image) == value)[0][::-1]
    lps = image.TransformIndexToPhysicalPoint([int(i) for i in index])
    return np.array(lps) * (-1, -1, 1)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::3], ids=name_of)
def test_bright_voxel_keeps_its_world_point(tmp_path, orientation):
    """Through canonical, slab, write and read, as we and as SimpleITK see it."""
    array = np.zeros((6, 7, 8), np.int16)
    array[2, 4, 3] = 1000
    affine = oriented_affine(*orientation, tilt=0.4)
    world = (affine @ [2, 4, 3, 1])[:3]
    volume = Volume(array, affine, sform_code=1, qform_code=1).canonical()
    axis = int(np.argmax(volume.shape))
    at = int(np.argwhere(volume.array)[0][axis])
    path = write_nifti(volume.slab(axis, at - 1, at + 2), tmp_path / "a.nii.gz")
    again = read_nifti(path)
    voxel = np.argwhere(again.array == 1000)[0]
    np.testing.assert_allclose((again.affine @ [*voxel, 1])[:3], world, atol=1e-4)
    np.testing.assert_allclose(sitk_world(path, 1000), world, atol=1e-4)
    # control: had the crop kept the affine, SimpleITK would see the mistake
    wrong = dataclasses.replace(again, affine=volume.affine, header=None)
    wrong_at = sitk_world(write_nifti(wrong, tmp_path / "wrong.nii"), 1000)
    assert at == 1 or np.linalg.norm(wrong_at - world) > 0.5


@pytest.mark.parametrize(
    "dtype",
    ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16"],
)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 5), (3, 4, 5, 2), (3, 4, 5, 1, 3)])
def test_every_type_and_rank(tmp_path, rng, dtype, shape):
    kind = np.dtype(dtype).kind
    array = values(rng, "f8", shape).astype(dtype) if kind == "c" else values(rng, dtype, shape)
    source, copy = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    nib.Nifti1Image(array, np.eye(4), dtype=dtype).to_filename(source)
    volume = read_nifti(source)
    assert volume.array.dtype == dtype
    assert volume.shape == (shape if len(shape) > 2 else (*shape, 1))
    assert volume.n_nonfinite == (1 if kind in "fc" else 0)
    write_nifti(volume, copy)
    written = nib.load(copy)
    assert written.shape == shape
    assert written.get_data_dtype() == dtype
    assert np.asanyarray(written.dataobj).tobytes() == array.tobytes()


def test_new_volume_without_header(tmp_path, rng):
    volume = Volume(values(rng, np.float32), oriented_affine((2, 0, 1), (1, -1, 1), tilt=0.2))
    again = read_nifti(write_nifti(volume, tmp_path / "a.nii", description="new"))
    assert again.same_geometry(volume)
    assert (again.sform_code, again.qform_code, again.units) == (2, 0, ("mm", "unknown"))
    assert again.description == "new"
    np.testing.assert_allclose(again.header["pixdim"][1:4], volume.spacing_mm, rtol=1e-6)


def test_storage_variants_read_alike(tmp_path, rng):
    array, affine = values(rng, np.int16), oriented_affine((1, 0, 2), (1, 1, -1))
    expected = Volume(array, affine)
    pair = nib.Nifti1Pair(array, affine)
    pair.header["descrip"] = b"pair"
    pair.to_filename(tmp_path / "pair.img")
    nib.Nifti2Image(array, affine).to_filename(tmp_path / "two.nii.gz")
    big = nib.Nifti1Image(array, affine, nib.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    for name in ("pair.img", "pair.hdr", "two.nii.gz", "big.nii"):
        volume = read_nifti(tmp_path / name)
        assert np.array_equal(volume.array, array), name
        assert volume.array.dtype.isnative
        assert volume.same_geometry(expected)
        written = nib.load(
            write_nifti(volume, tmp_path / f"out-{name.split('.')[0]}.nii", overwrite=True)
        )
        assert np.array_equal(np.asanyarray(written.dataobj), array)
        assert isinstance(written, nib.Nifti2Image) == (name == "two.nii.gz")
        assert written.header["descrip"].item() == (b"pair" if "pair" in name else b"")


def test_stored_scaling_is_applied_and_not_repeated(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    image.to_filename(tmp_path / "a.nii")
    raw = np.asanyarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled())
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.array.dtype.kind == "f"
    np.testing.assert_allclose(volume.array, raw * 0.5 - 10)
    again = read_nifti(write_nifti(volume, tmp_path / "b.nii"))
    assert np.array_equal(again.array, volume.array)


def test_more_voxels_than_nifti_1_can_count(tmp_path):
    volume = Volume(np.zeros((40000, 1, 1), np.uint8), np.eye(4))
    again = read_nifti(write_nifti(volume, tmp_path / "a.nii"))
    assert again.shape == (40000, 1, 1)
    assert again.same_geometry(volume)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_equal_volumes_give_equal_bytes(tmp_path, rng, suffix):
    volume = Volume(values(rng, np.float32), np.eye(4))
    first = write_nifti(volume, tmp_path / f"first{suffix}").read_bytes()
    time.sleep(1.1)  # gzip counts seconds
    second = write_nifti(volume, tmp_path / f"second{suffix}").read_bytes()
    assert first == second
    if suffix == ".nii.gz":
        assert first[3] == 0  # no file name, no comment
        assert first[4:8] == b"\0\0\0\0"  # no time
        assert b"first" not in gzip.decompress(first)


def test_overwrite_refusal_changes_nothing(tmp_path, rng):
    path = write_nifti(Volume(values(rng, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    other = Volume(values(rng, np.int16), np.eye(4))
    with pytest.raises(OutputExistsError, match="overwrite"):
        write_nifti(other, path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    write_nifti(other, path, overwrite=True)
    assert np.array_equal(read_nifti(path).array, other.array)
    assert os.listdir(tmp_path) == ["a.nii.gz"]  # noqa: PTH208


def test_failed_write_leaves_nothing(tmp_path):
    volume = Volume(np.full(SHAPE, np.nan), np.eye(4))
    with pytest.raises(InvalidInputError, match="60 voxels are NaN"):
        write_nifti(volume, tmp_path / "a.nii.gz", dtype=np.int16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.img", "a.txt", "a", "a.gz", "a.mgz"])
def test_other_suffixes_are_not_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.nii or \.nii\.gz"):
        write_nifti(Volume(np.zeros(SHAPE), np.eye(4)), tmp_path / name)


def test_description_is_limited(tmp_path):
    volume = Volume(np.zeros(SHAPE, np.uint8), np.eye(4))
    assert (
        read_nifti(write_nifti(volume, tmp_path / "a.nii", description="µ" * 39)).description
        == "µ" * 39
    )
    with pytest.raises(UsageError, match="80 bytes"):
        write_nifti(volume, tmp_path / "b.nii", description="µ" * 40)


def test_conversion_to_the_type_of_a_file():
    assert as_file_dtype(np.array([True]), None).dtype == np.uint8
    assert as_file_dtype(np.array([1], np.float16), None).dtype == np.float32
    rounded = as_file_dtype(np.array([0.5, 1.5, 254.6, -0.4]), np.uint8)
    assert rounded.tolist() == [0, 2, 255, 0]
    assert rounded.dtype == np.uint8
    assert as_file_dtype(np.array([2**40], np.int64), np.float32).tolist() == [2.0**40]
    for bad, dtype in (
        (np.array([256]), np.uint8),
        (np.array([-1]), np.uint16),
        (np.array([2**63], np.uint64), np.int64),
        (np.array([2.0**63]), np.int64),
        (np.array([255.5]), np.uint8),
        (np.array([np.inf]), np.int16),
        (np.array([1j]), np.float32),
        (np.array([1e300]), np.float32),
    ):
        with pytest.raises(InvalidInputError):
            as_file_dtype(bad, dtype)


def test_types_that_nifti_cannot_hold(tmp_path):
    with pytest.raises(UsageError, match="float32"):
        write_nifti(Volume(np.zeros(SHAPE), np.eye(4)), tmp_path / "a.nii", dtype="U3")
    assert list(tmp_path.iterdir()) == []
