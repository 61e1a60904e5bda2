"""Objectives: the regression finds the conditional mean; time laws have their distribution."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn import (
    Independent,
    LogitNormal,
    PseudoHuber,
    Regression,
    SquaredError,
    Uniform,
)
from medsci.core.process.path import Path
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng

VARIANCE, TIME = 0.3, 0.4


class Gain(nn.Module):
    """The linear network `f = w x`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, code):
        return self.weight * x


class AtTime:
    """A time law at one point."""

    def __call__(self, path, rng, *, step):
        return torch.full((len(rng.ids),), TIME, dtype=torch.float64)


def fit(pred, path, *, break_pairs=False, n=4000):
    """Return the x0 gain of the linear network that minimises the regression."""
    denoiser = Denoiser(Gain(), path=path, pred=pred, unit_input=False)
    data = math.sqrt(VARIANCE) * torch.randn(
        n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    metric = SquaredError()
    if break_pairs:

        def metric(prediction, target):
            return SquaredError()(prediction, target.roll(1, 0))

    objective = Regression(time_law=AtTime(), metric=metric)
    optimiser = torch.optim.LBFGS(denoiser.parameters(), max_iter=20)
    denoiser.double()

    def closure():
        optimiser.zero_grad()
        loss, _ = objective(denoiser, data, rng=Rng(0, range(n)), step=0)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return float(denoiser(torch.ones(1, 8, dtype=torch.float64), TIME)[0, 0])


PATHS = {
    "cosine": Path.vp_cosine(),
    "linear": Path.vp_linear(),
    "rectified": Path.rectified(),
    "ve": Path.ve(sigma_max=2.0),
}


@pytest.mark.parametrize("pred", ["x0", "eps", "v", "flow", "edm"])
@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_finds_the_wiener_gain(pred, name):
    """For data N(0, v) the best linear denoiser is `alpha v / (alpha^2 v + sigma^2)`."""
    path = PATHS[name]
    alpha, sigma = float(path.alpha(TIME)), float(path.sigma(TIME))
    wiener = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    assert fit(pred, path) == pytest.approx(wiener, rel=0.03)


def test_control_shuffled_targets_do_not_find_it():
    path = PATHS["cosine"]
    alpha, sigma = float(path.alpha(TIME)), float(path.sigma(TIME))
    wiener = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    assert abs(fit("x0", path, break_pairs=True)) < 0.1 * wiener


def test_the_loss_is_a_mean_over_samples_and_says_which_levels_it_saw():
    denoiser = Denoiser(Gain(), path=Path.vp_cosine(), pred="v")
    x0 = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    loss, seen = Regression()(denoiser, x0, rng=Rng(1, range(6)), step=3)
    assert loss.shape == ()
    assert loss.requires_grad
    assert not seen["loss"].requires_grad
    torch.testing.assert_close(loss.detach(), seen["loss"].mean())
    assert seen["t"].shape == (6,)


def test_a_sample_has_the_same_loss_in_any_batch():
    denoiser = Denoiser(Gain(), path=Path.vp_cosine(), pred="v")
    x0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    _, whole = Regression()(denoiser, x0, rng=Rng(9, range(5)), step=0)
    _, part = Regression()(denoiser, x0[3:4], rng=Rng(9, [3]), step=0)
    assert torch.equal(whole["loss"][3:4], part["loss"])
    assert torch.equal(whole["t"][3:4], part["t"])
    _, other = Regression()(denoiser, x0, rng=Rng(9, range(5)), step=1)
    assert not torch.equal(whole["t"], other["t"])


N = 4000


def angles(law, path, sigma_data):
    t = law(path, Rng(3, range(N)), step=0)
    assert t.dtype == torch.float64
    assert float(t.min()) > 0.0
    assert float(t.max()) < 1.0
    alpha, sigma = path.alpha(t.numpy()), path.sigma(t.numpy())
    return np.arctan2(sigma, sigma_data * alpha), t.numpy()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("sigma_data", [1.0, 0.2])
def test_uniform_on_the_angle_is_uniform_on_it(name, sigma_data):
    path = PATHS[name]
    law = Uniform(on="angle", sigma_data=sigma_data, margin=0.0)
    angle, t = angles(law, path, sigma_data)
    ends = np.array([0.0, 1.0])
    low, high = np.arctan2(path.sigma(ends), sigma_data * path.alpha(ends))
    assert stats.kstest((angle - low) / (high - low), "uniform").pvalue > 1e-3
    if name == "rectified" or sigma_data != 1.0:  # control: not uniform in time as well
        assert stats.kstest(t, "uniform").pvalue < 1e-6


def test_uniform_on_the_time_is_uniform_on_it():
    _, t = angles(Uniform(on="time", margin=0.0), PATHS["linear"], 1.0)
    assert stats.kstest(t, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("on", ["angle", "time"])
def test_the_logit_of_logit_normal_is_normal(on):
    law = LogitNormal(mean=-0.5, sd=0.8, on=on, margin=0.0)
    angle, t = angles(law, PATHS["rectified"], 1.0)
    u = t if on == "time" else angle / (0.5 * math.pi)
    logit = np.log(u) - np.log1p(-u)
    assert stats.kstest(logit, "norm", args=(-0.5, 0.8)).pvalue > 1e-3
    assert stats.kstest(logit, "norm", args=(0.0, 0.8)).pvalue < 1e-6


def test_the_margin_keeps_off_the_ends():
    law = Uniform(on="time", margin=0.1)
    _, t = angles(law, PATHS["cosine"], 1.0)
    assert 0.1 <= t.min() < 0.11
    assert 0.89 < t.max() <= 0.9


def test_pseudo_huber_is_quadratic_near_and_linear_far():
    metric = PseudoHuber(width=0.5)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    near, far = zero + 1e-3, zero + 1e4
    assert float(metric(near, zero)) == pytest.approx(1e-6 / 2, rel=1e-4)
    assert float(metric(far, zero)) == pytest.approx(0.5 * 1e4, rel=1e-3)


def test_metrics_count_both_parts_of_complex_numbers():
    z = torch.tensor([[3.0 + 4.0j, 0.0]])
    assert float(SquaredError()(z, torch.zeros_like(z))) == pytest.approx(12.5)
    real = torch.view_as_real(z).flatten(1)
    huber = PseudoHuber(width=100.0)
    assert float(huber(z, 0 * z)) == pytest.approx(2 * float(huber(real, 0 * real)), rel=1e-2)


def test_independent_changes_nothing():
    x0, z = torch.randn(2, 3), torch.randn(2, 3)
    assert Independent()(x0, z, rng=Rng(0, range(2))) == (x0, z)


class Level(nn.Module):
    """A network that answers its condition, times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, code, *, level):
        return self.weight * level[:, None].expand_as(x)


def test_conditions_reach_the_network_and_the_coupling():
    """Data equal to twice the condition: the weight becomes two, and with shuffled ones zero."""
    seen = []

    class Watch:
        def __call__(self, x0, z, *, rng, step=0, cond=None):
            seen.append(cond)
            return x0, z

    level = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = 2.0 * level[:, None].expand(-1, 3)

    def fitted(cond):
        denoiser = Denoiser(Level(), path=Path.rectified(), pred="x0", unit_input=False)
        loss, _ = Regression(coupling=Watch())(
            denoiser, x0, rng=Rng(0, range(2000)), step=0, cond={"level": cond}
        )
        loss.backward()  # quadratic in the weight: the minimum is -gradient / curvature
        return -denoiser.net.weight.grad.item() / (2.0 * cond.square().mean().item())

    assert fitted(level) == pytest.approx(2.0)
    assert fitted(level.roll(1)) == pytest.approx(0.0, abs=0.2)
    assert seen[0]["level"] is level


def test_a_conditional_mean_enters_the_state():
    """On a shifted path the states are centred on the mean that came as a condition."""
    states = []

    class Look(nn.Module):
        def forward(self, x, code, *, mu):
            states.append(x)
            return x

    path = Residual(sum_scale=1e-8)
    denoiser = Denoiser(Look(), path=path, pred="x0", unit_input=False)
    x0, mu = torch.zeros(4, 2), torch.ones(4, 2)
    t = torch.tensor([0.0, 0.3, 0.7, 1.0])
    Regression().at(denoiser, x0, t, rng=Rng(0, range(4)), step=0, cond={"mu": mu})
    torch.testing.assert_close(states[0], path.shift(t)[:, None] * mu, atol=1e-3, rtol=0)
