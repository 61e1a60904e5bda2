"""Guidance through the denoiser: one evaluation a step, exact for Gaussians, or honestly biased."""

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from contracts.guard import NoSync
from torch import nn

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, RungeKutta, grid
from medsci.core.steer import Hook
from medsci.core.steer.dps import Dps, PiGdm, WithGradient, tweedie_variance

RF = Path.rectified()
PATHS = [RF, Path.ve(), Path.vp_cosine()]
NOISE = 0.05  # sd of the measurement
N, M = 16, 5


class Problem:
    """Five noisy linear measurements of a correlated Gaussian; prior and posterior known."""

    def __init__(self, path, *, isotropic=False):
        turn, _ = torch.linalg.qr(draw(N, N, seed=0))
        spectrum = torch.full((N,), 0.49, dtype=DOUBLE) if isotropic else 1.0 / torch.arange(1, 17)
        self.path = path
        self.covariance = turn @ torch.diag(spectrum.to(DOUBLE)) @ turn.T
        self.mean = draw(N, seed=1)
        self.a = draw(M, N, seed=2) / 4.0
        truth = self.mean + torch.linalg.cholesky(self.covariance) @ draw(N, seed=3)
        self.y = self.a @ truth + NOISE * draw(M, seed=4)
        self.prior = GaussianOracle.from_covariance(path, self.mean, covariance=self.covariance)
        gain = self.covariance @ self.a.T @ torch.linalg.inv(self.evidence(self.covariance))
        covariance = self.covariance - gain @ self.a @ self.covariance
        self.spread = covariance.diagonal().sqrt()
        self.posterior = GaussianOracle.from_covariance(
            path, self.mean + gain @ (self.y - self.a @ self.mean), covariance=covariance
        )

    def evidence(self, covariance):
        return self.a @ covariance @ self.a.T + NOISE**2 * torch.eye(M, dtype=DOUBLE)

    def residual(self, x0):
        return self.y - x0 @ self.a.T

    def loss(self, x0):
        return self.residual(x0).square().sum(1)

    def pull(self, covariance_at):
        def pull(x0, state):
            inverse = torch.linalg.inv(self.evidence(covariance_at(state.t)))
            return self.residual(x0) @ inverse @ self.a

        return pull

    def exact(self):
        """The gradient of the log-likelihood with the covariance of x0 given x_t."""
        return self.pull(lambda t: self.prior.posterior(draw(1, N), t)[1])

    def published(self, *, factor=1.0):
        """The same with r^2 times the identity."""
        size = self.covariance.diagonal().mean().sqrt().item()

        def covariance_at(t):
            return factor * tweedie_variance(self.path, t, sigma_data=size) * torch.eye(N).double()

        return self.pull(covariance_at)

    def bias(self, x):
        """Rms bias of the mean, in posterior standard deviations."""
        return ((x.mean(0) - self.posterior.mean) / self.spread).square().mean().sqrt().item()


class Look(Hook):
    def __init__(self):
        self.seen = []

    def denoised(self, state):
        self.seen.append((state.x.clone(), state.x0.clone(), state.t))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_pigdm_is_the_posterior_denoiser_of_a_gaussian(path):
    """E[x0 | x_t, y] at every time, and hence the posterior, by any solver."""
    problem = Problem(path)
    times = grid.karras(path, 12, sigma_max=60.0, sigma_min=0.01)
    x = draw(6, N, scale=float(path.sigma(times[0])), seed=7)
    for solver in (Multistep("eps", order=3), RungeKutta("heun", "v"), Ancestral(1.0)):
        plan, look = solver.plan(path, times), Look()
        end = plan.run(
            WithGradient(problem.prior),
            x,
            hooks=[PiGdm(path, problem.exact()), look],
            rng=Rng(0, range(6)),
        )
        for state, x0, t in look.seen:
            torch.testing.assert_close(x0, problem.posterior(state, t), rtol=1e-7, atol=1e-7)
        exact = plan.run(problem.posterior, x, rng=Rng(0, range(6)))
        torch.testing.assert_close(end, exact, rtol=1e-6, atol=1e-6)


