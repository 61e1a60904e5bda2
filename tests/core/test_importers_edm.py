"""EDM networks and any callable as denoisers: every frame and prediction is the same answer."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn
from torch.testing import assert_close

from medsci.core.denoise.importers import from_callable, from_edm
from medsci.core.process import Path, convert
from medsci.core.process.path import Rectified, VarianceExploding, VpLinear
from medsci.core.process.pred import PREDICTIONS
from medsci.core.solve import Multistep, grid


class Spy(nn.Module):
    """A network that keeps the times it is told, and answers with a bend of state and time."""

    def __init__(self):
        super().__init__()
        self.told: list[torch.Tensor] = []
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, timesteps, context=None):
        self.told.append(timesteps)
        shape = (-1, *(1,) * (x.ndim - 1))
        out = torch.tanh(self.gain * x + 1e-3 * timesteps.reshape(shape))
        return out if context is None else out + context


# EDM


class Raw(nn.Module):
    """A raw network of Karras et al., in float64."""

    def forward(self, x, code, label=0.0):
        return torch.sin(x + code[:, None]) + label


def preconditioned(x, sigma, label=0.0, sigma_data=0.5):
    """D of eq. 7, in the letters of the source."""
    sigma = sigma[:, None]
    total = sigma**2 + sigma_data**2
    c_skip, c_out = sigma_data**2 / total, sigma * sigma_data / total.sqrt()
    return c_skip * x + c_out * Raw()(x / total.sqrt(), sigma[:, 0].log() / 4, label)


LEVELS = [0.002, 0.05, 0.5, 1.0, 7.0, 79.9]


@pytest.mark.parametrize("level", LEVELS)
def test_raw_and_preconditioned_networks_are_one_denoiser(level):
    raw, whole = from_edm(Raw(), preconditioned=False), from_edm(preconditioned)
    t = float(raw.path.time_at_sigma_hat(level))
    x = draw(3, 4, scale=math.hypot(level, 0.5))
    expected = preconditioned(x, torch.full((3,), level, dtype=DOUBLE), 0.1)
    for denoiser in (raw, whole):
        assert_close(denoiser(x, t, label=0.1), expected, rtol=1e-12, atol=1e-12)
    wrong = from_edm(Raw(), preconditioned=False, sigma_data=0.6)
    assert (wrong(x, t, label=0.1) - expected).abs().max() > 1e-5  # the control


@pytest.mark.parametrize("level", LEVELS)
def test_an_edm_network_on_the_rectified_path(level):
    """x = (1 - t) y and sigma = t / (1 - t): the same x0, and the flow of the same field."""
    t = level / (1.0 + level)
    moved = from_edm(preconditioned).on_path(Path.rectified())
    x = draw(3, 4)
    sigma = torch.full((3,), t / (1.0 - t), dtype=DOUBLE)
    expected = preconditioned(x / (1.0 - t), sigma)
    assert_close(moved(x, t), expected, rtol=1e-12, atol=1e-12)
    direct = from_callable(
        preconditioned, path=Path.rectified(), time_code="sigma_hat", frame=Path.ve(80.0)
    )
    assert torch.equal(direct(x, t), moved(x, t))
    unscaled = preconditioned(x, sigma)
    assert (unscaled - expected).abs().max() > 1e-4  # the control


def test_a_walk_is_the_same_on_both_paths():
    """Equal SNR at every point of the grid: one walk, seen in two scales."""
    edm, rectified = from_edm(preconditioned), Path.rectified()
    times = grid.karras(edm.path, 12, sigma_min=0.01, sigma_max=40.0)
    levels = edm.path.sigma(times)
    x = draw(3, 4, scale=40.0)
    there = Multistep().plan(edm.path, times).run(edm, x)
    ratio = levels / (1.0 + levels)
    here = Multistep().plan(rectified, ratio).run(edm.on_path(rectified), x / (1.0 + levels[0]))
    assert_close(here * (1.0 + levels[-1]), there, rtol=1e-10, atol=1e-11)


# Any callable


@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("path", [Rectified(), VpLinear(), VarianceExploding(5.0)], ids=repr)
def test_round_trip_of_every_prediction(pred, path):
    def x0(x, t, bend=1.0):
        return torch.tanh(bend * x) * (1.0 - 0.5 * t)

    def answer(x, code, **cond):
        t = float(code[0])
        at = {"alpha": float(path.alpha(t)), "sigma": float(path.sigma(t)), "sigma_data": 0.6}
        return convert(x0(x, t, **cond), x, source="x0", target=pred, **at)

    wrapped = from_callable(answer, path=path, pred=pred, sigma_data=0.6)
    x = draw(3, 4)
    for t in (0.9, 0.3, 0.05):
        assert_close(wrapped(x, t, bend=0.7), x0(x, t, bend=0.7), rtol=1e-11, atol=1e-12)
    other = PREDICTIONS[PREDICTIONS.index(pred) - 1]
    wrong = from_callable(answer, path=path, pred=other, sigma_data=0.6)
    assert not torch.allclose(wrapped(x, 0.9), wrong(x, 0.9), rtol=1e-3)  # the control


def test_a_module_keeps_its_parameters_and_a_function_has_none():
    net = Spy()
    assert [p is net.gain for p in from_callable(net, path=Path.rectified()).parameters()] == [True]
    assert not list(from_callable(preconditioned, path=Path.rectified()).parameters())
