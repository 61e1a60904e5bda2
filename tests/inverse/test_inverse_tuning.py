"""Tuning: the search finds what is there, and held-out data rank settings as the truth does."""

import math

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import LinearGaussian
from contracts.matrix_op import MatrixOp
from contracts.operators import assert_adjoint, random

from medsci.core import Path, Rng
from medsci.core.check import GaussianOracle
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
from medsci.inverse.tuning import LogUniform, RowsOp, data_judge, held_out, tune

DOUBLE = torch.float64
FLOW = Path.rectified()


def bowl(settings):
    return torch.tensor((math.log10(settings["lam"]) + 2.0) ** 2 + (settings["lr"] - 0.1) ** 2)


def judge(image):
    return -float(image)


def test_a_grid_is_searched_in_full():
    seen = []
    found = tune(
        bowl, {"lam": [1e-3, 1e-2, 1e-1], "lr": [0.1, 0.2]}, judge=judge, budget=6,
        progress=lambda i, n: seen.append((i, n)),
    )  # fmt: skip
    assert found.settings == {"lam": 1e-2, "lr": 0.1}
    assert found.best.score == 0.0
    assert len(found.trials) == 6
    assert len({tuple(trial.settings.values()) for trial in found.trials}) == 6
    assert seen == [(i, 6) for i in range(1, 7)]
    worst = tune(bowl, {"lam": [1e-3, 1e-2], "lr": [0.1]}, judge=lambda image: float(image))
    assert worst.settings["lam"] == 1e-3  # the judge decides


def test_a_range_is_searched_per_decade():
    found = tune(bowl, {"lam": LogUniform(1e-4, 1.0), "lr": [0.1]}, judge=judge, budget=200, seed=1)
    assert found.settings["lam"] == pytest.approx(1e-2, rel=0.1)
    draws = np.log10([trial.settings["lam"] for trial in found.trials])
    assert draws.min() >= -4.0
    assert draws.max() <= 0.0
    assert draws.mean() == pytest.approx(-2.0, abs=4 * 4 / math.sqrt(12 * 200))  # not 0.25
    again = tune(bowl, {"lam": LogUniform(1e-4, 1.0), "lr": [0.1]}, judge=judge, budget=200, seed=1)
    assert again.trials == found.trials
    other = tune(bowl, {"lam": LogUniform(1e-4, 1.0), "lr": [0.1]}, judge=judge, budget=3, seed=2)
    assert other.trials[0].settings != found.trials[0].settings


def test_what_is_tried_first_is_part_of_the_budget_and_wins_ties():
    def flat(settings):
        return torch.tensor(abs(settings.get("lam", 0.1) - 0.1))

    space = {"lam": LogUniform(1e-3, 1e-2)}
    found = tune(flat, space, judge=judge, budget=5, first=({},))
    assert len(found.trials) == 5
    assert found.best is found.trials[0]
    assert found.settings == {}
    tied = tune(flat, {"lam": [0.1]}, judge=judge, budget=2, first=({},))
    assert tied.settings == {}
    beaten = tune(flat, {"lam": [0.1]}, judge=judge, budget=2, first=({"lam": 1.0},))
    assert beaten.settings == {"lam": 0.1}


def test_draws_are_spread_evenly_in_each_setting_on_its_own():
    space = {"lam": LogUniform(1e-4, 1.0), "lr": LogUniform(1e-2, 1.0), "n": [1.0, 2.0]}
    found = tune(bowl, space, judge=judge, budget=8, seed=3)
    lam, lr = (np.log10([trial.settings[name] for trial in found.trials]) for name in ("lam", "lr"))
    assert sorted(np.floor((lam + 4) * 2)) == list(range(8)), "one in each half decade"
    assert sorted(np.floor((lr + 2) * 4)) == list(range(8))
    assert sorted(trial.settings["n"] for trial in found.trials) == [1.0] * 4 + [2.0] * 4
    assert list(np.argsort(lam)) != list(np.argsort(lr)), "paired at random"


def test_runs_that_fail_to_give_a_number_never_win():
    def judge_of(image):
        return math.nan if float(image) < 0.5 else -float(image)

    found = tune(bowl, {"lam": [1e-2, 1e-1], "lr": [0.1]}, judge=judge_of)
    assert found.settings["lam"] == 1e-1
    assert found.trials[0].score == -math.inf
    with pytest.raises(ValueError, match="none of 1 runs"):
        tune(bowl, {"lam": [1e-2], "lr": [0.1]}, judge=judge_of)


@pytest.mark.parametrize(
    ("space", "budget", "words"),
    [
        ({}, 3, "at least one value"), ({"lam": []}, 3, "at least one value"),
        ({"lam": [1.0]}, 0, "at least one run"), ({"lam": [0.1] * 9}, 8, "raise the budget"),
    ],
)  # fmt: skip
def test_spaces_that_cannot_be_searched(space, budget, words):
    with pytest.raises(ValueError, match=words):
        tune(bowl, space, judge=judge, budget=budget)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 1.0), (1.0, math.inf)])
def test_ranges_that_are_none(ends):
    with pytest.raises(ValueError, match="0 < low < high"):
        LogUniform(*ends)


