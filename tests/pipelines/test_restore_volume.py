"""Volumes through a prior of volumes: where things are, what is left alone, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medsci.pipelines.restore as jobs
from medsci.core import Path
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.operators.resample import ResampleOp
from medsci.pipelines.restore import RestoreJob, RestorePrior, restore_file
from medsci.recon.restore_settings import PriorUnits, RestoreSettings
from medsci.recon.volume_frame import VolumePrior, brain_centre_mm, thinned
from medsci.recon.volume_restoration import restore_volume

PRIOR = VolumePrior((12, 14, 12), (16.0, 16.0, 16.0), "RAS", ("t1", "fluid", "grey", "white"))
MARK = np.array([40.0, 30.0, 16.0])  # right, anterior, superior of the middle
FINE = np.diag([8.0, 8.0, 8.0, 1.0])
FINE[:3, 3] = (-100.0, -116.0, -92.0)


class Gaussian(nn.Module):
    """Exact denoiser of independent voxels about a mean state."""

    def __init__(self, mean: Tensor | float = -0.6, sd: float = 0.6) -> None:
        super().__init__()
        self.path, self.mean, self.sd = Path.vp_cosine(), mean, sd

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = alpha * self.sd**2 / (alpha**2 * self.sd**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def head(affine: np.ndarray = FINE, shape: tuple[int, ...] = (26, 30, 24)) -> Volume:
    """Return a grey ellipsoid with a bright blob to the right, front and top, in any frame."""
    index = np.indices(shape).reshape(3, -1)
    place = (affine[:3, :3] @ index + affine[:3, 3:]).T
    radius = np.sqrt(((place / (72.0, 88.0, 70.0)) ** 2).sum(1))
    blob = np.exp(-((place - MARK) ** 2).sum(1) / (2 * 14.0**2))
    values = 300.0 / (1 + np.exp((radius - 1) * 20)) + 900.0 * blob
    return Volume(values.reshape(shape).astype(np.float32), affine, sform_code=1, qform_code=1)


def thick() -> Volume:
    """Return means over four 8 mm slices: 8 x 8 x 32 mm."""
    fine = head()
    step = np.diag([1.0, 1.0, 4.0, 1.0])
    step[2, 3] = 1.5
    means = fine.array.reshape(26, 30, 6, 4).mean(3)
    return replace(fine, array=means, affine=fine.affine @ step)


def settings(task: str = "superres", **more) -> RestoreSettings:
    more = {"centre_mm": (0.0, 0.0, 0.0), "n_steps": 6, "seed": 5, "noise": 6.0} | more
    return RestoreSettings(task=task, **more)


def restored(volume: Volume, task: str = "superres", *, mask=None, model=None, **more):
    model = Gaussian() if model is None else model
    return restore_volume(volume, model, settings=settings(task, **more), prior=PRIOR, mask=mask)


def brightest_mm(volume: Volume) -> np.ndarray:
    """Return the centre of mass of what is brighter than the head, in mm."""
    extra = np.clip(volume.array.astype(np.float64) - 450.0, 0.0, None)
    index = np.argwhere(extra > 0)
    centre = (index * extra[extra > 0][:, None]).sum(0) / extra.sum()
    return volume.affine[:3, :3] @ centre + volume.affine[:3, 3]


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    def load(name, *, settings):
        units = PriorUnits(2) if name == "slices" else PRIOR
        return RestorePrior(name, "d" * 64, Gaussian(), units)

    monkeypatch.setattr(jobs, "load_restore_prior", load)
    monkeypatch.setattr(jobs, "warn_if_busy", lambda: None)


def job(task: str = "superres", *, prior: str = "boxes", more=None, **outer) -> RestoreJob:
    return RestoreJob(settings(task, device="cpu", **(more or {})), prior=prior, **outer)


def test_the_box_lies_where_it_says_and_the_mark_where_it_was():
    found = restored(thick()).mean
    assert found.shape == PRIOR.shape
    assert found.spacing_mm == pytest.approx(PRIOR.voxel_mm)
    assert found.orientation == ("R", "A", "S")
    assert (found.sform_code, found.qform_code) == (1, 1)
    middle = found.affine @ [5.5, 6.5, 5.5, 1.0]
    assert np.abs(middle[:3]).max() <= 8.0 + 1e-9, "moved by half a voxel at most"
    assert np.abs(brightest_mm(found) - MARK).max() < 8.0, "half a voxel of the prior"
    mirrored = replace(found, array=found.array[::-1])
    assert np.abs(brightest_mm(mirrored) - MARK).max() > 50.0, "control"


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR"])
def test_the_order_of_the_voxel_axes_does_not_matter(codes):
    plain, turned = thick(), thick().to_orientation(codes)
    assert turned.affine.tolist() != plain.affine.tolist()
    np.testing.assert_allclose(restored(turned).mean.array, restored(plain).mean.array, atol=0.05)
    wrong = replace(turned, affine=plain.affine) if turned.shape == plain.shape else None
    if wrong is not None:
        assert np.abs(restored(wrong).mean.array - restored(plain).mean.array).max() > 50.0


def test_an_oblique_input_lands_in_the_same_place():
    a = np.deg2rad(20.0)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([8.0, 8.0, 24.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array([28, 32, 10]) - 1.0) * 0.5
    found = restored(head(affine, (28, 32, 10))).mean
    assert np.abs(brightest_mm(found) - MARK).max() < 8.0
    straight = affine.copy()
    straight[:3, :3] = np.diag([8.0, 8.0, 24.0])
    wrong = replace(head(affine, (28, 32, 10)), affine=straight)  # the angle forgotten: control
    assert np.abs(brightest_mm(restored(wrong).mean) - MARK).max() > 8.0


def test_the_result_explains_the_data():
    """Seen again through its own slices, the restored volume is the input, to the noise."""
    given = thinned(thick(), 16.0)
    found = restored(thick(), n_steps=20).mean
    look = ResampleOp.between(
        found.affine, found.shape, target_affine=given.affine, target_shape=given.shape
    )
    inside = look.coverage().numpy() > 0.999
    again = look(torch.from_numpy(found.array)).numpy()
    scale = float(np.sqrt((given.array[inside] ** 2).mean()))
    assert np.sqrt(((again - given.array)[inside] ** 2).mean()) < 0.1 * scale


def test_intensities_are_those_of_the_input():
    plain = restored(thick()).mean.array
    times = thick().with_array(thick().array * np.float32(7.0))
    np.testing.assert_allclose(
        restored(times, noise=42.0).mean.array, 7.0 * plain, rtol=2e-3, atol=3
    )


def test_aligned_voxels_are_not_interpolated():
    """The box moves by less than a voxel so that means of its voxels are the input's voxels."""
    seen = thinned(thick(), 16.0)
    assert seen.spacing_mm == pytest.approx((16.0, 16.0, 32.0))
    centre = np.array([1.0, -2.0, 3.0])
    for prior in (PRIOR, replace(PRIOR, orientation="LPS")):
        affine = prior.affine_at(centre, like=seen)
        place = (np.linalg.inv(affine) @ seen.affine)[:3, 3]
        np.testing.assert_allclose((place - [0.0, 0.0, 0.5] + 0.5) % 1.0 - 0.5, 0.0, atol=1e-9)
        loose = prior.affine_at(centre)
        assert np.abs((affine - loose)[:3, 3]).max() <= 8.0
        np.testing.assert_allclose(loose[:3, :3] @ [5.5, 6.5, 5.5] + loose[:3, 3], centre)


