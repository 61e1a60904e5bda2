"""Stochastic solvers: the marginals of a Gaussian, exactly propagated, and the limits of tau."""

import numpy as np
import pytest
import torch
from contracts.core import (
    DOUBLE,
    assert_batch_invariant,
    assert_marginal,
    assert_order,
    draw,
    gaussian16,
    gaussian_error,
    mixture64,
)

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, Sde, grid

RF, VE = Path.rectified(), Path.ve()


class OneNoise(Rng):
    """Noise of one for row `i + 2` at step `i`: a linear walk shows what becomes of it."""

    def normal(self, shape, *, step, **options):
        noise = torch.zeros(shape, dtype=DOUBLE)
        noise[step + 2] = 1.0
        return noise


def law(plan, oracle):
    """Return mean and variance per mode of what a linear walk from the prior produces."""
    x = torch.zeros(len(plan.steps) + 2, 16, dtype=DOUBLE)
    x[1] = 1.0
    out = plan.run(oracle, x, rng=OneNoise(0, range(len(x))))
    return out[0], ((out[1:] - out[0]) ** 2).sum(0)


class Silent(Path):
    """A path without noise in the second half."""

    def alpha(self, t):
        return 1.0 - 0.5 * t

    def sigma(self, t):
        return np.maximum(t - 0.5, 0.0)


def cubic(t):
    return 3.0 * t**2


@pytest.mark.parametrize(
    "solver",
    [Sde(1.0), Sde(0.5, order=2), Sde(diffusion=cubic), Sde(diffusion=cubic, order=2)],
    ids=["tau 1", "tau .5 order 2", "g = 3 t^2", "g = 3 t^2 order 2"],
)
def test_marginals_of_a_gaussian(solver):
    """Mean exact at any step count; the variances converge with order 1 or better."""
    oracle = gaussian16(RF)
    worst = []
    for n in (40, 80, 160):
        mean, variance = law(solver.plan(RF, grid.uniform(n)), oracle)
        torch.testing.assert_close(mean, oracle.mean, rtol=1e-12, atol=1e-12)
        worst.append((variance / oracle.variances - 1.0).abs().max().item())
    assert worst[2] < worst[1] / 1.6 < worst[0] / 1.6**2


def test_the_drift_must_balance_the_noise():
    """The control: noise of tau = 1 with the drift of the probability flow is another law."""
    import dataclasses

    oracle = gaussian16(RF)
    times = grid.uniform(160)
    noisy, calm = Sde(1.0).plan(RF, times), Sde(0.0).plan(RF, times)
    steps = tuple(
        dataclasses.replace(c, z=n.z) for c, n in zip(calm.steps, noisy.steps, strict=True)
    )
    _, variance = law(dataclasses.replace(calm, steps=steps), oracle)
    assert (variance / oracle.variances - 1.0).abs().max() > 0.5


def test_samples_of_a_gaussian():
    """Drawn, not propagated: mean and covariance within their standard errors."""
    oracle = gaussian16(RF)
    plan = Sde(diffusion=cubic, order=2).plan(RF, grid.uniform(24))
    rng = Rng(3, range(1500))
    x = plan.run(oracle, rng.normal((1500, 16), step=-1, dtype=DOUBLE), rng=rng)
    mean, _ = oracle.moments(0.0)
    _, variance = law(plan, oracle)
    assert_marginal(x, mean=mean, covariance=torch.diag(variance))


def test_tau_one_of_order_one_is_ddpm():
    times = grid.karras(VE, 10, sigma_max=80.0, sigma_min=0.02)
    ours, ddpm = Sde(1.0).plan(VE, times), Ancestral(1.0).plan(VE, times)
    for mine, other in zip(ours.steps, ddpm.steps, strict=True):
        assert mine.rows[0].a == pytest.approx(other.rows[0].a, rel=1e-12)
        assert mine.rows[0].b == pytest.approx(other.rows[0].b, rel=1e-12)
        assert mine.z == pytest.approx(other.z, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_tau_zero_is_the_probability_flow(order):
    """The multistep rule in x0 with falling order at the end, number for number."""
    times = grid.karras(VE, 10, sigma_max=80.0, sigma_min=0.02)
    x, oracle = draw(4, 64, scale=80.0), mixture64(VE)
    ours = Sde(0.0, order=order).plan(VE, times)
    ode = Multistep("x0", order=order).plan(VE, times)  # both lower the order below 15 steps
    torch.testing.assert_close(
        ours.run(oracle, x, rng=Rng(0, range(4))), ode.run(oracle, x), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_the_drift(order):
    def error(n):
        times = grid.karras(VE, n, sigma_max=80.0, sigma_min=0.02, rho=4.0)
        return gaussian_error(Sde(0.0, order=order).plan(VE, times), gaussian16(VE))

    assert_order(error, expected=order, steps=(128, 256), tolerance=0.3)


def test_a_coefficient_equal_to_that_of_the_diffusion_is_tau_one():
    """On the rectified path the forward diffusion has g^2 = 2 t / (1 - t)."""

    def forward(t):
        return np.sqrt(2.0 * t / (1.0 - t))

    times = np.linspace(0.95, 0.05, 9)
    by_tau = Sde(1.0, order=3).plan(RF, times)
    by_g = Sde(diffusion=forward, order=3).plan(RF, times)
    for one, other in zip(by_tau.steps, by_g.steps, strict=True):
        assert one.z == pytest.approx(other.z, abs=1e-12)
        for a, b in zip(one.rows, other.rows, strict=True):
            np.testing.assert_allclose([a.a, a.b, *a.c], [b.a, b.b, *b.c], atol=1e-8)


@pytest.mark.parametrize("solver", [Sde(1.0, order=3), Sde(0.3, order=2), Sde(diffusion=cubic)])
@pytest.mark.parametrize("path", [RF, VE, Path.vp_cosine(), Path.vp_linear()])
def test_finite_from_pure_noise_to_clean_data(solver, path):
    rng = Rng(0, range(2))
    for n in (1, 2, 5):
        x = rng.normal((2, 5), step=-1).mul_(float(path.sigma(1.0)))
        out = solver.plan(path, grid.uniform(n)).run(lambda x, t: torch.tanh(x), x, rng=rng)
        assert out.isfinite().all()
        assert out.abs().max() <= 1.0  # the last step returns the estimate


def test_samples_do_not_depend_on_their_batch():
    plan = Sde(0.7, order=2).plan(RF, grid.uniform(6))

    def run(ids):
        rng = Rng(4, ids)
        return plan.run(lambda x, t: torch.tanh(x), rng.normal((len(ids), 3), step=-1), rng=rng)

    assert_batch_invariant(run)


def test_impossible_choices():
    with pytest.raises(ValueError, match="noise >= 0"):
        Sde(-1.0)
    with pytest.raises(ValueError, match="choose 1, 2 or 3"):
        Sde(order=4)
    with pytest.raises(ValueError, match="together"):
        Sde(0.5, diffusion=cubic)
    with pytest.raises(ValueError, match="decrease"):
        Sde().plan(RF, np.array([0.1, 0.9]))
    with pytest.raises(ValueError, match="no noise left"):
        Sde().plan(Silent(), grid.uniform(4))
