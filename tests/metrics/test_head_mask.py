"""Head mask on a synthetic head: bright scalp, dark skull, brain with dark ventricles."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from medsci.errors import InvalidInputError
from medsci.metrics import head_mask

SHAPE = (72, 84, 70)
SEMI_AXES = np.array([27.0, 33.0, 26.0])


def radius():
    """Return the distance from the volume's centre, 1 at the outer scalp."""
    axes = [np.arange(n) - (n - 1) / 2 for n in SHAPE]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(sum((g / s) ** 2 for g, s in zip(grid, SEMI_AXES, strict=True)))


@pytest.fixture(scope="module")
def head():
    """Return (image, truth): scalp 900, skull 15 (6 mm), brain 500, ventricles 60, noisy air."""
    r = radius()
    image = np.zeros(SHAPE)
    image[r <= 1] = 900
    image[r <= 0.9] = 15
    image[r <= 0.7] = 500
    image[r <= 0.2] = 60
    noise = np.random.default_rng(0).normal(scale=12, size=(2, *SHAPE))
    return np.hypot(image + noise[0], noise[1]), r <= 1


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_mask_is_the_whole_head(head):
    image, truth = head
    mask = head_mask(image)
    assert mask.dtype == bool
    assert dice(mask, truth) > 0.96
    assert mask[radius() <= 0.9].all()  # skull and ventricles belong to it
    assert (distance_transform_edt(~truth)[mask] <= 1.5).all()  # and next to no air


def test_a_threshold_alone_loses_the_skull(head):
    image, truth = head
    bright = image > 200  # control: what the closing and filling are for
    assert dice(bright, truth) < 0.8
    assert not bright[(radius() > 0.75) & (radius() < 0.85)].any()


def test_slab_keeps_skull_and_end_slices(head):
    image, truth = head
    mask = head_mask(image[:, :, 25:45])
    assert dice(mask, truth[:, :, 25:45]) > 0.98
    for k in (0, -1):
        assert dice(mask[:, :, k], truth[:, :, 25:45][:, :, k]) > 0.97


def test_single_slice_and_thick_slices(head):
    image, truth = head
    assert dice(head_mask(image[:, :, 35]), truth[:, :, 35]) > 0.97
    thick = head_mask(image[:, :, 2::4], spacing_mm=(1.0, 1.0, 4.0))
    assert dice(thick, truth[:, :, 2::4]) > 0.97


def test_other_objects_are_left_out(head):
    image, truth = head
    marked = image.copy()
    marked[:4, :4, :4] = 2000  # a vitamin capsule in the corner
    mask = head_mask(marked)
    assert not mask[:5, :5, :5].any()
    assert dice(mask, truth) > 0.96


def test_mask_ignores_scale_storage_type_and_flips(head):
    image, _ = head
    mask = head_mask(image)
    assert np.array_equal(head_mask(image * 1e-3), mask)
    assert np.array_equal(head_mask(torch.from_numpy(image)), mask)
    assert np.array_equal(head_mask(image[::-1, :, ::-1])[::-1, :, ::-1], mask)


def test_bad_input_is_named(head):
    image, _ = head
    with pytest.raises(InvalidInputError, match="no head to find"):
        head_mask(np.ones((9, 9)))
    with pytest.raises(InvalidInputError, match="one positive number per axis"):
        head_mask(image, spacing_mm=(1.0, 1.0))
    with pytest.raises(InvalidInputError, match="2D image or a 3D volume"):
        head_mask(image[None])
    with pytest.raises(InvalidInputError, match="NaN"):
        head_mask(np.full((9, 9), np.nan))
