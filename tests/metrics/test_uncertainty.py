"""Uncertainty statistics against simulated posteriors whose calibration is known."""

import numpy as np
import pytest

from medsci.errors import InvalidInputError
from medsci.metrics import calibrated_coverage, coverage, uncertainty_correlation

SHAPE = (200, 300)


@pytest.fixture
def spread():
    return np.random.default_rng(0).uniform(0.5, 4, size=SHAPE)


def test_correlation_sees_any_increasing_relation(spread):
    assert uncertainty_correlation(spread, spread**3) == pytest.approx(1)
    assert uncertainty_correlation(spread, -(spread**3)) == pytest.approx(1)  # sign of the error
    assert uncertainty_correlation(spread, 1 / spread) == pytest.approx(-1)


def test_correlation_of_a_shuffled_map_is_zero(spread):
    shuffled = np.random.default_rng(1).permutation(spread.ravel()).reshape(SHAPE)
    assert abs(uncertainty_correlation(shuffled, spread)) < 0.02


def test_correlation_follows_ties_and_mask():
    std = np.array([[1.0, 1.0, 2.0, 3.0]])
    error = np.array([[0.0, 1.0, 1.0, -9.0]])
    # ranks 1.5 1.5 3 4 and 1 2.5 2.5 4
    assert uncertainty_correlation(std, error) == pytest.approx(5 / 6)
    assert uncertainty_correlation(std, error, mask=np.array([[1, 0, 1, 1]])) == pytest.approx(1)


def test_a_constant_map_has_no_order(spread):
    assert np.isnan(uncertainty_correlation(np.ones(SHAPE), spread))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 3.0])
def test_a_calibrated_map_covers_what_it_should(spread, factor):
    error = spread * np.random.default_rng(2).normal(size=SHAPE)
    expected = calibrated_coverage(factor)
    assert coverage(spread, error, factor=factor) == pytest.approx(expected, abs=0.006)
    assert coverage(spread / 2, error, factor=factor) < expected - 0.02 * (factor < 3)


@pytest.mark.parametrize("n_samples", [2, 3, 10])
def test_few_samples_cover_what_student_says(spread, n_samples):
    rng = np.random.default_rng(3)
    draws = spread * rng.normal(size=(n_samples, *SHAPE))
    truth = spread * rng.normal(size=SHAPE)
    std = draws.std(0, ddof=1)
    for factor in (1.0, 2.0):
        got = coverage(std, draws.mean(0) - truth, factor=factor)
        assert got == pytest.approx(calibrated_coverage(factor, n_samples=n_samples), abs=0.006)
        assert got < calibrated_coverage(factor) - 0.03  # control: the Gaussian figure is wrong


def test_closed_form_values():
    assert calibrated_coverage(1.0) == pytest.approx(0.682689, abs=1e-6)
    x = 1 / np.sqrt(4 / 3)  # t with 2 degrees of freedom: P(|t| < x) = x / sqrt(2 + x^2)
    assert calibrated_coverage(1.0, n_samples=3) == pytest.approx(x / np.sqrt(2 + x * x))
    assert calibrated_coverage(1.0, n_samples=10**7) == pytest.approx(calibrated_coverage(1.0))


def test_mask_selects(spread):
    mask = np.zeros(SHAPE)
    mask[:10] = 1
    error = np.where(mask, 0.0, 1e9)
    assert coverage(spread, error, factor=1.0, mask=mask) == 1
    assert coverage(spread, error, factor=1.0) == pytest.approx(10 / 200)


def test_bad_input_is_named(spread):
    with pytest.raises(InvalidInputError, match="swap std and error"):
        coverage(-spread, spread, factor=1.0)
    with pytest.raises(InvalidInputError, match="swap std and error"):
        uncertainty_correlation(-spread, spread)
    with pytest.raises(InvalidInputError, match="positive multiple"):
        coverage(spread, spread, factor=0.0)
    with pytest.raises(InvalidInputError, match="at least two samples"):
        calibrated_coverage(1.0, n_samples=1)
