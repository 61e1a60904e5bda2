"""Permutation p-values are uniform under one law, small under two; Holm keeps the error."""

import numpy as np
import pytest

from medsci.metrics.permutation import holm, permutation_p
from medsci.metrics.sets import wasserstein


def gaussian(n, *, seed):
    return np.random.default_rng(seed).normal(size=n)


def test_permutation_p_is_uniform_under_one_law():
    p = np.array(
        [
            permutation_p(gaussian(9, seed=2 * k), gaussian(7, seed=2 * k + 1), n_deals=99)
            for k in range(400)
        ]
    )
    assert p.mean() == pytest.approx(0.505, abs=4 / np.sqrt(12 * 400))  # uniform on .01, .02 ... 1
    for level in (0.05, 0.2, 0.5):
        tolerance = 4 * np.sqrt(level * (1 - level) / 400)
        assert (p <= level).mean() == pytest.approx(level, abs=tolerance)


def test_permutation_p_finds_shift_and_spread_and_counts_every_deal():
    a = gaussian(20, seed=1)
    assert permutation_p(a, a + 1.5) == 1 / 1000
    assert permutation_p(a, 4 * gaussian(20, seed=2)) < 0.01
    assert permutation_p(a, a) == 1.0
    assert permutation_p(a, gaussian(20, seed=3)) > 0.05
    # all deals of 2 + 2 numbers: W1 of [0, 1 | 10, 11] is reached by 2 of 6
    assert permutation_p(np.array([0.0, 1.0]), np.array([10.0, 11.0])) == pytest.approx(
        1 / 3, abs=0.06
    )


def test_permutation_statistic_is_w1():
    """A deal's statistic, found by cumulative sums, against SciPy: p = share of as large deals."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(0.8, 1.0, size=5)
    pool, value = np.concatenate([a, b]), wasserstein(a, b)
    deals = [rng.permutation(pool) for _ in range(2000)]
    share = np.mean([wasserstein(d[:6], d[6:]) >= value - 1e-12 for d in deals])
    assert permutation_p(a, b, n_deals=4000) == pytest.approx(share, abs=0.04)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.6]) == pytest.approx((1.0, 1.0))
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


def test_holm_keeps_the_error_over_all_tests():
    """Of 10 null tests any is rejected in at most 5 % of cases; uncorrected ones in 40 %."""
    p = np.random.default_rng(3).uniform(size=(2000, 10))
    rejected = np.mean([min(holm(row.tolist())) <= 0.05 for row in p])
    assert rejected == pytest.approx(0.05, abs=0.015)
    assert (p.min(1) <= 0.05).mean() > 0.3
