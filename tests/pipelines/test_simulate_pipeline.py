"""A volume becomes k-space that a reconstruction can take, with a record, the same every time."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import read_kspace, read_nifti
from medsci.pipelines.simulate import simulate_mri
from medsci.recon.settings import SimulateSettings

SETTINGS = SimulateSettings(acceleration=2.0, n_coils=3, noise=0.02, slices=(3, 9), seed=4)


def test_writes_kspace_of_the_slab_with_the_truth(t1_file, tmp_path):
    report = simulate_mri(t1_file, tmp_path / "k.h5", settings=SETTINGS)
    kspace, source = read_kspace(tmp_path / "k.h5"), read_nifti(t1_file)
    assert kspace.n_coils == 3
    assert kspace.acceleration == pytest.approx(2, abs=0.1)
    truth = kspace.to_volume(kspace.reference)
    slab = source.slab(2, 3, 9)
    assert truth.same_geometry(slab)
    assert_allclose(truth.array, slab.array, rtol=1e-6)
    assert report.result["shape"] == list(kspace.data.shape)
    assert report.status == "done"


def test_the_sidecar_repeats_the_run(t1_file, tmp_path):
    simulate_mri(t1_file, tmp_path / "k.h5", settings=SETTINGS)
    made = json.loads((tmp_path / "k.json").read_text())["MedsciProvenance"]
    words = "--acceleration 2.0 --coils 3 --noise 0.02 --center-fraction 0.08 --mask random"
    assert words in made["Command"]
    assert "--slices 3:9" in made["Command"]
    assert made["Command"].endswith("--seed 4")
    assert "Model" not in made


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(t1_file, tmp_path):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        settings = SimulateSettings(acceleration=2.0, n_coils=3, seed=seed)
        simulate_mri(t1_file, tmp_path / name / "k.h5", settings=settings)
    a, b, c = (tmp_path / name for name in "abc")
    for name in ("k.h5", "k.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
        assert (a / name).read_bytes() != (c / name).read_bytes()


def test_existing_output_is_refused_unchanged(t1_file, tmp_path):
    old = tmp_path / "k.h5"
    old.write_text("precious")
    stamp = old.stat().st_mtime_ns
    with pytest.raises(OutputExistsError):
        simulate_mri(t1_file, old, settings=SETTINGS)
    assert (old.read_text(), old.stat().st_mtime_ns) == ("precious", stamp)
    simulate_mri(t1_file, old, settings=SETTINGS, existing="overwrite")
    assert read_kspace(old).n_coils == 3


def test_bad_inputs_and_names(t1_file, tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        simulate_mri(tmp_path / "gone.nii.gz", tmp_path / "k.h5")
    with pytest.raises(UsageError, match=r"name it \*\.h5"):
        simulate_mri(t1_file, tmp_path / "k.nii.gz")
    with pytest.raises(UsageError, match="slices"):
        simulate_mri(t1_file, tmp_path / "k.h5", settings=SimulateSettings(slices=(5, 99)))
    assert not list(tmp_path.glob("k*"))


def test_a_complex_or_negative_image_is_refused(tmp_path):
    from medsci.imaging import Volume, write_nifti

    array = np.linspace(-1, 1, 24 * 24 * 12, dtype=np.float32).reshape(24, 24, 12)
    path = write_nifti(Volume(array, np.eye(4)), tmp_path / "n.nii.gz")
    with pytest.raises(InvalidInputError, match="magnitude"):
        simulate_mri(path, tmp_path / "k.h5")
