import dataclasses
from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
from kspace_samples import (
    AFFINE,
    MASK,
    N_PHASE,
    SHAPE,
    centred_fft,
    centred_ifft,
    lines,
    noise,
    sample,
)

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace, Volume, read_nifti, write_nifti


def test_facts():
    kspace = sample()
    assert (kspace.n_slices, kspace.n_coils) == (3, 2)
    assert kspace.acceleration == pytest.approx(10 / 6)
    assert kspace.center_lines == range(3, 7)
    assert repr(kspace) == "KSpace(3 slices, 2 coils, 8 x 10, R = 1.67, 4 centre lines)"
    full = sample(data=noise(), mask=np.ones(N_PHASE, bool), crop=(4, 6), maps=noise())
    assert full.center_lines == range(10)
    assert repr(full) == (
        "KSpace(3 slices, 2 coils, 8 x 10, cropped to 4 x 6, R = 1.00, 10 centre lines, with maps)"
    )


@pytest.mark.parametrize(
    ("acquired", "block"),
    [((5,), range(5, 6)), ((4, 5, 6, 8), range(4, 7)), ((0, 5, 9), range(5, 6))],
)
def test_center_lines_are_the_unbroken_block(acquired, block):
    mask = lines(*acquired)
    assert sample(data=noise() * mask, mask=mask).center_lines == block


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("crop", [None, (4, 7), (7, 4)])
def test_volume_and_stack_are_inverse(axes, crop):
    """Every voxel of the stack is where `axes` says; the two transposes undo each other."""
    kspace = sample(axes=axes, crop=crop)
    image = np.arange(3 * 8 * 10, dtype=np.float32).reshape(3, 8, 10)
    volume = kspace.to_volume(image)
    rows, columns = crop or (8, 10)
    top, left = (8 - rows) // 2, (10 - columns) // 2
    for s, r, p in ((0, 0, 0), (2, rows - 1, 1), (1, 2, columns - 1)):
        voxel = [0, 0, 0]
        voxel[axes[0]], voxel[axes[1]], voxel[axes[2]] = s, r, p
        assert volume.array[tuple(voxel)] == image[s, r + top, p + left]
    cut = kspace.from_volume_array(volume.array)
    expected = np.zeros_like(image)
    inside = np.s_[:, top : top + rows, left : left + columns]
    expected[inside] = image[inside]
    assert np.array_equal(cut, expected)
    assert np.array_equal(kspace.to_volume(image[inside]).array, volume.array)


def test_zero_frequency_is_the_mean_and_the_crop_keeps_the_centre():
    """Proves the index conventions: DC at n // 2 in k-space, image centre kept by the crop."""
    image = np.zeros((1, 8, 10))
    image[0, 4, 5] = 1
    data = centred_fft(image)[:, None]
    np.testing.assert_allclose(data, 1 / np.sqrt(80), rtol=1e-6)
    kspace = KSpace(data, np.ones(10, bool), affine=AFFINE, crop=(4, 6))
    volume = kspace.to_volume(np.abs(centred_ifft(kspace.data[:, 0])))
    assert np.argwhere(volume.array > 0.5).tolist() == [[3, 2, 0]]


def rich_volume(tmp_path):
    image = nib.Nifti1Image(np.zeros((10, 8, 5), np.int16), AFFINE)
    image.header.set_sform(AFFINE, 4)
    image.header.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("micron", "sec")
    image.header["descrip"] = b"a phantom"
    image.header["db_name"] = b"Somebody's name"
    image.header["aux_file"] = b"C:\\Users\\x"
    image.to_filename(tmp_path / "source.nii")
    return read_nifti(tmp_path / "source.nii")


