"""Multistep solvers: weights against quadrature and textbooks, both ends of a path, options."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from contracts.core import (
    draw,
    gaussian16,
    gaussian_error,
    median_error,
)
from scipy.integrate import quad

from medsci.core.process import Path
from medsci.core.solve import Multistep, Plan, auto, frame, grid
from medsci.core.solve import multistep as builder

BASES = ("x0", "eps", "v", "angle")
VARIABLES = ("log_snr", "log_ratio", "sigma", "ratio", "angle")
VE = Path.ve()
ENDS = {"sigma_max": 80.0, "sigma_min": 0.002}
BETAS = np.linspace(1e-4, 0.02, 1000)
ALL = list(product(BASES, VARIABLES))
PATHS = {
    "rectified": Path.rectified(),
    "ve": VE,
    "vp_linear": Path.vp_linear(),
    "trigonometric": Path.vp_cosine(),
    "cosine": Path.vp_cosine(0.008),
    "tabulated": Path.tabulated(np.cumprod(1.0 - BETAS).tolist()),
    "zero_terminal_snr": Path.tabulated(np.linspace(0.999, 0.0, 1000).tolist()),
}


def plan_of(solver: Multistep, n: int, *, rho: float = 4.0, **ends) -> Plan:
    times = grid.karras(VE, n, **(ends or {"sigma_max": 80.0, "sigma_min": 0.02}), rho=rho)
    return solver.plan(VE, times)


# Coefficients


@pytest.mark.parametrize(("basis", "variable"), ALL)
def test_weights_agree_with_adaptive_quadrature(basis, variable):
    path = Path.vp_linear()
    times = np.array([0.95, 0.7, 0.3, 0.05])
    alpha, sigma = path.alpha(times), path.sigma(times)
    h = sigma / alpha
    C = {"eps": alpha, "x0": sigma, "v": alpha + sigma, "angle": np.hypot(alpha, sigma)}[basis]
    dtau = {
        "eps": lambda h: 1.0,
        "x0": lambda h: -1.0 / h**2,
        "v": lambda h: 1.0 / (1.0 + h) ** 2,
        "angle": lambda h: 1.0 / (1.0 + h * h),
    }[basis]
    u = {
        "log_snr": np.log,
        "sigma": lambda h: h,
        "log_ratio": lambda h: np.log(h / (1 + h)),
        "ratio": lambda h: h / (1 + h),
        "angle": np.arctan,
    }
    u = u[variable]
    nodes = u(h[[2, 1, 0]])

    def lagrange(j):
        others = np.delete(nodes, j)
        return lambda h: np.prod((u(h) - others) / (nodes[j] - others)) * dtau(h)

    weights = [
        C[3] * quad(lagrange(j), h[2], h[3], epsabs=1e-13, epsrel=1e-12)[0] for j in range(3)
    ]
    plan = Multistep(basis, variable, order=3, lower_final=False).plan(path, times)
    step = plan.steps[2]
    np.testing.assert_allclose(step.rows[2].c[1:], weights[1:], rtol=1e-9)
    f_x, f_d = step.f
    assert step.rows[2].a == pytest.approx(C[3] / C[2] + weights[0] * f_x, rel=1e-9)
    assert step.rows[2].b == pytest.approx(weights[0] * f_d, rel=1e-9)


@pytest.mark.parametrize(("basis", "variable"), ALL)
def test_enough_nodes_for_one_step_over_everything(basis, variable, monkeypatch):
    """One step from sigma_hat = 80 to .002 with three directions, against four times the nodes."""
    times = VE.time_at_sigma_hat(np.array([160.0 / 2.0, 70.0, 60.0, 0.002]))
    solver = Multistep(basis, variable, order=3, lower_final=False)
    rows = solver.plan(VE, times).steps[2].rows
    nodes, weights = np.polynomial.legendre.leggauss(384)
    monkeypatch.setattr(frame, "NODES", nodes)
    monkeypatch.setattr(frame, "WEIGHTS", weights)
    builder._plan.cache_clear()
    finer = solver.plan(VE, times).steps[2].rows
    builder._plan.cache_clear()
    for row, fine in zip(rows, finer, strict=True):
        np.testing.assert_allclose(row.c, fine.c, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose([row.a, row.b], [fine.a, fine.b], rtol=1e-8, atol=1e-10)


def test_textbook_weights_on_a_uniform_grid():
    """In the time of the rectified flow C = 1 and tau = t: Adams-Bashforth and Adams-Moulton."""
    path = Path.rectified()
    times = np.linspace(0.9, 0.1, 17)
    dt = times[1] - times[0]
    ab3 = Multistep("v", "ratio", order=3, lower_final=False).plan(path, times).steps[5]
    a, b, c = ab3.rows[2].a, ab3.rows[2].b, ab3.rows[2].c
    np.testing.assert_allclose(c, (0.0, -16.0 / 12.0 * dt, 5.0 / 12.0 * dt), rtol=1e-12)
    np.testing.assert_allclose(
        (a, b), (1.0 + 23.0 / 12.0 * dt * ab3.f[0], 23.0 / 12.0 * dt * ab3.f[1]), rtol=1e-12
    )
    pece = Multistep("v", "ratio", order=3, corrector=True, lower_final=False)
    row = pece.plan(path, times).steps[5].rows[3]
    moulton = np.array([9.0, 19.0, -5.0, 1.0]) / 24.0
    bashforth = np.array([0.0, 23.0, -16.0, 5.0]) / 12.0
    c = np.array([23.0, -16.0, 5.0, 0.0]) / 12.0 * dt + (moulton - bashforth) * dt
    f_x, f_d = ab3.f  # the newest direction is folded into the weights of x and x0
    np.testing.assert_allclose(row.c, (0.0, *c[1:]), rtol=1e-10)
    np.testing.assert_allclose((row.a, row.b), (1.0 + c[0] * f_x, c[0] * f_d), rtol=1e-12)


@pytest.mark.parametrize("basis", ["x0", "eps", "v"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_first_order_is_ddim(path, basis):
    times = grid.uniform(7)
    a, s = path.alpha(times), path.sigma(times)
    for i, step in enumerate(Multistep(basis, order=1).plan(path, times).steps):
        (row,) = step.rows
        assert (row.a, row.c, step.f) == (pytest.approx(s[i + 1] / s[i], rel=1e-13), (), None)
        assert row.b == pytest.approx(a[i + 1] - a[i] * s[i + 1] / s[i], rel=1e-12)


def test_data_of_unit_variance_are_exact_in_one_step_of_the_angle_basis():
    path = Path.rectified()
    plan = Multistep("angle", "angle", order=1).plan(path, grid.uniform(1))

    def denoise(x, t):
        return x * (1.0 - t) / ((1.0 - t) ** 2 + t**2)

    x = draw(4, 3)
    torch.testing.assert_close(plan.run(denoise, x), x, rtol=1e-14, atol=1e-14)
    ddim = Multistep(order=1).plan(path, grid.uniform(1))
    assert median_error(ddim.run(denoise, x), x) > 0.5


@pytest.mark.parametrize("basis", BASES)
def test_known_data_are_reached_exactly(basis):
    """A point mass: x0 is constant, so the x0 basis is exact, and any first step to sigma = 0."""
    path = Path.rectified()
    target = draw(3, 5)
    plan = Multistep(basis, "ratio", order=3).plan(path, grid.uniform(6))
    x = plan.run(lambda x, t: target, draw(3, 5, seed=1))
    error = median_error(x, target)
    assert error < (1e-14 if basis == "x0" else 0.1)


# Invariance


@pytest.mark.parametrize(
    "solver",
    [
        Multistep("x0", order=1),
        Multistep("x0", "ratio", order=3),
        Multistep("eps", "ratio", order=3),
        Multistep("v", "ratio", order=3, corrector=True, lower_final=True),
        Multistep("angle", "angle", order=3, corrector=True, lower_final=True),
        Multistep("angle", "log_snr", order=2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("n", [5, 30])
def test_paths_of_equal_snr_give_the_same_samples(solver, n):
    flow, circle = Path.rectified(), Path.vp_cosine()
    times = grid.uniform(n)
    matched = circle.time_at_angle(flow.angle(times))
    x = draw(8, 16)
    on_flow = solver.plan(flow, times).run(gaussian16(flow), x)
    on_circle = solver.plan(circle, matched).run(gaussian16(circle), x)
    torch.testing.assert_close(on_flow, on_circle, rtol=1e-12, atol=1e-12)
    unmatched = solver.plan(circle, times).run(gaussian16(circle), x)
    assert not torch.allclose(on_flow, unmatched, rtol=1e-5, atol=1e-5)


# The ends


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("basis", "variable"), ALL)
def test_everything_is_finite_from_end_to_end(path, basis, variable):
    data = torch.tensor([[0.5, -0.3, 2.0]], dtype=torch.float64)
    x = float(path.sigma(1.0)) * draw(4, 3)
    for n, order, corrector in product(range(1, 6), (1, 2, 3), (False, True)):
        for lower_final in (True, False):
            solver = Multistep(
                basis, variable, order=order, corrector=corrector, lower_final=lower_final
            )
            plan = solver.plan(path, grid.uniform(n))
            for row in (row for step in plan.steps for row in step.rows):
                assert all(map(math.isfinite, (row.a, row.b, *row.c)))
            assert plan.nfe == n
        end = plan.run(lambda x, t: data + 0.1 * torch.tanh(x), x)
        assert torch.isfinite(end).all()
        if float(path.sigma(0.0)) == 0.0 and basis in ("x0", "eps") and variable == "log_snr":
            assert (end - data).abs().max() < 0.1001  # the last step returns x0 itself


@pytest.mark.parametrize(("basis", "variable"), ALL)
def test_end_to_end_is_right_too(basis, variable):
    path = Path.rectified()
    oracle = gaussian16(path)
    solver = Multistep(basis, variable, order=2)
    coarse, fine = (gaussian_error(solver.plan(path, grid.uniform(n)), oracle) for n in (20, 80))
    assert fine < 0.02
    assert fine < coarse / 3


def test_a_grid_that_runs_out_of_noise_is_refused():
    path = Path.ve(sigma_max=1.0, rho=100.0)
    with pytest.raises(ValueError, match=r"grid\[2\] = 0\.0001 has no noise left; end the grid"):
        Multistep().plan(path, np.array([1.0, 0.5, 1e-4, 0.0]))


def test_equal_noise_levels_are_named():
    path = Path.ve()
    with pytest.raises(ValueError, match=r"grid\[0\] = .* same noise level"):
        Multistep().plan(path, np.array([1.0, np.nextafter(1.0, 0.0), 0.5]))


def test_duplicates_are_refused_by_the_solver():
    with pytest.raises(ValueError, match=r"grid\[1\] .*remove the duplicate"):
        Multistep().plan(VE, np.array([1.0, 0.5, 0.5, 0.1]))


def test_a_path_with_a_conditional_mean_is_refused():
    class Residual(Path):
        def alpha(self, t):
            return 1.0 - t

        def sigma(self, t):
            return 1.0 * t

        def shift(self, t):
            return 1.0 * t

    with pytest.raises(ValueError, match="x - shift mu"):
        Multistep().plan(Residual(), grid.uniform(3))


# Options


def orders(solver: Multistep, n: int, **ends) -> list[int]:
    return [len(step.rows) for step in plan_of(solver, n, rho=7.0, **(ends or ENDS)).steps]


def test_when_the_order_falls_at_the_end():
    assert orders(Multistep("x0", order=3, lower_final=True), 6) == [1, 2, 3, 3, 2, 1]
    assert orders(Multistep("x0", order=3), 10)[-2:] == [2, 1]
    assert orders(Multistep("x0", order=3), 30)[-2:] == [3, 3]
    assert orders(Multistep("x0", order=3, lower_final=False), 10)[-2:] == [3, 3]
    assert orders(Multistep("eps", order=3), 10)[-2:] == [3, 3]
    assert orders(Multistep("eps", order=3), 5)[-2:] == [2, 1]
    wide = {"sigma_max": 80.0, "sigma_min": 1e-6}  # the last steps span more than e^2
    assert orders(Multistep("x0", order=3), 20, **wide)[-2:] == [2, 1]


def test_the_corrector_below_fifteen_steps_needs_lower_final():
    def corrected(n, lower_final):
        solver = Multistep("x0", order=2, corrector=True, lower_final=lower_final)
        plain = Multistep("x0", order=2, lower_final=lower_final)
        return plan_of(solver, n) != plan_of(plain, n)

    assert corrected(10, "auto")
    assert corrected(10, True)
    assert not corrected(10, False)
    assert corrected(15, False)


def test_memory_is_what_the_order_needs():
    assert plan_of(Multistep(order=1), 5).history == 0
    assert plan_of(Multistep(order=2), 5).history == 2
    assert plan_of(Multistep(order=3), 5).history == 3
    assert plan_of(Multistep(order=3, corrector=True), 30).history == 4


def test_plans_are_cached_and_solvers_are_values():
    times = grid.uniform(6)
    assert Multistep("v", order=3).plan(VE, times) is Multistep("v", order=3).plan(VE, times.copy())
    assert Multistep("v", order=3).plan(VE, times) is not Multistep("v").plan(VE, times)
    assert Multistep("v", order=3).plan(VE, times) is not Multistep("v", order=3).plan(
        Path.ve(sigma_max=40.0), times
    )


@pytest.mark.parametrize("bad", [0, 6])
def test_orders_outside_one_to_five(bad):
    with pytest.raises(ValueError, match="choose 1 to 5"):
        Multistep(order=bad)


def test_pure_noise_is_a_node_of_log_snr():
    """From t = 1 on the rectified path the second step has order 2 already, and gains by it."""
    path = Path.rectified()
    plan = Multistep("v", order=2, lower_final=False).plan(path, grid.uniform(6, t_min=0.1))
    assert len(plan.steps[1].rows) == 2
    oracle = gaussian16(path)
    solver, times = auto(path, 10, spectrum="short")
    x, plan = draw(16, 16, seed=1), solver.plan(path, times)
    end = oracle.flow(x, 1.0, 0.0)
    known = median_error(plan.run(oracle, x), end)
    first = plan.run(oracle, x, stop=1)  # walked on from here, its direction is forgotten
    forgot = median_error(plan.run(oracle, first, start=1), end)
    assert forgot > 3.0 * known
