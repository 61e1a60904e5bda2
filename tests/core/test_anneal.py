"""Annealed pairs: schedules, correlations, the law of the noise, and the best velocity between."""

import itertools
import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from contracts.quadratic import minimise
from scipy import stats
from torch import nn

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.anneal import Annealed, CosineAnneal, ExponentialAnneal, LinearAnneal
from medsci.core.learn.coupling import Coupling
from medsci.core.learn.objective import Regression
from medsci.core.process.path import Path
from medsci.core.rng import Rng

SCHEDULES = [LinearAnneal(100), CosineAnneal(100), ExponentialAnneal(100)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_one(schedule):
    levels = [schedule(step) for step in range(301)]
    assert levels[0] == 1.0
    assert all(later <= level for level, later in itertools.pairwise(levels))
    if isinstance(schedule, ExponentialAnneal):
        assert levels[200] == pytest.approx(math.exp(-2.0))
    else:
        assert levels[50] == pytest.approx(0.5)
        assert levels[99] > 0.0
        assert levels[100:] == [0.0] * 201
    quarter = {"LinearAnneal": 0.75, "CosineAnneal": 0.5 + 0.25 * math.sqrt(2.0)}
    assert levels[25] == pytest.approx(quarter.get(type(schedule).__name__, math.exp(-0.25)))


def noise_at(b, z, ids=None):
    coupling = Annealed(lambda step: b)
    x0, mixed = coupling(z, z, rng=Rng(0, ids or range(len(z))), step=3)
    assert x0 is z
    return mixed


@pytest.mark.parametrize("b", [0.0, 0.3, 0.8, 1.0])
def test_the_correlation_falls_and_the_law_stays(b):
    z = draw(4000, 5, seed=1)
    mixed = noise_at(b, z)
    correlation = float((mixed * z).mean())
    assert correlation == pytest.approx(math.sqrt(1.0 - b * b), abs=0.02)
    assert stats.kstest(mixed.flatten().numpy(), "norm").pvalue > 1e-3
    assert float(mixed.var()) == pytest.approx(1.0, abs=4.5 * math.sqrt(2.0 / 20000))
    off = torch.corrcoef(mixed.T) - torch.eye(5, dtype=DOUBLE)
    assert float(off.abs().max()) < 4.5 / math.sqrt(4000)
    if 0.0 < b < 1.0:  # control: a mean of the two, without the root, has less variance
        wrong = (1.0 - b) * z + (mixed - math.sqrt(1.0 - b * b) * z)
        assert stats.kstest(wrong.flatten().numpy(), "norm").pvalue < 1e-4


def test_the_ends_are_the_pair_and_a_stranger():
    z = draw(6, 3)
    assert noise_at(0.0, z) is z
    assert not torch.equal(noise_at(1.0, z), z)
    assert torch.equal(noise_at(1.0, z), noise_at(1.0, 0.0 * z))


def test_a_sample_has_the_same_noise_in_any_batch_and_another_at_every_step():
    z = draw(8, 3, dtype=torch.float32)
    assert_batch_invariant(lambda ids: noise_at(0.5, z[list(ids)], list(ids)))
    coupling = Annealed(LinearAnneal(10))
    assert isinstance(coupling, Coupling)
    one, two = (coupling(z, z, rng=Rng(0, range(8)), step=s)[1] for s in (0, 1))
    assert not torch.equal(one, two)


def test_complex_noise_keeps_its_unit():
    z = torch.complex(draw(4000, 3, seed=1), draw(4000, 3, seed=2)) / math.sqrt(2.0)
    mixed = noise_at(0.6, z)
    assert float(mixed.abs().square().mean()) == pytest.approx(1.0, abs=0.04)
    assert float((mixed * z.conj()).real.mean()) == pytest.approx(0.8, abs=0.03)


class Matrix(nn.Module):
    """The linear network `f = x W`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2, dtype=DOUBLE))

    def forward(self, x, code):
        return x @ self.weight


def fitted(b, t, gain, n=200):
    """Return the matrix that minimises the objective at one time."""
    z = draw(n, 300, 2, seed=7)
    model = Denoiser(Matrix(), path=Path.rectified(), pred="flow", unit_input=False)
    objective, times = Regression(coupling=Annealed(lambda step: b)), torch.full((n,), t).double()

    def loss():
        return objective.at(model, z @ gain, times, rng=Rng(0, range(n)), step=0, noise=z).mean()

    minimise(loss, model.net.weight)
    return model.net.weight.data.T  # acts from the left on columns


GAIN = torch.tensor([[0.9, 0.3], [0.3, 0.4]], dtype=DOUBLE)  # of pairs x0 = GAIN z


def velocity(rho, t):
    """Return the best velocity and the covariance of the states, for correlation rho."""
    eye = torch.eye(2, dtype=DOUBLE)
    state = (1 - t) ** 2 * GAIN @ GAIN + t**2 * eye + 2 * t * (1 - t) * rho * GAIN
    cross = (1 - t) * (rho * GAIN - GAIN @ GAIN) + t * (eye - rho * GAIN)
    return cross @ torch.linalg.inv(state), state


def between(rho, t):
    """Return the mean of the two velocities, independent and paired, weighed by covariances."""
    (v0, c0), (v1, c1) = velocity(0.0, t), velocity(1.0, t)
    mixed = (1.0 - rho) * c0 + rho * c1
    return ((1.0 - rho) * v0 @ c0 + rho * v1 @ c1) @ torch.linalg.inv(mixed)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.6, 1.0])
def test_the_closed_forms_agree(rho):
    for t in (0.1, 0.5, 0.9):
        torch.testing.assert_close(between(rho, t), velocity(rho, t)[0])
        plain = (1.0 - rho) * velocity(0.0, t)[0] + rho * velocity(1.0, t)[0]
        if 0.0 < rho < 1.0:  # control: not the plain mean
            assert not torch.allclose(between(rho, t), plain, rtol=1e-3)
    straight = velocity(1.0, 0.3)[0]
    eye = torch.eye(2, dtype=DOUBLE)
    torch.testing.assert_close(straight, (eye - GAIN) @ torch.linalg.inv(0.7 * GAIN + 0.3 * eye))


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 1.0])
def test_the_minimiser_lies_between_the_two_closed_forms(b):
    rho = math.sqrt(1.0 - b * b)
    for t in (0.3, 0.7):
        ours = fitted(b, t, GAIN)
        error = float((ours - between(rho, t)).abs().max())
        assert error < 0.03
        for other in np.sqrt(1.0 - np.array([0.0, 0.5, 0.9, 1.0]) ** 2):
            if abs(other - rho) > 0.1:  # control: the velocity of another level
                assert float((ours - between(float(other), t)).abs().max()) > 2.0 * error


def test_the_step_of_the_training_reaches_the_schedule():
    model, n = Denoiser(Matrix(), path=Path.rectified(), pred="flow"), 6
    annealed, plain = Regression(coupling=Annealed(LinearAnneal(10))), Regression()

    def loss(objective, step, noise):
        x0 = draw(n, 5, 2, seed=1)
        return objective(model, x0, rng=Rng(0, range(n)), step=step, noise=noise)[0]

    one, two = draw(n, 5, 2, seed=2), draw(n, 5, 2, seed=3)
    assert torch.equal(loss(annealed, 0, one), loss(annealed, 0, two))  # the pair is not seen yet
    assert not torch.equal(loss(annealed, 5, one), loss(annealed, 5, two))
    for step in (10, 99):  # and nothing else is
        assert torch.equal(loss(annealed, step, one), loss(plain, step, one))
    assert not torch.equal(loss(annealed, 9, one), loss(plain, 9, one))


def test_bad_levels_say_what_to_do():
    z = draw(2, 3)
    with pytest.raises(ValueError, match="values in"):
        Annealed(lambda step: 1.5)(z, z, rng=Rng(0, range(2)))
    for schedule in (LinearAnneal, CosineAnneal, ExponentialAnneal):
        with pytest.raises(ValueError, match="steps=0"):
            schedule(0)
