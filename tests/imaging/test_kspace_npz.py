"""Arrays with names, in NumPy files and in HDF5 files whose names are given."""

import h5py
import numpy as np
import pytest
from kspace_samples import AFFINE, MASK, noise, sample

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import GeometryWarning, read_kspace

SPACING = (2.5, 1.25, 0.75)
REFERENCE = np.arange(240, dtype=np.float32).reshape(3, 8, 10)


def rich():
    return {
        "kspace": noise() * MASK, "mask": MASK, "maps": noise(seed=1), "affine": AFFINE,
        "reference": REFERENCE,
    }  # fmt: skip


def same(kspace):
    truth = sample(maps=noise(seed=1), reference=REFERENCE)
    for name in ("data", "mask", "maps", "reference", "affine"):
        assert np.array_equal(getattr(kspace, name), getattr(truth, name)), name
    assert (kspace.axes, kspace.sform_code) == ((2, 1, 0), 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_all_names(tmp_path, save):
    save(tmp_path / "a.npz", **rich())
    same(read_kspace(tmp_path / "a.npz"))


def test_content_decides_not_the_suffix(tmp_path):
    np.savez(tmp_path / "a.npz", **rich())
    (tmp_path / "a.npz").rename(tmp_path / "a.data")
    same(read_kspace(tmp_path / "a.data"))


def test_named_datasets(tmp_path):
    names = {"kspace": "scan/raw", "mask": "m", "maps": "csm", "affine": "aff", "reference": "x"}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for role, name in names.items():
            file[name] = rich()[role]
    same(read_kspace(tmp_path / "a.h5", names=names))
    with pytest.raises(UsageError, match="names has sinogram; the roles are kspace"):
        read_kspace(tmp_path / "a.h5", names={"sinogram": "m"})
    with pytest.raises(InvalidInputError, match=r"dataset raw \(kspace\) is missing.*scan/raw"):
        read_kspace(tmp_path / "a.h5", names={"kspace": "raw"})


def test_kspace_alone(tmp_path):
    """The mask is that of the lines that hold anything; one coil needs no axis."""
    np.save(tmp_path / "a.npy", (noise() * MASK)[:, 0])
    kspace = read_kspace(tmp_path / "a.npy", spacing_mm=SPACING, crop=(6, 4))
    assert (kspace.n_coils, kspace.crop, kspace.sform_code) == (1, (6, 4), 0)
    assert np.array_equal(kspace.mask, MASK)
    volume = kspace.to_volume(np.zeros((3, 8, 10), np.float32))
    assert volume.shape == (4, 6, 3)
    np.testing.assert_allclose(volume.spacing_mm, (0.75, 1.25, 2.5))
    with pytest.warns(GeometryWarning, match="took 1 mm"):
        read_kspace(tmp_path / "a.npy")


def test_affine_and_spacing_contradict(tmp_path):
    np.savez(tmp_path / "a.npz", **rich())
    with pytest.raises(UsageError, match="own affine"):
        read_kspace(tmp_path / "a.npz", spacing_mm=SPACING)
