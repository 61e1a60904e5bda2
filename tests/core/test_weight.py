"""Level weights: one loss written as another, for every prediction, and what they do to a fit."""

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.metric import Perceptual, PseudoHuberNorm, SquaredError
from medsci.core.learn.objective import Regression
from medsci.core.learn.weight import AsPredicted, MinSnr, On, Sigmoid, TimePower, Weight
from medsci.core.process.path import Path
from medsci.core.process.pred import PREDICTIONS, convert
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng

PATHS = {
    "cosine": Path.vp_cosine(),
    "rectified": Path.rectified(),
    "ve": Path.ve(sigma_max=3.0, sigma_min=0.05),
}
N, SD = 7, 0.4
TIMES = torch.linspace(0.06, 0.93, N, dtype=DOUBLE)
X0, Z = draw(N, 3, 2, seed=1, scale=SD), draw(N, 3, 2, seed=2)


class Answer(nn.Module):
    """A network that gives one answer whatever it is asked, and counts."""

    def __init__(self, f):
        super().__init__()
        self.f, self.calls = f, 0

    def forward(self, x, code, **cond):
        self.calls += 1
        return self.f


def denoiser(pred, path, f=X0):
    return Denoiser(Answer(f), path=path, pred=pred, sigma_data=SD)


def losses(objective, model, t=TIMES, **options):
    return objective.at(model, X0, t, rng=Rng(0, range(N)), step=0, noise=Z, **options)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("other", PREDICTIONS)
def test_a_weight_turns_the_loss_on_one_prediction_into_that_on_another(pred, other, path):
    f = draw(N, 3, 2, seed=3)
    alpha, sigma = (c(TIMES)[:, None, None] for c in (path.alpha, path.sigma))
    x_t = path.perturb(X0, TIMES, Z)
    g = convert(f, x_t, source=pred, target=other, alpha=alpha, sigma=sigma, sigma_data=SD)
    ours = losses(Regression(weight=On(other)), denoiser(pred, path, f))
    theirs = losses(Regression(), denoiser(other, path, g))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0.0)
    plain = losses(Regression(), denoiser(pred, path, f))
    assert pred == other or not torch.allclose(plain, theirs, rtol=1e-3)  # control


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("pred", PREDICTIONS)
def test_published_weights_are_what_was_published(pred, path):
    model = denoiser(pred, path)
    alpha, sigma = path.alpha(TIMES), path.sigma(TIMES)
    snr, h = (alpha / sigma).square(), sigma / alpha

    def relative(weight, unit):
        return weight(model, TIMES) / On(unit)(model, TIMES)

    for gamma in (1.0, 5.0):
        ours = relative(MinSnr(gamma), "x0")
        torch.testing.assert_close(ours, snr.clamp_max(gamma))
        torch.testing.assert_close(relative(MinSnr(gamma), "eps"), (gamma / snr).clamp_max(1.0))
    assert not torch.allclose(ours, snr.clamp_max(4.0))  # control
    torch.testing.assert_close(relative(Sigmoid(-1.5), "eps"), torch.sigmoid(-1.5 - snr.log()))
    torch.testing.assert_close(relative(On("edm"), "x0"), (h.square() + SD**2) / (h * SD).square())
    assert torch.equal(AsPredicted()(model, TIMES), torch.ones(N, dtype=DOUBLE))


def test_min_snr_of_the_velocity_of_a_preserving_path():
    """The weight `min(SNR, gamma) / (SNR + 1)` of the v loss, as printed."""
    path = PATHS["cosine"]
    snr = (path.alpha(TIMES) / path.sigma(TIMES)).square()
    ours = MinSnr(5.0)(denoiser("v", path), TIMES)
    torch.testing.assert_close(ours, snr.clamp_max(5.0) / (snr + 1.0))


@pytest.mark.parametrize("weight", [On("x0"), On("eps"), MinSnr(), Sigmoid(), AsPredicted()])
def test_weights_are_finite_at_both_ends_for_a_velocity(weight):
    assert isinstance(weight, Weight)
    ends = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    for pred in ("v", "flow", "edm"):
        assert weight(denoiser(pred, Path.rectified()), ends).isfinite().all()


@pytest.mark.parametrize("pred", PREDICTIONS)
def test_the_second_metric_sees_the_x0_of_the_same_output(pred):
    path, mu = Residual(), draw(N, 3, 2, seed=5)
    model = denoiser(pred, path, draw(N, 3, 2, seed=4))
    x0_hat = model(path.perturb(X0, TIMES, Z, mu=mu), TIMES, mu=mu)
    model.net.calls = 0
    both = Regression(
        weight=TimePower(0.0, 1.0), x0_metric=SquaredError(), x0_weight=TimePower(-1.0)
    )
    total = losses(both, model, cond={"mu": mu})
    assert model.net.calls == 1
    first = (1.0 - TIMES) * losses(Regression(), model, cond={"mu": mu})
    torch.testing.assert_close(total, first + SquaredError()(x0_hat, X0) / TIMES)
    assert not torch.allclose(total, first + SquaredError()(x0_hat, X0))  # control


def test_the_loss_of_rf_plus_plus():
    """(1 - t) Huber(v) + P(x0_hat, x0) / t on the rectified path, in training and validation."""
    f = draw(N, 3, 2, seed=4)
    model = denoiser("flow", Path.rectified(), f)
    perceptual = Perceptual(lambda x: [x, x.square()])
    huber = PseudoHuberNorm(width="linear")
    objective = Regression(
        metric=huber,
        weight=TimePower(0.0, 1.0),
        x0_metric=perceptual,
        x0_weight=TimePower(-1.0),
    )
    t = TIMES[:, None, None]
    x0_hat = (1.0 - t) * X0 + t * Z - t * f
    wanted = (1.0 - TIMES) * huber(f, Z - X0) + perceptual(x0_hat, X0) / TIMES
    torch.testing.assert_close(losses(objective, model), wanted)
    mean, seen = objective(model, X0, rng=Rng(0, range(N)), step=0, noise=Z)
    torch.testing.assert_close(mean, seen["loss"].mean())
    torch.testing.assert_close(seen["loss"], losses(objective, model, seen["t"]))


@pytest.mark.parametrize("power", [0.0, 1.0, -1.5])
def test_a_network_that_must_compromise_follows_the_weights(power):
    """One number for all times: the best is the weighted mean of the targets."""

    class Number(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, x, code):
            return self.c.expand_as(x)

    model = Denoiser(Number(), path=Path.vp_cosine(), pred="v")
    loss = losses(Regression(weight=TimePower(power)), model).sum()
    loss.backward()
    best = -model.net.c.grad / (2.0 * TIMES.pow(power).sum())
    p, q = (c[:, None, None] for c in model.row(TIMES))
    targets = (p * X0 + q * Z).flatten(1).mean(1)
    weights = TIMES.pow(power)
    torch.testing.assert_close(best, (weights * targets).sum() / weights.sum())
    assert power == 0.0 or abs(best - targets.mean()) > 1e-2  # control


def test_bad_weights_say_what_to_do():
    with pytest.raises(ValueError, match="gamma=0"):
        MinSnr(0.0)
    with pytest.raises(Exception, match=r"choose one of|pred"):
        On("noise")
    with pytest.raises(ValueError, match="equal shape"):
        Regression().at(
            denoiser("v", Path.rectified()), X0, TIMES, rng=Rng(0, range(N)), step=0, noise=Z[:2]
        )
