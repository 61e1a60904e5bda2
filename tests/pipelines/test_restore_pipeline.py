"""Files in, files out: types, grids, sidecars, batches, and nothing half done."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medsci.pipelines.restore as jobs
from medsci.core import Path
from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.pipelines.restore import RestoreJob, RestorePrior, restore_cases, restore_file
from medsci.recon.restore_settings import PriorUnits, RestoreSettings


class Shrinking(nn.Module):
    """Independent pixels around 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path.vp_cosine()

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = 0.04 * alpha / (0.04 * alpha**2 + sigma**2)
        return 0.5 + gain * (x - 0.5 * alpha)


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """Count the priors that are loaded, none of them from disk."""
    names: list[str] = []

    def load(name, *, settings):
        names.append(name)
        return RestorePrior(name, "b" * 64, Shrinking(), PriorUnits(2))

    monkeypatch.setattr(jobs, "load_restore_prior", load)
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)
    return names


def job(task="denoise", *, mask=None, **more) -> RestoreJob:
    outer = {key: more.pop(key) for key in ("std", "reference", "existing") if key in more}
    more = {"device": "cpu", "seed": 5} | more
    return RestoreJob(RestoreSettings(task=task, **more), mask=mask, **outer)


@pytest.fixture
def mask_file(t1_file, tmp_path):
    volume = read_nifti(t1_file)
    mask = np.zeros(volume.shape, np.uint8)
    mask[10:13, 12:15, 5:7] = 1
    return write_nifti(volume.with_array(mask), tmp_path / "mask.nii.gz")


def test_writes_image_spread_and_sidecar(t1_file, tmp_path):
    out = tmp_path / "r.nii.gz"
    settings = {"n_samples": 2, "method": "dds3d", "n_steps": 4, "noise": 10.0}
    report = restore_file(t1_file, out, job=job(**settings, reference=t1_file))
    assert report.status == "done"
    source, found = read_nifti(t1_file), read_nifti(out)
    assert found.same_geometry(source)
    assert found.array.dtype == source.array.dtype
    assert (found.sform_code, found.units) == (source.sform_code, source.units)
    assert read_nifti(tmp_path / "r_std.nii.gz").array.max() > 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["MedsciProvenance"]["Model"] == {"Name": "brain-t1-2d", "Sha256": "b" * 64}
    assert record["MedsciProvenance"]["Seed"] == 5
    assert record["Restoration"]["data_misfit"] > 0
    assert record["Restoration"]["noise_sd"] == pytest.approx(10.0)
    assert set(record["Metrics"]) == {"input", "restored"}
    assert "--task denoise" in record["MedsciProvenance"]["Command"]
    assert "restore" in record["MedsciProvenance"]["Command"].split()
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


