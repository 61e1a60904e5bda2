"""Whole volumes: orientation, extent, voxel size, intensity, and what the seed does."""

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.data.augment import Augmentation
from medsci.data.nifti_volumes import NiftiVolumes
from medsci.data.source import Source
from medsci.errors import InvalidInputError, UsageError

STILL = {"augmentation": None}


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def head():
    data = np.zeros((12, 14, 10), dtype=np.float32)
    data[2:10, 2:12, 1:9] = 100.0
    data[8:10, 10:12, 1:9] = 200.0
    return data


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "head.nii.gz", head())


def test_it_is_a_source_and_depends_on_item_and_seed_only(volume):
    source = NiftiVolumes(volume)
    assert isinstance(source, Source)
    assert source.n_items == 1
    first = source.draw(0, 9)
    assert first.shape == (1, 12, 14, 10)
    assert first.dtype == torch.float32
    assert torch.equal(NiftiVolumes(volume).draw(0, 9), first)
    assert not torch.equal(source.draw(0, 10), first)
    with pytest.raises(IndexError, match="item 1 came"):
        source.draw(1, 0)


@pytest.mark.parametrize("axcodes", ["LPS", "PIR", "SAL"])
def test_every_orientation_gives_the_same_volume(tmp_path, volume, axcodes):
    image = nib.load(volume)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axcodes)
    )
    nib.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    turned, plain = (NiftiVolumes(tmp_path / n, **STILL) for n in ("turned.nii.gz", "head.nii.gz"))
    assert torch.equal(turned.draw(0, 0), plain.draw(0, 0))


def test_without_augmentation_the_values_are_the_files(volume):
    drawn = NiftiVolumes(volume, **STILL).draw(0, 5)
    expected = head() / np.percentile(head()[head() > 0], 99.0)
    np.testing.assert_array_equal(drawn[0].numpy(), expected)


def test_the_seed_mirrors_shifts_and_scales(volume):
    source = NiftiVolumes(volume, size=(32, 34, 30), augmentation=Augmentation(max_shift=5))
    still = NiftiVolumes(volume, size=(32, 34, 30), **STILL).draw(0, 0)[0].numpy()
    mirrored, gains, shifts = [], [], []
    for seed in range(120):
        x = source.draw(0, seed)[0].numpy()
        gain = x.max() / still.max()
        for flip in (False, True):
            base = still[::-1] if flip else still
            where = [np.argwhere(v > 0).min(axis=0) for v in (x, base)]
            move = where[0] - where[1]
            if np.allclose(np.roll(base, move, (0, 1, 2)) * gain, x, atol=1e-5):
                mirrored.append(flip)
                shifts.append(move)
        gains.append(gain)
    assert len(mirrored) == 120  # every draw is exactly one of the two
    assert 40 < sum(mirrored) < 80
    assert np.abs(shifts).max() == 5
    assert 0.8 <= min(gains) < 0.83
    assert 1.21 < max(gains) <= 1.2501


def test_size_crops_and_pads_about_the_centre(tmp_path):
    data = np.zeros((13, 9, 11), dtype=np.float32)
    data[6, 4, 5] = 1.0
    path = save(tmp_path / "dot.nii", data)
    for size in ((5, 15, 11), (21, 3, 1)):
        drawn = NiftiVolumes(path, size=size, **STILL).draw(0, 0)[0]
        assert drawn.shape == size
        assert tuple(int(i) for i in torch.nonzero(drawn)[0]) == tuple(n // 2 for n in size)


@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
def test_resampling_keeps_the_place_in_millimetres(tmp_path, unit):
    """A Gaussian blob keeps its centre of mass and its mass times voxel volume."""
    spacing = np.array([2.0, 1.0, 3.0])
    shape = (30, 60, 20)
    factor = {"mm": 1.0, "micron": 1e3, "meter": 1e-3}[unit]
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * spacing
    middle = (np.array(shape) - 1) / 2 * spacing
    blob = np.exp(-0.5 * (((grid - middle - [4.0, -5.0, 3.0]) / 6.0) ** 2).sum(-1))
    image = nib.Nifti1Image(blob.astype(np.float32), np.diag([*spacing * factor, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "blob.nii.gz")
    source = NiftiVolumes(tmp_path, voxel_size_mm=(1.5, 2.0, 3.0), intensity=(0, 1), **STILL)
    out = source.draw(0, 0)[0].double().numpy()
    assert out.shape == (40, 30, 20)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in out.shape], indexing="ij"), -1)
    place = (index - (np.array(out.shape) - 1) / 2) * (1.5, 2.0, 3.0)
    centre = (place * out[..., None]).sum((0, 1, 2)) / out.sum()
    np.testing.assert_allclose(centre, [4.0, -5.0, 3.0], atol=0.05)
    assert out.sum() * 9.0 == pytest.approx(blob.sum() * 6.0, rel=0.01)


