"""Random patches: where they come from, what they hold, and the law of their places."""

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.data.listing import list_cases
from medsci.data.nifti_patches import NiftiPatches, PatchLaw, _foreground_voxel
from medsci.data.source import Source
from medsci.errors import UsageError

SHAPE = (14, 12, 10)
STRAIGHT = {"intensity": (0, 2000), "law": PatchLaw(mirror=False)}


def numbered():
    """Every voxel holds its own number, from 1."""
    return (1 + np.arange(np.prod(SHAPE))).reshape(SHAPE).astype(np.float32)


def save(path, data):
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "v.nii.gz", numbered())


def corner(patch):
    """Return where in the volume a patch of the numbered volume begins."""
    first = round(float(patch.min()) * 2000)
    return tuple(int(i) for i in np.argwhere(numbered() == first)[0])


def test_it_is_a_source_and_depends_on_item_and_seed_only(volume):
    source = NiftiPatches(volume, size=(4, 5, 6), law=PatchLaw(per_volume=3))
    assert isinstance(source, Source)
    assert source.n_items == 3
    first = source.draw(1, 7)
    assert first.shape == (1, 4, 5, 6)
    assert first.dtype == torch.float32
    source.draw(0, 1)
    assert torch.equal(source.draw(1, 7), first)
    assert not torch.equal(source.draw(2, 7), first)
    assert not torch.equal(source.draw(1, 8), first)


def test_a_patch_is_a_piece_of_the_volume_and_every_place_is_met_alike(volume):
    source = NiftiPatches(volume, size=(12, 11, 8), **STRAIGHT)
    counts: dict[tuple[int, ...], int] = {}
    n = 1800
    for seed in range(n):
        patch = source.draw(0, seed)[0].numpy()
        i, j, k = corner(patch)
        cut = numbered()[i : i + 12, j : j + 11, k : k + 8] / 2000
        np.testing.assert_allclose(patch, cut, rtol=1e-6)
        counts[i, j, k] = counts.get((i, j, k), 0) + 1
    assert len(counts) == 3 * 2 * 3
    expected = n / 18
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 42.3  # chi2(17), 0.1 %


@pytest.mark.parametrize(
    ("axis", "cut"),
    [
        ("axial", lambda v, s: v[:, :, s].T),
        ("coronal", lambda v, s: v[:, s, :].T),
        ("sagittal", lambda v, s: v[s, :, :].T),
    ],
)
def test_flat_patches_lie_like_slices(volume, axis, cut):
    n = {"axial": 10, "coronal": 12, "sagittal": 14}[axis]
    size = cut(numbered(), 0).shape
    source = NiftiPatches(volume, size=size, axis=axis, **STRAIGHT)
    planes = set()
    for seed in range(120):
        patch = source.draw(0, seed)[0].numpy() * 2000
        assert patch.shape == size
        plane = [s for s in range(n) if np.allclose(patch, cut(numbered(), s), rtol=1e-5)]
        assert len(plane) == 1
        planes.update(plane)
    assert planes == set(range(n))


def test_foreground_patches_are_centred_uniformly_on_the_foreground(tmp_path):
    data = np.zeros((20, 20, 20), dtype=np.float32)
    bright = [(5, 5, 5), (10, 12, 14), (15, 8, 6)]
    for place in bright:
        data[place] = 1.0
    path = save(tmp_path / "dots.nii", data)
    always = NiftiPatches(path, size=(3, 3, 3), intensity="minmax", law=PatchLaw(1.0, 1, False))
    counts = dict.fromkeys(bright, 0)
    for seed in range(300):  # rare enough that the whole volume has to be searched at times
        assert always.draw(0, seed)[0, 1, 1, 1] == 1.0
        generator = np.random.default_rng(seed)
        counts[tuple(_foreground_voxel(data, generator).tolist())] += 1
    assert sum((c - 100) ** 2 / 100 for c in counts.values()) < 13.8  # chi2(2), 0.1 %
    assert _foreground_voxel(np.zeros((4, 4, 4)), np.random.default_rng(0)) is None
    never = NiftiPatches(path, size=(3, 3, 3), intensity="minmax", law=PatchLaw(0.0, 1, False))
    assert np.mean([bool(never.draw(0, s).any()) for s in range(400)]) < 0.05


def test_the_share_of_foreground_is_the_one_asked_for(tmp_path):
    data = np.zeros((24, 24, 24), dtype=np.float32)
    data[2:6, 2:6, 2:6] = 1.0
    path = save(tmp_path / "cube.nii", data)
    shares = []
    for foreground in (0.0, 0.5, 1.0):
        law = PatchLaw(foreground=foreground)
        source = NiftiPatches(path, size=(3, 3, 3), intensity="minmax", law=law)
        shares.append(np.mean([bool(source.draw(0, s)[0, 1, 1, 1]) for s in range(400)]))
    by_chance = 64 / 22**3
    assert shares[0] < 0.03
    assert shares[1] == pytest.approx(0.5 * (1 + by_chance), abs=0.1)
    assert shares[2] > 0.97


def test_half_of_the_patches_are_mirrored(volume):
    source = NiftiPatches(volume, size=SHAPE, intensity=(0, 2000))
    drawn = [source.draw(0, s)[0, 0, 0, 0] > source.draw(0, s)[0, -1, 0, 0] for s in range(200)]
    assert 70 < sum(bool(d) for d in drawn) < 130


def test_volumes_smaller_than_the_patch_are_skipped_and_conditions_stay_in_step(tmp_path):
    for name, n in (("a", 14), ("b", 3), ("c", 14)):
        save(tmp_path / f"{name}.nii", numbered()[:n])
    (tmp_path / "l.csv").write_text("image,age\na.nii,10\nb.nii,20\nc.nii,30\n")
    cases = list_cases(tmp_path / "l.csv")
    source = NiftiPatches(cases, size=(6, 6, 6), law=PatchLaw(per_volume=2))
    assert [path.name for path, _ in source.skipped] == ["b.nii"]
    assert "(3, 12, 10) is smaller than the patch" in source.skipped[0][1]
    assert [source.draw(i, 0)["age"].item() for i in range(4)] == [10.0, 10.0, 30.0, 30.0]


def test_complex_patches_have_two_channels_of_the_same_magnitude(volume):
    one, two = (NiftiPatches(volume, size=(6, 6), channels=c) for c in ("magnitude", "complex"))
    z = two.draw(0, 2)
    assert z.shape == (2, 6, 6)
    torch.testing.assert_close(z.square().sum(0).sqrt(), one.draw(0, 2)[0])


@pytest.mark.parametrize("bad", [{"foreground": 1.5}, {"per_volume": 0}])
def test_the_law_is_checked(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        PatchLaw(**bad)
