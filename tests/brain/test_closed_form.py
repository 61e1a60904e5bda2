"""Samplers on data whose samples are known: voxels of one Gaussian, and of two values.

Of i.i.d. voxels N(0.2, 0.5^2) the exact denoiser is affine and so is every walk: a state of zero
ends at the mean of the samples, and a unit of noise adds their standard deviation.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import assert_order

from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, RungeKutta, check_grid, grid, sample

DOUBLE = torch.float64
MU, SD = 0.2, 0.5
TABLE, STRAIGHT = Path.tabulated(alphas_bar_of("linear")), Path.rectified()
DDIM = Multistep("eps", order=1)
COUNTS = (8, 16, 32, 64, 128, 256, 1000)
SPREADS = {
    "linspace": (0.32669, 0.41326, 0.45636, 0.47799, 0.48889, 0.49437, 0.49850),
    "strided": (0.34609, 0.41894, 0.45794, 0.47918, 0.49017, 0.49617, 0.49850),
    "trailing": (0.34116, 0.41557, 0.45608, 0.47746, 0.48854, 0.49418, 0.49850),
    "straight": (0.41478, 0.45568, 0.47736, 0.48856, 0.49425, 0.49711, 0.49926),
}
CASES = [(way, n, sd) for way, row in SPREADS.items() for n, sd in zip(COUNTS, row, strict=True)]


def oracle(path, d=1):
    """Return the exact denoiser, `mu + k (x - a mu)` with `k = sd^2 a / (a^2 sd^2 + s^2)`."""
    variances = torch.full((d,), SD**2, dtype=DOUBLE)
    return GaussianOracle(path, torch.full((d,), MU, dtype=DOUBLE), variances=variances)


def law(way, n, *, solver=DDIM, denoiser=None):
    """Return mean and sd of the samples: the ends of zero, and of one unit of noise."""
    path = STRAIGHT if way == "straight" else TABLE
    times = grid.uniform(n) if way == "straight" else grid.indices(1000, n, spacing=way)
    zero_one = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    ends = solver.plan(path, times).run(denoiser or oracle(path), zero_one)
    return float(ends[0]), float(ends[1] - ends[0])


def test_the_oracle_is_the_formula():
    for t in (0.001, 0.3, 1.0):
        a, s = float(TABLE.alpha(t)), float(TABLE.sigma(t))
        x = torch.tensor([[-1.3], [0.4]], dtype=DOUBLE)
        k = SD**2 * a / (a**2 * SD**2 + s**2)
        torch.testing.assert_close(oracle(TABLE)(x, t), MU + k * (x - a * MU))


@pytest.mark.parametrize(("way", "n", "sd"), CASES)
def test_the_spread_of_samples_is_the_computed_one(way, n, sd):
    mean, spread = law(way, n)
    assert spread == pytest.approx(sd, abs=1e-4)
    if way == "straight":
        assert mean == pytest.approx(MU, abs=1e-12)
    elif way == "linspace":
        assert 0.19936 < mean < 0.19961
    wrong = oracle(TABLE if way != "straight" else STRAIGHT)
    wrong.variances = wrong.variances * 1.01  # control: half a per cent on the sd of the data
    assert law(way, n, denoiser=wrong)[1] != pytest.approx(sd, abs=1e-4)


def test_the_four_grids_are_told_apart():
    """Control: no row of the table serves for another one, nor does a grid that ends early."""
    for way, row in SPREADS.items():
        for other in SPREADS.keys() - {way}:
            gaps = [abs(law(other, n)[1] - sd) for n, sd in zip(COUNTS[:4], row, strict=False)]
            assert max(gaps) > 1e-4
    plan = DDIM.plan(TABLE, grid.indices(1000, 64, spacing="linspace")[:-1])
    ends = plan.run(oracle(TABLE), torch.tensor([[0.0], [1.0]], dtype=DOUBLE))
    assert abs(float(ends[1] - ends[0]) - SPREADS["linspace"][3]) > 1e-4


def test_the_flow_itself_reaches_the_limit():
    ends = oracle(TABLE).flow(torch.tensor([[0.0], [1.0]], dtype=DOUBLE), 1.0, 0.0)
    assert float(ends[1] - ends[0]) == pytest.approx(0.500008, abs=5e-7)
    assert float(ends[0]) == pytest.approx(0.199365, abs=5e-7)


@pytest.mark.parametrize("way", ["linspace", "trailing", "straight"])
def test_the_error_of_ddim_halves_with_twice_the_steps(way):
    limit = 0.5 if way == "straight" else 0.500008
    errors = [limit - law(way, n)[1] for n in (32, 64, 128, 256)]
    for coarse, fine in pairwise(errors):
        assert fine / coarse == pytest.approx(0.5, abs=0.02)


SECOND = {
    "multistep angle": Multistep("angle", "angle", order=2),
    "multistep v": Multistep("v", "ratio", order=2),
    "heun": RungeKutta("heun", "angle"),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_order_solver_quarters_it(name):
    exact = oracle(TABLE).flow(torch.ones(1, 1, dtype=DOUBLE), 1.0, 0.0)

    def error(n, solver):
        end = solver.plan(TABLE, grid.angle(TABLE, n)).run(oracle(TABLE), torch.ones(1, 1).double())
        return abs(float(end - exact))

    counts = (32, 64, 128)
    assert_order(lambda n: error(n, SECOND[name]), expected=2.0, steps=counts, tolerance=0.2)
    assert error(64, SECOND[name]) < 0.2 * error(64, DDIM)
    assert_order(lambda n: error(n, DDIM), expected=1.0, steps=counts, tolerance=0.1)  # control


@pytest.mark.parametrize("solver", [DDIM, Ancestral(1.0)], ids=["ddim", "ancestral"])
def test_drawn_voxels_have_that_spread(solver):
    n_voxels, n = 200_000, 32
    x = sample(
        oracle(TABLE, 200), (1000, 200), solver=solver, dtype=DOUBLE, seed=3,
        grid=grid.indices(1000, n, spacing="linspace"),
    )  # fmt: skip
    times = grid.indices(1000, n, spacing="linspace")
    mean, variance = 0.0, 1.0
    for step in solver.plan(TABLE, times).steps:
        a, s = float(TABLE.alpha(step.t)), float(TABLE.sigma(step.t))
        k = SD**2 * a / (a**2 * SD**2 + s**2)
        row = step.rows[0]
        mean = row.a * mean + row.b * (MU + k * (mean - a * MU))
        variance = (row.a + row.b * k) ** 2 * variance + step.z**2
    expected = math.sqrt(variance)
    if solver is DDIM:
        assert expected == pytest.approx(0.45636, abs=1e-4)
    error = expected / math.sqrt(2 * n_voxels)
    assert abs(float(x.std()) - expected) < 4 * error
    assert abs(float(x.mean()) - mean) < 4 * expected / math.sqrt(n_voxels)
    assert abs(float(x.std()) - SD) > 4 * error  # control: the data's own spread is out of reach


def test_a_step_that_goes_nowhere_changes_nothing():
    from medsci.core.solve.frame import ddim, frame_of

    for path in (TABLE, STRAIGHT):
        frame = frame_of(path, np.array([0.9, 0.5, 0.1]), basis="eps", variable="log_snr")
        for i in range(3):
            assert ddim(frame, i, i) == (1.0, 0.0)
            assert ddim(frame, 0, 1) != (1.0, 0.0)


def test_ddim_on_the_straight_path_is_euler():
    """With o = x0 - eps, `x += (u - u') o`."""
    times = check_grid(np.array([1.0, 0.83, 0.5, 0.21, 0.02, 0.0]))
    denoise = oracle(STRAIGHT, 6)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    ours = DDIM.plan(STRAIGHT, times).run(denoise, x)
    euler, swapped = x.clone(), x.clone()
    for u, v in pairwise(times.tolist()):
        x0 = denoise(euler, u)
        euler = euler + (u - v) * (x0 - (euler - (1.0 - u) * x0) / u)
        x0 = denoise(swapped, u)
        swapped = swapped - (u - v) * (x0 - (swapped - (1.0 - u) * x0) / u)
    torch.testing.assert_close(ours, euler, rtol=0.0, atol=1e-12)
    assert (ours - swapped).abs().max() > 0.1  # control: noise minus data


P = 0.3  # of +1; the rest is -1


def two_values(x, t):
    a, s = float(TABLE.alpha(t)), float(TABLE.sigma(t))
    return torch.tanh(a * x / s**2 + 0.5 * math.log(P / (1.0 - P)))


def test_its_denoiser_is_that_of_a_mixture_of_points():
    weights = torch.tensor([P, 1.0 - P], dtype=DOUBLE)
    means, none = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE)
    exact = GaussianMixtureOracle(TABLE, weights, means=means, covariances=none)
    x = torch.linspace(-2.0, 2.0, 9, dtype=DOUBLE)[:, None]
    for t in (0.05, 0.4, 1.0):
        torch.testing.assert_close(two_values(x, t), exact(x, t), rtol=1e-9, atol=1e-9)


def test_two_values_come_in_their_proportion():
    x = sample(
        two_values, (100, 1000), solver=DDIM, path=TABLE, seed=0,
        grid=grid.indices(1000, 256, spacing="linspace"),
    )  # fmt: skip
    share = float((x > 0.0).double().mean())
    assert share == pytest.approx(P, abs=0.01)
    assert float((x.abs() > 0.98).double().mean()) > 0.99
    few = sample(
        two_values, (20, 1000), solver=DDIM, path=TABLE, seed=0,
        grid=grid.indices(1000, 256, spacing="linspace")[:129],
    )  # fmt: skip
    assert float((few.abs() > 0.98).double().mean()) < 0.9  # control: a walk that stops half-way


def test_even_odds_are_not_mistaken_for_these():
    """Control: without the term of the proportion, one half comes out."""

    def even(x, t):
        return torch.tanh(float(TABLE.alpha(t)) * x / float(TABLE.sigma(t)) ** 2)

    x = sample(
        even, (20, 1000), solver=DDIM, path=TABLE, dtype=DOUBLE,
        grid=grid.indices(1000, 64, spacing="linspace"),
    )  # fmt: skip
    assert abs(float((x > 0.0).double().mean()) - P) > 0.1
