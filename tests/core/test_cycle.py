"""Cycles: where the jumps go, what they cost, and that they leave the marginals alone."""

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_marginal, draw, gaussian16

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Cycle, Multistep, Rng, RungeKutta, grid
from medsci.core.steer import Trace

RF = Path.rectified()
TIMES = grid.uniform(10)


def test_the_walk_of_two_cycles():
    plan = Cycle(Multistep(), high=0.7, low=0.3, n=2).plan(RF, TIMES)
    stretch = [0.6, 0.5, 0.4, 0.3]
    expected = [0.9, 0.8, 0.7, *stretch, 0.7, *stretch, 0.7, *stretch, 0.2, 0.1, 0.0]
    assert [step.s for step in plan.steps] == pytest.approx(expected)
    assert [step.evaluate for step in plan.steps].count(False) == 2
    assert plan.nfe == 18


def test_a_jump_is_the_forward_process():
    """The two coefficients of x_h given x_l, from the law of x_h given x0."""
    plan = Cycle(Multistep(), high=0.7, low=0.3, n=1).plan(RF, TIMES)
    jump = next(step for step in plan.steps if not step.evaluate)
    a = jump.rows[0].a
    assert a * (1.0 - 0.3) == pytest.approx(1.0 - 0.7)
    assert a**2 * 0.3**2 + jump.z**2 == pytest.approx(0.7**2)


def test_no_cycles_is_the_inner_solver():
    inner = Multistep("eps", order=3)
    assert Cycle(inner, high=0.7, low=0.3, n=0).plan(RF, TIMES) == inner.plan(RF, TIMES)


@pytest.mark.parametrize("inner", [Ancestral(1.0), RungeKutta("heun", "v")])
def test_marginals_are_left_alone(inner):
    """An exact sampler for the Gaussian, three cycles, the same law; the jump alone is not."""
    oracle = gaussian16(RF)
    plan = Cycle(inner, high=0.7, low=0.3, n=3).plan(RF, grid.uniform(20))
    rng = Rng(1, range(1200))
    x = plan.run(oracle, rng.normal((1200, 16), step=-1, dtype=DOUBLE), rng=rng)
    plain = inner.plan(RF, grid.uniform(20))
    rng = Rng(2, range(1200))
    reference = plain.run(oracle, rng.normal((1200, 16), step=-1, dtype=DOUBLE), rng=rng)
    assert_marginal(x, mean=oracle.mean, covariance=reference.T.cov(), limit=6.0)


def test_a_jump_without_its_noise_is_noticed():
    """The control: the same walk, renoised too little."""
    import dataclasses

    oracle = gaussian16(RF)
    plan = Cycle(Ancestral(1.0), high=0.7, low=0.3, n=3).plan(RF, grid.uniform(20))
    silent = [step if step.evaluate else dataclasses.replace(step, z=0.0) for step in plan.steps]
    rng = Rng(1, range(1200))
    x = dataclasses.replace(plan, steps=tuple(silent)).run(
        oracle, rng.normal((1200, 16), step=-1, dtype=DOUBLE), rng=rng
    )
    with pytest.raises(AssertionError, match="covariance"):
        assert_marginal(x, mean=oracle.mean, covariance=oracle.moments(0.0)[1], limit=6.0)


def test_hooks_see_the_arrival_of_a_jump_and_every_cycle_has_fresh_noise():
    plan = Cycle(Multistep("x0", order=1), high=0.7, low=0.3, n=2).plan(RF, TIMES)
    trace, evaluations = Trace("x", at="after"), Trace("x0", at="denoised")
    x = draw(2, 3)
    plan.run(lambda x, t: torch.tanh(x), x, rng=Rng(0, range(2)), hooks=[trace, evaluations])
    assert len(trace.values) == 20
    assert len(evaluations.values) == 18
    arrivals = [i for i, step in enumerate(plan.steps) if not step.evaluate]
    first, second = (trace.values[i] for i in arrivals)
    assert (first - second).abs().min() > 0.0
    assert trace.times[arrivals[0]] == pytest.approx(0.7)


def test_directions_from_before_a_jump_are_forgotten():
    """Walked from the jump on, the plan goes the same way: nothing older is used."""
    plan = Cycle(Multistep("eps", order=3), high=0.7, low=0.3, n=1).plan(RF, TIMES)
    jump = next(i for i, step in enumerate(plan.steps) if not step.evaluate)

    def denoise(x, t):
        return torch.tanh(x) * (1.0 - 0.5 * t)

    rng, x = Rng(0, range(2)), draw(2, 3)
    whole = plan.run(denoise, x, rng=rng)
    halves = plan.run(denoise, plan.run(denoise, x, rng=rng, stop=jump), rng=rng, start=jump)
    torch.testing.assert_close(whole, halves, rtol=0, atol=0)


def test_impossible_cycles():
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        Cycle(Multistep(), high=0.3, low=0.7, n=1)
    with pytest.raises(ValueError, match="one time of the grid"):
        Cycle(Multistep(), high=0.32, low=0.3, n=1).plan(RF, TIMES)
    inner = Cycle(Multistep(), high=0.7, low=0.3, n=1)
    with pytest.raises(ValueError, match="cycles of its own"):
        Cycle(inner, high=0.7, low=0.3, n=1).plan(RF, TIMES)
    with pytest.raises(ValueError, match="pass rng"):
        inner.plan(RF, TIMES).run(lambda x, t: x, draw(2, 3))
    with pytest.raises(ValueError, match="decrease"):
        Cycle(Ancestral(), high=0.7, low=0.3, n=1).plan(RF, np.array([0.1, 0.9]))
