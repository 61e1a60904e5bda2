"""Masks that turn into coins: the bridge averages over the clean value, and only that is exact."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant
from torch.testing import assert_close

from medsci.core import Path, Rng, grid
from medsci.core.process.bernoulli import Bernoulli
from medsci.core.process.process import Process
from medsci.core.solve.bridge import bridge_walk

BETAS = np.linspace(1e-4, 0.02, 1000)
TABLE = Bernoulli(Path.tabulated(np.cumprod(1.0 - BETAS)))
LINEAR = Bernoulli(lambda t: 1.0 - t)
BOTH = pytest.mark.parametrize("process", [TABLE, LINEAR], ids=["table", "function"])
VALUES = torch.tensor([1.0, 0.0], dtype=DOUBLE)


def likelihood(process, y, t, y0):
    """Return q(y_t = y | y_0 = y0)."""
    gamma = float(process.gamma(t))
    up = gamma * y0 + 0.5 * (1.0 - gamma)
    return up if y else 1.0 - up


def belief(process, y, t, *, prior):
    """Return P(y_0 = 1 | y_t = y) for a pixel that is 1 with this prior: a perfect network."""
    one, zero = (p * likelihood(process, y, t, y0) for p, y0 in ((prior, 1), (1.0 - prior, 0)))
    return one / (one + zero)


def plug_in(process, y, p, *, t, s):
    """Return the chance of 1 at s if the probability is put where the clean value belongs."""
    gamma, ratio = float(process.gamma(s)), float(process.gamma(t)) / float(process.gamma(s))
    up = gamma * p + 0.5 * (1.0 - gamma)
    one = (ratio * y + 0.5 * (1.0 - ratio)) * up
    zero = (ratio * (1.0 - y) + 0.5 * (1.0 - ratio)) * (1.0 - up)
    return one / (one + zero)


def returned(process, times, *, prior, eta=1.0, wrong=False, start=None):
    """Return the probability that the walk ends at 1, by summing over both values of every y_t."""
    one = prior * likelihood(process, 1, times[0], 1)
    one += (1.0 - prior) * likelihood(process, 1, times[0], 0)
    one = one if start is None else start
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        p = torch.tensor([belief(process, y, t, prior=prior) for y in (1, 0)], dtype=DOUBLE)
        if wrong:
            chance = plug_in(process, VALUES, p, t=t, s=s) if s > 0.0 else p
        else:
            chance = process.chance(VALUES, p, t=t, s=s, eta=eta)
        one = float(one * chance[0] + (1.0 - one) * chance[1])
    return one


def test_the_marginal_composes_from_single_flips() -> None:
    """The thousand 2x2 matrices of q(y_t | y_(t-1)) multiply to gamma y_0 + (1 - gamma) / 2."""
    total = np.eye(2)
    for i, beta in enumerate(BETAS):
        total = total @ np.array([[1.0 - 0.5 * beta, 0.5 * beta], [0.5 * beta, 1.0 - 0.5 * beta]])
        gamma = float(TABLE.gamma((i + 1) / 1000))
        np.testing.assert_allclose(total[0], [0.5 + 0.5 * gamma, 0.5 - 0.5 * gamma], atol=1e-12)
    assert 0.5 + 0.5 * float(TABLE.gamma(0.501)) == pytest.approx(0.5388983, abs=1e-7)


@BOTH
def test_the_posterior_is_bayes_rule_on_the_two_state_chain(process) -> None:
    for t, s in ((0.9, 0.2), (0.5, 0.499), (1.0, 0.6), (0.3, 0.0)):
        ratio = float(process.gamma(t)) / float(process.gamma(s))
        for y0 in (0.0, 1.0):
            for y in (0, 1):
                joint = [
                    likelihood(process, y_s, s, y0) * (0.5 + 0.5 * ratio * (1 if y == y_s else -1))
                    for y_s in (1, 0)
                ]
                p = torch.full((1, 1), y0, dtype=DOUBLE)
                found = process.chance(torch.full((1, 1), float(y), dtype=DOUBLE), p, t=t, s=s)
                assert float(found) == pytest.approx(joint[0] / sum(joint), abs=1e-12)
                assert float(found) == pytest.approx(
                    float(plug_in(process, float(y), y0, t=t, s=s)), abs=1e-12
                )  # for certain values the two rules agree


@BOTH
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prior", [0.05, 0.3, 0.8])
def test_every_walk_returns_the_prior_exactly(process, eta, prior) -> None:
    for n in (1, 2, 5, 10, 50):
        times = grid.uniform(n)
        assert returned(process, times, prior=prior, eta=eta) == pytest.approx(prior, abs=1e-12)


def test_the_plug_in_rule_returns_another_number() -> None:
    """The figures of the study, from its exact dynamic programme on the 1000-step table."""
    expected = {
        0.05: [0.096075, 0.141211, 0.177117],
        0.30: [0.346853, 0.368940, 0.390464, 0.394593, 0.395358],
        0.80: [0.737211, 0.705057, 0.674216],
    }
    for prior, numbers in expected.items():
        for n, number in zip((5, 10, 50, 250, 1000), numbers, strict=False):
            times = grid.indices(1000, n, spacing="linspace")
            assert returned(TABLE, times, prior=prior) == pytest.approx(prior, abs=1e-9)
            assert returned(TABLE, times, prior=prior, wrong=True) == pytest.approx(
                number, abs=1e-6
            )
            if n <= 10:  # from a fair coin instead of the exact law at t = 1
                coin = returned(TABLE, times, prior=prior, start=0.5)
                assert coin == pytest.approx(prior, abs=1e-4)


@BOTH
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_whole_chain_has_the_right_counts(process, eta) -> None:
    prior, n, times = 0.3, 200000, [1.0, 0.75, 0.5, 0.2, 0.05]
    rng = Rng(2, [0])
    y0 = (torch.rand(1, n, generator=torch.Generator().manual_seed(0)) < prior).float()
    y, _ = process.perturb(y0, times[0], rng, step=99)

    def count(y, t):
        gamma = float(process.gamma(t))
        expected = n * (gamma * prior + 0.5 * (1.0 - gamma))
        return (float(y.sum()) - expected) / math.sqrt(expected * (1.0 - expected / n))

    wrong = y.clone()
    for i, (t, s) in enumerate(pairwise(times)):
        assert abs(count(y, t)) < 4.5
        p = [belief(process, v, t, prior=prior) for v in (0, 1)]
        x0 = torch.where(y > 0.5, p[1], p[0])
        y = process.bridge(y, x0, t=t, s=s, rng=rng, step=i, eta=eta)
        chance = plug_in(process, wrong, torch.where(wrong > 0.5, p[1], p[0]), t=t, s=s)
        wrong = (rng.normal((1, n), step=i) < torch.special.ndtri(chance)).float()
    assert abs(count(y, times[-1])) < 4.5
    assert abs(count(wrong, times[-1])) > 20.0


@BOTH
def test_noise_has_its_law_for_zeros_and_ones(process) -> None:
    n, t = 100000, torch.tensor([0.3, 0.8])
    for y0 in (0.0, 1.0):
        y, flips = process.perturb(torch.full((2, n), y0), t, Rng(0, [0, 1]))
        for row, time in zip(y, t.tolist(), strict=True):
            p = likelihood(process, 1, time, y0)
            assert abs(float(row.mean()) - p) < 4.5 * math.sqrt(p * (1.0 - p) / n)
        assert_close((y0 - y).abs(), flips)
    coins = process.prior((2, n), Rng(0, [0, 1]))
    assert abs(float(coins.mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(2 * n)
    assert sorted(coins.unique().tolist()) == [0.0, 1.0]


def test_the_deterministic_member_keeps_what_it_can() -> None:
    """With eta = 0 and the truth known, a pixel changes only towards the truth."""
    y0 = (torch.rand(1, 50000, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    y, _ = LINEAR.perturb(y0, 0.8, Rng(0, [0]))
    for eta, wrong_way in ((0.0, 0), (1.0, 100)):
        s = LINEAR.bridge(y, y0, t=0.8, s=0.5, rng=Rng(0, [0]), step=1, eta=eta)
        away = int(((y == y0) & (s != y0)).sum())
        assert away >= wrong_way
        assert (away == 0) == (eta == 0.0)


def test_a_walk_ends_in_the_probability_and_a_sample_walks_alone() -> None:
    def walk(ids):
        rng = Rng(5, ids)
        start = TABLE.prior((len(ids), 6), rng, dtype=DOUBLE)
        return bridge_walk(lambda y, t: 0.1 + 0.7 * y, TABLE, start, grid=grid.uniform(4), rng=rng)

    assert_batch_invariant(walk)
    assert set(walk([0, 1, 2]).unique().tolist()) == {0.1, 0.1 + 0.7 * 1.0}
    assert isinstance(TABLE, Process)


@pytest.mark.parametrize(
    ("x0", "t", "s", "words"),
    [
        ([-8.0, 0.5], 0.5, 0.2, "sigmoid"),
        ([0.5, math.nan], 0.5, 0.2, "probabilities"),
        ([0.5, 0.5], 0.2, 0.5, "0 <= s < t"),
    ],
)
def test_says_how_to_fix(x0, t, s, words) -> None:
    y = torch.ones(1, 2)
    with pytest.raises(ValueError, match=words):
        LINEAR.bridge(y, torch.tensor([x0]), t=t, s=s, rng=Rng(0, [0]), step=0)
    with pytest.raises(ValueError, match="must fall"):
        Bernoulli(lambda t: 0.5 + 0.0 * t).bridge(y, y, t=0.5, s=0.1, rng=Rng(0, [0]), step=0)
