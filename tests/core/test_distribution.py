"""Distances between laws: unbiased, calibrated where the laws agree, awake where they differ."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw
from scipy import special, stats

from medsci.core.check.distribution import (
    NegativeDistance,
    Polynomial,
    Rbf,
    energy_distance,
    ks_distance,
    median_width,
    mmd,
    mmd_null,
    sliced_ks,
    support_distance,
)
from medsci.core.rng import Rng

KERNELS = {"rbf": Rbf(2.0), "polynomial": Polynomial(), "distance": NegativeDistance()}
SHIFT = torch.tensor([0.7, 0.0, 0.0], dtype=DOUBLE)


def pairs(n, m, repetitions, *, shift=0.0, scale=1.0):
    """Yield independent draws of two sets in three dimensions."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(repetitions):
        x = torch.randn(n, 3, generator=generator, dtype=DOUBLE)
        y = torch.randn(m, 3, generator=generator, dtype=DOUBLE)
        yield x, shift + scale * y


@pytest.mark.parametrize("name", KERNELS)
def test_the_unbiased_mmd_has_mean_zero_on_equal_laws(name):
    kernel = KERNELS[name]
    values = np.array([mmd(x, y, kernel=kernel).item() for x, y in pairs(12, 20, 400)])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(len(values))
    assert (values < 0).mean() > 0.2
    if name != "distance":  # the energy kernel has no self terms to leave out
        biased = [mmd(x, y, kernel=kernel, unbiased=False).item() for x, y in pairs(12, 20, 50)]
        assert min(biased) > 0.0
        assert np.mean(biased) > 10 * values.std() / math.sqrt(len(values))


def test_the_mmd_of_gaussians_has_its_closed_form():
    """E k of two Gaussians under an RBF is a Gaussian density; the estimate scatters around it."""
    width, shift, d = 2.0, 0.7, 3

    def expected(variance, square):
        total = width**2 + variance
        return (width**2 / total) ** (d / 2) * math.exp(-0.5 * square / total)

    truth = 2.0 * (expected(2.0, 0.0) - expected(2.0, shift**2))
    values = [mmd(x, y, kernel=Rbf(width)).item() for x, y in pairs(40, 40, 200, shift=SHIFT)]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 3 * error
    assert truth > 10 * error  # control: the estimate would not fit zero


def test_the_energy_distance_is_that_of_scipy():
    x, y = draw(300, 1, seed=1), 0.4 + draw(200, 1, seed=2)
    ours = mmd(x, y, kernel=NegativeDistance(), unbiased=False).item()
    scipy = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert ours == pytest.approx(scipy**2, rel=1e-9)
    assert energy_distance(x, y).item() < ours  # no pairs of a sample with itself


def p_values(test, **law):
    return np.array([test(x, y) for x, y in pairs(25, 30, 100, **law)])


DEALS = Rng(3, range(99))
TESTS = {
    "mmd": lambda x, y: mmd_null(x, y, rng=DEALS).p_value,
    "energy": lambda x, y: mmd_null(x, y, rng=DEALS, kernel=NegativeDistance()).p_value,
}


@pytest.mark.parametrize("name", TESTS)
def test_p_values_are_uniform_on_equal_laws_and_small_on_others(name):
    equal = p_values(TESTS[name])
    assert stats.kstest(equal, "uniform").pvalue > 0.01
    assert 0.01 <= (equal <= 0.05).mean() <= 0.11
    moved = p_values(TESTS[name], shift=SHIFT)
    assert np.median(moved) <= 0.05
    assert stats.kstest(moved, "uniform").pvalue < 1e-6


def test_the_level_is_what_equal_laws_exceed_in_one_case_of_twenty():
    seen = [mmd_null(x, y, rng=DEALS) for x, y in pairs(25, 30, 100)]
    above = np.mean([c.value > c.level for c in seen])
    assert 0.01 <= above <= 0.11
    x, y = next(iter(pairs(200, 200, 1, shift=SHIFT)))
    far = mmd_null(x, y, rng=DEALS)
    assert far.value > 3 * far.level
    assert far.p_value == pytest.approx(1 / 100)
    assert far.value == pytest.approx(mmd(x, y).item(), rel=1e-9)


def test_a_polynomial_of_low_degree_does_not_see_every_difference():
    """Equal mean and covariance: degree 2 is blind where degree 4 and the RBF see the tails."""
    n = 600
    x = draw(n, 1, seed=1)
    signs = torch.where(draw(n, 1, seed=2) > 0, 1.0, -1.0).to(DOUBLE)
    rng = Rng(0, range(49))
    blind = mmd_null(x, signs, rng=rng, kernel=Polynomial(degree=2))
    seeing = mmd_null(x, signs, rng=rng, kernel=Polynomial(degree=4))
    assert seeing.p_value == pytest.approx(0.02)
    assert blind.value < 0.05 * seeing.value
    assert mmd_null(x, signs, rng=rng).p_value == pytest.approx(0.02)


