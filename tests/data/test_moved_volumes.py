"""Volumes turned and shifted by fractions, stretched to a range, and with label maps beside."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from medsci.data.augment import Augmentation, turned
from medsci.data.label_maps import LabelFractions, label_map_of
from medsci.data.nifti_volumes import NiftiVolumes
from medsci.data.reading import UnreadableError
from medsci.errors import InvalidInputError, UsageError

STILL = {"augmentation": None}


def save(path, data, voxel_mm=1.0):
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def blob(shape, centre, width=2.5):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return np.exp(-0.5 * (((grid - np.asarray(centre)) / width) ** 2).sum(-1)).astype(np.float32)


def centre_of(volume):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), -1)
    return (index * volume[..., None]).sum((0, 1, 2)) / volume.sum()


@pytest.mark.parametrize(
    "angles", [(0.3, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.3), (0.2, -0.3, 0.25)]
)
def test_a_point_goes_where_the_rotation_sends_it(angles):
    """Each rotation is right-handed about its axis, first i, then j, then k."""
    shape, start, shift = (40, 38, 36), np.array([25.0, 15.0, 22.0]), np.array([1.5, -2.25, 0.5])
    middle = (np.array(shape) - 1) / 2
    expected = Rotation.from_euler("xyz", angles).apply(start - middle) + middle + shift
    moved = turned(blob(shape, start), angles, shift=shift)
    np.testing.assert_allclose(centre_of(moved), expected, atol=0.02)
    wrong = Rotation.from_euler("xyz", angles).inv().apply(start - middle) + middle + shift
    assert np.abs(centre_of(moved) - wrong).max() > 0.5, "control: the other sense"


def test_nothing_moved_is_the_same_and_the_border_is_repeated():
    volume = np.random.default_rng(0).random((2, 6, 7, 8)).astype(np.float32)
    same = turned(volume, (0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(same, volume, atol=1e-6)
    moved = turned(volume, (0.0, 0.0, 0.0), shift=(2.0, 0.0, 0.0))
    np.testing.assert_allclose(moved[:, 2:], volume[:, :-2], atol=1e-6)
    np.testing.assert_allclose(moved[:, :2], np.repeat(volume[:, :1], 2, axis=1), atol=1e-6)


def test_the_seed_turns_half_of_the_draws_within_reach(tmp_path):
    start = np.array([30.0, 20.0, 16.0])
    save(tmp_path / "a.nii", blob((40, 40, 40), start))
    change = Augmentation(mirror=False, max_shift=3, gain=1.0, max_rotation_deg=5.0)
    source = NiftiVolumes(tmp_path, augmentation=change, intensity="minmax")
    still = NiftiVolumes(tmp_path, intensity="minmax", **STILL).draw(0, 0)
    moves, same = [], 0
    for seed in range(60):
        drawn = source.draw(0, seed)
        assert torch.equal(drawn, source.draw(0, seed))
        same += torch.equal(drawn, still)
        if not torch.equal(drawn, still):
            moves.append(centre_of(drawn[0].numpy()) - start)
    assert 18 <= same <= 42
    reach = 3.0 + np.deg2rad(5.0) * np.sqrt(2.0) * 11.0  # shift, and two turns of the lever arm
    assert np.abs(moves).max() < reach
    assert np.abs(moves).max(0).min() > 1.5
    fractions = np.abs(np.array(moves) % 1.0 - 0.5)
    assert fractions.std() > 0.05, "shifts are not whole voxels"


def test_a_range_is_reached_at_both_ends_and_padding_is_its_low_end(tmp_path):
    save(tmp_path / "a.nii", 7.0 + 3.0 * blob((10, 10, 10), (5, 5, 5)))
    known = {"intensity": "minmax", "size": (14, 12, 10)}
    source = NiftiVolumes(tmp_path, value_range=(-1, 1), **known, **STILL)
    x = source.draw(0, 0)
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert (x[0, 0] == -1.0).all()
    plain = NiftiVolumes(tmp_path, **known, **STILL).draw(0, 0)
    torch.testing.assert_close(x, 2.0 * plain - 1.0)
    shifted = NiftiVolumes(tmp_path, value_range=(-1, 1), augmentation=Augmentation(), **known)
    assert all(shifted.draw(0, seed).min() == -1.0 for seed in range(5))
    for wrong in ((1, -1), (0, 1, 2)):
        with pytest.raises(UsageError, match="low below high"):
            NiftiVolumes(tmp_path, value_range=wrong, **known)
    with pytest.raises(UsageError, match="needs minmax or a window"):
        NiftiVolumes(tmp_path, value_range=(-1, 1))


def labelled(folder, name="sub-1", voxel_mm=1.0, shape=(12, 16, 8)):
    image = np.random.default_rng(3).random(shape).astype(np.float32)
    labels = np.zeros(shape, dtype=np.int16)
    labels[2:6], labels[6:9], labels[9:11] = 1, 2, 3
    labels[0, 0, 0] = 9
    save(folder / f"{name}_T1w.nii.gz", image, voxel_mm)
    save(folder / f"{name}_dseg.nii.gz", labels, voxel_mm)
    return image, labels


def test_label_maps_become_channels_that_move_with_the_image(tmp_path):
    image, labels = labelled(tmp_path)
    known = {"labels": ("_dseg", (1, 2, 3)), "intensity": "minmax"}
    source = NiftiVolumes(tmp_path, **known, **STILL)
    assert source.n_items == 1, "the label map is no image"
    x = source.draw(0, 0).numpy()
    assert x.shape == (4, 12, 16, 8)
    for channel, value in enumerate((1, 2, 3), start=1):
        np.testing.assert_array_equal(x[channel], np.where(labels == value, 1.0, -1.0))
    assert (np.abs(x[1:]) == 1.0).all()
    change = Augmentation(max_shift=2, gain=1.0)
    moving = NiftiVolumes(tmp_path, augmentation=change, **known)
    values = {float(v): int(k) for v, k in zip(image.ravel(), labels.ravel(), strict=True)}
    drawn = moving.draw(0, 4)
    rescaled = (drawn[0] * (image.max() - image.min()) + image.min()).numpy()
    keys = np.array(sorted(values))
    inside = np.abs(keys[np.searchsorted(keys, rescaled).clip(0, len(keys) - 1)] - rescaled) < 1e-6
    for at in np.argwhere(inside & (rescaled > 0.01))[::97]:
        key = keys[np.searchsorted(keys, rescaled[tuple(at)]).clip(0, len(keys) - 1)]
        expected = [1.0 if values[key] == v else -1.0 for v in (1, 2, 3)]
        assert drawn[(slice(1, None), *at)].tolist() == expected


def test_coarser_voxels_hold_fractions(tmp_path):
    _, labels = labelled(tmp_path, shape=(24, 32, 16))
    fractions = LabelFractions((1, 2, 3), (2.0, 2.0, 2.0), (12, 16, 8))
    p = fractions.read(tmp_path / "sub-1_dseg.nii.gz")
    assert p.shape == (3, 12, 16, 8)
    assert p.min() >= 0.0
    assert p.max() <= 1.0
    assert ((p > 0.1) & (p < 0.9)).any(), "borders are shared"
    for channel, value in enumerate((1, 2, 3)):
        assert p[channel].sum() * 8.0 == pytest.approx((labels == value).sum(), rel=0.05)
    assert p.sum(0).max() <= 1.0 + 1e-5


def test_names_of_label_maps_and_what_is_missing(tmp_path):
    labelled(tmp_path, "sub-1")
    assert label_map_of(tmp_path / "sub-1_T1w.nii.gz", suffix="_dseg").name == "sub-1_dseg.nii.gz"
    save(tmp_path / "one.nii", np.ones((12, 16, 8), np.float32))
    save(tmp_path / "one_dseg.nii.gz", np.ones((12, 16, 8), np.int16))
    assert label_map_of(tmp_path / "one.nii", suffix="_dseg").name == "one_dseg.nii.gz"
    save(tmp_path / "two_T1w.nii", np.ones((12, 16, 8), np.float32))
    save(tmp_path / "empty_T1w.nii", np.ones((12, 16, 8), np.float32))
    save(tmp_path / "empty_dseg.nii", np.zeros((12, 16, 8), np.int16))
    source = NiftiVolumes(tmp_path, labels=("_dseg", (1, 2, 3)), **STILL)
    assert source.n_items == 2
    assert sorted(path.name for path, _ in source.skipped) == ["empty_dseg.nii", "two_T1w_dseg.nii"]
    with pytest.raises(UnreadableError, match="none of the values"):
        LabelFractions((7,)).read(tmp_path / "one_dseg.nii.gz")
    with pytest.raises(InvalidInputError, match="put one beside it, named _seg"):
        NiftiVolumes(tmp_path / "two_T1w.nii", labels=("_seg", (1,)), **STILL)
    with pytest.raises(UsageError, match="each once"):
        LabelFractions((1, 1))
    with pytest.raises(UsageError, match="use magnitude"):
        NiftiVolumes(tmp_path, labels=("_dseg", (1,)), channels="complex")
    save(tmp_path / "sub-1_dseg.nii.gz", np.ones((12, 16, 9), np.int16))
    with pytest.raises(InvalidInputError, match="same grid"):
        NiftiVolumes(tmp_path / "sub-1_T1w.nii.gz", labels=("_dseg", (1,)), **STILL).draw(0, 0)


def test_a_cache_of_images_and_label_maps_gives_the_same(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    labelled(folder)
    known = {"labels": ("_dseg", (1, 2, 3)), "size": (14, 14, 10)}
    plain = NiftiVolumes(folder, **known).draw(0, 5)
    for _ in range(2):
        cached = NiftiVolumes(folder, cache_dir=tmp_path / "cache", **known)
        assert torch.equal(cached.draw(0, 5), plain)
    map_file = folder / "sub-1_dseg.nii.gz"
    save(map_file, np.ones((12, 16, 8), np.int16))
    changed = NiftiVolumes(folder, cache_dir=tmp_path / "cache", **known).draw(0, 5)
    assert not torch.equal(changed, plain), "another label map, another entry"