# --- held-out data


class ViewsOp(MatrixOp.__mro__[1]):
    """Images (n, d) to data (n, views, bins)."""

    def __init__(self, matrix, views):
        super().__init__()
        self.matrix, self.views = matrix, views

    def forward(self, x):
        return (x @ self.matrix.mT).unflatten(1, (self.views, -1))

    def adjoint(self, y):
        return y.flatten(1) @ self.matrix.conj()


@pytest.mark.parametrize("axis", [1, -2])
def test_every_row_is_in_one_part_and_parts_add_up(axis):
    op = ViewsOp(random(24, 10, dtype=DOUBLE), 8)
    y = random(3, 8, 3, dtype=DOUBLE, seed=1)
    y[:, 5] = 0.0  # not measured
    measured = Measurement(y, op, noise=0.1, n_data=63, layout="plain")
    fit, test = held_out(measured, share=0.3, seed=0, axis=axis)
    assert torch.equal(fit.y + test.y, y)
    rows = [
        set(torch.nonzero((part.y != 0).any(0).any(-1)).flatten().tolist()) for part in (fit, test)
    ]
    assert len(rows[1]) == 2
    assert rows[0] | rows[1] == {0, 1, 2, 3, 4, 6, 7}
    assert not rows[0] & rows[1]
    assert (fit.count, test.count) == (45, 18)
    assert fit.noise == test.noise == 0.1
    x = random(3, 10, dtype=DOUBLE, seed=2)
    kept = torch.tensor([i not in (5, *rows[1]) for i in range(8)])[:, None]
    assert torch.equal(fit.op(x), op(x) * kept)
    assert_adjoint(fit.op, x, y)
    assert_adjoint(test.op, x, y)
    other = held_out(measured, share=0.3, seed=3, axis=axis)[1]
    assert not torch.equal(other.y, test.y)


def test_rows_that_may_not_be_held_out_never_are():
    op = ViewsOp(random(24, 10, dtype=DOUBLE), 8)
    y = random(3, 8, 3, dtype=DOUBLE, seed=1)
    y[:, 5] = 0.0
    measured = Measurement(y, op, layout="plain")
    gone = set()
    for seed in range(30):
        _, test = held_out(measured, share=0.4, seed=seed, axis=1, among=[1, 2, 5, 6])
        rows = torch.nonzero((test.y != 0).any(0).any(-1)).flatten().tolist()
        assert len(rows) == 1
        gone |= set(rows)
    assert gone == {1, 2, 6}, "five holds no data"
    for none in ([], [5]):
        with pytest.raises(ValueError, match="none of these rows holds data"):
            held_out(measured, axis=1, among=none)


def test_complex_lines_of_k_space():
    op = RowsOp(ViewsOp(random(24, 10), 8), torch.arange(8)[:, None] % 2 == 0)
    x, y = random(3, 10), random(3, 8, 3, seed=4)
    assert_adjoint(op, x, y)
    fit, test = held_out(Measurement(op(x), op, layout="plain"), share=0.25, axis=1)
    assert int((test.y != 0).any(0).any(-1).sum()) == 1
    assert int((fit.y != 0).any(0).any(-1).sum()) == 3
    assert test.misfit(x) < 1e-12


def test_what_cannot_be_split():
    measured = LinearGaussian().measured()
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="inside"):
            held_out(measured, share=share)
    with pytest.raises(ValueError, match="at least two"):
        held_out(Measurement(measured.y[:, :1], MatrixOp(measured.op.matrix[:1], space=(2, 3))))


def test_held_out_data_choose_the_lambda_that_the_truth_would():
    """Smooth images, every second number seen: the misfit of what was fitted misleads."""
    generator, d, n = torch.Generator().manual_seed(0), 32, 12
    place = torch.arange(d, dtype=DOUBLE)
    cov = torch.exp(-((place[:, None] - place) ** 2) / 50.0) + 1e-4 * torch.eye(d, dtype=DOUBLE)
    truth = torch.randn(n, d, generator=generator, dtype=DOUBLE) @ torch.linalg.cholesky(cov).T
    op = MatrixOp(torch.eye(d, dtype=DOUBLE)[::2].contiguous(), space=(d,))
    y = op(truth) + 0.5 * torch.randn(n, d // 2, generator=generator, dtype=DOUBLE)
    measured = Measurement(y, op, noise=0.5, layout="plain")
    prior = GaussianOracle.from_covariance(FLOW, torch.zeros(d, dtype=DOUBLE), covariance=cov)
    fit, test = held_out(measured, share=0.25, seed=0)
    space = {"lam": [1e-3, 1.0, 100.0]}

    def solver(data):
        def solve(settings):
            chosen = RedDiffSettings(n_steps=60, antithetic=True, **settings)
            return red_diff(data, prior, rng=Rng(0, range(n)), settings=chosen).image

        return solve

    blind = tune(solver(fit), space, judge=data_judge(test))
    seeing = tune(solver(measured), space, judge=lambda image: -float((image - truth).norm()))
    fooled = tune(solver(fit), space, judge=data_judge(fit))
    assert blind.settings == seeing.settings == {"lam": 1.0}
    assert fooled.settings == {"lam": 1e-3}
