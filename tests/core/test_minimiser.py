"""All predictions regress to one minimiser, the conditional mean, by exact normal equations."""

import pytest
import torch
from contracts.core import DOUBLE, draw
from contracts.quadratic import minimise
from torch import nn

from medsci.core.check import GaussianOracle
from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.metric import PseudoHuber
from medsci.core.learn.objective import Objective, Regression
from medsci.core.learn.weight import MinSnr, On, TimePower
from medsci.core.process.path import Path
from medsci.core.process.pred import PREDICTIONS
from medsci.core.rng import Rng

PATHS = {
    "cosine": Path.vp_cosine(),
    "rectified": Path.rectified(),
    "ve": Path.ve(sigma_max=3.0, rho=1.0),
}
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.1]], dtype=DOUBLE)
N, K, T = 100, 400, 0.4
DATA = MEAN + draw(N, K, 3, seed=1) @ ROOT.T
PROBE = draw(5, 3, seed=2)


class Affine(nn.Module):
    """The network `f = W x + b` on the last dimension."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 3, dtype=DOUBLE))
        self.bias = nn.Parameter(torch.zeros(3, dtype=DOUBLE))

    def forward(self, x, code):
        return x @ self.weight.T + self.bias


def fitted(pred, path, *, data=DATA, objective=None, noise=None):
    """Return what the best affine network says about the probes at time T."""
    model = Denoiser(Affine(), path=path, pred=pred, sigma_data=0.7)
    t = torch.full((N,), T, dtype=DOUBLE)
    ours = objective or Regression()

    def loss():
        return ours.at(model, data, t, rng=Rng(0, range(N)), step=0, noise=noise).mean()

    minimise(loss, model.net.weight, model.net.bias)
    with torch.no_grad():
        return model(PROBE, T)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_prediction_has_the_conditional_mean_for_its_minimiser(path):
    """Equal among each other to rounding, and to the oracle up to the size of the sample."""
    oracle = GaussianOracle.from_covariance(path, MEAN, covariance=ROOT @ ROOT.T)
    truth = oracle(PROBE, T)
    answers = {pred: fitted(pred, path) for pred in PREDICTIONS}
    for answer in answers.values():
        torch.testing.assert_close(answer, answers["x0"], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(answer, truth, rtol=0.0, atol=0.05)
    wrong = GaussianOracle.from_covariance(Path.vp_linear(), MEAN, covariance=ROOT @ ROOT.T)
    assert (answers["v"] - wrong(PROBE, T)).abs().max() > 0.2  # controls: another path,
    shuffled = fitted("v", path, noise=DATA.roll(7, 1))  # noise that is no noise
    assert (shuffled - truth).abs().max() > 0.2


@pytest.mark.parametrize("weight", [On("x0"), On("eps"), MinSnr(), TimePower(1.0, 2.0)])
def test_weights_do_not_move_the_minimiser_of_one_level(weight):
    plain = fitted("v", PATHS["cosine"])
    ours = fitted("v", PATHS["cosine"], objective=Regression(weight=weight))
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


def test_a_second_squared_error_on_x0_does_not_move_it_either():
    """And a control: an offset in the second metric does."""

    def shifted(prediction, target):
        return (prediction - target - 1.0).square().flatten(1).mean(1)

    plain = fitted("flow", PATHS["rectified"])
    both = Regression(x0_metric=Regression().metric, x0_weight=TimePower(-1.0))
    ours = fitted("flow", PATHS["rectified"], objective=both)
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)
    other = fitted("flow", PATHS["rectified"], objective=Regression(x0_metric=shifted))
    assert (other - plain).abs().min() > 0.1


def test_paired_noise_gives_the_velocity_of_its_pairs():
    """Pairs x0 = A z: the rectified velocity is `(1 - A)((1 - t) A + t)^-1 x`, exactly."""
    a = ROOT @ ROOT.T + 0.2 * torch.eye(3, dtype=DOUBLE)
    noise, eye = draw(N, K, 3, seed=4), torch.eye(3, dtype=DOUBLE)
    ours = fitted("flow", PATHS["rectified"], data=noise @ a, noise=noise)
    back = torch.linalg.inv((1.0 - T) * a + T * eye)
    torch.testing.assert_close(ours, PROBE @ back @ a, rtol=1e-8, atol=1e-8)
    independent = fitted("flow", PATHS["rectified"], data=noise @ a)  # control
    assert (ours - independent).abs().max() > 0.05


def test_given_noise_replaces_the_drawn_one():
    model = Denoiser(Affine(), path=PATHS["cosine"], pred="eps")
    objective, rng = Regression(metric=PseudoHuber()), Rng(3, range(N))
    assert isinstance(objective, Objective)
    z = draw(N, K, 3, seed=5)
    loss, seen = objective(model, DATA, rng=rng, step=2, noise=z)
    again, _ = objective(model, DATA, rng=rng, step=2, noise=z)
    drawn, other = objective(model, DATA, rng=rng, step=2)
    assert torch.equal(loss, again)
    assert not torch.equal(loss, drawn)
    assert torch.equal(seen["t"], other["t"])
