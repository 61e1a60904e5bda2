"""Stability intervals: closed form, polynomial roots and simulated recurrences agree."""

import itertools
import math

import numpy as np
import pytest

from medsci.core.check.stability import LinearMultistep, ghvb_interval, heavy_ball_interval
from medsci.core.solve.momentum import ghvb_weights

BETAS = (1.0, 0.8, 0.5, 0.2)
CASES = list(itertools.product((1, 2, 3, 4), BETAS))
PUBLISHED = {  # b times the weights, as printed in the paper, times its common denominator
    1: lambda b: (b,),
    2: lambda b: ((2 + b) / 2, -(2 - b) / 2),
    3: lambda b: ((18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12),
    4: lambda b: tuple(c / 24 for c in (46 + 9 * b, -(78 - 19 * b), 42 - 5 * b, -(10 - b))),
    5: lambda b: tuple(
        c / 720
        for c in (
            1650 + 251 * b,
            -(3420 - 646 * b),
            2880 - 264 * b,
            -(1380 - 106 * b),
            270 - 19 * b,
        )
    ),
}


def growth(q: float, order: int, beta: float, *, heavy_ball: bool = False, steps=4000) -> float:
    """Return the last state of `y' = q y` when the recurrences are simply carried out."""
    weights = ghvb_weights(order, 1.0 if heavy_ball else beta)
    y, v, kept = 1.0, q, [q] * order
    for _ in range(steps):
        f = q * y
        if heavy_ball:
            kept = [f, *kept[:-1]]
            v = (1 - beta) * v + beta * sum(w * k for w, k in zip(weights, kept, strict=True))
            y += v
        else:
            v = (1 - beta) * v + beta * f
            kept = [v, *kept[:-1]]
            y += sum(w * k for w, k in zip(weights, kept, strict=True))
        if abs(y) > 1e12:
            return abs(y)
    return abs(y)


@pytest.mark.parametrize(("order", "beta"), CASES)
def test_the_root_scan_finds_the_formula(order, beta):
    method = LinearMultistep.ghvb(order, beta)
    end = ghvb_interval(order, beta)
    assert method.real_interval() == pytest.approx(end, rel=1e-12)
    for q in np.linspace(0.999 * end, 0.0, 400):  # and nothing happens on the way
        assert np.abs(method.roots(q)).max() <= 1.0 + 1e-12
    assert np.abs(method.roots(1.001 * end)).max() > 1.0
    ball = LinearMultistep.heavy_ball(order, beta)
    assert ball.real_interval() == pytest.approx(heavy_ball_interval(order, beta), rel=1e-12)


@pytest.mark.parametrize(("order", "beta"), CASES)
@pytest.mark.parametrize("heavy_ball", [False, True])
def test_simulated_errors_die_inside_and_grow_outside(order, beta, heavy_ball):
    end = (heavy_ball_interval if heavy_ball else ghvb_interval)(order, beta)
    assert growth(0.97 * end, order, beta, heavy_ball=heavy_ball) < 1e-6
    assert growth(1.03 * end, order, beta, heavy_ball=heavy_ball) > 1e6


@pytest.mark.parametrize("beta", BETAS)
def test_the_formulas_of_low_orders(beta):
    assert ghvb_interval(1, beta) == pytest.approx(-2 * (2 - beta) / beta)
    assert heavy_ball_interval(1, beta) == pytest.approx(-2 * (2 - beta) / beta)
    assert ghvb_interval(2, beta) == pytest.approx(-(2 - beta))
    assert ghvb_interval(3, beta) == pytest.approx(-2 * (2 - beta) / (4 - beta / 3))
    assert heavy_ball_interval(2, beta) == pytest.approx(-(2 - beta) / beta)


def test_weak_memory_limits_the_interval():
    """As b falls the heavy ball's interval grows without bound and GHVB's settles."""
    assert heavy_ball_interval(1, 1e-9) < -1e9
    assert ghvb_interval(2, 1e-9) == pytest.approx(-2.0)
    assert ghvb_interval(3, 1e-9) == pytest.approx(-1.0)


@pytest.mark.parametrize("order", PUBLISHED)
@pytest.mark.parametrize("beta", BETAS)
def test_published_weights_give_the_same_method(order, beta):
    published = PUBLISHED[order](beta)
    assert [beta * w for w in ghvb_weights(order, beta)] == pytest.approx(list(published))
    sigma = np.array(LinearMultistep.ghvb(order, beta).sigma)
    assert sigma[np.abs(sigma) > 0] == pytest.approx(np.array(published))
    assert sum(published) == pytest.approx(beta)  # consistent: rho'(1) = sigma(1)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_no_average_is_adams_bashforth(order):
    plain, full = LinearMultistep.adams_bashforth(order), LinearMultistep.ghvb(order, 1.0)
    q = -0.11
    with_zero = np.append(plain.roots(q), 0.0) if len(full.rho) > len(plain.rho) else plain.roots(q)
    assert np.sort_complex(full.roots(q)) == pytest.approx(np.sort_complex(with_zero), abs=1e-9)
    textbook = {1: -2.0, 2: -1.0, 3: -6 / 11, 4: -3 / 10, 5: -90 / 551}[order]
    assert plain.real_interval() == pytest.approx(textbook, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "rho", "sigma", "end"),
    [
        ("implicit Euler", (1.0, -1.0), (1.0, 0.0), -math.inf),
        ("trapezium", (1.0, -1.0), (0.5, 0.5), -math.inf),
        ("BDF2", (1.5, -2.0, 0.5), (1.0, 0.0, 0.0), -math.inf),
        ("Adams-Moulton 3", (1.0, -1.0, 0.0), (5 / 12, 8 / 12, -1 / 12), -6.0),
        ("leapfrog", (1.0, 0.0, -1.0), (2.0, 0.0), 0.0),
    ],
)
def test_methods_of_the_textbook(name, rho, sigma, end):
    assert LinearMultistep(rho, sigma).real_interval() == pytest.approx(end, rel=1e-12)


