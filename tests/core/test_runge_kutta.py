"""Runge-Kutta solvers: orders, textbook identities, both ends of a path, hooks between stages."""

import numpy as np
import pytest
import torch
from contracts.core import (
    assert_order,
    draw,
    gaussian16,
    gaussian_error,
    median_error,
    mixture64,
)

from medsci.core.process import Path
from medsci.core.solve import Butcher, Exponential, Multistep, RungeKutta, grid
from medsci.core.steer import Hook, Trace

VE, RF = Path.ve(), Path.rectified()
ENDS = {"sigma_max": 80.0, "sigma_min": 0.002}
NATURAL = (("eps", "sigma"), ("v", "ratio"), ("angle", "angle"))


def error(solver, n, *, centred=False):
    times = grid.log_snr(VE, n, **ENDS)
    return gaussian_error(solver.plan(VE, times), gaussian16(VE, centred=centred))


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (RungeKutta("euler", "eps"), 1),
        (RungeKutta("heun", "eps"), 2),
        (RungeKutta("kutta3", "angle"), 3),
        (RungeKutta("rk4", "eps"), 4),
        (RungeKutta("rk4", "v"), 4),
        (RungeKutta("rk4", "angle"), 4),
        (RungeKutta("rk4", "angle", "log_snr"), 4),
        (RungeKutta("rk4", "angle", "log_ratio"), 4),
        (RungeKutta("dpm3", "v", "log_ratio"), 3),
        (RungeKutta("dpm2", "eps", "log_snr"), 2),
        (RungeKutta("dpm2", "x0"), 2),
        (RungeKutta("dpm3", "eps", "log_snr"), 3),
        (RungeKutta("dpm3", "x0"), 3),
        (RungeKutta("dpm3", "angle"), 3),
    ],
    ids=lambda v: f"{v.tableau}-{v.basis}-{v.variable}" if isinstance(v, RungeKutta) else "",
)
def test_order_is_the_nominal_one(solver, expected):
    assert_order(lambda n: error(solver, n), expected=expected, steps=(64, 128, 256), tolerance=0.2)


def test_the_midpoint_rule_is_better_on_a_gaussian_than_elsewhere():
    """Order 3 there, because its two error terms cancel; 2 for a denoiser that saturates."""
    rule = RungeKutta("midpoint", "eps")
    assert_order(lambda n: error(rule, n), expected=3, steps=(64, 128, 256), tolerance=0.1)
    x, ends = draw(4, 8, scale=3.0), {"sigma_max": 3.0, "sigma_min": 0.3}

    def walk(solver, n):
        return solver.plan(VE, grid.log_snr(VE, n, **ends)).run(lambda x, t: torch.tanh(x), x)

    fine = walk(RungeKutta("rk4", "angle"), 1024)
    assert_order(
        lambda n: median_error(walk(rule, n), fine), expected=2, steps=(64, 128), tolerance=0.1
    )


def test_published_errors_of_the_fourth_order_rules():
    """Orders 4.01 and 3.92 of the table; the errors are those of 256 steps, 1024 evaluations."""
    assert error(RungeKutta("rk4", "eps"), 256, centred=True) < 4e-8
    assert error(RungeKutta("rk4", "angle", "log_snr"), 256, centred=True) < 1e-9


def test_a_tableau_with_a_wrong_weight_loses_its_order():
    """The control: the same machinery with weights that do not match the nodes."""
    wrong = Butcher((0.0, 0.5), ((0.5,),), (0.1, 0.9))
    with pytest.raises(AssertionError, match=r"order 1\.\d+, expected 2"):
        assert_order(lambda n: error(RungeKutta(wrong, "eps"), n), expected=2, steps=(128, 256))


def test_heun_is_the_textbook_rule_in_the_frame_of_constant_signal():
    """On alpha = 1 the eps basis is dx / dsigma = (x - D) / sigma, Karras et al. 2022, alg. 1."""
    times = VE.time_at_sigma_hat(np.array([3.0, 1.2]))
    oracle = mixture64(VE)
    x = draw(5, 64, scale=3.0)

    def slope(state, t, sigma):
        return (state - oracle(state, t)) / sigma

    first = slope(x, float(times[0]), 3.0)
    second = slope(x - 1.8 * first, float(times[1]), 1.2)
    plan = RungeKutta("heun", "eps").plan(VE, times)
    torch.testing.assert_close(plan.run(oracle, x), x - 0.9 * (first + second))


def test_dpm_solver_2_by_hand():
    """`x_s = alpha ratio x - sigma_s (e^h - 1) e(mid)`, Lu et al. 2022, algorithm 1."""
    t, s = 0.7, 0.4
    lam_t, lam_s = (float(RF.log_snr(u)) for u in (t, s))
    middle = float(RF.time_at_log_snr(0.5 * (lam_t + lam_s)))
    oracle = mixture64(RF)
    x = draw(5, 64)

    def transfer(state, noise, first, last):
        a = (1.0 - last) / (1.0 - first)
        return a * state + (last - a * first) * noise

    def noise(state, u):
        return (state - (1.0 - u) * oracle(state, u)) / u

    half = transfer(x, noise(x, t), t, middle)
    expected = transfer(x, noise(half, middle), t, s)
    plan = RungeKutta("dpm2", "eps", "log_snr").plan(RF, np.array([t, s]))
    torch.testing.assert_close(plan.run(oracle, x), expected)