def test_reconstruction_carries_the_source_fields(tmp_path):
    volume = rich_volume(tmp_path).slab(2, 1, 4)
    kspace = KSpace.on_grid_of(volume, noise() * MASK, mask=MASK, axes=(2, 1, 0))
    result = kspace.to_volume(np.ones((3, 8, 10), np.float32))
    assert result.same_geometry(volume)
    written = read_nifti(write_nifti(result, tmp_path / "recon.nii.gz"))
    assert written.same_geometry(volume)
    assert (written.sform_code, written.qform_code) == (4, 1)
    assert written.units == ("micron", "sec")
    assert written.description == "a phantom"
    assert written.array.dtype == np.float32
    for secret in (b"omebody", b"Users"):
        assert secret not in kspace.header
        assert secret not in written.header.binaryblock
    named = dataclasses.replace(kspace, description="reconstructed")
    assert named.to_volume(np.ones((3, 8, 10))).description == "reconstructed"
    alone = dataclasses.replace(named, header=None)
    again = read_nifti(write_nifti(alone.to_volume(np.ones((3, 8, 10))), tmp_path / "b.nii"))
    assert again.description == "reconstructed"
    assert again.same_geometry(volume)


def test_grid_of_a_volume_must_fit():
    volume = Volume(np.zeros((10, 8, 3)), AFFINE)
    assert KSpace.on_grid_of(volume, noise() * MASK, mask=MASK).header is None
    with pytest.raises(InvalidInputError, match=r"must be \(10, 8, 3\)"):
        KSpace.on_grid_of(volume, noise() * MASK, mask=MASK, axes=(0, 1, 2))


def with_bad(value):
    data = noise() * MASK
    data[1, 1, 2, 5] = value
    return data


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": np.abs(noise())}, "float32, but it must be complex"),
    ({"data": noise((3, 2, 8))}, r"shape \(3, 2, 8\).*n_slices, n_coils"),
    ({"data": noise((3, 0, 8, 10))}, "none of them 0"),
    ({"data": with_bad(np.nan)}, "1 NaN or infinite"),
    ({"data": with_bad(complex(0, np.inf))}, "1 NaN or infinite"),
    ({"data": with_bad(1).astype(np.complex128) * 1e300}, "NaN or infinite"),
    ({"data": noise()}, "not acquired; set them to 0"),
    ({"mask": lines(4, 5, n_phase=9)}, "10 phase-encoding lines"),
    ({"mask": np.ones((8, 10), bool)}, "10 phase-encoding lines"),
    ({"mask": np.zeros(10, bool)}, "mask is empty"),
    ({"mask": np.full(10, 0.5)}, "True and False"),
    ({"mask": lines(0, 9), "data": noise() * lines(0, 9)}, "no centre lines.*fftshift"),
    ({"affine": np.zeros((4, 4))}, "affine"),
    ({"affine": np.eye(3)}, "affine"),
    ({"units": ("inch", "sec")}, "units"),
    ({"axes": (0, 1, 1)}, "in some order"),
    ({"crop": (9, 10)}, "within the image"),
    ({"crop": (0, 4)}, "within the image"),
    ({"reference": np.zeros((3, 8, 9), np.float32)}, "reference is float32 of shape"),
    ({"reference": np.zeros((3, 8, 10), np.complex64)}, "real magnitude"),
    ({"reference": np.full((3, 8, 10), np.nan)}, "reference holds NaN"),
    ({"maps": noise((3, 1, 8, 10))}, "coil maps have shape"),
    ({"maps": np.abs(noise())}, "coil maps array is float32"),
    ({"header": b"short"}, "5 bytes"),
    ({"attributes": {"x": float("nan")}}, "JSON"),
    ({"attributes": {"x": object()}}, "JSON"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(changes, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        sample(**changes)
    assert "\n" not in str(caught.value)


def test_wrong_image_shapes_are_refused():
    kspace = sample(crop=(4, 6))
    with pytest.raises(InvalidInputError, match=r"\(3, 8, 10\).*or cropped \(3, 4, 6\)"):
        kspace.to_volume(np.zeros((3, 8, 9)))
    with pytest.raises(InvalidInputError, match=r"is \(6, 4, 3\)"):
        kspace.from_volume_array(np.zeros((3, 4, 6)))


def test_other_number_types_are_converted():
    kspace = sample(data=(noise() * MASK).astype(np.complex128), mask=MASK.astype(np.float32),
                    reference=np.ones((3, 8, 10)))  # fmt: skip
    assert kspace.data.dtype == np.complex64
    assert kspace.mask.dtype == bool
    assert kspace.reference.dtype == np.float32
    assert kspace.data.shape == SHAPE
