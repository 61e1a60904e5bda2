"""Grids: what they are uniform in, where they start and end, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest

from medsci.core.process import Path
from medsci.core.solve import check_grid, grid

PATHS = {
    "rectified": Path.rectified(),
    "ve": Path.ve(),
    "vp_linear": Path.vp_linear(),
    "cosine": Path.vp_cosine(),
    "tabulated": Path.tabulated(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000)).tolist()),
}
LEVELS = {"sigma_max": 50.0, "sigma_min": 0.02}


def sigma_hat(path, times):
    return path.sigma(times) / path.alpha(times)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(
    ("make", "warp"),
    [
        (grid.log_snr, np.log),
        (grid.karras, lambda h: h ** (1.0 / 7.0)),
        (grid.ratio, lambda h: h / (1.0 + h)),
        (grid.angle, np.arctan),
    ],
    ids=["log_snr", "karras", "ratio", "angle"],
)
def test_uniform_in_its_own_variable_on_every_path(path, make, warp):
    times = make(path, 12, **LEVELS)
    levels = sigma_hat(path, times)
    np.testing.assert_allclose(levels[[0, -1]], [50.0, 0.02], rtol=1e-9)
    gaps = np.diff(warp(levels))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-7)
    assert np.std(np.diff(levels)) > 0.1  # control: the levels themselves are not uniform
    assert times.dtype == np.float64
    assert times.shape == (13,)


@pytest.mark.parametrize("make", [grid.ratio, grid.angle])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_open_ends_are_exact(path, make):
    times = make(path, 5)
    assert times[0] == 1.0
    assert times[-1] == 0.0


def test_log_snr_takes_the_ends_of_a_finite_path():
    path = Path.ve(sigma_max=10.0, sigma_min=0.1)
    times = grid.log_snr(path, 4)
    np.testing.assert_allclose(sigma_hat(path, times), np.geomspace(10.0, 0.1, 5), rtol=1e-12)
    assert (times[0], times[-1]) == (1.0, 0.0)


def test_log_snr_needs_finite_levels():
    with pytest.raises(ValueError, match="give finite sigma_max"):
        grid.log_snr(Path.rectified(), 4)


def test_final_zero_keeps_the_number_of_steps():
    path = Path.ve()
    times = grid.karras(path, 6, **LEVELS, final_zero=True)
    assert times.shape == (7,)
    assert times[-1] == 0.0
    np.testing.assert_allclose(sigma_hat(path, times)[-2], 0.02)
    np.testing.assert_allclose(
        grid.karras(path, 1, **LEVELS, final_zero=True), [path.time_at_sigma_hat(50.0), 0.0]
    )
    with pytest.raises(ValueError, match="keeps noise at t=0"):
        grid.karras(Path.vp_cosine(0.008), 6, **LEVELS, final_zero=True)


def test_one_step():
    for path in PATHS.values():
        assert len(grid.ratio(path, 1)) == 2
        assert len(grid.karras(path, 1, **LEVELS)) == 2
    np.testing.assert_array_equal(grid.uniform(1), [1.0, 0.0])


@pytest.mark.parametrize("n", [1, 3, 7, 9, 27, 33, 50, 999, 1000])
def test_indices_hit_the_rows_of_the_table(n):
    for spacing in ("trailing", "linspace", "leading"):
        times = grid.indices(1000, n, spacing=spacing)
        rows = times * 1000.0 - 1.0
        np.testing.assert_allclose(rows, np.round(rows), atol=1e-9)
        assert times[-1] == 0.0
        assert len(times) == n + 1
    assert grid.indices(1000, n, spacing="trailing")[0] == 1.0
    assert grid.indices(1000, n, spacing="linspace")[0] == 1.0
    assert grid.indices(1000, n, spacing="leading")[-2] == pytest.approx(1e-3)


def test_indices_agree_with_the_published_spacings():
    rows = grid.indices(1000, 10, spacing="trailing")[:-1] * 1000 - 1
    np.testing.assert_allclose(rows, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99])
    rows = grid.indices(1000, 10, spacing="leading")[:-1] * 1000 - 1
    np.testing.assert_allclose(rows, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0], atol=1e-9)


@pytest.mark.parametrize("n", [1, 7, 64, 256, 1000])
def test_strided_leaves_out_the_last_rows(n):
    """Rows `i floor(1000 / n)`; of 64 steps the first is row 945, where `leading` has 984."""
    rows = grid.indices(1000, n, spacing="strided")[:-1] * 1000 - 1
    np.testing.assert_allclose(rows, np.arange(n)[::-1] * (1000 // n), atol=1e-9)
    if n == 64:
        assert rows[0] == pytest.approx(945)
        assert grid.indices(1000, n, spacing="leading")[0] * 1000 - 1 == pytest.approx(984)


def test_more_steps_than_rows():
    with pytest.raises(ValueError, match="1 <= n <= n_train"):
        grid.indices(10, 11)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([1.0, 0.5, 0.5, 0.0], r"grid\[1\] = .*0\.5.* remove the duplicate"),
        ([1.0, 0.2, 0.3, 0.0], r"grid\[1\] = .*decrease strictly"),
        ([1.2, 0.5, 0.0], r"grid\[0\] = 1\.2 is not a time"),
        ([1.0, float("nan"), 0.0], r"grid\[1\] = nan is not a time"),
        ([1.0], "at least two times"),
        ([[1.0, 0.0]], "one row"),
    ],
)
def test_bad_grids_are_named(times, words):
    with pytest.raises(ValueError, match=words):
        check_grid(np.array(times))


def test_a_good_grid_is_returned_as_it_is():
    np.testing.assert_array_equal(check_grid(np.array([0.9, 0.4, 0.0])), [0.9, 0.4, 0.0])


def test_no_steps():
    with pytest.raises(ValueError, match="at least one"):
        grid.uniform(0)


def test_shifted_multiplies_the_noise_levels():
    """In the time r of the rectified flow the shift is `s r / (1 + (s - 1) r)`."""
    path = Path.rectified()
    times = grid.shifted(path, 10, shift=3.0)
    r = np.linspace(1.0, 0.0, 11)
    np.testing.assert_allclose(times, 3.0 * r / (1.0 + 2.0 * r), atol=1e-12)
    np.testing.assert_allclose(grid.shifted(path, 10, shift=1.0), grid.ratio(path, 10), atol=1e-12)


def test_shifted_keeps_its_ends_on_any_path():
    path = Path.ve()
    times = grid.shifted(path, 7, shift=2.0, sigma_max=50.0, sigma_min=0.01)
    levels = path.sigma(times)
    assert levels[0] == pytest.approx(50.0)
    assert levels[-1] == pytest.approx(0.01)
    plain = path.sigma(grid.ratio(path, 7, sigma_max=50.0, sigma_min=0.01))
    assert np.all(levels[1:-1] > plain[1:-1])  # more steps where the noise is strong
    with pytest.raises(ValueError, match="positive factor"):
        grid.shifted(path, 7, shift=0.0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "strided"])
@pytest.mark.parametrize("n", [1, 3, 7, 50, 59, 1000])
def test_neighbours_are_the_rows_of_the_grid(spacing, n):
    """Every row is followed by the next one visited, and the last by clean data."""
    times = grid.indices(1000, n, spacing=spacing)
    table = grid.neighbours(1000, times)
    assert len(table) == n
    assert table[-1][1] == -1
    assert all(left[1] == right[0] for left, right in pairwise(table))
    assert all(0 <= j < i <= 999 or j == -1 for i, j in table)


def test_a_stride_misses_the_neighbours():
    """The control: stepping by 1000 // n, as some schedulers do, is not the table."""
    table = grid.neighbours(1000, grid.indices(1000, 59))
    assert any(i - j != 1000 // 59 for i, j in table[:-1])
    with pytest.raises(ValueError, match=r"grid\[1\].* rows of a table of 1000"):
        grid.neighbours(1000, np.array([1.0, 0.12345, 0.0]))