@pytest.mark.parametrize(("basis", "variable"), [*NATURAL, ("eps", "log_snr"), ("x0", "log_snr")])
@pytest.mark.parametrize("tableau", ["midpoint", "heun", "rk4", "dpm2", "dpm3"])
@pytest.mark.parametrize("path", [RF, VE, Path.vp_linear()], ids=["rf", "ve", "vp"])
def test_finite_from_pure_noise_to_clean_data(path, tableau, basis, variable):
    x = draw(2, 5, scale=float(path.sigma(1.0)))
    for n in (1, 2, 5):
        plan = RungeKutta(tableau, basis, variable).plan(path, grid.uniform(n))
        out = plan.run(lambda x, t: torch.tanh(x), x)
        assert out.isfinite().all()
        assert plan.nfe == len(plan.steps) <= 4 * n


@pytest.mark.parametrize(("basis", "variable"), NATURAL)
def test_a_constant_direction_is_integrated_exactly(basis, variable):
    """What the basis is made for costs nothing, whatever the tableau and the step."""
    from medsci.core.solve.frame import direction, frame_of

    times = np.array([0.9, 0.35, 0.05])
    frame = frame_of(RF, times, basis=basis, variable=variable)
    f = draw(3, 4)

    def denoise(x, t):
        here = frame_of(RF, np.array([t]), basis=basis, variable=variable)
        f_x, f_d = direction(here, 0)
        return (f - f_x * x) / f_d

    x = draw(3, 4, seed=1)
    rise = float(frame.tau[-1] - frame.tau[0])
    expected = float(frame.scale[-1]) * (x / float(frame.scale[0]) + rise * f)
    for tableau in ("euler", "midpoint", "heun", "kutta3", "rk4", "dpm2", "dpm3"):
        plan = RungeKutta(tableau, basis, variable).plan(RF, times)
        torch.testing.assert_close(plan.run(denoise, x), expected)


def test_no_memory_between_steps():
    """A plan walked in two halves is the plan, which a multistep rule without its past is not."""
    times, x = grid.uniform(8), draw(3, 5)

    def halves(solver):
        plan = solver.plan(RF, times)
        starts = [i for i, step in enumerate(plan.steps) if step.stage == 0]

        def denoise(x, t):
            return torch.tanh(x) * (1.0 - 0.5 * t)

        cut = starts[4]
        whole = plan.run(denoise, x)
        return whole, plan.run(denoise, plan.run(denoise, x, stop=cut), start=cut)

    torch.testing.assert_close(*halves(RungeKutta("rk4", "v")), rtol=0, atol=0)
    whole, broken = halves(Multistep("v", "ratio", order=2, lower_final=False))
    assert (whole - broken).abs().max() > 1e-4


def test_stages_are_numbered_and_leave_no_direction_behind():
    plan = RungeKutta("rk4", "v").plan(RF, grid.uniform(3))
    assert [step.stage for step in plan.steps] == [0, 1, 2, 3] * 2 + [0]  # Euler to clean data
    assert [step.drop for step in plan.steps[:4]] == [0, 0, 0, 4]
    assert plan.history == 4


class Push(Hook):
    """Add a vector to the state before one evaluation."""

    def __init__(self, at: int, amount: float) -> None:
        self.at, self.amount = at, amount

    def before(self, state):
        if state.i == self.at:
            state.x += self.amount


def test_a_push_at_a_stage_reaches_the_end_of_the_step():
    """With a denoiser that does not look, the pushed walk ends shifted by the scaled push."""
    plan = RungeKutta("rk4", "v").plan(RF, np.array([0.9, 0.6, 0.3]))
    x = draw(2, 4)

    def still(x, t):
        return torch.zeros_like(x)

    # zero data: f = x / sigma, so a push p at stage 0 scales like the state itself
    plain = plan.run(still, x)
    pushed = plan.run(still, x, hooks=[Push(0, 0.5)])
    torch.testing.assert_close(pushed - plain, plan.run(still, torch.full_like(x, 0.5)))


def test_a_reset_in_the_middle_of_a_step_stays_consistent():
    """The stages that follow walk on by DDIM; the result is first order, not nonsense."""

    class Reset(Hook):
        def denoised(self, state):
            state.reset = state.i == 2

    oracle = gaussian16(RF)
    x = draw(8, 16)
    errors = []
    for n in (20, 40, 80):
        plan = RungeKutta("rk4", "v").plan(RF, np.linspace(0.95, 0.05, n + 1))
        out = plan.run(oracle, x, hooks=[Reset()])
        errors.append((out - oracle.flow(x, 0.95, 0.05)).abs().max().item())
    assert errors[2] < errors[1] / 3.0 < errors[0] / 9.0


def test_evaluation_times_are_those_of_the_tableau():
    trace = Trace(lambda state: state.t, at="before")
    plan = RungeKutta(Exponential((0.0, 0.25), ((0,), (1,))), "v", "ratio").plan(
        RF, np.array([0.8, 0.4])
    )
    plan.run(lambda x, t: x, draw(1, 2), hooks=[trace])
    assert trace.values == pytest.approx([0.8, 0.7])


def test_impossible_choices():
    with pytest.raises(ValueError, match="no points between"):
        RungeKutta("heun", "eps", "index")
    with pytest.raises(ValueError, match="positive sd"):
        RungeKutta("heun", "eps", sigma_data=0.0)