def test_holes_are_filled_and_the_rest_comes_back_bit_for_bit(tmp_path):
    source = head().with_array(np.round(head().array).astype(np.int16))
    hole = np.zeros(source.shape, np.uint8)
    hole[15:19, 16:20, 13:16] = 1
    damaged = np.where(hole, 0, source.array).astype(np.int16)
    given = write_nifti(source.with_array(damaged), tmp_path / "in.nii.gz")
    mask = write_nifti(source.with_array(hole), tmp_path / "mask.nii.gz")
    model = job("inpaint", mask=mask, more={"n_samples": 2}, labels=True)
    restore_file(given, tmp_path / "out.nii.gz", job=model)
    found = read_nifti(tmp_path / "out.nii.gz")
    assert found.array.dtype == np.int16
    assert found.same_geometry(source)
    np.testing.assert_array_equal(found.array[hole == 0], damaged[hole == 0])
    assert found.array[hole > 0].mean() > 50
    spread = read_nifti(tmp_path / "out_std.nii.gz").array
    assert (spread[hole == 0] == 0).all()
    assert spread[hole > 0].min() > 0
    labels = read_nifti(tmp_path / "out_labels.nii.gz")
    assert labels.array.dtype == np.uint8
    assert labels.same_geometry(source)
    assert set(np.unique(labels.array)) <= {0, 1, 2, 3}
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["Outputs"]["labels"] == "out_labels.nii.gz"
    assert record["Restoration"]["box_voxel_mm"] == [16.0, 16.0, 16.0]
    assert "--centre 0,0,0" in record["MedsciProvenance"]["Command"]


def test_a_hole_says_nothing_about_its_filling():
    hole = np.zeros(head().shape, np.uint8)
    hole[15:19, 16:20, 13:16] = 1
    mask = head().with_array(hole)
    dark, bright = (
        restored(head().with_array(np.where(hole, v, head().array)), "inpaint", mask=mask).mean
        for v in (np.float32(0.0), np.float32(700.0))
    )
    np.testing.assert_array_equal(dark.array, bright.array)


