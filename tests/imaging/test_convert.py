import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from imaging_grids import SHAPE, oriented_affine

from medsci.errors import InvalidInputError
from medsci.imaging import Volume, as_volume, return_kind, write_nifti

ARRAY = np.arange(60, dtype=np.int16).reshape(SHAPE)
AFFINE = oriented_affine((1, 2, 0), (-1, 1, 1), tilt=0.3)


def test_volume_and_path(tmp_path):
    volume = Volume(ARRAY, AFFINE)
    assert as_volume(volume) is volume
    path = write_nifti(volume, tmp_path / "a.nii")
    for given in (path, str(path)):
        read = as_volume(given)
        assert np.array_equal(read.array, ARRAY)
        assert read.path == path
        assert return_kind(read, like=given) is read
    assert return_kind(volume, like=read) is volume


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.int16, torch.complex64, torch.bfloat16, torch.bool]
)
def test_tensor_and_affine(dtype):
    tensor, affine = torch.from_numpy(ARRAY.copy()).to(dtype), torch.from_numpy(AFFINE)
    volume = as_volume((tensor.requires_grad_(dtype.is_floating_point), affine))
    np.testing.assert_array_equal(volume.affine, AFFINE)
    back, back_affine = return_kind(volume.canonical().to_grid_of(volume), like=(tensor, affine))
    assert isinstance(back, torch.Tensor)
    assert back.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    torch.testing.assert_close(back, tensor.detach().to(back.dtype), rtol=0, atol=0)
    torch.testing.assert_close(back_affine, affine, rtol=0, atol=0)


def test_array_and_affine():
    back, affine = return_kind(as_volume((ARRAY, AFFINE)), like=(ARRAY, AFFINE))
    assert isinstance(back, np.ndarray)
    assert back.tobytes() == ARRAY.tobytes()
    assert affine.tobytes() == AFFINE.tobytes()
    affine[0, 0] = 5  # the caller's own, not the volume's read-only one


@pytest.mark.parametrize("image_type", [nib.Nifti1Image, nib.Nifti2Image])
def test_nibabel(image_type):
    image = image_type(ARRAY, AFFINE)
    image.header["descrip"] = b"kept"
    volume = as_volume(image)
    assert volume.array is ARRAY or np.shares_memory(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    back = return_kind(volume.with_array(ARRAY * 2.5), like=image)
    assert type(back) is image_type
    assert back.header["descrip"].item() == b"kept"
    assert back.get_data_dtype() == np.float64
    assert np.array_equal(back.affine, image.header.get_best_affine())


def test_nibabel_in_micron():
    image = nib.Nifti1Image(ARRAY, AFFINE)
    image.header.set_xyzt_units("micron")
    volume = as_volume(image)
    np.testing.assert_allclose(volume.affine[:3], AFFINE[:3] / 1e3, rtol=1e-5)
    np.testing.assert_allclose(return_kind(volume, like=image).affine, AFFINE, rtol=1e-5)


def sitk_image(shape, *, components=1):
    array = np.arange(np.prod(shape) * components, dtype=np.float32)
    array = array.reshape(*shape[::-1], *((components,) if components > 1 else ()))
    image = SimpleITK.GetImageFromArray(array, isVector=components > 1)
    image.SetSpacing([0.5 + n for n in range(len(shape))])
    image.SetOrigin([10.0 * (n + 1) for n in range(len(shape))])
    if len(shape) == 3:
        image.SetDirection((0, 0, 1, 0.6, -0.8, 0, 0.8, 0.6, 0))
    return image


@pytest.mark.parametrize(
    ("shape", "components"),
    [((3, 4, 5), 1), ((3, 4, 5), 2), ((3, 4), 1), ((3, 4), 3), ((3, 4, 5, 2), 1)],
)
def test_sitk_there_and_back(shape, components):
    image = sitk_image(shape, components=components)
    volume = as_volume(image)
    assert volume.shape[:3] == (*shape, 1)[:3]
    back = return_kind(volume, like=image)
    assert back.GetSize() == image.GetSize()
    assert back.GetNumberOfComponentsPerPixel() == components
    assert np.array_equal(SimpleITK.GetArrayFromImage(back), SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(back.GetDirection(), image.GetDirection(), atol=1e-12)
    np.testing.assert_allclose(back.GetSpacing()[:3], image.GetSpacing()[:3])
    np.testing.assert_allclose(back.GetOrigin()[:3], image.GetOrigin()[:3])


def test_sitk_world_points_are_ours_with_the_sign_of_lps():
    image = sitk_image((3, 4, 5))
    volume = as_volume(image)
    lps = np.diag([-1.0, -1, 1, 1])
    for index in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        theirs = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], theirs * (-1, -1, 1))
        assert image.GetPixel(*index) == volume.array[index]
        naive = (lps @ volume.affine @ [*index, 1])[:3]
        assert not np.allclose(naive, theirs * (-1, -1, 1))  # control: no conversion


def test_sitk_limits():
    image = sitk_image((3, 4, 5))
    volume = as_volume(image)
    assert (
        return_kind(volume.with_array(volume.array > 3), like=image).GetPixelID()
        == SimpleITK.sitkUInt8
    )
    with pytest.raises(InvalidInputError, match="components cannot hold"):
        return_kind(volume.with_array(np.zeros((3, 4, 5, 2, 2))), like=image)


@pytest.mark.parametrize("given", [None, 3, ARRAY, (ARRAY,), [ARRAY, AFFINE]])
def test_other_kinds_are_refused(given):
    with pytest.raises(InvalidInputError, match=r"\(array, affine\)"):
        as_volume(given)
    with pytest.raises(InvalidInputError, match="as_volume"):
        return_kind(Volume(ARRAY, AFFINE), like=given)


def test_other_nibabel_formats_are_refused():
    with pytest.raises(InvalidInputError, match="MGHImage, not NIfTI"):
        as_volume(nib.MGHImage(ARRAY.astype(np.float32), AFFINE))


def test_bare_slice_is_refused():
    with pytest.raises(InvalidInputError, match="add an axis"):
        as_volume((ARRAY[0], AFFINE))