def test_the_mmd_has_the_gradient_of_finite_differences():
    x, y = draw(9, 3, seed=1).requires_grad_(), 0.5 + draw(11, 3, seed=2)
    for kernel in KERNELS.values():
        (slope,) = torch.autograd.grad(mmd(x, y, kernel=kernel), x)
        step = 1e-6 * draw(9, 3, seed=4)
        with torch.no_grad():
            rise = mmd(x + step, y, kernel=kernel) - mmd(x - step, y, kernel=kernel)
        assert rise.item() / 2 == pytest.approx((slope * step).sum().item(), rel=1e-5)


def test_the_median_width_ignores_the_split():
    x, y = draw(20, 3, seed=1), 3.0 + draw(30, 3, seed=2)
    pool = torch.cat([x, y])
    assert median_width(x, y) == median_width(pool[:7], pool[7:])


@pytest.mark.parametrize("n", [20, 200, 2000])
def test_ks_agrees_with_scipy(n):
    x, y = draw(n, seed=1), 0.1 + draw(3 * n, seed=2)
    one = ks_distance(x, torch.special.ndtr)
    scipy = stats.kstest(x.numpy(), "norm", mode="exact")
    assert one.value == pytest.approx(scipy.statistic, rel=1e-12)
    assert one.p_value == pytest.approx(scipy.pvalue, abs=0.01)
    two = ks_distance(x, y)
    scipy = stats.ks_2samp(x.numpy(), y.numpy(), method="asymp")
    assert two.value == pytest.approx(scipy.statistic, rel=1e-12)
    assert two.p_value == pytest.approx(scipy.pvalue, abs=0.03)


def test_the_law_of_kolmogorov_and_its_level():
    n = 10**5
    scale = math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)
    for k in (0.2, 0.5, 0.9, 0.999, 1.0, 1.358, 2.0, 4.0):
        grid = (torch.arange(n, dtype=DOUBLE) + 0.5) / n
        far = (grid + k / scale - 0.5 / n).clamp(max=1.0)
        seen = ks_distance(far, lambda u: u.clamp(0, 1))
        assert seen.value == pytest.approx(k / scale, rel=1e-4)
        assert seen.p_value == pytest.approx(special.kolmogorov(k), rel=1e-3)
    assert seen.level == pytest.approx(1.3581 / scale, rel=1e-4)


def test_ks_is_calibrated_and_awake():
    x = draw(400, 300, seed=3)
    p = np.array([ks_distance(row, torch.special.ndtr).p_value for row in x])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    wrong = np.array([ks_distance(1.3 * row, torch.special.ndtr).p_value for row in x])
    assert np.median(wrong) < 0.05


def test_sliced_ks_is_careful_on_equal_laws_and_sees_a_turned_covariance():
    rng = Rng(5, range(16))
    equal = np.array([sliced_ks(x, y, rng=rng).p_value for x, y in pairs(40, 50, 60)])
    assert (equal <= 0.05).mean() <= 0.07
    n = 600
    x, y = draw(n, 2, seed=1), draw(n, 2, seed=2)
    turn = torch.tensor([[1.0, 0.9], [0.0, math.sqrt(1 - 0.81)]], dtype=DOUBLE)
    tilted = sliced_ks(x, y @ turn, rng=rng)  # both margins stay standard normal
    assert min(ks_distance(x[:, i], (y @ turn)[:, i]).p_value for i in range(2)) > 0.01
    assert tilted.p_value < 1e-4
    assert tilted.value > tilted.level


def test_samples_off_the_support_are_far_from_every_mode():
    line = torch.linspace(-2.0, 2.0, 5, dtype=DOUBLE)
    centres = torch.cartesian_prod(line, line)
    x = centres.repeat(40, 1) + 0.05 * draw(1000, 2, seed=1)
    inside = support_distance(x, centres, sd=0.05)
    # the nearest mode is the own one, so the distances follow Rayleigh's law
    assert stats.kstest(inside.numpy(), "rayleigh", mode="asymp").pvalue > 0.01
    assert (inside > 6.0).sum() == 0
    between = support_distance(x + 0.5, centres, sd=0.05)  # control: between the modes
    assert (between > 6.0).all()
    each = support_distance(centres + 0.1, centres, sd=torch.full((25,), 0.05, dtype=DOUBLE))
    torch.testing.assert_close(each, torch.full((25,), 0.1 * math.sqrt(2) / 0.05, dtype=DOUBLE))
