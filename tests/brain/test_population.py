"""Conditions that nobody asked for come from the population, given those that somebody did."""

import numpy as np
import pytest

from medsci.brain.conditions import population_rows
from medsci.models.config import CovariateConfig

CORRELATION = ((1.0, 0.6, 0.0), (0.6, 1.0, -0.5), (0.0, -0.5, 1.0))


def covariates(*, known: bool = True) -> tuple[CovariateConfig, ...]:
    return tuple(
        CovariateConfig(
            name=name,
            mean=mean,
            std=std,
            low=mean - 10.0 * std,
            high=mean + 10.0 * std,
            correlation=row if known else (),
        )
        for name, mean, std, row in zip(
            "abc", (100.0, 0.0, 5.0), (10.0, 1.0, 0.5), CORRELATION, strict=True
        )
    )


def test_a_row_depends_on_seed_and_number_alone() -> None:
    rows = np.full((4, 3), np.nan)
    four = population_rows(covariates(), rows, seed=3, numbers=[1, 2, 3, 4])
    two = population_rows(covariates(), rows[:2], seed=3, numbers=[4, 2])
    np.testing.assert_array_equal(two, four[[3, 1]])
    assert not np.array_equal(four, population_rows(covariates(), rows, seed=4, numbers=range(4)))


def test_nothing_asked_gives_the_law_of_the_population() -> None:
    n = 4000
    drawn = population_rows(covariates(), np.full((n, 3), np.nan), seed=0, numbers=range(n))
    np.testing.assert_allclose(drawn.mean(0), [100.0, 0.0, 5.0], atol=0.7)
    np.testing.assert_allclose(np.corrcoef(drawn.T), CORRELATION, atol=0.06)


def test_what_is_asked_stays_and_moves_the_rest() -> None:
    """The conditional law of a Gaussian: mean r d / s and variance 1 - r^2."""
    n = 4000
    rows = np.full((n, 3), np.nan)
    rows[:, 0] = 120.0  # two standard deviations
    drawn = population_rows(covariates(), rows, seed=0, numbers=range(n))
    assert (drawn[:, 0] == 120.0).all()
    assert abs(drawn[:, 1].mean() - 1.2) < 0.06
    assert abs(drawn[:, 1].std() - 0.8) < 0.04
    assert abs(drawn[:, 2].mean() - 5.0) < 0.04


def test_a_model_that_knows_no_population_fills_nothing() -> None:
    rows = np.full((2, 3), np.nan)
    rows[0, 1] = 0.5
    out = population_rows(covariates(known=False), rows, seed=0, numbers=[1, 2])
    np.testing.assert_array_equal(out, rows)


def test_draws_stay_in_the_range_of_training() -> None:
    near = tuple(c.model_copy(update={"low": c.mean, "high": c.mean}) for c in covariates())
    drawn = population_rows(near, np.full((5, 3), np.nan), seed=0, numbers=range(5))
    np.testing.assert_array_equal(drawn, [[100.0, 0.0, 5.0]] * 5)


def test_fractions_that_sum_to_one_are_no_problem() -> None:
    """A singular correlation matrix, asked for all but one of the fractions."""
    pair = tuple(
        CovariateConfig(name=n, mean=0.5, std=0.1, low=0.0, high=1.0, correlation=row)
        for n, row in (("x", (1.0, -1.0)), ("y", (-1.0, 1.0)))
    )
    rows = np.array([[0.6, np.nan]])
    drawn = population_rows(pair, rows, seed=0, numbers=[1])
    assert drawn[0, 1] == pytest.approx(0.4, abs=1e-6)
