"""Renoising: exact marginals with a flow map, a known loss of variance with a conditional mean."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, assert_marginal, draw

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Rng, grid, sample
from medsci.core.solve.renoise import renoise

MEAN = torch.tensor([0.5, -1.0, 0.0], dtype=DOUBLE)
VARIANCES = torch.tensor([4.0, 1.0, 0.1], dtype=DOUBLE)
PATHS = [Path.rectified(), Path.vp_cosine(), Path.ve(sigma_max=5.0)]


class FlowMap:
    """The exact end of the flow."""

    def __init__(self, oracle):
        self.oracle, self.path = oracle, oracle.path

    def __call__(self, x, t):
        return self.oracle.flow(x, t, 0.0)


def walked(denoiser, oracle, times, *, n=1500):
    """Return samples that start from the exact law at the first time."""
    start = oracle.sample(n, float(times[0]), generator=torch.Generator().manual_seed(1))
    plan = renoise().plan(oracle.path, times)
    return plan.run(denoiser, start, rng=Rng(2, range(n)))


def deficit(path, times):
    """Return the most variance that a walk with the conditional mean can end with."""
    t = float(times[-2])
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    return alpha**2 * VARIANCES**2 / (alpha**2 * VARIANCES + sigma**2)


@pytest.mark.parametrize("n", [1, 2, 4, 9])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_flow_map_keeps_the_law_at_any_number_of_steps(path, n):
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    x = walked(FlowMap(oracle), oracle, grid.angle(path, n))
    assert_marginal(x, mean=MEAN, covariance=torch.diag(VARIANCES))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_flow_map_keeps_the_marginals_on_the_way(path):
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    x = walked(FlowMap(oracle), oracle, grid.angle(path, 6)[:4])
    mean, covariance = oracle.moments(float(grid.angle(path, 6)[3]))
    assert_marginal(x, mean=mean, covariance=covariance)


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_control_the_conditional_mean_loses_the_posterior_variance(path, n):
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    times = grid.angle(path, n)
    x = walked(oracle, oracle, times)
    left = deficit(path, times)
    assert left[-1] < 0.6 * VARIANCES[-1]
    spread = oracle.moments(float(times[0]))[1].diagonal()
    for t, s in pairwise(times):
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        gain = alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2)
        spread = float(path.alpha(s)) ** 2 * gain**2 * spread + float(path.sigma(s)) ** 2
    assert_marginal(x, mean=MEAN, covariance=torch.diag(spread))
    assert (spread <= left + 1e-12).all()
    with pytest.raises(AssertionError, match="covariance is off"):
        assert_marginal(x, mean=MEAN, covariance=torch.diag(VARIANCES))


def test_one_step_of_the_conditional_mean_from_pure_noise_is_the_mean():
    path = Path.rectified()
    oracle = GaussianOracle(path, MEAN, variances=VARIANCES)
    x = sample(oracle, (5, 3), solver=renoise(), grid=grid.uniform(1), seed=0, dtype=DOUBLE)
    torch.testing.assert_close(x, MEAN.expand(5, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_step_keeps_nothing_of_the_old_noise(path):
    times = np.array([0.8, 0.5, 0.2])
    plan = renoise().plan(path, times)
    x, clean = draw(3, 4), draw(3, 4, seed=1)
    rng = Rng(5, (0, 1, 2))
    one, other = (plan.run(lambda x, t: clean, y, rng=rng) for y in (x, x + 10.0))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    noise = rng.normal(x.shape, step=1, dtype=DOUBLE)
    torch.testing.assert_close(one, path.perturb(clean, 0.2, noise), rtol=0, atol=1e-12)


def test_noise_belongs_to_the_sample():
    oracle = GaussianOracle(PATHS[0], MEAN, variances=VARIANCES)

    def run(ids):
        start = Rng(1, ids).normal((len(ids), 3), step=9, dtype=DOUBLE)
        return renoise().plan(PATHS[0], grid.uniform(4)).run(oracle, start, rng=Rng(3, ids))

    assert_batch_invariant(run)
