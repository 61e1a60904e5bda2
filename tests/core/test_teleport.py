"""Teleport: the first noise levels for nothing, and how far that pays."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16, median_error, mixture2, mixture64

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Multistep, grid
from medsci.core.solve.teleport import SkipTable, skip_table, teleport

VE = Path.ve()
LOW = 0.002


def fine(level):
    solver = Multistep("angle", order=3, corrector=True, lower_final=False)
    return solver.plan(VE, grid.karras(VE, 200, sigma_max=level, sigma_min=LOW))


def coarse(solver, steps):
    return lambda level: solver.plan(VE, grid.karras(VE, steps, sigma_max=level, sigma_min=LOW))


def gaussian_of(oracle):
    mean, covariance = oracle.moments(0.0)
    return GaussianOracle.from_covariance(oracle.path, mean, covariance=covariance)


def table(oracle, levels, *, n, solver, steps, gaussian=None):
    x = draw(n, oracle.means.shape[1], scale=80.0, seed=1)
    gaussian = gaussian_of(oracle) if gaussian is None else gaussian
    return skip_table(gaussian, oracle, x, levels=levels, solver=coarse(solver, steps), fine=fine)


@pytest.mark.parametrize("path", [VE, Path.rectified(), Path.vp_cosine()])
def test_on_a_gaussian_the_teleport_is_exact(path):
    oracle = gaussian16(path)
    z = draw(5, 16, scale=float(path.sigma(1.0)))
    x, t = teleport(oracle, z, sigma_hat=0.7)
    assert float(path.sigma(t)) / float(path.alpha(t)) == pytest.approx(0.7)
    torch.testing.assert_close(x, oracle.flow(z, 1.0, t))
    torch.testing.assert_close(oracle.flow(x, t, 0.0), oracle.flow(z, 1.0, 0.0))
    half, t_half = teleport(oracle, z, sigma_hat=3.0)
    torch.testing.assert_close(teleport(oracle, half, sigma_hat=0.7, t=t_half)[0], x)


def test_a_grid_of_the_same_level_starts_at_the_time_of_the_teleport():
    _, t = teleport(gaussian16(VE), draw(2, 16, scale=80.0), sigma_hat=5.0)
    assert grid.karras(VE, 4, sigma_max=5.0, sigma_min=LOW)[0] == t


def test_error_of_the_skip_grows_as_the_third_power_and_a_wrong_gaussian_costs():
    """What a Gaussian misses are third moments, an effect of h^-3 until modes separate."""
    oracle = mixture64(VE)
    levels = (80.0, 20.0, 10.0, 5.0)
    found = table(oracle, levels, n=16, solver=Multistep("eps", order=1), steps=3)
    assert found.teleport[0] == 0.0
    assert found.teleport[1:] == pytest.approx([1.7e-4, 1.3e-3, 9.4e-3], rel=0.15)
    slopes = [
        math.log2(b / a) for a, b in zip(found.teleport[1:], found.teleport[2:], strict=False)
    ]
    assert slopes == pytest.approx([3.0, 3.0], abs=0.3)
    right = gaussian_of(oracle)
    off = GaussianOracle(VE, right.mean + 0.3, variances=right.variances, vectors=right.vectors)
    wrong = table(oracle, (80.0, 10.0), n=16, solver=Multistep(), steps=3, gaussian=off)
    assert wrong.teleport[1] > 4.0 * found.teleport[2]


@pytest.mark.parametrize(
    ("target", "solver", "steps", "level", "before", "after"),
    [
        # published: 1.7e-1 -> 4.4e-3
        (mixture2, Multistep("angle", "angle", order=2, lower_final=False), 3, 5.0, 0.13, 0.006),
        # published: 7.2e-3 -> 2.7e-3
        (mixture2, Multistep("angle", "angle", order=2, lower_final=False), 5, 3.0, 0.004, 0.0035),
        # published: 1.8e-1 -> 7.2e-2
        (mixture64, Multistep("angle", order=1), 3, 2.0, 0.15, 0.075),
        # published: 2.5e-2 -> 1.2e-2
        (mixture64, Multistep("v", order=2, lower_final=False), 7, 10.0, 0.03, 0.018),
    ],
    ids=["M2 at 3", "M2 at 5", "M64 at 3", "M64 at 7"],
)
def test_what_a_skip_gains(target, solver, steps, level, before, after):
    oracle = target(VE)
    found = table(
        oracle, (80.0, level), n=128 if target is mixture2 else 32, solver=solver, steps=steps
    )
    assert found.total[0] > before
    assert found.total[1] < after


def test_the_rule_finds_a_level_that_is_close_to_the_best():
    oracle = mixture64(VE)
    levels = (80.0, 20.0, 10.0, 5.0, 3.0, 2.0)
    found = table(oracle, levels, n=16, solver=Multistep("v", order=2), steps=7)
    at = found.levels.index(found.level)
    assert found.teleport[at] <= found.solver[at]
    assert all(a > b for a, b in zip(found.teleport[at + 1 :], found.solver[at + 1 :], strict=True))
    assert found.total[at] < 0.5 * found.total[0]
    assert found.total[at] < 2.0 * min(found.total)
    assert found.total[-1] > 3.0 * found.total[at], "skipping too far must cost"


def test_where_the_error_of_the_solver_jumps_the_measured_best_is_better_than_the_rule():
    solver = Multistep("angle", "angle", order=2, lower_final=False)
    found = table(mixture2(VE), (80.0, 10.0, 5.0, 2.0), n=128, solver=solver, steps=3)
    assert found.level == 2.0
    assert found.best_level == 5.0
    assert min(found.total) < 0.2 * found.total[3] < 0.2 * found.total[0]


def test_an_accurate_solver_skips_less():
    oracle = mixture64(VE)
    levels = (80.0, 20.0, 10.0, 5.0)
    solver = Multistep("angle", order=3, corrector=True)
    few = table(oracle, levels, n=8, solver=Multistep("angle", order=1), steps=3)
    many = table(oracle, levels, n=8, solver=solver, steps=60)
    assert few.level < many.level


def test_fitted_on_samples_the_teleport_serves_as_well():
    oracle = mixture64(VE)
    data = oracle.sample(4000, 0.0, generator=torch.Generator().manual_seed(3))
    fitted = GaussianOracle.fit(VE, data.reshape(-1, 1, 8, 8), rank=20)
    z = draw(16, 64, scale=80.0, seed=1)
    reference = fine(80.0).run(oracle, z)
    x, _ = teleport(fitted, z, sigma_hat=10.0)
    skipped = median_error(fine(10.0).run(oracle, x), reference)
    assert skipped < 0.02
    white = GaussianOracle(VE, torch.zeros(64, dtype=DOUBLE), variances=0.0 * data[0])
    x, _ = teleport(white, z, sigma_hat=10.0)
    assert median_error(fine(10.0).run(oracle, x), reference) > 3.0 * skipped


def test_what_is_refused():
    oracle = gaussian16(VE)
    with pytest.raises(ValueError, match="noise levels that fall strictly"):
        skip_table(
            oracle, oracle, draw(2, 16), levels=(5.0, 5.0), solver=coarse(Multistep(), 3), fine=fine
        )
    with pytest.raises(ValueError, match="were asked for"):
        teleport(oracle, draw(2, 16), sigma_hat=100.0)
    known = SkipTable((80.0, 10.0, 5.0), (0.0, 0.1, 0.3), (0.5, 0.2, 0.2), (0.5, 0.2, 0.4))
    assert known.level == 10.0
    assert known.best_level == 10.0