def test_equal_voxels_are_not_touched(volume):
    a = NiftiVolumes(volume, **STILL).draw(0, 0)
    b = NiftiVolumes(volume, voxel_size_mm=(1, 1, 1), **STILL).draw(0, 0)
    assert torch.equal(a, b)


def test_a_window_in_hounsfield_units_is_mapped_and_clipped(tmp_path):
    data = np.full((6, 6, 6), -1000, dtype=np.int16)
    data[1:5, 1:5, 1:5] = np.int16(40)
    data[2, 2, 2], data[3, 3, 3] = 1500, -160
    path = save(tmp_path / "ct.nii.gz", data)
    x = NiftiVolumes(path, intensity=(-160, 240), size=(8, 8, 8), **STILL).draw(0, 0)[0]
    assert x[0, 0, 0] == 0.0
    assert x[1, 1, 1] == 0.0
    assert x[3, 3, 3] == 1.0
    assert x[4, 4, 4] == 0.0
    assert x[2, 2, 2] == 0.5
    moved = NiftiVolumes(path, intensity=(-160, 240), size=(8, 8, 8)).draw(0, 3)
    assert moved.max() == 1.0  # no gain where numbers have a meaning


def test_minmax_and_zscore_do_what_they_say(tmp_path):
    generator = np.random.default_rng(0)
    data = np.zeros((10, 10, 10), dtype=np.float32)
    data[2:8, 2:8, 2:8] = generator.normal(-50.0, 20.0, (6, 6, 6))
    path = save(tmp_path / "v.nii", data)
    x = NiftiVolumes(path, intensity="minmax", **STILL).draw(0, 0)
    assert (x.min(), x.max()) == (0.0, 1.0)
    z = NiftiVolumes(path, intensity="zscore", **STILL).draw(0, 0)[0]
    inside = z[2:8, 2:8, 2:8]
    assert inside.mean().abs() < 1e-5
    assert inside.std(unbiased=False) == pytest.approx(1.0, abs=1e-5)
    assert z.abs().sum() == inside.abs().sum()


def test_complex_files_and_single_frames_are_taken(tmp_path):
    phase = np.exp(1j * np.linspace(0, 3, 10))[None, None]
    save(tmp_path / "z.nii", (head() * phase).astype(np.complex64))
    save(tmp_path / "frame.nii", head()[..., None])
    a, b = (NiftiVolumes(tmp_path, **STILL).draw(i, 0) for i in (0, 1))
    torch.testing.assert_close(a, b)
    two = NiftiVolumes(tmp_path, channels="complex", **STILL).draw(1, 8)
    assert two.shape == (2, 12, 14, 10)
    torch.testing.assert_close(two.square().sum(0).sqrt(), a[0])
    assert two[1].abs().max() > 0.01


def test_the_most_negative_integer_is_the_brightest(tmp_path):
    data = np.ones((4, 4, 4), dtype=np.int16)
    data[0, 0, 0] = -32768
    x = NiftiVolumes(save(tmp_path / "i.nii", data), **STILL).draw(0, 0)
    assert x[0, 0, 0, 0] == x.max() > 0


def test_float16_is_half_and_near(volume):
    full, half = (NiftiVolumes(volume, dtype=d, **STILL) for d in ("float32", "float16"))
    assert half._prepared.load(0).nbytes * 2 == full._prepared.load(0).nbytes
    torch.testing.assert_close(half.draw(0, 0), full.draw(0, 0), rtol=1e-3, atol=0)
    assert half.draw(0, 0).dtype == torch.float32


def test_extents_that_differ_ask_for_a_size(tmp_path, volume):
    save(tmp_path / "z.nii", head()[:10])
    with pytest.raises(InvalidInputError, match=r"\(12, 14, 10\) and .*\(10, 14, 10\); set size"):
        NiftiVolumes(tmp_path)
    assert NiftiVolumes(tmp_path, size=(8, 8, 8)).n_items == 2


@pytest.mark.parametrize("bad", [{"max_shift": -1}, {"gain": 0.5}])
def test_augmentations_are_checked(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Augmentation(**bad)
