"""Distances between sets: closed forms, laws of the tests, and what must not pass."""

import numpy as np
import pytest
import torch
from scipy import stats

from medsci.errors import InvalidInputError
from medsci.metrics.sets import (
    counts_wasserstein,
    energy_distance,
    histogram_wasserstein,
    nearest_neighbour_ratio,
    pairwise_distances,
    wasserstein,
    wasserstein_over_sd,
)


def gaussian(n, *shape, mean=0.0, sd=1.0, seed=0):
    return mean + sd * np.random.default_rng(seed).normal(size=(n, *shape))


def folded(mean, sd):
    """E|N(mean, sd^2)|."""
    z = mean / sd
    return sd * np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2) + mean * (1 - 2 * stats.norm.cdf(-z))


def test_energy_of_two_points_is_twice_their_distance():
    a, b = np.zeros((3, 2, 2)), np.full((5, 2, 2), 1.5)
    assert energy_distance(a, b) == pytest.approx(2 * 1.5 * 2)
    assert energy_distance(a, b, unbiased=True) == pytest.approx(6.0)


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 1.0), (0.0, 2.0), (0.7, 0.5)])
def test_energy_of_gaussians_is_the_closed_form(mean, sd):
    a = stats.norm.ppf((np.arange(1000)[:, None] + 0.5) / 1000)  # evenly spread over the law
    b = mean + sd * a
    spread = folded(0.0, np.sqrt(2.0)) + folded(0.0, np.sqrt(2.0) * sd)
    expected = 2 * folded(mean, np.hypot(1.0, sd)) - spread
    assert energy_distance(a, b) == pytest.approx(expected, rel=0.01)
    assert energy_distance(a, 1.1 * b + 0.1) > 1.05 * expected, "the control"


def test_energy_of_a_set_with_itself_is_zero_and_grows_with_shift_and_scale():
    a = gaussian(40, 4, 4, 4)
    assert energy_distance(a, a) == 0.0
    assert energy_distance(a, a[::-1].copy()) == pytest.approx(0.0, abs=1e-12)
    same = energy_distance(a, gaussian(40, 4, 4, 4, seed=5))
    near, far = (energy_distance(a, gaussian(40, 4, 4, 4, mean=m, seed=5)) for m in (0.3, 0.6))
    assert same < near < far
    assert energy_distance(3 * a, 3 * a + 1.0) == pytest.approx(3 * energy_distance(a, a + 1 / 3))


def test_energy_without_own_pairs_is_unbiased_and_with_them_is_not():
    draws = [(gaussian(10, 3, seed=2 * k), gaussian(10, 3, seed=2 * k + 1)) for k in range(200)]
    unbiased = np.array([energy_distance(a, b, unbiased=True) for a, b in draws])
    plain = np.array([energy_distance(a, b) for a, b in draws])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(200)
    expected = 2 * 2 * stats.chi(3).mean() / np.sqrt(2) / 10  # E|x - x'| (1/n + 1/m), n = m = 10
    assert plain.mean() == pytest.approx(expected, abs=4 * plain.std() / np.sqrt(200))
    assert plain.mean() > 20 * plain.std() / np.sqrt(200)