def test_the_published_variance_is_exact_for_an_isotropic_prior_only():
    times = grid.karras(RF, 12, sigma_max=60.0, sigma_min=0.01)
    x = draw(6, N, seed=7)
    plan = Multistep("eps", order=2).plan(RF, times)

    def gap(problem, pull, **options):
        hooks = [PiGdm(RF, pull, **options)]
        end = plan.run(WithGradient(problem.prior), x, hooks=hooks)
        return (end - plan.run(problem.posterior, x)).abs().max().item()

    round_prior, other = Problem(RF, isotropic=True), Problem(RF)
    assert gap(round_prior, round_prior.published()) < 1e-6
    # the controls: twice the variance, half the weight, and a prior that is not isotropic
    assert gap(round_prior, round_prior.published(factor=2.0)) > 0.01
    assert gap(round_prior, round_prior.published(), scale=0.5) > 0.05
    assert gap(other, other.published()) > 0.05


def test_the_bias_of_dps():
    """The mean is off by 0.05 posterior sd at the best scale, the spread is wrong at every one."""
    problem = Problem(RF)
    plan = Multistep("eps", order=1).plan(RF, grid.uniform(100, t_max=0.99))
    x = draw(1000, N, seed=7)
    along = problem.posterior.moments(0.0)[1]
    true_spread = (problem.a @ along @ problem.a.T).diagonal().sqrt()

    def measure(hook, denoise=problem.prior):
        end = plan.run(WithGradient(denoise), x, hooks=hook)
        spread = (problem.a @ end.T).std(1) / true_spread
        return problem.bias(end), spread.min().item(), spread.max().item()

    exact = measure([], problem.posterior)
    assert exact[0] < 0.05
    assert 0.9 < exact[1] < exact[2] < 1.1
    assert measure([PiGdm(RF, problem.exact())]) == pytest.approx(exact, rel=1e-5)
    found = {scale: measure([Dps(problem.loss, scale)]) for scale in (0.003, 0.03, 0.1, 1.0)}
    assert [f[0] for f in found.values()] == pytest.approx([0.29, 0.057, 0.14, 0.38], rel=0.15)
    assert found[0.03][1] < 0.3
    assert found[1.0][1] > 2.0
    assert found[0.003][1] > 2.0
    # the control: a gradient of the wrong sign goes away from the data
    assert measure([Dps(problem.loss, -0.03)])[0] > 1.0


@pytest.mark.parametrize("normalise", [True, False])
def test_a_dps_step_by_hand(normalise):
    """The denoiser of a Gaussian is linear, so the gradient through it is a matrix."""
    problem = Problem(RF)
    plan = Multistep("eps", order=1).plan(RF, np.array([0.6, 0.5]))
    x = draw(4, N, seed=7)
    hook = Dps(problem.loss, 0.3, normalise=normalise)
    end = plan.run(WithGradient(problem.prior), x, hooks=[hook])
    eye = torch.eye(N, dtype=DOUBLE)
    jacobian = (problem.prior(eye, 0.6) - problem.prior(0.0 * eye, 0.6)).T
    residual = problem.residual(problem.prior(x, 0.6))
    gradient = -2.0 * residual @ problem.a @ jacobian
    norm = residual.norm(dim=1, keepdim=True) if normalise else 1.0
    torch.testing.assert_close(end, plan.run(problem.prior, x) - 0.3 * gradient / norm)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()


