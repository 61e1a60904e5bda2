"""Straightness: closed forms of independent, reflowed and merely first-order Gaussian flows."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw

from medsci.core.check import GaussianOracle
from medsci.core.check.straightness import (
    flow_velocity,
    noise_drift,
    straightness,
    trajectory_straightness,
)
from medsci.core.process.path import Path
from medsci.core.solve import Multistep, grid
from medsci.core.steer import Trace

VARIANCES = torch.tensor([4.0, 1.0, 0.25, 0.09], dtype=DOUBLE)
MEAN = torch.tensor([0.5, -0.7, 0.9, 0.3], dtype=DOUBLE)
SD = VARIANCES.sqrt()
PATHS = {"cosine": Path.vp_cosine(), "linear": Path.vp_linear(), "rectified": Path.rectified()}
N = 4000


def paired(path):
    """Return the exact denoiser of the deterministic pairs `x0 = mean + sd z`."""

    def denoise(x, t):
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        return MEAN + SD * (x - alpha * MEAN) / (alpha * SD + sigma)

    return denoise


def independent_pairs():
    return MEAN + SD * draw(N, 4, seed=1), draw(N, 4, seed=2)


def reflowed_pairs():
    z = draw(N, 4, seed=2)
    return MEAN + SD * z, z


def one_step_error(velocity, x0, z):
    return (x0 - (z - velocity(z, 1.0))).square().mean().sqrt().item()


def test_independent_pairs_bend_by_the_closed_form():
    """`S = (pi / 2) tr sqrt(L)`, within what 4000 pairs can say: 1.49 per coordinate here."""
    velocity = flow_velocity(
        GaussianOracle(Path.rectified(), MEAN, variances=VARIANCES), PATHS["rectified"]
    )
    x0, z = independent_pairs()
    bend = straightness(velocity, x0, z).item()
    assert bend == pytest.approx(0.5 * math.pi * SD.sum().item(), rel=0.03)
    assert bend / 4 == pytest.approx(1.496, rel=0.03)
    # one Euler step lands on the mean, whatever the noise
    z = draw(N, 4, seed=2)
    assert one_step_error(velocity, MEAN + SD * z, z) == pytest.approx(
        VARIANCES.mean().sqrt().item(), rel=0.03
    )


def test_one_exact_reflow_makes_the_flow_straight():
    x0, z = reflowed_pairs()
    velocity = flow_velocity(paired(PATHS["rectified"]), PATHS["rectified"])
    assert straightness(velocity, x0, z).item() < 1e-25
    assert one_step_error(velocity, x0, z) < 1e-15
    # control: a velocity five per cent too fast on the same pairs
    assert straightness(lambda x, t: 1.05 * velocity(x, t), x0, z).item() > 1e-3
    # control: the straight flow's velocity on pairs that it did not make
    assert straightness(velocity, x0, z.flip(0)).item() > 1.0


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_bent_path_may_still_be_exact_in_one_step(name):
    """The noise estimate is constant along the trajectory, so DDIM is exact; S is not zero."""
    path, denoise = PATHS[name], paired(PATHS[name])
    x0, z = reflowed_pairs()
    bend = straightness(flow_velocity(denoise, path), x0, z, path=path, nodes=96).item()
    if name == "cosine":  # integrals of (1 - sigma')^2, (1 + alpha')^2 and their product
        own, cross = math.pi**2 / 8 - 1, math.pi / 4 - 1
        squares = (x0.square().sum() + z.square().sum()) / N
        closed = own * squares.item() - 2 * cross * ((x0 * z).sum() / N).item()
        assert bend == pytest.approx(closed, rel=1e-12)
        assert bend == pytest.approx(4.2, abs=0.1)
    assert bend > 4.0
    times = np.linspace(1.0, 0.02, 9).tolist()
    states = [path.perturb(x0, t, z) for t in times]
    assert noise_drift(denoise, path, times=times, states=states).item() < 1e-13
    plan = Multistep("eps", "log_snr", order=1).plan(path, np.array([0.999, 1e-6]))
    start = path.perturb(x0, 0.999, z)
    end = path.perturb(x0, 1e-6, z)
    assert (plan.run(denoise, start) - end).abs().max().item() < 1e-11
    # control: with independent pairs the estimate drifts, and one step is wrong
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    exact = [oracle.flow(states[0], times[0], t) for t in times]
    assert noise_drift(oracle, path, times=times, states=exact).item() > 0.1
    gap = plan.run(oracle, start) - oracle.flow(start, 0.999, 1e-6)
    assert gap.abs().max().item() > 0.1


def walk(denoise, path, n):
    """Return times and states of a simulated walk from noise to data."""
    trace = Trace("x", at="before")
    times = grid.ratio(path, n)
    z = draw(N, 4, seed=2)
    end = Multistep("v", "ratio", order=2).plan(path, times).run(denoise, z, hooks=[trace])
    return times.tolist(), [*trace.values, end]


def test_simulated_trajectories_of_a_straight_flow_are_straight():
    times, states = walk(paired(PATHS["rectified"]), PATHS["rectified"], 16)
    assert trajectory_straightness(times, states).item() < 1e-25
    bent = [s + 0.05 * math.sin(math.pi * t) for t, s in zip(times, states, strict=True)]
    assert trajectory_straightness(times, bent).item() == pytest.approx(
        4 * (0.05 * math.pi) ** 2 / 2, rel=0.02
    )


def test_simulated_trajectories_agree_with_the_velocity_along_them():
    """The trajectories of the Gaussian flow have closed form, and so has their bend."""
    path = PATHS["rectified"]
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    times, states = walk(oracle, path, 96)
    measured = trajectory_straightness(times, states).item()
    nodes, weights = np.polynomial.legendre.leggauss(64)
    total, velocity = 0.0, flow_velocity(oracle, path)
    chord = states[0] - oracle.flow(states[0], 1.0, 0.0)
    for t, weight in zip(0.5 + 0.5 * nodes, 0.5 * weights, strict=True):
        at = oracle.flow(states[0], 1.0, float(t))
        total += weight * (chord - velocity(at, float(t))).square().sum(1).mean().item()
    assert measured == pytest.approx(total, rel=2e-3)
    assert total > 0.1


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.2, 0.9])
def test_the_velocity_is_the_rate_of_the_flow(name, t):
    path = PATHS[name]
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    x, h = draw(5, 4, seed=5), 1e-4
    rate = (oracle.flow(x, t, t + h) - oracle.flow(x, t, t - h)) / (2 * h)
    torch.testing.assert_close(flow_velocity(oracle, path)(x, t), rate, rtol=1e-5, atol=1e-5)


def test_walks_that_make_no_sense_are_refused():
    x = draw(2, 3)
    with pytest.raises(ValueError, match="two or more"):
        trajectory_straightness([1.0], [x])
    with pytest.raises(ValueError, match="one direction"):
        trajectory_straightness([1.0, 0.5, 0.5, 0.0], [x, x, x, x])
