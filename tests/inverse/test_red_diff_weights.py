"""Weights and levels of RED-Diff: the published table, and walks that do not know their path."""

import math
from typing import get_args

import numpy as np
import pytest

from medsci.core import Path, Rng
from medsci.inverse.solvers.red_diff_weights import Weight, noise_weight, pull, times_of_walk

BETAS = np.linspace(1e-4, 2e-2, 1000)
DDPM = Path.tabulated(np.cumprod(1.0 - BETAS))
PATHS = [Path.vp_linear(), Path.ve(200.0), Path.rectified(), Path.vp_cosine(), DDPM]


def levels(path: Path, times: np.ndarray) -> np.ndarray:
    return path.sigma(times) / path.alpha(times)


@pytest.mark.parametrize(
    ("weight", "power"),
    [("linear", 1), ("sqrt", 0.5), ("square", 2), ("power2over3", 2 / 3), ("const", 0)],
)  # fmt: skip
@pytest.mark.parametrize("r", [0.01, 1.0, 157.0])
def test_the_powers(weight, power, r):
    assert noise_weight(weight, r) == pytest.approx(r**power, rel=1e-15)
    assert pull(weight, r) == pytest.approx(r ** (power - 1), rel=1e-15)


def test_the_others():
    assert noise_weight("log", 3.0) == pytest.approx(math.log(4.0))
    assert noise_weight("trunc_linear", 0.3) == 0.3
    assert noise_weight("trunc_linear", 30.0) == 1.0
    assert noise_weight("map", 0.5, noise=0.1) == pytest.approx(0.01 / 0.5)
    # the linear one does not depend on the level, and log agrees with it where noise is low
    assert pull("linear", 0.01) == pull("linear", 157.0) == 1.0
    assert pull("log", 1e-6) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("r", [0.0, -1.0, math.inf, math.nan])
def test_levels_at_which_there_is_no_weight(r):
    with pytest.raises(ValueError, match="positive and finite"):
        noise_weight("linear", r)


def test_says_what_is_missing():
    with pytest.raises(ValueError, match="give the noise"):
        noise_weight("map", 1.0)
    assert len(get_args(Weight)) == 8


@pytest.mark.parametrize("path", PATHS)
def test_the_levels_do_not_depend_on_the_path(path):
    times = times_of_walk(path, 50, sigma_max=140.0, sigma_min=0.02)
    expected = levels(PATHS[0], times_of_walk(PATHS[0], 50, sigma_max=140.0, sigma_min=0.02))
    np.testing.assert_allclose(levels(path, times), expected, rtol=1e-9)
    assert levels(path, times)[[0, -1]] == pytest.approx([140.0, 0.02], rel=1e-9)
    own = times_of_walk(path, 50, sigma_max=140.0, sigma_min=0.02, spacing="time")
    assert np.ptp(np.diff(own)) < 1e-12  # the control: uniform in the path's own time


def test_the_levels_are_those_of_the_published_schedule():
    """r = .010 (row 0), .047 (10), .34 (100), 1.24 (300), 3.44 (500), 25.7 (800), 157 (999)."""
    rows = np.array([0, 10, 100, 300, 500, 800, 990, 999])
    exact = np.sqrt(1.0 / np.cumprod(1.0 - BETAS) - 1.0)
    assert exact[rows] == pytest.approx([0.010, 0.047, 0.34, 1.24, 3.44, 25.7, 144, 157], rel=0.02)
    times = times_of_walk(DDPM, 1000, sigma_max=157.0, sigma_min=0.01)[::-1]
    np.testing.assert_allclose(levels(DDPM, times)[rows], exact[rows], rtol=0.05)


@pytest.mark.parametrize("n", [7, 20, 50])
def test_both_ends_are_visited_once_and_no_step_is_added(n):
    """The published range(0, 1000, 1000 // n) misses the last row, and may add a step."""
    published = list(range(0, 1000, 1000 // n))
    assert published[-1] != 999
    assert len(list(range(0, 1000, 1000 // 7))) == 8
    for order in ("descending", "ascending"):
        times = times_of_walk(DDPM, n, sigma_max=1e3, sigma_min=1e-4, order=order)
        found = levels(DDPM, times)
        assert len(times) == n
        assert (found.max(), found.min()) == pytest.approx((157.4, 1e-4), rel=1e-2)
        assert np.all(np.diff(times) < 0) == (order == "descending")


def test_random_times_know_the_seed_and_nothing_else():
    def draw(seed, ids):
        return times_of_walk(
            DDPM, 400, sigma_max=157.0, sigma_min=0.01, spacing="time", order="random",
            rng=Rng(seed, ids),
        )  # fmt: skip

    assert np.array_equal(draw(0, [0, 1, 2]), draw(0, [7]))
    assert not np.array_equal(draw(0, [0]), draw(1, [0]))
    assert draw(0, [0]).mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 400))
    with pytest.raises(ValueError, match="rng"):
        times_of_walk(DDPM, 3, sigma_max=1.0, sigma_min=0.1, order="random")


def test_levels_beyond_the_path_are_cut_and_empty_ranges_refused():
    path = Path.ve(10.0, 0.05)
    times = times_of_walk(path, 5, sigma_max=157.0, sigma_min=0.01)
    assert levels(path, times)[[0, -1]] == pytest.approx([10.0, 0.05])
    with pytest.raises(ValueError, match="inside its range"):
        times_of_walk(path, 5, sigma_max=0.04, sigma_min=0.01)
    with pytest.raises(ValueError, match="inside its range"):
        times_of_walk(Path.rectified(), 5, sigma_max=1.0, sigma_min=0.0)


def test_one_level_may_be_held():
    times = times_of_walk(DDPM, 4, sigma_max=1.24, sigma_min=1.24)
    assert levels(DDPM, times) == pytest.approx([1.24] * 4)