def test_an_unstable_first_root_is_seen_where_minus_one_is_not_to_blame():
    """rho with a root outside the circle: the formula at z = -1 would miss it."""
    method = LinearMultistep((1.0, -3.0, 2.0), (1.0, -2.0))
    assert method.real_interval() == 0.0
    at_minus_one = np.polyval(method.rho, -1.0) / np.polyval((1.0, -2.0), -1.0)
    assert at_minus_one < 0.0


def test_a_pair_of_complex_roots_may_leave_first():
    """Slopes used two steps late: stability ends long before the formula at z = -1 says."""
    method = LinearMultistep((1.0, -1.0, 0.0, 0.0), (0.1, -0.1, 1.0))
    scan = [q for q in np.linspace(0.0, -2.0, 4001)[1:] if np.abs(method.roots(q)).max() > 1.0]
    assert method.real_interval() == pytest.approx(-2 / 3, rel=1e-9)
    assert scan[0] == pytest.approx(-2 / 3, abs=1e-3)
    at_minus_one = float(np.polyval(method.rho, -1.0) / np.polyval(method.sigma, -1.0))
    assert at_minus_one == pytest.approx(-5 / 3)


@pytest.mark.parametrize(("order", "beta"), CASES)
def test_the_locus_bounds_the_interval(order, beta):
    method = LinearMultistep.ghvb(order, beta)
    locus = method.locus(721)
    assert np.abs(locus[0]) < 1e-12  # q = 0 keeps the solution
    assert locus[360].real == pytest.approx(ghvb_interval(order, beta))
    assert abs(locus[360].imag) < 1e-9
    for q in locus[100:620:130]:  # a root lies on the circle all along it
        assert np.abs(np.abs(method.roots(q)) - 1.0).min() < 1e-9


def test_bad_methods_are_refused():
    with pytest.raises(ValueError, match="not zero"):
        LinearMultistep((1.0, -1.0), (0.0,))
    with pytest.raises(ValueError, match="at most rho"):
        LinearMultistep((1.0, -1.0), (1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="beta=0"):
        heavy_ball_interval(2, 0.0)