def test_noise_goes_down_and_voxels_outside_the_box_stay():
    clean = head(FINE, (26, 30, 30))
    far = clean.affine.copy()
    far[2, 3] -= 64.0  # the box ends above the lowest slices
    clean = head(far, (26, 30, 30))
    noise = 60.0 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    noisy = clean.with_array(np.abs(clean.array + noise))
    mean = torch.full((1, 4, *PRIOR.shape), -1.0)
    truth = restored(clean, "denoise", noise=1.0, n_steps=10).info
    assert truth["measured_voxel_mm"] == [16.0, 16.0, 16.0]
    found = restored(noisy, "denoise", noise=60.0, n_steps=12, model=Gaussian(mean, 0.7))
    box = np.indices(clean.shape)[2] * 8.0 + far[2, 3] > -88.0
    before, after = (
        np.sqrt(((v.array - clean.array)[box] ** 2).mean()) for v in (noisy, found.mean)
    )
    assert after < 0.8 * before
    outside = np.indices(clean.shape)[2] * 8.0 + far[2, 3] < -106.0
    assert outside.any()
    np.testing.assert_array_equal(found.mean.array[outside], noisy.array[outside])


def test_a_prior_that_knows_the_head_gives_the_field_away():
    flat = head()
    affine = PRIOR.affine_at(np.zeros(3), like=thinned(flat, 16.0))
    look = ResampleOp.between(
        flat.affine, flat.shape, target_affine=affine, target_shape=PRIOR.shape, profile="box"
    )
    values = look(torch.from_numpy(flat.array))
    box = Volume(values.numpy(), affine)
    state = torch.full((1, 4, *PRIOR.shape), -1.0)
    state[0, 0] = 2.0 * values / float(np.percentile(box.array, 99.9)) - 1.0
    wave = np.cos(np.pi * (np.arange(26) + 0.5) / 26)[:, None, None]
    field = np.exp(0.25 * wave * np.ones(flat.shape)).astype(np.float32)
    given = flat.with_array(flat.array * field)
    found = restored(given, "bias", method="prior", model=Gaussian(state.clamp(-1, 1), 0.02))
    inside = flat.array > 150.0

    def spread(image: np.ndarray) -> float:
        ratio = image[inside] / flat.array[inside]
        return float(ratio.std() / ratio.mean())

    assert spread(found.mean.array) < 0.4 * spread(given.array)
    np.testing.assert_allclose(
        found.mean.array * found.bias_field.array, given.array, rtol=1e-4, atol=1e-3
    )


def test_equal_jobs_give_equal_bytes(tmp_path):
    given = write_nifti(thick(), tmp_path / "in.nii.gz")
    for name in "ab":
        (tmp_path / name).mkdir()
        chosen = job(labels=True, more={"n_samples": 2, "n_steps": 3})
        restore_file(given, tmp_path / name / "r.nii.gz", job=chosen)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["r.json", "r.nii.gz", "r_labels.nii.gz", "r_std.nii.gz"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = job(more={"n_samples": 2, "n_steps": 3, "seed": 6})
    restore_file(given, tmp_path / "c.nii.gz", job=other)
    assert (tmp_path / "c.nii.gz").read_bytes() != (tmp_path / "a" / "r.nii.gz").read_bytes()


def test_the_head_is_found_by_its_outline():
    body = head()
    body = body.with_array(np.where(body.array > 150, 300.0, 0.0).astype(np.float32))
    x, y, z = brain_centre_mm(body)
    assert abs(x) < 8.0
    assert abs(y) < 8.0
    assert z == pytest.approx(70.0 - 90.0, abs=10.0)


def test_says_what_is_wrong(tmp_path):
    with pytest.raises(InvalidInputError, match="needs a mask"):
        restored(head(), "inpaint")
    with pytest.raises(InvalidInputError, match="only inpaint"):
        restored(head(), mask=head())
    with pytest.raises(InvalidInputError, match="mask is empty"):
        restored(head(), "inpaint", mask=head().with_array(np.zeros(head().shape)))
    moved = replace(head(), affine=head().affine + np.eye(4, k=3) * 50.0)
    with pytest.raises(InvalidInputError, match="lies elsewhere"):
        restored(head(), "inpaint", mask=moved)
    with pytest.raises(InvalidInputError, match="centre_mm"):
        restored(head(), centre_mm=(2000.0, 0.0, 0.0))
    with pytest.raises(UsageError, match="choose dds3d"):
        restored(head(), method="ddrm")
    with pytest.raises(UsageError, match="thickness_mm"):
        settings(thickness_mm=-1.0)
    with pytest.raises(UsageError, match="knows no"):
        job("bias", labels=True)
    given = write_nifti(thick(), tmp_path / "in.nii.gz")
    with pytest.raises(UsageError, match="--labels, --centre came, but slices"):
        restore_file(given, tmp_path / "o.nii.gz", job=job(prior="slices", labels=True))
    assert not list(tmp_path.glob("o*"))
