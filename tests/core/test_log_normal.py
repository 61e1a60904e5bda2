"""Positive data and multiplicative noise: one law in two coordinates."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from scipy import stats

from medsci.core.check.log_normal import LogNormalMixtureOracle
from medsci.core.process import Path
from medsci.core.solve import Multistep, grid

V = 0.8
GBM = Path.ve(sigma_max=V, rho=0.5)  # sigma = V sqrt(t): geometric Brownian motion
SPREAD = 0.03


def two_modes(path=GBM, *, means=(1.2, 1.8), spread=SPREAD):
    """A mixture whose modes have the given means in x."""
    centres = torch.tensor(means, dtype=DOUBLE)[:, None].log() - 0.5 * spread**2
    return LogNormalMixtureOracle(
        path,
        torch.tensor([0.4, 0.6], dtype=DOUBLE),
        log_means=centres,
        log_variances=torch.full((2, 1), spread**2, dtype=DOUBLE),
    )


def wide(path, d=3):
    return LogNormalMixtureOracle(
        path,
        torch.tensor([0.3, 0.7], dtype=DOUBLE),
        log_means=draw(2, d, seed=4),
        log_variances=draw(2, d, seed=5).square() + 0.1,
    )


@pytest.mark.parametrize("t", [0.9, 0.3, 0.02])
def test_one_mode_is_the_log_normal_law_of_scipy(t):
    oracle = LogNormalMixtureOracle(
        GBM,
        torch.ones(1, dtype=DOUBLE),
        log_means=torch.tensor([[0.3, -0.2]], dtype=DOUBLE),
        log_variances=torch.tensor([[0.2, 0.5]], dtype=DOUBLE),
    )
    x = draw(6, 2).exp()
    expected = 0.0
    for k, (mean, variance) in enumerate([(0.3, 0.2), (-0.2, 0.5)]):
        law = stats.lognorm(s=math.sqrt(variance + V**2 * t), scale=math.exp(mean))
        expected = expected + torch.as_tensor(law.logpdf(x[:, k].numpy()))
    torch.testing.assert_close(oracle.log_density(x, t), expected)


@pytest.mark.parametrize("path", [GBM, Path.vp_cosine(), Path.rectified()])
@pytest.mark.parametrize("t", [0.9, 0.3])
def test_scores_are_gradients_and_tied_by_the_chart(path, t):
    oracle = wide(path)
    x = draw(6, 3, seed=1).exp().requires_grad_()
    (in_x,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), in_x)
    u = x.detach().log().requires_grad_()
    (in_u,) = torch.autograd.grad(oracle.chart_log_density(u, t).sum(), u)
    torch.testing.assert_close(oracle.chart_score(u, t), in_u)
    x, u = x.detach(), u.detach()
    gap = in_u - (1.0 + x * oracle.score(x, t))
    assert (gap / in_u.abs().clamp_min(1.0)).abs().max() < 1e-13
    assert (in_u - x * oracle.score(x, t)).abs().min() > 0.99, "without the 1 it is off by 1"
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    torch.testing.assert_close(alpha * oracle(u, t), u + sigma**2 * in_u)


def test_the_multiplicative_loss_vanishes_at_the_conditional_score():
    """`v^2 t x s + ln(x / x0) - m t + 1.5 v^2 t = 0` with m = v^2 / 2; published: 4e-16."""
    x0, t = torch.tensor([[1.4, 0.6]], dtype=DOUBLE), 0.37
    known = LogNormalMixtureOracle(
        GBM, torch.ones(1, dtype=DOUBLE), log_means=x0.log(), log_variances=0.0 * x0
    )
    x = known.sample(50, t, generator=torch.Generator().manual_seed(0))
    score = known.score(x, t)

    def residual(drift):
        return V**2 * t * x * score + (x / x0).log() - drift * t + 1.5 * V**2 * t

    assert residual(0.5 * V**2).abs().max() < 2e-15
    assert residual(0.4 * V**2).abs().min() > 0.01


def reverse(oracle, n_steps, *, additive=False, n=4000):
    """Walk the reverse diffusion of x; return the end and the smallest value seen."""
    generator = torch.Generator().manual_seed(1)
    x = oracle.sample(n, 1.0, generator=generator)
    h, smallest = 1.0 / n_steps, math.inf
    for i in range(n_steps):
        t = 1.0 - i * h
        noise = V * math.sqrt(h) * torch.randn(x.shape, generator=generator, dtype=DOUBLE)
        if additive:
            drift = V**2 * (x * oracle.score(x.abs().clamp_min(1e-12), t) + 1.5)
            x = x * (1.0 + h * drift + noise)
        else:  # v^2 x s - m + 1.5 v^2 with m = v^2 / 2 is the score in the chart
            x = x * torch.exp(h * V**2 * (x * oracle.score(x, t) + 1.0) + noise)
        smallest = min(smallest, x.min().item())
    return x, smallest


def test_reverse_walk_of_a_thousand_steps_stays_positive_and_finds_both_modes():
    """Published mode means 1.2005 and 1.8005 for the targets 1.2 and 1.8."""
    oracle = two_modes()
    x, smallest = reverse(oracle, 1000)
    assert smallest > 0.0
    low, high = x[x < 1.5], x[x >= 1.5]
    assert low.mean().item() == pytest.approx(1.2, abs=0.006)
    assert high.mean().item() == pytest.approx(1.8, abs=0.006)
    share = len(low) / len(x)
    assert share == pytest.approx(0.4, abs=4.5 * math.sqrt(0.24 / len(x)))


def test_positivity_needs_no_small_step_but_the_additive_rule_does():
    oracle = two_modes()
    assert reverse(oracle, 5)[1] > 0.0
    assert reverse(oracle, 5, additive=True)[1] < 0.0


def test_deterministic_solvers_of_the_core_apply_in_the_chart():
    oracle = two_modes()
    generator = torch.Generator().manual_seed(2)
    u = oracle.sample(4000, 1.0, generator=generator).log()
    times = grid.log_snr(GBM, 40, sigma_max=V, sigma_min=1e-3)
    x = Multistep("angle", order=2).plan(GBM, times).run(oracle, u).exp()
    exact = oracle.sample(4000, 0.0, generator=generator)
    assert stats.ks_2samp(x[:, 0].numpy(), exact[:, 0].numpy()).pvalue > 1e-3
    wrong = two_modes(means=(1.25, 1.8))
    x = Multistep("angle", order=2).plan(GBM, times).run(wrong, u).exp()
    assert stats.ks_2samp(x[:, 0].numpy(), exact[:, 0].numpy()).pvalue < 1e-6


def test_what_is_refused():
    oracle = wide(GBM)
    with pytest.raises(ValueError, match="needs positive data"):
        oracle.score(torch.zeros(2, 3, dtype=DOUBLE), 0.5)
    with pytest.raises(ValueError, match="needs positive data"):
        oracle.log_density(-torch.ones(2, 3, dtype=DOUBLE), 0.5)
    with pytest.raises(ValueError, match="give >= 0"):
        LogNormalMixtureOracle(
            GBM,
            torch.ones(1, dtype=DOUBLE),
            log_means=torch.zeros(1, 2, dtype=DOUBLE),
            log_variances=-torch.ones(1, 2, dtype=DOUBLE),
        )
