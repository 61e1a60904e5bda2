"""Restoration against an oracle: a Gaussian prior in closed form, geometry, types and masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsci.core import Path
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.recon.restoration import Restored, restore
from medsci.recon.restore_noise import estimate_noise
from medsci.recon.restore_problem import RealImages, problem_of, slices_of
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

SHAPE = (20, 24, 6)
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.0, 0, -30], [0, 0, 1.0, 7], [0, 0, 0, 1.0]])
ONE = PriorUnits(n_channels=1)


class GaussianPrior(nn.Module):
    """The exact denoiser of independent pixels N(mean, variance), on a VP path."""

    def __init__(self, mean: float = 0.5, variance: float = 0.04) -> None:
        super().__init__()
        self.path = Path.vp_cosine()
        self.mean, self.variance = mean, variance

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def head(shape=SHAPE, *, seed=0, noise=0.0) -> np.ndarray:
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = np.sqrt(sum(x**2 for x in grid[:2])) < 0.9
    image = np.where(inside, 100.0 + 40 * grid[0] - 20 * grid[1] + 10 * grid[2], 0.0)
    return (image + noise * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def volume(**more) -> Volume:
    return Volume(head(**more), AFFINE, sform_code=1)


def settings(task, **more) -> RestoreSettings:
    return RestoreSettings(task=task, **more)


class TestDenoise:
    """One look at the noise level of the data is the posterior mean."""

    @pytest.mark.parametrize("channels", [1, 2])
    def test_is_the_posterior_mean(self, channels):
        v, noise, prior = volume(), 12.0, GaussianPrior()
        found = restore(
            v, prior, settings=settings("denoise", noise=noise), units=PriorUnits(channels)
        )
        scale = found.info["intensity_scale"]
        s = noise / scale
        y = v.array / scale
        wiener = prior.mean + prior.variance / (prior.variance + s**2) * (y - prior.mean)
        np.testing.assert_allclose(found.mean.array, np.maximum(wiener, 0) * scale, atol=2e-3)
        other = prior.mean + prior.variance / (prior.variance + (2 * s) ** 2) * (y - prior.mean)
        assert np.abs(found.mean.array - other * scale).max() > 1.0, "twice the noise is seen"

    def test_agrees_with_an_iterated_solver(self):
        # dds3d without coupling settles near the same Wiener estimate, not near the input
        v, prior = volume(), GaussianPrior()
        more = {"noise": 12.0, "options": {"consistency.rho": "0"}}
        once = restore(v, prior, settings=settings("denoise", noise=12.0), units=ONE)
        walk = restore(
            v, prior, settings=settings("denoise", method="dds3d", n_samples=4, **more), units=ONE
        )
        change = np.abs(once.mean.array - v.array).mean()
        assert change > 1.0
        assert np.abs(walk.mean.array - once.mean.array).mean() < 0.5 * change

    def test_noise_is_estimated(self):
        v = Volume(head((72, 80, 2), noise=5.0), AFFINE, sform_code=1)
        found = restore(v, GaussianPrior(), settings=settings("denoise"), units=ONE)
        assert found.info["noise"] == "estimated"
        assert found.info["noise_sd"] == pytest.approx(5.0, rel=0.15)

    def test_equal_seeds_equal_bytes_and_chunks_do_not_matter(self):
        v = volume()
        more = {"method": "dds3d", "n_steps": 4, "noise": 5.0, "seed": 3}
        first = restore(v, GaussianPrior(), settings=settings("denoise", **more))
        again = restore(v, GaussianPrior(), settings=settings("denoise", chunk=1, **more))
        np.testing.assert_array_equal(first.mean.array, again.mean.array)
        other = restore(v, GaussianPrior(), settings=settings("denoise", **(more | {"seed": 4})))
        assert np.abs(first.mean.array - other.mean.array).max() > 0.01


class TestNoise:
    """Noise from the finest diagonal details."""

    @pytest.mark.parametrize("sd", [0.5, 3.0, 20.0])
    def test_white_noise_on_smooth_anatomy(self, sd):
        z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (4, 96, 96)], indexing="ij")
        image = 100 * np.exp(-2 * (x**2 + y**2)) + 10 * z
        noisy = image + sd * np.random.default_rng(1).normal(size=image.shape)
        assert estimate_noise(noisy) == pytest.approx(sd, rel=0.06)

    def test_a_background_of_zeros_does_not_count(self):
        noise = np.random.default_rng(1).normal(size=(2, 64, 64))
        noise[:, :, 16:] = 0.0
        assert estimate_noise(noise) == pytest.approx(1.0, rel=0.1)
        import pywt

        details = pywt.dwt2(noise[0], "db2")[1][2]
        assert 1.4826 * np.median(np.abs(details)) < 0.1, "which it would, counted"

    def test_nothing_varies(self):
        assert estimate_noise(np.ones((1, 16, 16))) == 0.0


class TestInpaint:
    """Holes are filled, all else comes back as it was."""

    def hole(self, v: Volume) -> Volume:
        mask = np.zeros(v.shape[:3], np.uint8)
        mask[8:12, 10:14, 2:4] = 1
        return replace(v, array=mask)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
    def test_known_voxels_are_bit_for_bit(self, dtype):
        v = replace(volume(noise=2.0), array=np.abs(head(noise=2.0)).astype(dtype))
        mask = self.hole(v)
        more = {"n_steps": 4, "n_samples": 2}
        found = restore(v, GaussianPrior(), settings=settings("inpaint", **more), mask=mask)
        holes = mask.array > 0
        assert found.mean.array.dtype == dtype
        np.testing.assert_array_equal(found.mean.array[~holes], v.array[~holes])
        assert np.any(found.mean.array[holes] != v.array[holes])
        assert not found.std.array[~holes].any()
        assert (found.std.array[holes] > 0).all()
        assert found.info["slices"] == 2, "only slices with holes are computed"
        assert found.info["filled_voxels"] == holes.sum()

    def test_what_was_in_the_hole_does_not_matter(self):
        v = volume()
        mask = self.hole(v)
        # the scale is a percentile of the head: an outlier in the hole must not leak further
        other = replace(v, array=np.where(mask.array > 0, v.array + 3.0, v.array))
        more = settings("inpaint", n_steps=4, noise=2.0)
        first = restore(v, GaussianPrior(), settings=more, mask=mask)
        second = restore(other, GaussianPrior(), settings=more, mask=mask)
        np.testing.assert_allclose(first.mean.array, second.mean.array, atol=0.5)

    def test_independent_pixels_become_the_mean_of_the_prior(self):
        # nothing is known of a hole but the prior: average of samples -> its mean, spread -> its sd
        v, prior = volume(), GaussianPrior(0.7, 0.01)
        mask = self.hole(v)
        more = settings(
            "inpaint",
            n_samples=12,
            n_steps=30,
            noise=2.0,
            options={"consistency.rho": "0", "eta": "0"},
        )
        found = restore(v, prior, settings=more, mask=mask, units=ONE)
        holes = mask.array > 0
        scale = found.info["intensity_scale"]
        assert found.mean.array[holes].mean() / scale == pytest.approx(0.7, abs=0.02)
        assert found.std.array[holes].mean() / scale == pytest.approx(0.1, rel=0.25)


class TestSuperres:
    """A finer grid over the same voxels."""

    @pytest.mark.parametrize(
        ("axes", "shape"),
        [("plane", (40, 48, 6)), ("i", (40, 24, 6)), ("k", (20, 24, 12)), ("auto", (40, 48, 6))],
    )
    def test_grid(self, axes, shape):
        v = volume()
        more = settings("superres", axes=axes, n_steps=3)
        found = restore(v, GaussianPrior(), settings=more).mean
        assert found.shape == shape
        corner = np.array([-0.5, -0.5, -0.5, 1.0])  # outer corners stay where they are
        np.testing.assert_allclose(found.affine @ corner, v.affine @ corner, atol=1e-9)
        far = np.array([*(np.array(shape) - 0.5), 1.0])
        wide = np.array([*(np.array(SHAPE) - 0.5), 1.0])
        np.testing.assert_allclose(found.affine @ far, v.affine @ wide, atol=1e-9)

    def test_auto_divides_thick_slices(self):
        affine = AFFINE.copy()
        affine[2, 2] = 4.0
        v = Volume(head(), affine, sform_code=1)
        found = restore(v, GaussianPrior(), settings=settings("superres", factor=3, n_steps=3))
        assert found.mean.shape == (20, 24, 18)
        assert found.info["factors_ijk"] == [1, 1, 3]
        assert found.info["method"] == "spline", "a prior of slices knows nothing across them"
        means = found.mean.array.reshape(20, 24, 6, 3).mean(3)
        tissue = v.array > 50
        np.testing.assert_allclose(means[tissue], v.array[tissue], rtol=1e-5)

    def test_splines_follow_a_smooth_object_better_than_copies(self):
        fine = 100 + 30 * np.sin(np.linspace(0, 3, 24))[None, None] * np.ones((20, 24, 1))
        v = Volume(fine.reshape(20, 24, 12, 2).mean(3), np.diag([1.0, 1.0, 2.0, 1.0]))
        found = restore(v, None, settings=settings("superres", method="spline", axes="k"))
        inside = (slice(None), slice(None), slice(2, -2))
        error = np.abs(found.mean.array - fine)[inside].max()
        copies = np.abs(np.repeat(v.array, 2, axis=2) - fine)[inside].max()
        assert error < 0.25 * copies

    def test_means_of_new_voxels_are_the_old_ones(self):
        v = volume()
        more = settings("superres", axes="plane", n_steps=6, options={"prox_noise": "0"})
        fine = restore(v, GaussianPrior(), settings=more, units=ONE).mean.array
        back = fine.reshape(20, 2, 24, 2, 6).mean((1, 3))
        tissue = v.array > 50  # in air, negative values are cut
        assert np.abs(back - v.array)[tissue].mean() < 0.5
        assert np.abs(fine[::2, ::2] - v.array)[tissue].mean() > 1.0, "single voxels are not"

    @pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR"])
    def test_any_axis_order(self, codes):
        v = volume()
        turned = v.to_orientation(codes)
        axis = "ijk"[[c in "RL" for c in codes].index(True)]
        first = restore(v, GaussianPrior(), settings=settings("superres", axes="i", n_steps=3))
        other = restore(
            turned, GaussianPrior(), settings=settings("superres", axes=axis, n_steps=3)
        )
        assert other.mean.orientation == tuple(codes)
        same = other.mean.to_orientation("RAS")
        np.testing.assert_allclose(same.affine, first.mean.affine, atol=1e-9)
        np.testing.assert_allclose(same.array, first.mean.array, atol=1e-3)


def test_deblur_sharpens_an_edge():
    v = volume()
    from medsci.operators.blur import BlurOp

    op = BlurOp.gaussian(3.0, SHAPE[:2], spacing_mm=(1.0, 1.0), boundary="reflect")
    blurred = op(torch.from_numpy(v.array.transpose(2, 0, 1).copy())).numpy().transpose(1, 2, 0)
    more = settings("deblur", fwhm_mm=3.0, noise=0.5, n_steps=10)
    found = restore(v.with_array(blurred), GaussianPrior(), settings=more, units=ONE).mean.array
    before, after = np.abs(blurred - v.array).mean(), np.abs(found - v.array).mean()
    assert after < 0.85 * before, "pixels that know nothing of each other help that far"
    wrong = settings("deblur", fwhm_mm=6.0, noise=0.5, n_steps=10)
    worse = restore(v.with_array(blurred), GaussianPrior(), settings=wrong, units=ONE).mean.array
    assert np.abs(worse - v.array).mean() > 1.1 * after, "another width is another problem"


class TestUnits:
    """What the prior sees is scaled and turned as it was trained."""

    def test_magnitudes(self):
        slices = slices_of(volume(), PriorUnits())
        inside = slices.values[slices.values > 0.1]
        assert float(torch.quantile(inside, 0.99)) == pytest.approx(1.0, abs=0.02)

    def test_hounsfield(self):
        v = Volume(np.where(head() > 0, 40.0, -1000.0), AFFINE, sform_code=1)
        units = PriorUnits(1, (-1000.0, 1000.0))
        slices = slices_of(v, units)
        assert sorted(set(slices.values.flatten().tolist())) == pytest.approx([0.0, 0.52])
        found = restore(v, GaussianPrior(), settings=settings("denoise", noise=10.0), units=units)
        assert found.mean.array.min() < -900, "air stays negative"

    def test_rows_go_forward_and_columns_right(self):
        v = volume()
        slices = slices_of(v.to_orientation("LPI"), PriorUnits())
        seen = slices.values.numpy() * slices.intensity.scale
        np.testing.assert_allclose(seen, v.array.transpose(2, 1, 0), atol=1e-4)

    def test_real_images_have_no_imaginary_part(self):
        prior = RealImages(GaussianPrior())
        x0 = prior(torch.ones(1, 2, 4, 4), 0.5)
        assert x0[:, 0].all()
        assert not x0[:, 1].any()

    def test_the_problem_counts_what_was_measured(self):
        v = volume()
        slices = slices_of(v, PriorUnits())
        mask = TestInpaint().hole(v)
        problem = problem_of(slices, settings("inpaint"), volume=v, mask=mask)
        assert problem.measured.count == 2 * 20 * 24 - 2 * 16
        assert problem.ids == (2, 3)


def test_integers_do_not_wrap():
    v = replace(volume(), array=np.clip(head() * 2, 0, 255).astype(np.uint8))
    bright = GaussianPrior(3.0, 10.0)  # wants values far above 255
    found = restore(v, bright, settings=settings("denoise", noise=200.0)).mean
    assert found.array.dtype == np.uint8
    assert found.array.max() == 255
    assert (found.array[v.array > 200] > 200).all(), "wrapped values would be small"


def test_the_grid_comes_back():
    for codes in ("RAS", "LPS", "SAL"):
        v = volume().to_orientation(codes)
        found = restore(v, GaussianPrior(), settings=settings("denoise", noise=3.0))
        assert isinstance(found, Restored)
        assert found.mean.same_geometry(v)
        assert np.corrcoef(found.mean.array.ravel(), v.array.ravel())[0, 1] > 0.99


def test_an_unknown_method_is_named():
    with pytest.raises(UsageError, match="dds3"):
        restore(volume(), GaussianPrior(), settings=settings("deblur", fwhm_mm=3.0, method="dds3"))
    with pytest.raises(InvalidInputError, match="needs a prior"):
        restore(volume(), None, settings=settings("denoise"))
    with pytest.raises(UsageError, match="spline draws no samples"):
        settings("superres", method="spline", n_samples=2)
