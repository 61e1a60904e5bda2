"""Five prediction types: they convert into one another, and each weighs errors in its own way."""

import numpy as np
import pytest
import torch

from medsci.core.check import GaussianOracle
from medsci.core.denoise import Denoiser
from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.learn import On
from medsci.core.process import Path, convert
from medsci.core.solve import Ancestral, Multistep, Rng, grid
from medsci.core.steer import Clip, Trace

DOUBLE = torch.float64
TABLE = Path.tabulated(alphas_bar_of("linear"))
STRAIGHT = Path.rectified()
KINDS = {  # published name: path, our name, sign of the published target, its two weights
    "epsilon": (TABLE, "eps", 1.0, lambda a, s: (0.0, 1.0)),
    "sample": (TABLE, "x0", 1.0, lambda a, s: (1.0, 0.0)),
    "velocity": (TABLE, "v", 1.0, lambda a, s: (-s, a)),
    "flow": (TABLE, "flow", 1.0, lambda a, s: (-1.0, 1.0)),
    "rflow": (STRAIGHT, "flow", -1.0, lambda a, s: (1.0, -1.0)),
}
INVERSE = {  # x0 and eps from the state and the output, as published
    "epsilon": lambda x, o, a, s: ((x - s * o) / a, o),
    "sample": lambda x, o, a, s: (o, (x - a * o) / s),
    "velocity": lambda x, o, a, s: (a * x - s * o, a * o + s * x),
    "flow": lambda x, o, a, s: ((x - s * o) / (a + s), (x + a * o) / (a + s)),
    "rflow": lambda x, o, a, s: (x + s * o, x - a * o),
}
WEIGHT = {
    "epsilon": lambda a, s: a**2 / s**2,
    "sample": lambda a, s: 1.0,
    "velocity": lambda a, s: 1.0 / s**2,
    "flow": lambda a, s: (a + s) ** 2 / s**2,
    "rflow": lambda a, s: 1.0 / s**2,
}
VP = ("epsilon", "sample", "velocity", "flow")
ROWS = (0, 1, 100, 258, 500, 945, 998, 999)


def at(kind, row):
    path = KINDS[kind][0]
    t = (row + 1) / 1000 if path is TABLE else min(max(row / 1000, 1e-3), 0.999)
    return float(path.alpha(t)), float(path.sigma(t)), t


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 64, generator=generator, dtype=DOUBLE).unbind()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_data_and_noise_come_back_from_the_target(kind, row):
    _, ours, sign, target = KINDS[kind]
    a, s, _ = at(kind, row)
    x0, eps = pair()
    x = a * x0 + s * eps
    p, q = target(a, s)
    f = sign * (p * x0 + q * eps)
    limit = 1e-8 if (kind, row) == ("epsilon", 999) else 1e-10
    for wanted, truth in (("x0", x0), ("eps", eps)):
        found = convert(f, x, source=ours, target=wanted, alpha=a, sigma=s)
        torch.testing.assert_close(found, truth, rtol=0.0, atol=limit)
    published = INVERSE[kind](x, sign * f, a, s)
    torch.testing.assert_close(torch.stack(published), torch.stack([x0, eps]), rtol=0, atol=limit)


@pytest.mark.parametrize("row", [100, 500])
def test_the_wrong_inversion_is_seen(row):
    """Control: the flow on this path divided by `a`, or taken for the straight path."""
    a, s, _ = at("flow", row)
    x0, eps = pair()
    x, f = a * x0 + s * eps, eps - x0
    good = convert(f, x, source="flow", target="x0", alpha=a, sigma=s)
    torch.testing.assert_close(good, x0)
    for bad in ((x - s * f) / a, x - s * f, (x + s * f) / (a + s)):
        assert (bad - x0).norm() > 0.05 * x0.norm()