def test_equal_jobs_give_equal_bytes(t1_file, tmp_path):
    settings = {"method": "dds3d", "n_steps": 4, "noise": 10.0}
    for name in "ab":
        (tmp_path / name).mkdir()
        restore_file(t1_file, tmp_path / name / "r.nii.gz", job=job(**settings))
    for name in ("r.nii.gz", "r.json"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert first == second
    restore_file(t1_file, tmp_path / "c.nii.gz", job=job(**settings | {"seed": 6}))
    assert (tmp_path / "c.nii.gz").read_bytes() != (tmp_path / "a" / "r.nii.gz").read_bytes()


def test_inpainting_keeps_what_is_known(t1_file, mask_file, tmp_path):
    out = tmp_path / "r.nii.gz"
    restore_file(t1_file, out, job=job("inpaint", mask=mask_file, n_steps=3))
    source, found, mask = (read_nifti(p).array for p in (t1_file, out, mask_file))
    np.testing.assert_array_equal(found[mask == 0], source[mask == 0])
    assert (found[mask > 0] != source[mask > 0]).any()
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["Mask"]["Name"] == "mask.nii.gz"
    assert len(record["Mask"]["Sha256"]) == 64


def test_superres_writes_a_finer_grid_over_the_same_voxels(t1_file, tmp_path):
    out = tmp_path / "r.nii.gz"
    restore_file(t1_file, out, job=job("superres", axes="k", method="dds3d", n_steps=3))
    source, found = read_nifti(t1_file), read_nifti(out)
    assert found.shape == (*source.shape[:2], 2 * source.shape[2])
    assert found.spacing_mm == pytest.approx((1.5, 1.5, 1.0))
    low, high = np.array([-0.5] * 3 + [1.0]), np.array([*(np.array(found.shape) - 0.5), 1.0])
    np.testing.assert_allclose(found.affine @ low, source.affine @ low, atol=1e-5)
    other = np.array([*(np.array(source.shape) - 0.5), 1.0])
    np.testing.assert_allclose(found.affine @ high, source.affine @ other, atol=1e-5)


def test_bias_needs_no_prior_and_writes_the_field(t1_file, tmp_path, loaded):
    out = tmp_path / "r.nii.gz"
    restore_file(t1_file, out, job=job("bias"))
    assert loaded == []
    field = read_nifti(tmp_path / "r_field.nii.gz")
    assert (field.array > 0).all()
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["Restoration"]["method"] == "n4"
    assert "Model" not in record["MedsciProvenance"]


def test_a_batch_loads_once_reports_and_goes_on(t1_file, tmp_path, loaded):
    folder = tmp_path / "in"
    folder.mkdir()
    volume = read_nifti(t1_file)
    write_nifti(volume, folder / "a.nii.gz")
    write_nifti(Volume(np.full((9, 9, 3), np.nan), np.eye(4)), folder / "b.nii.gz")
    write_nifti(volume, folder / "c.nii.gz")
    told = []
    code = restore_cases(folder, tmp_path / "out", job=job(), tell=told.append)
    assert code == ExitCode.SOME_CASES_FAILED
    assert [r.status for r in told] == ["done", "failed", "done"]
    assert told[1].code == ExitCode.INVALID_INPUT
    assert loaded == ["brain-t1-2d"]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    again = []
    assert restore_cases(folder, tmp_path / "out", job=job(existing="skip"), tell=again.append)
    assert [r.status for r in again] == ["skipped", "failed", "skipped"]
    with pytest.raises(OutputExistsError):
        restore_cases(folder, tmp_path / "out", job=job(), tell=again.append)


def test_a_batch_takes_a_folder_of_masks(t1_file, mask_file, tmp_path):
    for name, file in (("in", t1_file), ("masks", mask_file)):
        (tmp_path / name).mkdir()
        write_nifti(read_nifti(file), tmp_path / name / "a.nii.gz")
    told = []
    more = {"n_steps": 3}
    masked = job("inpaint", mask=tmp_path / "masks", **more)
    assert not restore_cases(tmp_path / "in", tmp_path / "out", job=masked, tell=told.append)
    one = job("inpaint", mask=mask_file, **more)
    with pytest.raises(UsageError, match="name a folder"):
        restore_cases(tmp_path / "in", tmp_path / "other", job=one, tell=told.append)


def test_existing_outputs(t1_file, tmp_path):
    out = tmp_path / "r.nii.gz"
    out.write_bytes(b"something")
    with pytest.raises(OutputExistsError):
        restore_file(t1_file, out, job=job())
    assert out.read_bytes() == b"something"
    assert restore_file(t1_file, out, job=job(existing="skip")).status == "skipped"
    assert restore_file(t1_file, out, job=job(existing="overwrite")).status == "done"
    with pytest.raises(UsageError, match="replace the input"):
        restore_file(t1_file, t1_file, job=job(existing="overwrite"))


def test_a_failure_leaves_nothing(t1_file, tmp_path, monkeypatch):
    def fail(*_args, **_more):
        raise InvalidInputError("no; give another")

    monkeypatch.setattr("medsci.recon.restoration.restore", fail)
    before = set(tmp_path.iterdir())
    with pytest.raises(InvalidInputError):
        restore_file(t1_file, tmp_path / "r.nii.gz", job=job())
    assert set(tmp_path.iterdir()) == before


def test_a_reference_elsewhere_is_not_compared(t1_file, tmp_path, caplog):
    other = write_nifti(Volume(np.ones((4, 4, 4)), np.eye(4)), tmp_path / "ref.nii.gz")
    report = restore_file(t1_file, tmp_path / "r.nii.gz", job=job(reference=other))
    assert report.result["metrics"] == {}
    assert "another grid" in caplog.text


def test_jobs_say_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match="needs --mask"):
        job("inpaint")
    with pytest.raises(UsageError, match="belongs to the task inpaint"):
        job("denoise", mask=tmp_path)
    with pytest.raises(UsageError, match="at least --samples 2"):
        job("denoise", std=tmp_path / "s.nii.gz")


@pytest.mark.slow
def test_the_shipped_prior_denoises(tmp_path, monkeypatch):
    from medsci.data import simulated_head_volume
    from medsci.metrics import head_mask, psnr

    monkeypatch.undo()
    torch.manual_seed(0)
    truth = 100.0 * np.abs(simulated_head_volume(7, slices=(90, 93)))
    noisy = truth + 8.0 * np.random.default_rng(0).normal(size=truth.shape)
    source = write_nifti(Volume(noisy.astype(np.float32), np.eye(4)), tmp_path / "n.nii.gz")
    restore_file(source, tmp_path / "r.nii.gz", job=job())
    mask = head_mask(truth)
    found = read_nifti(tmp_path / "r.nii.gz").array
    assert psnr(found, truth, mask=mask) > psnr(noisy, truth, mask=mask) + 4.0
