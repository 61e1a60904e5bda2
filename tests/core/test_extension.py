"""Adding a solver, a path and a hook: each in a few lines, and at home with everything else."""

import inspect
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, median_error
from torch.testing import assert_close

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Plan, Row, Step, grid, sample
from medsci.core.steer import Hook

MOST_LINES = 25


@dataclass(frozen=True)
class Midpoint:
    """Two evaluations per step: x0 half-way, in lambda, is used for the whole step."""

    def plan(self, path, grid):
        """Return the coefficients."""
        steps = []
        for t, s in pairwise(grid):
            middle = float(path.time_at_log_snr(0.5 * (path.log_snr(t) + path.log_snr(s))))
            half, whole = (self.row(path, t, end) for end in (middle, s))
            back = self.row(path, middle, t)  # from the middle to the start, and on to the end
            full = Row(a=back.a * whole.a, b=whole.b, c=(0.0, back.b * whole.a))
            steps.append(Step(t=float(t), s=middle, rows=(half,), f=(0.0, 1.0)))
            steps.append(Step(t=middle, s=float(s), rows=(full, full), f=(0.0, 1.0), drop=2))
        return Plan(tuple(steps), history=2, nfe=len(steps))

    def row(self, path, t, s):
        """Return the step of DDIM from t to s."""
        a = float(path.sigma(s) / path.sigma(t))
        return Row(a=a, b=float(path.alpha(s)) - a * float(path.alpha(t)))


@dataclass(frozen=True)
class Square(Path):
    """`x_t = (1 - t^2) x0 + t z`."""

    def alpha(self, t):
        """Return the weight of the data."""
        return 1.0 - t * t

    def sigma(self, t):
        """Return the weight of the noise."""
        return 1.0 * t


class KeepMean(Hook):
    """Give every x0 the mean of a reference."""

    def __init__(self, mean):
        self.mean = mean

    def denoised(self, state):
        """Shift x0."""
        state.x0 = state.x0 + (self.mean - state.x0.mean(dim=1, keepdim=True))


VARIANCES = 1.0 / torch.arange(1, 9, dtype=DOUBLE)


def oracle(path) -> GaussianOracle:
    return GaussianOracle(path, draw(8, seed=2), variances=VARIANCES)


def error(solver, path, n) -> float:
    times = grid.log_snr(path, n, sigma_max=20.0, sigma_min=0.02)
    x = draw(8, 8, scale=float(path.sigma(times[0])))
    return median_error(
        sample(oracle(path), (8, 8), solver=solver, grid=times, x=x, dtype=DOUBLE),
        oracle(path).flow(x, float(times[0]), float(times[-1])),
    )


@pytest.mark.parametrize("path", [Square(), Path.vp_linear()], ids=repr)
def test_a_new_solver_has_its_order_on_every_path(path):
    errors = [error(Midpoint(), path, n) for n in (16, 32, 64)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.35)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)
    first = [error(Multistep(order=1), path, n) for n in (16, 32)]
    assert first[0] / first[1] < 2.6  # the control: a solver of order 1


def test_a_new_path_works_with_everything():
    path = Square()
    for solver in (Multistep("v", "ratio"), Multistep("eps", order=3), Midpoint()):
        assert error(solver, path, 60) < 5e-3
    unfit = sample(
        oracle(Path.vp_linear()),
        (8, 8),
        solver=Multistep(),
        grid=grid.uniform(60, t_min=0.02),
        path=path,
        dtype=DOUBLE,
    )  # the control: a denoiser of another path
    fit = sample(
        oracle(path), (8, 8), solver=Multistep(), grid=grid.uniform(60, t_min=0.02), dtype=DOUBLE
    )
    assert median_error(unfit, fit) > 0.1
    drawn = sample(
        oracle(path),
        (3000, 8),
        solver=Multistep("v", "ratio"),
        grid=grid.angle(path, 40),
        dtype=DOUBLE,
    )
    assert_close(drawn.var(0), VARIANCES, rtol=0.12, atol=0.0)


def test_a_new_hook_holds_what_it_says():
    mean = torch.full((8, 1), 0.37, dtype=DOUBLE)
    for solver in (Multistep("v", "ratio"), Ancestral(1.0)):
        runs = [
            sample(
                oracle(Square()),
                (8, 8),
                solver=solver,
                grid=grid.angle(Square(), 30),
                hooks=hooks,
                dtype=DOUBLE,
            )
            for hooks in ((KeepMean(mean),), ())
        ]
        assert_close(runs[0].mean(1, keepdim=True), mean, rtol=0, atol=1e-12)
        assert (runs[1].mean(1, keepdim=True) - mean).abs().max() > 0.1  # the control


@pytest.mark.parametrize("part", [Midpoint, Square, KeepMean])
def test_each_is_short(part):
    assert len(inspect.getsource(part).splitlines()) < MOST_LINES


def test_what_the_walk_calls_is_what_is_counted():
    """No help from outside the class: base classes and imports are the core's own."""
    for part, bases in ((Midpoint, (object,)), (Square, (Path,)), (KeepMean, (Hook,))):
        assert part.__bases__ == bases
    grid_of_two = np.array([0.5, 0.25])
    assert Midpoint().plan(Square(), grid_of_two).nfe == 2
