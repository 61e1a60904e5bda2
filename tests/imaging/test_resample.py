"""Windows, voxel sizes and foreign grids: every value stays where it is in the patient."""

import numpy as np
import pytest
from imaging_grids import ORIENTATIONS, SHAPE, name_of, oriented_affine

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_spacing, resample_to, window

TILTED = oriented_affine((1, 0, 2), (-1, 1, 1), tilt=0.3)
RNG = np.random.default_rng(5)


def world_of(volume):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape[:3]], indexing="ij"), -1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def linear(place):
    """A function of world coordinates that splines of any order reproduce."""
    return 3.0 + place @ (0.5, -0.25, 1.0)


def painted(shape, affine, function=linear):
    volume = Volume(np.zeros(shape, np.float32), affine)
    return volume.with_array(function(world_of(volume)).astype(np.float32))


def test_a_window_crops_and_pads_and_moves_the_affine():
    volume = Volume(RNG.random((5, 6, 7), np.float32), TILTED)
    found = window(volume, (-2, 1, 3), (6, 3, 8), outside=-1)
    assert found.shape == (6, 3, 8)
    np.testing.assert_array_equal(found.array[2:, :, :4], volume.array[:4, 1:4, 3:])
    assert (found.array[:2] == -1).all()
    assert (found.array[:, :, 4:] == -1).all()
    shift = np.eye(4)
    shift[:3, 3] = (-2, 1, 3)
    np.testing.assert_allclose(found.affine, TILTED @ shift, rtol=0, atol=1e-12)
    assert (window(volume, (9, 9, 9), (2, 2, 2)).array == 0).all(), "nothing of it in the window"
    with pytest.raises(UsageError, match="one voxel or more"):
        window(volume, (0, 0, 0), (1, 0, 1))


@pytest.mark.parametrize("order", [1, 3])
def test_new_voxel_sizes_keep_the_world(order):
    volume = painted((20, 24, 12), TILTED)
    found = resample_spacing(volume, (1.0, 1.25, 1.7), order=order)
    assert found.spacing_mm == pytest.approx((1.0, 1.25, 1.7), rel=1e-12)
    assert found.shape == (15, 24, 18)
    inner = (slice(6, -6),) * 3  # the border goes on as a constant, not as the line
    truth = linear(world_of(found))[inner]
    np.testing.assert_allclose(found.array[inner], truth, rtol=0, atol=2e-2 if order == 3 else 1e-3)
    moved = world_of(found) + np.array([0.5, 0.0, 0.0])
    wrong = linear(moved)[inner]  # control
    assert np.abs(found.array[inner] - wrong).min() > 0.2


def test_equal_sizes_are_left_alone():
    volume = painted((6, 6, 6), np.diag([1.0, 1.00005, 0.99995, 1.0]))
    assert resample_spacing(volume, (1, 1, 1)) is volume
    one = resample_spacing(volume, (1, 1, 1.5))
    assert one.shape == (6, 6, 4)


@pytest.mark.parametrize("factor", [2, 4])
def test_down_sampling_does_not_alias(factor):
    """A wave of the finest kind, gone in voxels `factor` times as large; sampled it would stay."""
    i = np.arange(64)
    wave = np.cos(np.pi * (1.0 - 0.5 / factor) * i)[:, None, None] * np.ones((1, 8, 8))
    volume = Volume((100.0 + 10.0 * wave).astype(np.float32), np.eye(4))
    fine = resample_spacing(volume, (factor, 1, 1), order=3)
    inside = fine.array[4:-4]
    bare = volume.array[::factor][4:-4]
    assert np.ptp(bare) > 10.0, "control: every other voxel folds the wave into a slow one"
    assert np.ptp(inside) < 0.3 * np.ptp(bare)
    assert inside.mean() == pytest.approx(100.0, abs=0.5)
    nearest = resample_spacing(volume, (factor, 1, 1), order=0)
    assert set(np.unique(nearest.array)) <= set(np.unique(volume.array)), "labels are never mixed"


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5], ids=name_of)
def test_whole_voxels_are_copied_bit_for_bit(orientation):
    volume = Volume(RNG.integers(0, 255, SHAPE).astype(np.uint8), oriented_affine(*orientation))
    like = window(volume.to_orientation("LPS"), (-1, 1, -2), (7, 5, 6), outside=9)
    found = resample_to(volume, like, order=3, outside=9)
    np.testing.assert_array_equal(found.array, like.array)
    assert found.array.dtype == np.float32
    back = resample_to(found, volume, order=0, outside=9)
    known = resample_to(like.with_array(np.ones(like.shape, np.uint8)), volume, order=0).array > 0
    assert known.any()
    np.testing.assert_array_equal(back.array[known], volume.array[known])
    assert (back.array[~known] == 9).all()


@pytest.mark.parametrize("order", [1, 3])
def test_another_grid_of_the_same_world(order):
    volume = painted((30, 34, 20), TILTED)
    other = oriented_affine((2, 0, 1), (1, -1, -1), tilt=-0.2)
    other[:3, 3] = volume.affine[:3, :3] @ (15, 17, 10) + volume.affine[:3, 3]
    like = Volume(np.zeros((4, 5, 3)), other, sform_code=3, qform_code=3)
    found = resample_to(volume, like, order=order)
    assert (found.sform_code, found.qform_code) == (3, 3)
    np.testing.assert_array_equal(found.affine, like.affine)
    np.testing.assert_allclose(found.array, linear(world_of(like)), rtol=0, atol=3e-2)
    moved = other.copy()
    moved[0, 3] += 1.0
    wrong = resample_to(volume, Volume(np.zeros((4, 5, 3)), moved), order=order)  # control
    assert np.abs(wrong.array - linear(world_of(like))).min() > 0.3


def test_beyond_the_image_is_beyond_and_channels_stay():
    volume = Volume(np.ones((8, 8, 8, 2), np.float32), np.eye(4))
    shifted = np.eye(4)
    shifted[:3, 3] = 5.25
    found = resample_to(volume, Volume(np.zeros((6, 6, 6)), shifted), outside=-7)
    assert found.shape == (6, 6, 6, 2)
    assert (found.array[:2, :2, :2] == 1).all()
    assert (found.array[3:] == -7).all()
    assert found.array[2, 0, 0, 0] == 1, "7.25 lies within the last voxel"


def test_what_cannot_be_resampled_is_said():
    volume = Volume(np.ones((4, 4, 4)), np.eye(4))
    with pytest.raises(UsageError, match="three positive sizes"):
        resample_spacing(volume, (1, 0, 1))
    with pytest.raises(InvalidInputError, match="check the voxel sizes"):
        resample_spacing(volume, (1e-4, 1e-4, 1e-4))
    with pytest.raises(InvalidInputError, match="real and imaginary"):
        resample_to(Volume(np.ones((4, 4, 4), np.complex64), np.eye(4)), volume)
    with pytest.raises(InvalidInputError, match="three axes"):
        resample_spacing(Volume(np.ones((4, 4, 4, 2)), np.eye(4)), (2, 2, 2))
