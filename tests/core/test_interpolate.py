"""Walks along an interpolant: both directions, any noise, their orders, and what noise forgives."""

import itertools
import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, assert_order, draw
from contracts.interpolant import BRIDGE, DATA, OTHER, generator

from medsci.core import Rng
from medsci.core.check.distribution import mmd_null
from medsci.core.check.interpolant import InterpolantOracle
from medsci.core.process.two_sided import TwoSided
from medsci.core.solve.interpolate import interpolate

N = 600


def carry(start, *, oracle=BRIDGE, down=True, eps=0.0, sign=1.0, steps=40):
    """Carry samples from one end to the other; in between, all the way to the ends."""
    times = np.linspace(1.0, 0.0, steps + 1) if down else np.linspace(0.0, 1.0, steps + 1)
    return interpolate(
        oracle.b,
        start,
        grid=times,
        score=lambda x, t: sign * oracle.score(x, t),
        eps=eps,
        rng=Rng(3, range(len(start))),
    )


@pytest.mark.parametrize("eps", [0.0, 0.5], ids=["flow", "noise"])
@pytest.mark.parametrize("down", [True, False], ids=["to_data", "to_other"])
def test_both_walks_reach_the_other_side(down, eps) -> None:
    source, goal = (1.0, 0.0) if down else (0.0, 1.0)
    start = BRIDGE.sample(N, source, generator=generator(1))
    truth = BRIDGE.sample(N, goal, generator=generator(2))
    verdict = mmd_null(carry(start, down=down, eps=eps), truth, rng=Rng(0, range(200)))
    assert verdict.p_value > 0.05
    if eps > 0.0:  # the control: the other sign of the score
        wrong = carry(start, down=down, eps=eps, sign=-1.0)
        finite = wrong[torch.isfinite(wrong).all(1)]
        lost = len(finite) < N
        assert lost or mmd_null(finite, truth, rng=Rng(0, range(200))).value > 10.0 * verdict.level


@pytest.mark.parametrize("eps", [0.2, lambda t: 4.0 * t * (1.0 - t)], ids=["constant", "bump"])
def test_the_law_half_way_is_right_too(eps) -> None:
    oracle = InterpolantOracle(TwoSided("trig", "sin2", scale=0.5), DATA, second=OTHER)
    start = oracle.sample(N, 1.0, generator=generator(1))
    half = interpolate(oracle.b, start, grid=np.linspace(1.0, 0.4, 40), score=oracle.score,
                       eps=eps, rng=Rng(0, range(N)))  # fmt: skip
    truth = oracle.sample(N, 0.4, generator=generator(2))
    assert mmd_null(half, truth, rng=Rng(0, range(200))).p_value > 0.05
    assert mmd_null(half, start, rng=Rng(0, range(200))).p_value < 0.01


def test_mirror_bridges_come_home() -> None:
    oracle = InterpolantOracle(TwoSided("mirror", "sqrt"), DATA, second=OTHER)
    start = DATA.sample(N, 0.0, generator=generator(1))
    end = carry(start, oracle=oracle, down=False, eps=0.5)
    truth = DATA.sample(N, 0.0, generator=generator(2))
    assert mmd_null(end, truth, rng=Rng(0, range(200))).p_value > 0.05
    assert float((end - start).norm(dim=1).median()) > 0.3  # not the samples that left


def test_a_sample_walks_the_same_alone() -> None:
    start = BRIDGE.sample(8, 1.0, generator=generator(1))
    assert_batch_invariant(
        lambda ids: interpolate(
            lambda x, t: -x, start[list(ids)], grid=np.linspace(1.0, 0.0, 5),
            score=lambda x, t: -0.5 * x, eps=0.3, rng=Rng(3, ids),
        )
    )  # fmt: skip


@pytest.mark.parametrize(("rule", "order"), [("heun", 2.0), ("euler", 1.0)])
def test_order_of_the_flow(rule, order) -> None:
    x = BRIDGE.sample(32, 0.9, generator=generator(1))

    def end(n):
        return interpolate(BRIDGE.b, x, grid=np.linspace(0.9, 0.1, n + 1), rule=rule)

    fine = interpolate(BRIDGE.b, x, grid=np.linspace(0.9, 0.1, 801))
    assert_order(lambda n: float((end(n) - fine).abs().mean()), expected=order, steps=(40, 80, 160),
                 tolerance=0.25)  # fmt: skip


@pytest.mark.parametrize(("rule", "order"), [("heun", 2.0), ("euler", 1.0)])
def test_weak_order_with_noise(rule, order) -> None:
    """On N(0, 1) -> N(0, 1) the variance along a linear bridge is known; eps varies with t."""
    variance = lambda t: (1.0 - t) ** 2 + t * t + 2.0 * t * (1.0 - t)  # noqa: E731 - g^2 doubled
    interpolant = TwoSided("linear", "sqrt", scale=2.0)
    assert float(interpolant.weights(0.3)[2]) ** 2 == pytest.approx(2.0 * 0.3 * 0.7)
    start = Rng(9, [0]).normal((1, 400000), step=0, dtype=DOUBLE)
    start = start / start.std()

    def error(n):
        end = interpolate(
            lambda x, t: 0.0 * x,  # all variances are one, so b = 0
            start,
            grid=np.linspace(0.0, 1.0, n + 1),
            score=lambda x, t: -x / variance(t),
            eps=lambda t: 2.0 + 2.0 * math.cos(3.0 * t),
            rng=Rng(1, [0]),
            rule=rule,
        )
        return abs(float(end.var()) - 1.0)

    steps = (6, 12) if rule == "heun" else (12, 24)
    coarse, fine = error(steps[0]), error(steps[1])
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.45)


def test_noise_forgives_an_error_of_the_drift() -> None:
    """KL at the end falls with eps and stays below int E|error|^2 / (4 eps); the flow keeps it."""
    error, start = 0.6, Rng(9, [0]).normal((1, 100000), step=0, dtype=DOUBLE)

    def divergence(eps):  # N(0, 1) to N(0, 1), b = 0: the exact law at the end is N(0, 1)
        end = interpolate(
            lambda x, t: torch.full_like(x, error), start, grid=np.linspace(0.0, 1.0, 61),
            score=lambda x, t: -x, eps=eps, rng=Rng(1, [0]),
        )  # fmt: skip
        mean, var = float(end.mean()), float(end.var())
        return 0.5 * (mean**2 + var - 1.0 - math.log(var))

    amounts = (0.0, 0.25, 1.0, 4.0)
    found = [divergence(eps) for eps in amounts]
    exact = [0.5 * (error * (1.0 - math.exp(-e)) / e if e else error) ** 2 for e in amounts]
    assert found == pytest.approx(exact, rel=0.05, abs=1e-3)
    assert all(a > 1.2 * b for a, b in itertools.pairwise(found))
    assert all(kl <= error**2 / (4.0 * eps) for kl, eps in zip(found[1:], amounts[1:], strict=True))


@pytest.mark.parametrize(
    ("times", "eps", "words"),
    [([0.0, 0.5, 0.5], 0.0, "one way"), ([0.0, 2.0], 0.0, "one way"), ([0.0, 1.0], 1.0, "score=")],
)
def test_says_how_to_fix(times, eps, words) -> None:
    with pytest.raises(ValueError, match=words):
        interpolate(BRIDGE.b, draw(2, 2), grid=np.array(times), eps=eps)
