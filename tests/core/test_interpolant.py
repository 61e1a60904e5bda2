"""The regression of interpolants: its minimisers, and why every noise is used with both signs."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from contracts.interpolant import BRIDGE, DATA, OTHER, generator

from medsci.core import Path, Rng
from medsci.core.check import GaussianMixtureOracle
from medsci.core.check.interpolant import InterpolantOracle
from medsci.core.learn.interpolant import InterpolantRegression
from medsci.core.process.two_sided import TwoSided


def linear_fit(objective, *, t, x0, x1):
    """Return slope and offset of the line that minimises the objective at one time."""
    line = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=30, line_search_fn="strong_wolfe")
    time = torch.tensor([t], dtype=DOUBLE)

    def closure():
        optimiser.zero_grad()
        loss = objective.at(
            lambda x, t: line[0] * x + line[1], x0, x1=x1, t=time, rng=Rng(0, [0]), step=0
        ).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return line.tolist()


@pytest.mark.parametrize("pred", ["b", "v", "eta", "score"])
def test_a_linear_model_finds_the_conditional_mean_of_gaussians(pred) -> None:
    one, two = (
        GaussianMixtureOracle(Path.rectified(), torch.ones(1, dtype=DOUBLE),
                              means=torch.tensor([[m]], dtype=DOUBLE),
                              covariances=torch.tensor([[[v]]], dtype=DOUBLE))
        for m, v in ((1.0, 0.25), (-0.5, 2.0))
    )  # fmt: skip
    interpolant = TwoSided("trig", "sqrt", scale=0.8)
    oracle = InterpolantOracle(interpolant, one, second=two)
    x0, x1 = (law.sample(200000, 0.0, generator=generator(i)).T for i, law in enumerate((one, two)))
    for t in (0.2, 0.7):
        slope, offset = linear_fit(InterpolantRegression(interpolant, pred), t=t, x0=x0, x1=x1)
        at = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
        truth = getattr(oracle, pred)(at, t)
        expected = float(truth[1] - truth[0]), float(truth[0])
        assert (slope, offset) == pytest.approx(expected, abs=0.02)
        other = getattr(oracle, {"b": "v", "v": "b", "eta": "score", "score": "eta"}[pred])(at, t)
        assert abs(slope - float(other[1] - other[0])) > 0.08


def test_a_small_network_learns_the_drift_of_two_mixtures() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64),
                              torch.nn.SiLU(), torch.nn.Linear(64, 2))  # fmt: skip
    objective, size = InterpolantRegression(BRIDGE.interpolant, "b", margin=0.02), 256
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)

    def field(x, t):
        return net(torch.cat([x, t.to(x.dtype)[:, None]], 1))

    @torch.no_grad()
    def error():
        gaps = []
        for t in (0.2, 0.5, 0.8):
            x = BRIDGE.sample(1000, t, generator=generator(5))
            truth = BRIDGE.b(x, t)
            gap = field(x.float(), torch.full((1000,), t)).double() - truth
            gaps.append(float(gap.square().mean() / truth.square().mean()))
        return max(gaps)

    untrained = error()
    for step in range(300):
        x0, x1 = (law.sample(size, 0.0, generator=generator(10 * step + i)).float()
                  for i, law in enumerate((DATA, OTHER)))  # fmt: skip
        loss, logs = objective(field, x0, x1=x1, rng=Rng(1, range(size)), step=step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert untrained > 0.8
    assert error() < 0.15
    assert logs["loss"].shape == logs["t"].shape == (size,)
    assert not logs["loss"].requires_grad


def test_antithetic_pairs_tame_the_ends() -> None:
    """At t = 1e-6 the gradient of the loss of b varies 1e3 times more without pairs."""
    n, t = 2000, 1e-6
    x0, x1 = (law.sample(n, 0.0, generator=generator(i)) for i, law in enumerate((DATA, OTHER)))
    weight = torch.ones(n, 1, dtype=DOUBLE, requires_grad=True)

    def spread(antithetic):
        objective = InterpolantRegression(BRIDGE.interpolant, "b", antithetic=antithetic)
        losses = objective.at(lambda x, t: weight * torch.sin(x), x0, x1=x1, t=torch.full(
            (n,), t, dtype=DOUBLE), rng=Rng(0, range(n)), step=0)  # fmt: skip
        (gradient,) = torch.autograd.grad(losses.sum(), weight)
        return float(gradient.var()), float(gradient.mean())

    (paired, mean), (single, _) = spread(True), spread(False)
    assert paired < 10.0
    assert single > 1e3 * paired
    assert abs(mean) < 4.5 * math.sqrt(paired / n) + 5.0


def test_complex_states_are_regressed_as_pairs_of_reals() -> None:
    objective, n = InterpolantRegression(TwoSided(), "eta"), 3
    parts = [draw(n, 4, seed=i) for i in range(4)]
    x0, x1 = torch.complex(parts[0], parts[1]), torch.complex(parts[2], parts[3])
    loss, _ = objective(lambda x, t: (0.3 - 0.2j) * x, x0, x1=x1, rng=Rng(0, range(n)), step=0)
    assert loss.dtype == DOUBLE
    best, _ = objective(lambda x, t: 0.0 * x, x0, x1=x1, rng=Rng(0, range(n)), step=0)
    assert float(best) == 0.0


def test_the_margin_must_leave_something() -> None:
    with pytest.raises(ValueError, match="margin=0"):
        InterpolantRegression(TwoSided(), margin=0.5)
