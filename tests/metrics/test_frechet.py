"""Frechet and kernel distances: closed forms, singular covariances, the size of the bias."""

import numpy as np
import pytest
import torch
from scipy import linalg

from medsci.errors import InvalidInputError
from medsci.metrics.distribution import feature_energy, kid
from medsci.metrics.frechet import FeatureStatistics, feature_frechet, frechet_distance


def random_cov(d, rank, seed):
    a = np.random.default_rng(seed).normal(size=(d, rank))
    return a @ a.T


def rows(n, d=8, *, shift=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_diagonal_gaussians_by_hand():
    sd1, sd2 = np.array([1.0, 2.0, 0.5]), np.array([1.5, 0.0, 0.5])
    m1, m2 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    expected = ((m1 - m2) ** 2).sum() + ((sd1 - sd2) ** 2).sum()
    got = frechet_distance(m1, np.diag(sd1**2), mean2=m2, cov2=np.diag(sd2**2))
    assert got == pytest.approx(expected, rel=1e-14)


def test_full_covariances_agree_with_the_matrix_square_root():
    c1, c2, zero = random_cov(6, 9, 0), random_cov(6, 9, 1), np.zeros(6)
    expected = np.trace(c1 + c2 - 2.0 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(zero, c1, mean2=zero, cov2=c2) == pytest.approx(expected, rel=1e-10)
    wrong = np.trace(c1 + c2 - 2.0 * linalg.sqrtm(c1) @ linalg.sqrtm(c2))
    assert abs(wrong - expected) > 1e-2, "roots do not multiply unless the covariances commute"


def test_rotating_both_changes_nothing_and_rotating_one_does():
    c1, c2 = random_cov(5, 7, 0), random_cov(5, 7, 1)
    q, zero = np.linalg.qr(random_cov(5, 5, 2))[0], np.zeros(5)
    plain = frechet_distance(zero, c1, mean2=zero, cov2=c2)
    both = frechet_distance(zero, q @ c1 @ q.T, mean2=zero, cov2=q @ c2 @ q.T)
    assert both == pytest.approx(plain, rel=1e-12)
    assert abs(frechet_distance(zero, c1, mean2=zero, cov2=q @ c2 @ q.T) - plain) > 1e-2


@pytest.mark.parametrize("rank", [1, 5, 60])
def test_equal_inputs_are_at_distance_zero(rank):
    cov, mean = random_cov(60, rank, 3), np.arange(60.0)
    assert frechet_distance(mean, cov, mean2=mean, cov2=cov.copy()) == 0.0
    nearly = frechet_distance(mean, cov, mean2=mean, cov2=cov * (1.0 + 1e-15))
    assert nearly < 1e-13 * np.trace(cov)


def test_singular_covariances_keep_their_digits():
    """Scaling by g costs `(1 - g)^2 tr C`, here 1e-8 of the trace, in 200 dimensions of rank 3."""
    cov, zero, g = random_cov(200, 3, 4), np.zeros(200), 1.0 + 1e-4
    got = frechet_distance(zero, cov, mean2=zero, cov2=g * g * cov)
    assert got == pytest.approx((g - 1.0) ** 2 * np.trace(cov), rel=1e-5)
    values = np.linalg.eigvals(cov @ (g * g * cov)).astype(complex)  # the usual way
    usual = np.trace(cov) * (1.0 + g * g) - 2.0 * np.sqrt(values).real.sum()
    assert abs(usual / got - 1.0) > 1e-2


def test_disjoint_supports_add_their_traces():
    c1, c2, zero = np.diag([2.0, 0.0]), np.diag([0.0, 3.0]), np.zeros(2)
    assert frechet_distance(zero, c1, mean2=zero, cov2=c2) == pytest.approx(5.0, rel=1e-14)


def test_statistics_merge_exactly():
    x = rows(30, seed=1) + 100.0
    whole = FeatureStatistics.of(x)
    parts = FeatureStatistics.of(x[:7]).merged(FeatureStatistics.of(x[7:]))
    assert parts.n == 30
    np.testing.assert_allclose(parts.mean, x.mean(0).numpy(), rtol=1e-13)
    np.testing.assert_allclose(parts.cov, np.cov(x.numpy().T), rtol=1e-11, atol=1e-12)
    assert whole.distance(parts) < 1e-12
    with pytest.raises(InvalidInputError, match="at least two"):
        _ = FeatureStatistics.of(x[:1]).cov


def test_equal_laws_give_the_baseline_and_the_bias_falls_as_one_over_n():
    small = feature_frechet(rows(200, seed=1), rows(200, seed=2))
    large = feature_frechet(rows(800, seed=3), rows(800, seed=4))
    assert small.matched == pytest.approx(small.baseline, rel=0.25)
    assert small.value > 0.05, "equal laws are not at distance zero"
    assert small.baseline / large.baseline == pytest.approx(4.0, rel=0.35)
    assert (small.n_real, small.n_fake, small.n_matched) == (200, 200, 100)
    assert abs(small.extrapolated) < 0.4 * small.value


@pytest.mark.parametrize("n", [6, 20, 300])
def test_few_rows_are_measured_as_by_their_covariances(n):
    x, y = rows(n, 20, seed=1), rows(n + 3, 20, shift=0.2, scale=1.3, seed=2)
    by_moments = FeatureStatistics.of(x).distance(FeatureStatistics.of(y))
    assert feature_frechet(x, y).value == pytest.approx(by_moments, rel=1e-9)


def test_other_laws_stand_out_by_their_own_distance():
    """A shift of .5 in 8 dimensions is at distance 2, a scale of 1.5 at distance 2 too."""
    for fake in (rows(600, shift=0.5, seed=2), rows(600, scale=1.5, seed=2)):
        found = feature_frechet(rows(600, seed=1), fake)
        assert found.extrapolated == pytest.approx(2.0, rel=0.15)
        assert found.matched > found.baseline + 10.0 * found.spread
        assert found.value > found.extrapolated - 0.1


def test_standardised_features_have_no_unit():
    x, y, unit = rows(50, 4, seed=1), rows(50, 4, shift=0.5, seed=2), rows(1, 4, seed=3).exp() * 9.0
    plain = feature_frechet(x, y, standardise=True)
    assert feature_frechet(x * unit, y * unit, standardise=True).value == pytest.approx(plain.value)
    assert feature_frechet(x * unit, y * unit).value > 2.0 * plain.value
    flat = torch.cat([x, torch.ones(50, 1)], 1), torch.cat([y, torch.ones(50, 1)], 1)
    assert feature_frechet(*flat, standardise=True).value == pytest.approx(plain.value)


def test_features_are_asked_in_batches():
    sizes = []

    def features(x):
        sizes.append(len(x))
        return x.flatten(1).mean(1, keepdim=True).expand(-1, 2) * torch.tensor([1.0, 2.0])

    images = rows(10, 12).reshape(10, 3, 4).float()
    found = feature_frechet(images, images, features=features, batch_size=4)
    assert found.value == 0.0
    assert sizes == [4, 4, 2, 4, 4, 2]


def test_kid_and_energy_know_equal_laws_from_others():
    for distance in (kid, feature_energy):
        same = distance(rows(150, seed=1), rows(150, seed=2))
        other = distance(rows(150, seed=1), rows(150, shift=0.3, seed=2))
        assert same.p_value > 0.05
        assert same.value < same.level
        assert other.p_value < 0.01
        assert other.value > 3.0 * other.level


def test_kid_is_unbiased_where_the_frechet_distance_is_not():
    values = [
        (kid(x, y, n_deals=1).value, FeatureStatistics.of(x).distance(FeatureStatistics.of(y)))
        for x, y in ((rows(24, seed=2 * k), rows(24, seed=2 * k + 1)) for k in range(200))
    ]
    mean, sd = np.mean(values, 0), np.std(values, 0) / np.sqrt(200)
    assert abs(mean[0]) < 3.0 * sd[0]
    assert mean[1] > 20.0 * sd[1]


def test_kid_of_the_first_degree_is_blind_to_spread():
    x, y = rows(300, seed=1), rows(300, scale=1.5, seed=2)
    assert kid(x, y, degree=3).p_value < 0.01
    assert kid(x, y, degree=1).p_value > 0.05


def test_what_is_refused():
    with pytest.raises(InvalidInputError, match="at least 4"):
        feature_frechet(rows(3), rows(9))
    with pytest.raises(InvalidInputError, match="same network"):
        feature_frechet(rows(9, 3), rows(9, 4))
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        feature_frechet(rows(9) / 0.0, rows(9))
    with pytest.raises(InvalidInputError, match="one row of numbers"):
        feature_frechet(torch.zeros(4, 2, 2), rows(9))
    with pytest.raises(InvalidInputError, match="of equal length"):
        kid(rows(5, 3), rows(5, 4))
