"""Ancestral sampling: marginals on a Gaussian, DDPM and DDIM as its members."""

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_marginal, draw

from medsci.core.check import GaussianOracle
from medsci.core.process import Linear, Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid, sample

BETAS = np.linspace(1e-4, 0.02, 1000)
PATHS = [
    Path.rectified(),
    Path.ve(),
    Path.vp_linear(),
    Path.vp_cosine(),
    Path.tabulated(np.cumprod(1.0 - BETAS).tolist()),
]
SOLVERS = [Ancestral(e, rule=r) for e in (0.0, 0.5, 1.0) for r in ("posterior", "fraction")]
VARIANCES = torch.tensor([4.0, 1.0, 0.3, 0.01], dtype=DOUBLE)


def coefficients(path, times):
    return path.alpha(times), path.sigma(times)


def variance_at_the_end(path, plan):
    """Return the exact variances after the walk of the Gaussian denoiser: a linear recursion."""
    alpha, sigma = coefficients(path, np.array([step.t for step in plan.steps]))
    v = torch.full_like(VARIANCES, float(sigma[0]) ** 2)
    for step, a_t, s_t in zip(plan.steps, alpha, sigma, strict=True):
        gain = float(a_t) * VARIANCES / (float(a_t) ** 2 * VARIANCES + float(s_t) ** 2)
        v = (step.rows[0].a + step.rows[0].b * gain) ** 2 * v + step.z**2
    return v


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_step_with_the_true_x0_stays_on_the_path(path, solver):
    """x_t = alpha x0 + sigma z is sent to alpha_s x0 + noise of variance sigma_s^2."""
    times = grid.uniform(9)
    alpha, sigma = coefficients(path, times)
    for i, step in enumerate(solver.plan(path, times).steps):
        row = step.rows[0]
        assert row.a * alpha[i] + row.b == pytest.approx(alpha[i + 1], abs=1e-12)
        assert (row.a * sigma[i]) ** 2 + step.z**2 == pytest.approx(
            sigma[i + 1] ** 2, rel=1e-12, abs=1e-12
        )


@pytest.mark.parametrize("solver", [Ancestral(1.0), Ancestral(0.5, rule="fraction")], ids=repr)
def test_marginals_of_a_gaussian(solver):
    path = Path.vp_cosine()
    oracle = GaussianOracle(path, torch.zeros(4, dtype=DOUBLE), variances=VARIANCES)
    times = grid.uniform(6)
    x = sample(oracle, (2500, 4), solver=solver, grid=times, seed=1, dtype=DOUBLE)
    variances = variance_at_the_end(path, solver.plan(path, times))
    assert_marginal(x, mean=torch.zeros(4, dtype=DOUBLE), covariance=torch.diag(variances))
    with pytest.raises(AssertionError, match="covariance is off"):
        assert_marginal(
            x, mean=torch.zeros(4, dtype=DOUBLE), covariance=torch.diag(1.3 * variances)
        )


@pytest.mark.parametrize("path", PATHS[:4], ids=repr)
@pytest.mark.parametrize("solver", [Ancestral(0.5), Ancestral(1.0)], ids=repr)
def test_many_steps_reach_the_data(path, solver):
    def gap(n):
        times = grid.angle(path, n, sigma_max=80.0 if path == PATHS[1] else None)
        return (variance_at_the_end(path, solver.plan(path, times)) / VARIANCES - 1.0).abs().max()

    coarse, fine = gap(200), gap(800)
    assert fine < 0.15
    assert fine < 0.5 * coarse


def test_all_fresh_noise_with_eta_one_of_the_fraction_rule():
    for step in Ancestral(1.0, rule="fraction").plan(PATHS[2], grid.uniform(5)).steps:
        assert step.rows[0].a == 0.0
        assert step.z == pytest.approx(float(PATHS[2].sigma(np.array(step.s))))


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("rule", ["posterior", "fraction"])
def test_eta_zero_is_ddim(path, rule):
    times = grid.uniform(6)
    ours = Ancestral(0.0, rule=rule).plan(path, times).steps
    for step, ddim in zip(ours, Multistep(order=1).plan(path, times).steps, strict=True):
        assert step.rows[0].a == pytest.approx(ddim.rows[0].a, rel=1e-13)
        assert step.rows[0].b == pytest.approx(ddim.rows[0].b, rel=1e-12, abs=1e-15)
        assert step.z == 0.0


def test_eta_one_is_ddpm():
    """Ho et al. 2020, eq. 7, on the table of betas."""
    alphas_bar = np.cumprod(1.0 - BETAS)
    plan = Ancestral(1.0).plan(PATHS[4], grid.indices(1000, 1000))
    for i in (0, 1, 10, 500, 998, 999):
        step = plan.steps[999 - i]
        now, before = alphas_bar[i], alphas_bar[i - 1] if i else 1.0
        assert step.rows[0].b == pytest.approx(np.sqrt(before) * BETAS[i] / (1.0 - now), rel=1e-8)
        assert step.rows[0].a == pytest.approx(
            np.sqrt(1.0 - BETAS[i]) * (1.0 - before) / (1.0 - now), rel=1e-8, abs=1e-12
        )
        assert step.z**2 == pytest.approx(
            BETAS[i] * (1.0 - before) / (1.0 - now), rel=1e-8, abs=1e-14
        )


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_step_is_the_bridge_of_the_process(path, eta):
    times = np.array([0.9, 0.6, 0.2])
    plan = Ancestral(eta).plan(path, times)
    x_t, x0 = draw(3, 5, scale=2.0), draw(3, 5, seed=1)
    rng = Rng(7, (0, 1, 2))
    for i in (0, 1):
        bridged = Linear(path).bridge(
            x_t, x0, t=float(times[i]), s=float(times[i + 1]), rng=rng, step=i, eta=eta
        )
        walked = plan.run(lambda x, t: x0, x_t, rng=rng, start=i, stop=i + 1)
        torch.testing.assert_close(walked, bridged, rtol=1e-12, atol=1e-12)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"share of fresh noise in \[0, 1\]"):
        Ancestral(1.5)
    with pytest.raises(ValueError, match="remove the duplicate"):
        Ancestral().plan(PATHS[0], np.array([1.0, 0.5, 0.5]))