@pytest.mark.parametrize("row", [0, 100, 258, 500, 945, 999])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_output_weighs_what_the_table_says(kind, row):
    """`MSE(o) = w(t) |x0 - x0hat|^2`, and `On("x0")` is the inverse of w."""
    path, ours, _, _ = KINDS[kind]
    a, s, t = at(kind, row)
    denoiser = Denoiser(torch.nn.Identity(), path=path, pred=ours, unit_input=False)
    x, f = pair(1)
    shift = 0.1 * pair(2)[0]
    ends = [convert(o, x, source=ours, target="x0", alpha=a, sigma=s) for o in (f, f + shift)]
    ratio = float(shift.square().mean() / (ends[1] - ends[0]).square().mean())
    expected = WEIGHT[kind](a, s)
    # an output of noise at row 999 is divided by a = 1 / 157: the difference keeps fewer digits
    assert ratio == pytest.approx(expected, rel=1e-9)
    times = torch.tensor([t], dtype=DOUBLE)
    assert 1.0 / On("x0")(denoiser, times).item() == pytest.approx(expected, rel=1e-9)


def test_the_weights_at_row_100():
    a, s, _ = at("flow", 100)
    values = {kind: WEIGHT[kind](a, s) for kind in VP}
    assert values["epsilon"] == pytest.approx(8.53667, abs=5e-6)
    assert values["velocity"] == pytest.approx(9.53667, abs=5e-6)
    assert values["flow"] == pytest.approx(15.38019, abs=5e-6)
    assert values["velocity"] - values["epsilon"] == pytest.approx(1.0, rel=1e-12)
    wrong = (1.0 + s) ** 2 / s**2  # control: the straight path's alpha + sigma = 1 would give 1/s^2
    assert wrong != pytest.approx(values["flow"], rel=1e-2)


class Answers(torch.nn.Module):
    """A network that knows the data, told its row, and answers in one of the four types."""

    def __init__(self, oracle, pred):
        super().__init__()
        self.oracle, self.pred = oracle, pred

    def forward(self, x, code):
        t = (float(code[0]) + 1.0) / 1000
        a, s = float(TABLE.alpha(t)), float(TABLE.sigma(t))
        x0 = self.oracle(x, t)
        return convert(x0, x, source="x0", target=self.pred, alpha=a, sigma=s)


def trajectory(kind, *, hooks=(), solver=None, pred=None):
    d = 16
    mean = torch.linspace(-0.4, 0.6, d, dtype=DOUBLE)
    oracle = GaussianOracle(TABLE, mean, variances=torch.linspace(0.01, 0.5, d, dtype=DOUBLE))
    said = KINDS[kind][1]
    denoiser = Denoiser(
        Answers(oracle, pred or said), path=TABLE, pred=said, time_code="row", unit_input=False
    )
    times = grid.indices(1000, 50, spacing="linspace")
    rng = Rng(0, range(8))
    x = rng.normal((8, d), step=-1, dtype=DOUBLE)
    trace = Trace()
    plan = (solver or Multistep("eps", order=1)).plan(TABLE, times)
    plan.run(denoiser, x, rng=rng, hooks=[*hooks, trace])
    return torch.stack(trace.values)


@pytest.mark.parametrize("solver", [Multistep("eps", order=1), Ancestral(1.0)], ids=repr)
@pytest.mark.parametrize("hooks", [(), (Clip(-1.0, 1.0),)], ids=["free", "clipped"])
def test_one_oracle_walks_one_trajectory_in_all_four_types(solver, hooks):
    first = trajectory("sample", hooks=hooks, solver=solver)
    for kind in ("epsilon", "velocity", "flow"):
        walked = trajectory(kind, hooks=hooks, solver=solver)
        torch.testing.assert_close(walked, first, rtol=0.0, atol=1e-9)
    mistaken = trajectory("velocity", hooks=hooks, solver=solver, pred="flow")
    assert (mistaken - first).abs().max() > 0.1  # control: weights sampled as another type


def test_the_two_ways_of_clipping_agree_exactly_where_nothing_is_clipped():
    def walked(low, high):
        ways = (Clip(low, high), Clip(low, high, mode="ddim", path=TABLE))
        return [trajectory("flow", hooks=[hook]) for hook in ways]

    torch.testing.assert_close(*walked(-9.0, 9.0), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(walked(-9.0, 9.0)[0], trajectory("flow"), rtol=0.0, atol=1e-12)
    consistent, published = walked(-0.3, 0.5)
    assert (consistent - published).abs().max() > 0.1
    assert np.isfinite(published.numpy()).all()
