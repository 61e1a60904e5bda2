"""Classical reconstructions through the same door: on the right grid, better than zero-filled."""

import json

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from medsci.errors import OutputExistsError, UsageError
from medsci.pipelines.baseline import BaselineSettings, baseline_file
from medsci.pipelines.simulate import simulate_mri
from medsci.recon.settings import SimulateSettings


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """k-space of a head-like volume with four coils, large enough to estimate maps from."""
    from medsci.imaging import Volume, write_nifti

    folder = tmp_path_factory.mktemp("baseline")
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 56, 3)], indexing="ij")
    radius = np.sqrt(grid[0] ** 2 + grid[1] ** 2)
    head = np.where(radius < 0.85, 150 + 40 * np.sign(np.sin(7 * grid[0])), 0).astype(np.float32)
    head = np.where(radius < 0.25, 60, head).astype(np.float32)
    path = write_nifti(Volume(head, np.diag([2.0, 2, 4, 1])), folder / "t1.nii.gz")
    settings = SimulateSettings(acceleration=2.0, n_coils=4, center_fraction=0.25, seed=1)
    simulate_mri(path, folder / "k.h5", settings=settings)
    return folder / "k.h5"


def psnr_of(folder) -> float:
    (metrics,) = json.loads((folder / "x.json").read_text())["Metrics"].values()
    return metrics["psnr_db"]


def test_every_method_writes_a_volume_and_beats_zero_filled(source, tmp_path):
    found = {}
    for method in ("zero-filled", "sense", "tv", "l1-wavelet"):
        out = tmp_path / method
        baseline_file(source, out / "x.nii.gz", settings=BaselineSettings(method=method))
        image = nib.load(out / "x.nii.gz")
        assert image.shape == (48, 56, 3)
        assert_allclose(image.affine, np.diag([2.0, 2, 4, 1]))
        assert np.isfinite(np.asanyarray(image.dataobj)).all()
        found[method] = psnr_of(out)
    zero_filled = found.pop("zero-filled")
    assert min(found.values()) > zero_filled + 3


def test_iterations_and_weight_reach_the_method(source, tmp_path):
    for name, settings in (
        ("short", BaselineSettings(method="sense", n_iter=1)),
        ("long", BaselineSettings(method="sense", n_iter=20)),
        ("stiff", BaselineSettings(method="sense", n_iter=20, weight=10.0)),
    ):
        baseline_file(source, tmp_path / name / "x.nii.gz", settings=settings)
    assert psnr_of(tmp_path / "long") > psnr_of(tmp_path / "short") + 1
    assert psnr_of(tmp_path / "long") > psnr_of(tmp_path / "stiff") + 1
    made = json.loads((tmp_path / "stiff" / "x.json").read_text())["MedsciProvenance"]
    assert "--method sense --weight 10.0 --iterations 20" in made["Command"]
    assert "Seed" not in made or made["Seed"] is None


def test_contradictions_are_refused(source, tmp_path):
    with pytest.raises(UsageError, match="leave them out"):
        BaselineSettings(method="zero-filled", weight=0.1)
    with pytest.raises(UsageError, match="not negative"):
        BaselineSettings(weight=-1.0)
    with pytest.raises(UsageError, match="at least 1"):
        BaselineSettings(n_iter=0)
    with pytest.raises(UsageError, match=r"\.nii\.gz"):
        baseline_file(source, tmp_path / "x.png")
    (tmp_path / "x.nii.gz").write_text("precious")
    with pytest.raises(OutputExistsError):
        baseline_file(source, tmp_path / "x.nii.gz")
    assert (tmp_path / "x.nii.gz").read_text() == "precious"