HOOKS = [
    Dps(lambda x0: (x0 - 0.3).square().sum(1), 0.2),
    PiGdm(RF, lambda x0, state: 0.3 - x0, scale=0.5),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_the_network_is_called_once_per_step_and_left_alone(hook):
    net, calls = network(), []
    plan = Multistep("eps", order=2).plan(RF, grid.uniform(6, t_max=0.9))

    def denoise(x, t):
        calls.append(t)
        return net(x)

    x = draw(3, 4)
    with NoSync():
        end = plan.run(WithGradient(denoise), x, hooks=[hook])
    assert len(calls) == plan.nfe
    assert not end.requires_grad
    assert not x.requires_grad
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        assert not torch.equal(end, plan.run(denoise, x))


@pytest.mark.parametrize("hook", HOOKS)
def test_walks_with_gradients_agree_and_are_differentiable(hook):
    net, plan = network(), Multistep("eps", order=2).plan(RF, grid.uniform(4, t_max=0.9))
    denoise = WithGradient(lambda x, t: net(x))
    x = draw(2, 4).requires_grad_()
    end = plan.run(denoise, x, hooks=[hook], grad="full")
    torch.testing.assert_close(end.detach(), plan.run(denoise, x.detach(), hooks=[hook]))
    (slope,) = torch.autograd.grad(end.sum(), x)
    step = 1e-6 * draw(2, 4, seed=5)
    up, down = (plan.run(denoise, x.detach() + s * step, hooks=[hook]).sum() for s in (1.0, -1.0))
    torch.testing.assert_close((slope * step).sum(), 0.5 * (up - down), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("hook", HOOKS)
def test_samples_do_not_mix(hook):
    plan = Ancestral(1.0).plan(RF, grid.uniform(6, t_max=0.9))

    def run(ids):
        rng = Rng(0, ids)
        x = rng.normal((len(ids), 4), step=-1)
        return plan.run(
            WithGradient(lambda x, t: torch.tanh(x)), x, rng=rng, hooks=[hook]
        )  # elementwise: its own rounding does not depend on the batch

    assert_batch_invariant(run)


def test_complex_states():
    """A complex state is guided like the pair of its parts."""
    x, y = draw(3, 4, dtype=torch.complex128), draw(4, seed=2, dtype=torch.complex128)
    plan = Multistep("eps", order=1).plan(RF, grid.uniform(5, t_max=0.9))

    def denoise(x, t):
        return x * (1 - t) * torch.exp(-x.abs().square())

    def paired(x, t):
        return torch.view_as_real(denoise(torch.view_as_complex(x), t))

    pair = torch.view_as_real(y)
    for hook, twin in (
        (
            Dps(lambda x0: (x0 - y).abs().square().sum(1), 0.2),
            Dps(lambda x0: (x0 - pair).square().sum((1, 2)), 0.2),
        ),
        (
            PiGdm(RF, lambda x0, state: y - x0, scale=0.5),
            PiGdm(RF, lambda x0, state: pair - x0, scale=0.5),
        ),
    ):
        end = plan.run(WithGradient(denoise), x, hooks=[hook])
        real = plan.run(WithGradient(paired), torch.view_as_real(x).contiguous(), hooks=[twin])
        torch.testing.assert_close(torch.view_as_real(end), real)


def test_a_residual_of_zero_moves_nothing():
    plan = Multistep("eps", order=1).plan(RF, grid.uniform(3, t_max=0.9))
    hook = Dps(lambda x0: (x0 - x0.detach()).square().sum(1), 1.0)
    x = draw(2, 3)
    assert torch.equal(plan.run(WithGradient(bend), x, hooks=[hook]), plan.run(bend, x))


def bend(x, t):
    return torch.tanh(x)


class MoveX(Hook):
    def denoised(self, state):
        state.x = state.x + 1.0


@pytest.mark.parametrize("hook", HOOKS)
def test_says_what_is_missing(hook):
    plan = Multistep("eps", order=1).plan(RF, grid.uniform(3, t_max=0.9))
    x = draw(2, 3)
    with pytest.raises(ValueError, match="WithGradient"):
        plan.run(bend, x, hooks=[hook])
    with pytest.raises(ValueError, match="before others"):
        plan.run(WithGradient(bend), x, hooks=[MoveX(), hook])


def test_pure_noise_has_no_correction():
    plan = Multistep("v", "ratio", order=1).plan(RF, grid.uniform(3))
    with pytest.raises(ValueError, match="finite sigma_max"):
        plan.run(WithGradient(bend), draw(2, 3), hooks=[HOOKS[1]])
    with pytest.raises(ValueError, match="finite step"):
        Dps(lambda x0: x0.sum(1), float("nan"))
    assert tweedie_variance(RF, 1.0, sigma_data=0.7) == pytest.approx(0.49)
    assert tweedie_variance(RF, 0.5) == pytest.approx(0.5)
