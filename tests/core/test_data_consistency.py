"""Proximal data consistency: the exact posterior of a Gaussian, the minimiser of a penalty."""

from functools import partial

import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from contracts.guard import NoSync

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, RungeKutta, grid
from medsci.core.steer import DataConsistency, Hook, StepState
from medsci.core.steer.data_consistency import Admm, LinearSolve, Proximal
from medsci.core.steer.dps import PiGdm, WithGradient, tweedie_variance
from medsci.operators import conjugate_gradient, soft_threshold

RF = Path.rectified()
N, M = 8, 3
NOISE, SPREAD = 0.1, 0.7
A = draw(M, N, seed=2)
Y = draw(M, seed=4)
CG = partial(conjugate_gradient, n_iter=M + 1, tol=1e-14, batched=True)


def normal(v):
    return v @ A.T @ A


def exactly(normal, b, *, x0):
    """Solve by writing the operator out as a matrix."""
    matrix = normal(torch.eye(b.shape[1], dtype=b.dtype)).T
    return torch.linalg.solve(matrix, b.T).T


def steps_of_descent(normal, b, *, x0):
    """Ten steps of Richardson's iteration: a solver that knows no norms."""
    for _ in range(10):
        x0 = x0 + 0.05 * (b - normal(x0))
    return x0


def posterior():
    """Prior N(0, 0.49 I), measurement A x + 0.1 noise: the oracle of what is left."""
    gain = (
        SPREAD**2
        * A.T
        @ torch.linalg.inv(SPREAD**2 * A @ A.T + NOISE**2 * torch.eye(M, dtype=DOUBLE))
    )
    covariance = SPREAD**2 * (torch.eye(N, dtype=DOUBLE) - gain @ A)
    return GaussianOracle.from_covariance(RF, gain @ Y, covariance=covariance)


PRIOR = GaussianOracle(
    RF, torch.zeros(N, dtype=DOUBLE), variances=torch.full((N,), SPREAD**2, dtype=DOUBLE)
)


def weight(state):
    return NOISE**2 / tweedie_variance(RF, state.t, sigma_data=SPREAD)


@pytest.mark.parametrize("solver", [Multistep(), RungeKutta("heun", "v"), Ancestral(1.0)], ids=repr)
def test_the_posterior_of_a_gaussian(solver):
    """With the weight noise variance / variance of x0, the walk is that of E[x0 | x_t, y]."""
    plan = solver.plan(RF, grid.karras(RF, 15, sigma_max=60.0, sigma_min=0.01))
    x = draw(5, N)
    hook = DataConsistency(Proximal(normal, Y @ A, rho=weight, solve=CG))
    end = plan.run(PRIOR, x, hooks=[hook], rng=Rng(0, range(5)))
    exact = plan.run(posterior(), x, rng=Rng(0, range(5)))
    torch.testing.assert_close(end, exact, rtol=1e-6, atol=1e-7)
    # the controls: another weight, and a solver stopped early
    for rho, solve in ((lambda state: 3.0 * weight(state), CG), (weight, steps_of_descent)):
        hook = DataConsistency(Proximal(normal, Y @ A, rho=rho, solve=solve))
        off = plan.run(PRIOR, x, hooks=[hook], rng=Rng(0, range(5)))
        assert (off - exact).abs().max() > 1e-3


