"""Image metrics against closed forms, a slow direct SSIM, and controls that must fail."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medsci.errors import InvalidInputError
from medsci.metrics import mae, nrmse, psnr, ssim

ALL = (mae, nrmse, psnr, ssim)


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return gaussian_filter(rng.uniform(size=(40, 36)), 1.5) * 300 + 20


def direct_ssim(x, y, *, mask, data_range):
    """Equation 13 of Wang et al. 2004 with explicit loops over windows and dimensions."""
    offsets = np.arange(-5, 6)
    one = np.exp(-(offsets**2) / (2 * 1.5**2))
    w = one
    for _ in range(x.ndim - 1):
        w = np.multiply.outer(w, one)
    w = w / w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for centre in np.argwhere(mask):
        if any(c < 5 or c >= n - 5 for c, n in zip(centre, x.shape, strict=True)):
            continue
        window = tuple(slice(c - 5, c + 6) for c in centre)
        a, b = x[window], y[window]
        ma, mb = (w * a).sum(), (w * b).sum()
        va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
        cab = (w * (a - ma) * (b - mb)).sum()
        top = (2 * ma * mb + c1) * (2 * cab + c2)
        values.append(top / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def random_mask(shape, seed=1):
    return np.random.default_rng(seed).uniform(size=shape) > 0.4


# --- closed forms ---------------------------------------------------------------------------------


def test_constant_offset_has_closed_forms(truth):
    shifted = truth + 7
    assert mae(shifted, truth) == pytest.approx(7)
    assert nrmse(shifted, truth) == pytest.approx(7 / np.sqrt(np.mean(truth**2)))
    assert psnr(shifted, truth, data_range=255.0) == pytest.approx(20 * np.log10(255 / 7))


def test_default_range_is_the_reference_maximum_inside_the_mask(truth):
    mask = truth < np.median(truth)
    noisy = truth + np.random.default_rng(0).normal(size=truth.shape)
    for metric in (psnr, ssim):
        inside = metric(noisy, truth, mask=mask, data_range=truth[mask].max())
        whole = metric(noisy, truth, mask=mask, data_range=truth.max())
        assert metric(noisy, truth, mask=mask) == inside
        assert inside != whole


def test_psnr_gains_6_02_db_when_the_error_halves(truth):
    error = np.random.default_rng(0).normal(size=truth.shape)
    gain = psnr(truth + error / 2, truth) - psnr(truth + error, truth)
    assert gain == pytest.approx(20 * np.log10(2))


def test_equal_images_are_perfect(truth):
    assert psnr(truth, truth) == float("inf")
    assert ssim(truth, truth) == pytest.approx(1, abs=1e-12)
    assert mae(truth, truth) == nrmse(truth, truth) == 0


def test_ssim_of_two_constants_is_the_luminance_term():
    a, b, peak = 3.0, 5.0, 10.0
    c1 = (0.01 * peak) ** 2
    got = ssim(np.full((15, 15), a), np.full((15, 15), b), data_range=peak)
    assert got == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1))


def test_ssim_of_a_negated_zero_mean_texture_is_minus_the_contrast_term():
    texture = np.indices((30, 30)).sum(0) % 2 * 2.0 - 1  # mean over any Gaussian window: almost 0
    c2 = (0.03 * 2) ** 2
    got = ssim(-texture, texture, data_range=2.0)
    assert got == pytest.approx((-2 + c2) / (2 + c2), abs=1e-4)


# --- the slow direct SSIM -------------------------------------------------------------------------


def test_ssim_matches_the_direct_form_in_2d(truth):
    noisy = truth + np.random.default_rng(3).normal(scale=9, size=truth.shape)
    mask = random_mask(truth.shape)
    expected = direct_ssim(noisy, truth, mask=mask, data_range=200.0)
    assert ssim(noisy, truth, mask=mask, data_range=200.0) == pytest.approx(expected, abs=1e-10)


def test_ssim_matches_the_direct_form_in_3d():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(size=(2, 13, 14, 15))
    mask = random_mask(x.shape)
    expected = direct_ssim(x, y, mask=mask, data_range=1.0)
    assert ssim(x, y, mask=mask, data_range=1.0, dims=3) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volume_ssim_averages_its_slices_by_mask_voxels(axis):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(size=(2, 22, 21, 20))
    mask = random_mask(x.shape)
    np.moveaxis(mask, axis, 0)[3:] = False  # few slices, unequally filled
    np.moveaxis(mask, axis, 0)[1, 9:] = False
    parts, counts = [], []
    for k in range(3):
        a, b, m = (np.take(v, k, axis=axis) for v in (x, y, mask))
        parts.append(direct_ssim(a, b, mask=m, data_range=1.0))
        counts.append(m[5:-5, 5:-5].sum())
    got = ssim(x, y, mask=mask, data_range=1.0, slice_axis=axis)
    assert got == pytest.approx(np.average(parts, weights=counts), abs=1e-10)
    assert got != pytest.approx(np.mean(parts), abs=1e-6)  # control: not the mean over slices


def test_what_lies_outside_mask_and_windows_does_not_count(truth):
    mask = np.zeros(truth.shape, bool)
    mask[12:16, 12:16] = True
    changed = truth.copy()
    changed[30:] += 1000
    for metric in ALL:
        assert metric(changed, truth, mask=mask) == metric(truth, truth, mask=mask)
        assert metric(changed, truth) != metric(truth, truth)  # control: without the mask it does


# --- what a good metric must notice ---------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_more_blur_is_worse(truth, sigma):
    less, more = gaussian_filter(truth, sigma), gaussian_filter(truth, sigma * 1.5)
    assert psnr(more, truth) < psnr(less, truth)
    assert ssim(more, truth) < ssim(less, truth) < 1
    assert nrmse(more, truth) > nrmse(less, truth) > 0
    assert mae(more, truth) > mae(less, truth) > 0


def test_a_shuffled_image_is_unlike_although_its_histogram_is_the_same(truth):
    shuffled = np.random.default_rng(0).permutation(truth.ravel()).reshape(truth.shape)
    assert ssim(shuffled, truth) < 0.2
    assert psnr(shuffled, truth) < psnr(gaussian_filter(truth, 2), truth)


def test_scaling_both_images_changes_no_relative_metric(truth):
    noisy = truth + np.random.default_rng(0).normal(size=truth.shape)
    for metric in (psnr, ssim, nrmse):
        assert metric(noisy * 1e3, truth * 1e3) == pytest.approx(metric(noisy, truth))
    assert mae(noisy * 1e3, truth * 1e3) == pytest.approx(1e3 * mae(noisy, truth))


@pytest.mark.parametrize("metric", ALL)
def test_tensors_and_integers_give_the_same_number(metric, truth):
    a, b = np.round(truth).astype(np.uint8), np.round(truth[::-1]).astype(np.uint8)
    expected = metric(a.astype(np.float64), b.astype(np.float64))
    assert metric(a, b) == expected  # no wrap-around of unsigned differences
    tensor = torch.tensor(a, dtype=torch.float32, requires_grad=True)
    assert metric(tensor, b) == expected
    assert metric(torch.tensor(a, dtype=torch.bfloat16), b) == expected


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL)
def test_bad_input_is_named(metric, truth):
    spoilt = truth.copy()
    spoilt[0, 0] = np.nan
    with pytest.raises(InvalidInputError, match=r"\(39, 36\).*\(40, 36\).*one grid"):
        metric(truth[1:], truth)
    with pytest.raises(InvalidInputError, match="one grid"):
        metric(truth[None], truth)  # no silent broadcasting
    with pytest.raises(InvalidInputError, match="mask is empty"):
        metric(truth, truth, mask=np.zeros(truth.shape))
    with pytest.raises(InvalidInputError, match="resample the mask"):
        metric(truth, truth, mask=np.ones((3, 3)))
    with pytest.raises(InvalidInputError, match="estimate holds 1 values that are NaN"):
        metric(spoilt, truth)
    with pytest.raises(InvalidInputError, match=r"reference is complex.*magnitude"):
        metric(truth, truth * 1j)
    with pytest.raises(InvalidInputError, match="one 2D image or one 3D volume"):
        metric(truth[None, None], truth[None, None])


def test_scales_that_do_not_exist_are_refused(truth):
    for metric in (psnr, ssim):
        with pytest.raises(InvalidInputError, match="positive data_range"):
            metric(truth, -truth)
        with pytest.raises(InvalidInputError, match="positive data_range"):
            metric(truth, truth, data_range=0.0)
    with pytest.raises(InvalidInputError, match="divides by its norm"):
        nrmse(truth, 0 * truth)


def test_images_smaller_than_the_window_are_refused(truth):
    with pytest.raises(InvalidInputError, match="no window fits"):
        ssim(truth[:10, :10], truth[:10, :10])
    with pytest.raises(InvalidInputError, match="needs a volume"):
        ssim(truth, truth, dims=3)
