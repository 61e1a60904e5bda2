"""PNDM and heavy balls: weights, orders and evaluations, with and without their start-up rule."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from contracts.core import assert_order, draw, gaussian16, gaussian_error, mixture64

from medsci.core.process import Path
from medsci.core.solve import Momentum, Multistep, grid
from medsci.core.solve.momentum import adams_bashforth_differences, ghvb_weights

VE, RF = Path.ve(), Path.rectified()
ENDS = {"sigma_max": 80.0, "sigma_min": 0.002}


def error(solver, n, *, centred=True):
    times = grid.log_snr(VE, n, **ENDS)
    return gaussian_error(solver.plan(VE, times), gaussian16(VE, centred=centred))


def pndm(order, **options):
    return Multistep("eps", "index", order=order, lower_final=False, **options)


def test_differences_are_the_textbook_fractions():
    expected = [Fraction(1), Fraction(1, 2), Fraction(5, 12), Fraction(3, 8), Fraction(251, 720)]
    np.testing.assert_allclose(adams_bashforth_differences(5), [float(f) for f in expected])


@pytest.mark.parametrize("b", [0.2, 0.5, 0.8, 1.0])
def test_the_published_weights(b):
    """The table of Wizadwongsa et al. 2023 for p = 2 to 5, each divided by its own number."""
    table = {
        2: ((2 + b, -(2 - b)), 2 * b),
        3: ((18 + 5 * b, -(24 - 8 * b), 6 - b), 12 * b),
        4: ((46 + 9 * b, -(78 - 19 * b), 42 - 5 * b, -(10 - b)), 24 * b),
        5: (
            (
                1650 + 251 * b,
                -(3420 - 646 * b),
                2880 - 264 * b,
                -(1380 - 106 * b),
                270 - 19 * b,
            ),
            720 * b,
        ),
    }
    for p, (row, divisor) in table.items():
        np.testing.assert_allclose(ghvb_weights(p, b), np.array(row) / divisor, rtol=1e-12)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (pndm(2, warmup=True), 2.0),
        (pndm(4, warmup=True), 2.0),
        (pndm(2, momentum=Momentum(0.8, generalised=False)), 1.0),
        (pndm(2, momentum=Momentum(0.8)), 2.0),
        (pndm(3, momentum=Momentum(0.5)), 2.0),
        (pndm(4, momentum=Momentum(0.8)), 2.0),
    ],
    ids=["S-PNDM", "F-PNDM", "HB", "GHVB2", "GHVB3", "GHVB4"],
)
def test_frozen_weights_reach_order_two_at_most(solver, expected):
    """The uniform-grid weights on a curved grid: measured 2.0 where the papers say 4 and 3.8."""
    assert_order(lambda n: error(solver, n), expected=expected, steps=(64, 128, 256), tolerance=0.1)


@pytest.mark.parametrize("p", [2, 3])
def test_exact_weights_keep_the_order(p):
    """The same average with weights for the grid at hand, on a Gaussian with a mean."""
    solver = Multistep("eps", order=p, momentum=Momentum(0.8), lower_final=False)
    order = assert_order(
        lambda n: error(solver, n, centred=False), expected=p + 0.4, steps=(128, 256), tolerance=0.5
    )
    assert order > p - 0.1


def test_frozen_and_exact_weights_agree_on_an_even_grid():
    """On a grid uniform in sigma, PNDM is Adams-Bashforth in sigma."""
    times = VE.time_at_sigma_hat(np.linspace(10.0, 1.0, 13))
    frozen = pndm(4).plan(VE, times)
    exact = Multistep("eps", "sigma", order=4, lower_final=False).plan(VE, times)
    x, oracle = draw(4, 64, scale=10.0), mixture64(VE)
    torch.testing.assert_close(frozen.run(oracle, x), exact.run(oracle, x), rtol=1e-11, atol=1e-11)


def test_momentum_one_is_no_momentum():
    times = grid.karras(VE, 12, sigma_max=80.0, sigma_min=0.02)
    x, oracle = draw(4, 64, scale=80.0), mixture64(VE)
    for variable in ("index", "log_snr"):
        plain = Multistep("eps", variable, order=3, lower_final=False)
        ball = Multistep("eps", variable, order=3, lower_final=False, momentum=Momentum(1.0))
        torch.testing.assert_close(
            ball.plan(VE, times).run(oracle, x), plain.plan(VE, times).run(oracle, x)
        )


def test_the_average_by_hand():
    """Three steps of GHVB of order 2 on a grid that is even in sigma."""
    b = 0.6
    levels = np.array([4.0, 3.0, 2.0, 1.0])
    times = VE.time_at_sigma_hat(levels)
    oracle = mixture64(VE)
    x = draw(3, 64, scale=4.0)
    state, average, before = x, None, None
    for t, h in zip(times[:3], levels[:3], strict=True):
        e = (state - oracle(state, float(t))) / h
        average, before = (e if average is None else (1 - b) * average + b * e), average
        step = average
        if before is not None:
            step = ((2 + b) * average - (2 - b) * before) / (2 * b)
        state = state - step
    plan = pndm(2, momentum=Momentum(b)).plan(VE, times)
    torch.testing.assert_close(plan.run(oracle, x), state)


def test_evaluations_of_the_start_up_rule():
    """One evaluation more for order 2, nine more for order 4: 13 for the first four points."""
    times = grid.log_snr(VE, 12, **ENDS)
    assert pndm(2, warmup=True).plan(VE, times).nfe == 13
    assert pndm(4, warmup=True).plan(VE, times).nfe == 12 + 9
    assert pndm(4).plan(VE, times).nfe == 12
    short = pndm(4, warmup=True).plan(VE, times[:3])  # two steps: one by RK4, one by AB2
    assert short.nfe == 5


def test_the_start_up_rule_pays():
    """The error is smaller than with the ramp from order 1 (measured: by a factor of two)."""
    times = VE.time_at_sigma_hat(np.linspace(2.0, 0.5, 33))
    oracle = gaussian16(VE)
    warm = gaussian_error(pndm(4, warmup=True).plan(VE, times), oracle)
    cold = gaussian_error(pndm(4).plan(VE, times), oracle)
    assert warm < 0.6 * cold


def test_momentum_is_finite_at_both_ends():
    x = draw(2, 5)
    for basis, variable in (
        ("eps", "index"),
        ("x0", "log_snr"),
        ("v", "ratio"),
        ("angle", "angle"),
    ):
        for n in (1, 2, 3, 6):
            solver = Multistep(basis, variable, order=3, momentum=Momentum(0.5))
            out = solver.plan(RF, grid.uniform(n)).run(lambda x, t: torch.tanh(x), x)
            assert out.isfinite().all()


def test_x0_is_left_alone_by_the_average():
    """In the x0 basis the direction is the estimate itself, which hooks may still hold."""
    kept = []

    def denoise(x, t):
        kept.append((torch.tanh(x), torch.tanh(x)))
        return kept[-1][0]

    solver = Multistep("x0", order=2, momentum=Momentum(0.5))
    solver.plan(RF, grid.uniform(5)).run(denoise, draw(2, 3))
    for given, copy in kept:
        torch.testing.assert_close(given, copy, rtol=0, atol=0)


def test_impossible_choices():
    with pytest.raises(ValueError, match="share in"):
        Momentum(0.0)
    with pytest.raises(ValueError, match="choose one"):
        Multistep(momentum=Momentum(0.5), corrector=True)
    with pytest.raises(ValueError, match="frozen"):
        Multistep("eps", "index", corrector=True)
    with pytest.raises(ValueError, match="p >= 1"):
        ghvb_weights(0, 0.5)
