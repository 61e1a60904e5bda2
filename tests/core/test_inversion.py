"""Increasing grids: a walk from data to noise and back is the identity, up to the order."""

import numpy as np
import pytest
import torch
from contracts.core import assert_order, draw, gaussian16, median_error, mixture64

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, RungeKutta, grid

RF = Path.rectified()


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Multistep("eps", order=1), 1),
        (Multistep("x0", order=2, lower_final=False), 2),
        (Multistep("v", "ratio", order=2), 2),
        (Multistep("angle", "angle", order=3, warmup=True), 3),
        (Multistep("angle", "angle", order=2, corrector=True, lower_final=False), 3),
        (RungeKutta("heun", "v"), 2),
        (RungeKutta("rk4", "angle"), 4),
    ],
    ids=["ddim", "x0-2", "v-2", "angle-3", "angle-2-corrected", "heun", "rk4"],
)
def test_inversion_has_the_order_of_the_solver(solver, expected):
    """From data with a little noise to noise, against the exact flow of a Gaussian."""
    oracle = gaussian16(RF)
    x = oracle.flow(draw(8, 16), 1.0, 0.05)
    exact = oracle.flow(x, 0.05, 0.98)

    def error(n):
        plan = solver.plan(RF, np.linspace(0.05, 0.98, n + 1))
        return median_error(plan.run(oracle, x), exact)

    assert_order(error, expected=expected, steps=(64, 128, 256), tolerance=0.35)


def test_the_first_steps_of_an_inversion_need_the_start_up_rule():
    """At the data the directions bend at once; begun with one direction, order 3 becomes 2."""
    oracle = gaussian16(RF)
    x = oracle.flow(draw(8, 16), 1.0, 0.05)
    exact = oracle.flow(x, 0.05, 0.98)

    def error(n):
        plan = Multistep("angle", "angle", order=3).plan(RF, np.linspace(0.05, 0.98, n + 1))
        return median_error(plan.run(oracle, x), exact)

    assert_order(error, expected=2, steps=(64, 128, 256), tolerance=0.1)


def test_there_and_back_on_a_mixture():
    oracle = mixture64(RF)
    solver = Multistep("angle", "angle", order=3, corrector=True)
    times = grid.angle(RF, 200, sigma_min=0.05)
    noise = draw(4, 64)
    data = solver.plan(RF, times).run(oracle, noise)
    again = solver.plan(RF, times[::-1]).run(oracle, data)
    assert median_error(again, noise) < 2e-3
    wrong = solver.plan(RF, times[::-1]).run(oracle, data.roll(1, 0))
    assert median_error(wrong, noise) > 0.3  # the control: another sample's noise


def test_pure_noise_is_reached_at_full_order_in_v_and_angle():
    """The last step of an inversion may end where no data is left."""
    oracle = gaussian16(RF)
    x = oracle.flow(draw(8, 16), 1.0, 0.1)
    exact = oracle.flow(x, 0.1, 1.0)
    for basis, variable in (
        ("v", "ratio"),
        ("angle", "angle"),
        ("eps", "log_snr"),
        ("x0", "log_snr"),
    ):
        plan = Multistep(basis, variable, order=2).plan(RF, np.linspace(0.1, 1.0, 65))
        out = plan.run(oracle, x)
        assert out.isfinite().all()
        assert median_error(out, exact) < 0.02


def test_partial_ranges():
    """A plan walked in parts by hand, and one begun in the middle of the noise."""
    plan = Multistep("v", "ratio", order=1).plan(RF, grid.uniform(8))

    def denoise(x, t):
        return torch.tanh(x) * (1.0 - 0.5 * t)

    x = draw(2, 3)
    parts = plan.run(denoise, plan.run(denoise, x, stop=3), start=3)
    torch.testing.assert_close(parts, plan.run(denoise, x), rtol=0, atol=0)
    tail = Multistep("v", "ratio", order=1).plan(RF, grid.uniform(8)[3:])
    middle = plan.run(denoise, x, stop=3)
    torch.testing.assert_close(tail.run(denoise, middle), parts)


def test_grids_that_cannot_be_walked():
    with pytest.raises(ValueError, match="start the inversion at a little noise"):
        Multistep().plan(RF, np.array([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="strictly"):
        Multistep().plan(RF, np.array([0.1, 0.5, 0.4, 1.0]))
    with pytest.raises(ValueError, match="decrease"):
        Ancestral().plan(RF, np.array([0.1, 0.5, 1.0]))
