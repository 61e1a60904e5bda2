"""Boxes in the world: centred, oriented as they say, and placed on other grids without a mirror."""

import nibabel as nib
import numpy as np
import pytest
from brain.tiny_generator import SIZE, config, head, published

from medsci.brain.frame import Frame, Place, head_centre_mm
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([-5.0, 4.0, 4.5]), [40.0, -61.0, -35.0]
)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "PIR", "SAL"])
def test_the_axes_point_where_the_name_says_and_the_origin_is_the_centre(orientation):
    frame = Frame((6, 8, 5), (4.0, 3.0, 2.0), orientation)
    assert nib.aff2axcodes(frame.affine) == tuple(orientation)
    assert nib.affines.voxel_sizes(frame.affine) == pytest.approx((4.0, 3.0, 2.0))
    np.testing.assert_allclose(frame.affine @ [2.5, 3.5, 2.0, 1.0], [0, 0, 0, 1], atol=1e-12)
    assert not np.signbit(frame.affine[frame.affine == 0]).any()


def test_the_published_box_is_the_one_of_the_published_tool_but_centred():
    frame = Frame.of(published(training_size=(192, 224, 192), voxel_size_mm=(1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(frame.affine[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    np.testing.assert_array_equal(frame.affine[:3, 3], [95.5, 111.5, -95.5])
    assert frame.voxel_ml == pytest.approx(0.001)


def test_the_file_says_so_twice_with_code_1(tmp_path):
    frame = Frame((6, 8, 5), (4.0, 3.0, 2.0), "LPS")
    path = write_nifti(frame.volume(np.zeros((6, 8, 5), np.float32)), tmp_path / "x.nii.gz")
    image = nib.load(path)
    (sform, s_code), (qform, q_code) = image.get_sform(coded=True), image.get_qform(coded=True)
    assert (int(s_code), int(q_code)) == (1, 1)
    np.testing.assert_allclose(sform, frame.affine, atol=1e-6)
    np.testing.assert_allclose(qform, frame.affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("shape", "size", "orientation"),
    [
        ((0, 2, 2), (1.0, 1.0, 1.0), "RAS"),
        ((2, 2, 2), (1.0, 0.0, 1.0), "RAS"),
        ((2, 2, 2), (1.0, np.inf, 1.0), "RAS"),
        ((2, 2, 2), (1.0, 1.0, 1.0), "RLS"),
        ((2, 2, 2), (1.0, 1.0, 1.0), "RA"),
        ((2, 2, 2), (1.0, 1.0, 1.0), "ijk"),
    ],
)
def test_refuses_what_is_no_box(shape, size, orientation):
    with pytest.raises(UsageError, match="came; give"):
        Frame(shape, size, orientation)


def test_models_without_a_box_are_refused():
    network = {"kind": "unet_2d", "channels": (8, 32), "res_blocks": (1, 1), "norm_groups": 4}
    flat = config(network=network, covariates=(), image_channels=("real", "imaginary"))
    with pytest.raises(UsageError, match="2D images"):
        Frame.of(flat)
    with pytest.raises(UsageError, match="needs three of each"):
        Frame.of(config(training_size=()))
    with pytest.raises(UsageError, match="needs three of each"):
        Frame.of(config(voxel_size_mm=(4.0,)))


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(InvalidInputError, match="one value per voxel"):
        Frame((2, 3, 4), (1.0, 1.0, 1.0)).volume(np.zeros((4, 3, 2)))


# On the grid of somebody else


def reference(affine=OBLIQUE, shape=(36, 45, 38), *, moved_mm=(7.0, -3.0, 5.0), head_there=True):
    """A grid with, if asked, a ball of tissue around `moved_mm` and the centre of its view."""
    array = np.zeros(shape, np.float32)
    if head_there:
        middle = (affine @ [*((np.array(shape) - 1) / 2), 1.0])[:3] + moved_mm
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        array[np.linalg.norm(world - middle, axis=-1) < 55.0] = 100.0
    return Volume(array, affine, sform_code=1)


def generated(orientation="RAS", *, spot_only=False):
    frame = Frame(SIZE, (14.0, 14.0, 14.0), orientation)
    image = head()
    return frame.volume((image > 0.5).astype(np.float32) if spot_only else (image + 1.0) / 2.0)


def centroid_mm(volume: Volume) -> np.ndarray:
    """Centre of mass in the world; linear interpolation keeps it."""
    weight = volume.array.astype(float)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
    centre = (index * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    return (volume.affine @ [*centre, 1.0])[:3]


AFFINES = {
    "oblique": OBLIQUE,
    "flipped": nib.affines.from_matvec(np.diag([-4.0, -4.5, -5.0]), [70.0, 100.0, 90.0]),
    "permuted": nib.affines.from_matvec(
        np.array([[0, 0, 4.5], [-5.0, 0, 0], [0, 4.0, 0]]), [-80.0, 60.0, -130.0]
    ),
}


@pytest.mark.parametrize("orientation", ["RAS", "LPS"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_the_marker_stays_on_its_side_of_the_world(affine, orientation):
    image = generated(orientation, spot_only=True)
    place = Place.on(reference(affine), centre="fov")
    shift = place.shift_mm(image)
    found = place.onto(image, shift)
    np.testing.assert_array_equal(found.affine, affine)
    assert found.shape == (36, 45, 38)
    gap = centroid_mm(found) - (centroid_mm(image) + shift)
    assert np.abs(gap).max() < 0.2  # tents of 14 mm, seen every 4 to 5
    # the control: the same array read without its orientation lies elsewhere
    mirrored = Volume(np.flip(image.array, 0).copy(), image.affine, sform_code=1)
    assert np.abs(centroid_mm(place.onto(mirrored, shift)) - centroid_mm(found)).max() > 20.0


def test_the_centres_come_to_lie_on_each_other():
    image, ball = generated(), reference()
    place = Place.on(ball)
    assert place.centre == "head"
    middle = OBLIQUE @ [17.5, 22.0, 18.5, 1.0]
    np.testing.assert_allclose(np.array(place.target_mm) - middle[:3], [7.0, -3.0, 5.0], atol=0.5)
    moved = head_centre_mm(image) + np.array(place.shift_mm(image))
    np.testing.assert_allclose(moved, place.target_mm, atol=1e-9)
    view = Place.on(ball, centre="fov")
    np.testing.assert_allclose(view.target_mm, middle[:3], atol=1e-9)
    np.testing.assert_allclose(view.shift_mm(image), middle[:3], atol=1e-9)


def test_an_empty_reference_is_centred_on_its_view_and_an_empty_image_by_its_box():
    empty = reference(head_there=False)
    assert Place.on(empty).centre == "fov"
    with pytest.raises(InvalidInputError, match="no head"):
        Place.on(empty, centre="head")
    blank = Frame(SIZE, (14.0, 14.0, 14.0)).volume(np.zeros(SIZE, np.float32))
    place = Place.on(reference())
    assert place.shift_mm(blank) == place.target_mm


def test_a_series_is_no_grid():
    with pytest.raises(InvalidInputError, match="one 3D volume"):
        Place.on(Volume(np.zeros((4, 4, 4, 2)), np.eye(4)))


@pytest.mark.parametrize("codes", [(1, 1), (4, 0), (0, 2)])
def test_the_reference_keeps_its_affine_in_the_file_and_its_header_goes_nowhere(tmp_path, codes):
    ball = reference(OBLIQUE.astype(np.float32).astype(float), shape=(20, 24, 16))
    header = nib.Nifti1Header()
    header["descrip"] = b"patient 4711"
    source = Volume(
        ball.array, ball.affine, sform_code=codes[0], qform_code=codes[1], header=header
    )
    given = read_nifti(write_nifti(source, tmp_path / "ref.nii.gz"))
    place = Place.on(given)
    found = read_nifti(
        write_nifti(place.onto(generated(), place.shift_mm(generated())), tmp_path / "g.nii.gz")
    )
    assert found.sform_code == (codes[0] or codes[1])
    np.testing.assert_allclose(found.affine, given.affine, atol=1e-5 if codes[0] else 1e-3)
    assert found.description == ""