def test_it_is_pigdm_without_the_network():
    """For an isotropic Gaussian the two hooks are one, though only one differentiates."""
    plan = Multistep().plan(RF, grid.karras(RF, 10, sigma_max=60.0, sigma_min=0.01))
    x = draw(5, N)
    proximal = DataConsistency(Proximal(normal, Y @ A, rho=weight, solve=exactly))

    def pull(x0, state):
        variance = tweedie_variance(RF, state.t, sigma_data=SPREAD)
        inverse = torch.linalg.inv(variance * A @ A.T + NOISE**2 * torch.eye(M, dtype=DOUBLE))
        return (Y - x0 @ A.T) @ inverse @ A

    end = plan.run(WithGradient(PRIOR), x, hooks=[PiGdm(RF, pull)])
    torch.testing.assert_close(plan.run(PRIOR, x, hooks=[proximal]), end, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("rho", [1e-6, 0.3, 1e6])
def test_the_two_limits(rho):
    """The minimiser of |A x - y|^2 / 2 + rho / 2 |x - x0|^2, between the data and x0."""
    x0 = draw(4, N, seed=6)
    state = StepState(n=1, cond={}, rng=None, x0=x0)
    x = Proximal(normal, Y @ A, rho=rho, solve=exactly)(x0, state)
    gradient = (x @ A.T - Y) @ A + rho * (x - x0)
    assert gradient.abs().max() < 1e-6 * max(rho, 1.0)
    off_data, off_x0 = (x @ A.T - Y).abs().max(), (x - x0).abs().max()
    if rho < 1e-3:
        assert off_data < 1e-4
        assert off_x0 > 0.1
    if rho > 1e3:
        assert off_x0 < 1e-4
        assert off_data > 0.1


def lasso(rho, penalty):
    """The minimiser of |A x - y|^2 / 2 + rho / 2 |x|^2 + penalty |D x|_1, by brute force."""
    x = torch.zeros(N, dtype=DOUBLE)
    z = u = D @ x
    matrix = A.T @ A + rho * torch.eye(N, dtype=DOUBLE) + D.T @ D
    for _ in range(2500):
        x = torch.linalg.solve(matrix, A.T @ Y + D.T @ (z - u))
        z = soft_threshold(D @ x + u, penalty)
        u = u + D @ x - z
    return x


D = torch.eye(N, dtype=DOUBLE)[1:] - torch.eye(N, dtype=DOUBLE)[:-1]  # differences
PLAN = Multistep("x0", order=1).plan(RF, grid.uniform(250))
PENALTY = 0.2


def still(x, t):
    """A denoiser that always says zero, so that the walk repeats one problem."""
    return torch.zeros_like(x)


def admm(*, beta=1.0, n=1, **options):
    choices = {
        "prox": lambda v: soft_threshold(v, PENALTY / beta),
        "rho": 0.5,
        "solve": exactly,
        "analysis": lambda v: v @ D.T,
        "synthesis": lambda v: v @ D,
    }
    return Admm(normal, Y @ A, beta=beta, n=n, **(choices | options))


@pytest.mark.parametrize(("beta", "n"), [(1.0, 1), (0.3, 1), (3.0, 2)])
def test_admm_arrives_over_the_steps_of_a_walk(beta, n):
    exact = lasso(0.5, PENALTY)
    assert (exact - lasso(0.5, 2 * PENALTY)).abs().max() > 0.01
    end = PLAN.run(still, draw(2, N), hooks=[DataConsistency(admm(beta=beta, n=n))])
    torch.testing.assert_close(end, exact.expand(2, N), rtol=1e-5, atol=1e-6)


def test_one_sweep_is_not_enough_so_the_variables_must_be_kept():
    exact = lasso(0.5, PENALTY)

    class Forgetful(Hook):
        def before(self, state):
            state.extra.clear()

    end = PLAN.run(still, draw(2, N), hooks=[Forgetful(), DataConsistency(admm())])
    assert (end - exact).abs().max() > 0.01


def test_a_hook_serves_several_walks():
    """Split and dual variables belong to the walk: the second one starts anew."""
    hook = DataConsistency(admm())
    x = draw(2, N)
    assert torch.equal(PLAN.run(still, x, hooks=[hook]), PLAN.run(still, x, hooks=[hook]))


def test_admm_of_the_identity_is_shrinkage():
    """A = D = 1: soft((y + rho x0) / (1 + rho), penalty / (1 + rho)), for complex numbers too."""
    x0, y = (draw(3, 5, seed=s, dtype=torch.complex128) for s in (1, 2))
    state = StepState(n=1, cond={}, rng=None, x0=x0)
    step = Admm(
        lambda v: v,
        y,
        prox=lambda v: soft_threshold(v, 0.4),
        rho=0.5,
        solve=lambda normal, b, x0: b / 2.5,
        n=300,
    )
    torch.testing.assert_close(step(x0, state), soft_threshold((y + 0.5 * x0) / 1.5, 0.4 / 1.5))


@pytest.mark.parametrize(
    "make", [lambda: Proximal(normal, Y @ A, rho=weight, solve=steps_of_descent), admm]
)
def test_nothing_waits_for_the_device(make):
    hook = DataConsistency(make() if make is not admm else admm(solve=steps_of_descent))
    plan = Multistep().plan(RF, grid.uniform(4, t_max=0.9))
    with NoSync():
        plan.run(PRIOR, draw(3, N), hooks=[hook])


def test_samples_do_not_mix():
    mask = torch.arange(5) % 2
    plan = Ancestral(1.0).plan(RF, grid.uniform(6))
    solve = partial(conjugate_gradient, n_iter=3, tol=0.0, batched=True)
    hooks = [
        DataConsistency(Proximal(lambda v: v * mask, 0.3 * mask, rho=0.1, solve=solve)),
        DataConsistency(
            Admm(lambda v: v * mask, 0.3 * mask, prox=torch.sin, rho=0.1, solve=solve, n=2)
        ),
    ]

    def run(ids):
        rng = Rng(0, ids)
        x = rng.normal((len(ids), 5), step=-1)
        return plan.run(lambda x, t: torch.tanh(x), x, rng=rng, hooks=hooks)

    assert_batch_invariant(run)


def test_says_what_is_wrong():
    assert isinstance(CG, LinearSolve)
    with pytest.raises(ValueError, match="weight >= 0"):
        Proximal(normal, Y @ A, rho=-1.0, solve=CG)
    with pytest.raises(ValueError, match="both or neither"):
        Admm(normal, Y @ A, prox=torch.sin, rho=0.1, solve=CG, analysis=lambda v: v)
    with pytest.raises(ValueError, match="at least one sweep"):
        admm(n=0)