def test_distances_agree_with_torch_over_several_blocks_and_copies_are_at_zero():
    a = gaussian(150, 5, 7, seed=1).astype(np.float32)
    b = np.concatenate([gaussian(80, 5, 7, seed=2).astype(np.float32), a[100:]])
    found = pairwise_distances(a, torch.from_numpy(b))
    expected = torch.cdist(*(torch.from_numpy(x).double().flatten(1) for x in (a, b)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert (found[100:, 80:].diagonal() == 0.0).all()


def test_neighbour_ratio_on_a_lattice_by_hand():
    train = np.arange(12.0)[:, None]
    assert nearest_neighbour_ratio(train[:6] + 0.25, train, train[:6] + 0.5) == pytest.approx(0.5)
    assert nearest_neighbour_ratio(train[:6] + 0.25, train) == pytest.approx(0.25)
    assert nearest_neighbour_ratio(train[3:5], train) == 0.0


def test_neighbour_ratio_tells_copies_from_new_draws_from_noise():
    train, holdout = gaussian(60, 30, seed=1), gaussian(60, 30, seed=2)
    new = gaussian(60, 30, seed=3)
    assert nearest_neighbour_ratio(new, train, holdout) == pytest.approx(1.0, abs=0.05)
    assert nearest_neighbour_ratio(new, train) == pytest.approx(1.0, abs=0.05)
    copies = train + 0.02 * gaussian(60, 30, seed=4)
    assert nearest_neighbour_ratio(copies, train, holdout) < 0.05
    half = np.concatenate([train[:30], new[:30]])
    assert nearest_neighbour_ratio(half, train, holdout) == pytest.approx(0.5, abs=0.05)
    assert nearest_neighbour_ratio(gaussian(60, 30, sd=2.0, seed=5), train, holdout) > 1.3


@pytest.mark.parametrize("shift", [0.4, -2.5])
def test_wasserstein_of_a_shift_is_the_shift(shift):
    a = gaussian(50, seed=1)
    assert wasserstein(a, a + shift) == pytest.approx(abs(shift))
    expected = abs(shift) / a.std(ddof=1)
    assert wasserstein_over_sd(a, a + shift) == pytest.approx(expected)
    assert wasserstein_over_sd(7 * a + 3, 7 * (a + shift) + 3) == pytest.approx(expected)
    assert wasserstein_over_sd(a, a[::-1].copy()) == pytest.approx(0.0, abs=1e-15)


def test_wasserstein_of_gaussians_of_another_width():
    """The quantiles are `sd` times each other: W1 = |sd - 1| E|z|."""
    a, b = gaussian(40000, seed=1), gaussian(40000, sd=1.5, seed=2)
    assert wasserstein_over_sd(a, b) == pytest.approx(0.5 * np.sqrt(2 / np.pi), abs=0.02)
    assert wasserstein_over_sd(b, a) == pytest.approx(0.5 * np.sqrt(2 / np.pi) / 1.5, abs=0.02)
    assert wasserstein_over_sd(a, gaussian(40000, seed=3)) < 0.03


def test_numbers_that_do_not_vary():
    flat = np.full(12, 49.664)
    assert flat.std() > 0.0, "rounding, which must not become a scale"
    assert wasserstein_over_sd(flat, flat) == 0.0
    assert wasserstein_over_sd(flat, flat + 1) == float("inf")


def test_histograms_see_intensity_and_not_place():
    a = np.random.default_rng(1).uniform(size=(6, 8, 8, 8))
    moved = np.roll(a, 3, axis=2)
    assert histogram_wasserstein(a, moved) == 0.0
    assert energy_distance(a, moved) > 1.0, "the control: voxel by voxel they differ"
    assert histogram_wasserstein(a, a[:3] + 0.2) == pytest.approx(0.2, abs=0.01)
    assert histogram_wasserstein(a, 0.5 * a) == pytest.approx(0.25, abs=0.01)


def test_counts_agree_with_the_exact_histogram_to_a_bin():
    rng, edges = np.random.default_rng(2), np.linspace(0, 1, 513)
    a, b = rng.beta(2, 5, size=20000), rng.beta(3, 3, size=30000)
    counts = [np.histogram(x, edges)[0] for x in (a, b)]
    exact = histogram_wasserstein(a, b)
    assert counts_wasserstein(*counts, width=1 / 512) == pytest.approx(exact, abs=1 / 512)
    assert exact == pytest.approx(0.5 - 2 / 7, abs=0.005), "stochastically ordered: means differ"
    assert counts_wasserstein(counts[0], 7 * counts[0], width=1 / 512) < 1e-12
    point = np.eye(4)
    assert counts_wasserstein(point[0], point[3], width=0.5) == 1.5


def test_what_is_refused():
    a = gaussian(4, 3)
    with pytest.raises(InvalidInputError, match="one shape"):
        energy_distance(a, gaussian(4, 5))
    with pytest.raises(InvalidInputError, match="two or more"):
        energy_distance(a, a[:1])
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        energy_distance(a, np.full_like(a, np.nan))
    with pytest.raises(InvalidInputError, match="no neighbour"):
        nearest_neighbour_ratio(a, a[:1])
    with pytest.raises(InvalidInputError, match="duplicates"):
        nearest_neighbour_ratio(a, a, a[:2])
    with pytest.raises(InvalidInputError, match="one per image"):
        wasserstein_over_sd(a, a)
    with pytest.raises(InvalidInputError, match="give some"):
        histogram_wasserstein(a[:0], a)
    with pytest.raises(InvalidInputError, match="same bins"):
        counts_wasserstein(np.zeros(3), np.ones(3), width=1.0)
