"""FlowChef: whole runs against dense matrices, its affine map, and what tells it from the source.

The published code draws noise anew inside the loss, takes the identity for the adjoint of a blur,
divides the loss by the number of entries, and knows flow priors only; each has a test here.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from contracts.matrix_op import MatrixOp

from medsci.core import Multistep, Path, Rng, Slicewise, grid
from medsci.core.check import GaussianOracle
from medsci.core.steer import SkipGradient
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.data_term import OperatorScaleWarning
from medsci.inverse.solvers.flow_chef import FlowChefSettings, flow_chef
from medsci.operators import LinearOp

DOUBLE = torch.float64
FLOW = Path.rectified()
OPTIONS = {
    "plain": {},
    "skip_last": {"skip_last": True},
    "inner": {"inner": 3, "scale": 0.5},
    "linear": {"decay": "linear", "scale": 0.8},
    "cg": {"move": "cg", "inner": 60},
}


def solve(problem: LinearGaussian, path: Path = FLOW, *, n=20, seed=0, **options):
    settings = FlowChefSettings(n_steps=n, **options)
    return flow_chef(
        problem.measured(), problem.prior(path), rng=problem.rng(seed), settings=settings
    )


def dense(
    problem: LinearGaussian, *, n=20, first=1.0, scale=1.0, decay="constant", move="gradient",
    inner=1, skip_last=False, old=True,
):  # fmt: skip
    """FlowChef in numpy, as published: the state moves, then takes the step of the old velocity."""
    x = first * problem.draw(-1)
    times = np.linspace(first, 0.0, n + 1)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        if t < 1.0:
            x0 = problem.denoise(x / (1.0 - t), t / (1.0 - t))
        else:
            x0 = np.tile(problem.mean, (problem.n, 1))
        v = (x - x0) / t
        if not (skip_last and k == n - 1):
            step, moved = scale * (t if decay == "linear" else 1.0), x0
            if move == "cg":
                pinv = np.linalg.pinv(problem.a)
                moved = x0 + step * (problem.y - x0 @ problem.a.T) @ pinv.T
            else:
                for _ in range(inner):
                    moved = moved - step * (moved @ problem.a.T - problem.y) @ problem.a
            x = x + moved - x0
            if not old:
                v = (x - x0) / t
        x = x + (s - t) * v
    return x


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_run_is_that_of_dense_matrices(options, is_complex):
    problem = LinearGaussian(is_complex=is_complex)
    found = solve(problem, **options)
    assert np.abs(problem.flat(found.image) - dense(problem, **options)).max() < 1e-9
    assert (found.n_calls, len(found.history["misfit"])) == (20, 20)
    # the controls: a velocity renewed after the move, and another scale
    ours = problem.flat(found.image)
    assert np.abs(ours - dense(problem, **options, old=False)).max() > 1e-3
    assert np.abs(ours - dense(problem, **{**options, "scale": 0.3})).max() > 1e-3


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_diffusion_priors_walk_the_same_way(name):
    """x_flow = (1 - t) / alpha x_diffusion, from the highest level that the prior knows."""
    problem, path = LinearGaussian(), PATHS[name]
    level = float(path.sigma(1.0) / path.alpha(1.0))
    ours = problem.flat(solve(problem, path).image)
    assert np.abs(ours - dense(problem, first=level / (1.0 + level))).max() < 1e-9
    assert np.abs(ours - dense(problem)).max() < 0.05
    # the control: the state of the flow given to a diffusion prior as it is
    prior = problem.prior(path)

    class Unscaled:
        path = FLOW

        def __call__(self, x, t):
            return prior(x, t)

    wrong = flow_chef(
        problem.measured(), Unscaled(), rng=problem.rng(), settings=FlowChefSettings(n_steps=20)
    )
    assert np.abs(problem.flat(wrong.image) - dense(problem)).max() > 0.05


def test_it_is_skip_gradient_of_the_core():
    problem = LinearGaussian()
    measured, prior = problem.measured(), problem.prior(FLOW)
    ours = solve(problem, skip_last=True, scale=0.7).image
    hook = SkipGradient(
        lambda x0: 0.5 * (measured.op(x0.squeeze(1)) - measured.y).square().sum(1), 0.7
    )
    start = problem.rng().normal(problem.shape, step=-1, dtype=DOUBLE)
    plan = Multistep("v", "ratio", order=1).plan(FLOW, grid.uniform(20))
    theirs = plan.run(prior, start, hooks=[hook])
    assert (ours - theirs.squeeze(1)).abs().max() < 1e-13


# --- the affine map


class Wide:
    """d = 64, eigenvalues 1 .. 1e-3, 24 rows of unit norm, noise .05; one datum, many starts."""

    def __init__(self, seed: int, *, noise: float = 0.05) -> None:
        rng, d, m = np.random.default_rng(seed), 64, 24
        turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
        self.cov = turn @ np.diag(np.geomspace(1.0, 1e-3, d)) @ turn.T
        a = rng.standard_normal((m, d))
        self.a, self.mean = a / np.linalg.norm(a, 2), rng.standard_normal(d)
        self.truth = self.mean + np.linalg.cholesky(self.cov) @ rng.standard_normal(d)
        self.y = self.a @ self.truth + noise * rng.standard_normal(m)
        gain = (
            self.cov @ self.a.T @ np.linalg.inv(self.a @ self.cov @ self.a.T + noise**2 * np.eye(m))
        )
        self.best = self.mean + gain @ (self.y - self.a @ self.mean)
        self.left = self.cov - gain @ self.a @ self.cov
        self.noise, self.d = noise, d

    def affine(self, n: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The product of M = 1 - s A^T A (1 - t V) + (t' - t) V, with V = (1 - G) / t."""
        unit = np.eye(self.d)
        p, q = unit, np.zeros(self.d)
        for k in range(n):
            t, s = 1.0 - k / n, 1.0 - (k + 1) / n
            gain = (1 - t) * self.cov @ np.linalg.inv((1 - t) ** 2 * self.cov + t**2 * unit)
            v = (unit - gain) / t
            m = unit - scale * self.a.T @ self.a @ (unit - t * v) + (s - t) * v
            rest = self.mean - (1 - t) * gain @ self.mean  # of x0 = G x + rest
            p, q = m @ p, m @ q + scale * self.a.T @ (self.y - self.a @ rest) - (s - t) / t * rest
        return p, q

    def run(self, n: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """The solver's results and the noise they started from, one per row."""
        y = torch.from_numpy(self.y).expand(samples, -1).contiguous()
        measured = Measurement(
            y, MatrixOp(torch.from_numpy(self.a), space=(self.d,)), noise=self.noise,
            layout="plain",
        )  # fmt: skip
        prior = GaussianOracle.from_covariance(
            FLOW, torch.from_numpy(self.mean), covariance=torch.from_numpy(self.cov)
        )
        rng = Rng(0, range(samples))
        found = flow_chef(measured, prior, rng=rng, settings=FlowChefSettings(n_steps=n))
        return found.image.numpy(), rng.normal((samples, self.d), step=-1, dtype=DOUBLE).numpy()


def test_a_run_is_an_affine_map_of_its_first_noise():
    """To rounding, about 2e-15."""
    wide = Wide(0)
    found, z = wide.run(50, 4)
    p, q = wide.affine(50)
    assert np.abs(found - (z @ p.T + q)).max() < 2e-14
    assert np.abs(found - (z @ p + q)).max() > 1e-3  # the control: the factors do not commute


def test_the_mean_is_near_the_posterior_mean_and_not_it():
    """13 % of the prior's deviation away, data misfit 4 %, after 50 steps (means of 6 problems)."""
    off, misfit = [], []
    for wide in map(Wide, range(6)):
        q = wide.affine(50)[1]
        off.append(np.linalg.norm(q - wide.best) / np.trace(wide.cov) ** 0.5)
        left = wide.y - wide.a @ q
        misfit.append(np.linalg.norm(left) / np.linalg.norm(wide.y - wide.a @ wide.mean))
    assert np.mean(off) == pytest.approx(0.13, abs=0.015)
    assert np.mean(misfit) == pytest.approx(0.04, abs=0.01)
    # the control: the prior's own mean is far from both
    wide = Wide(0)
    assert np.linalg.norm(wide.mean - wide.best) / np.trace(wide.cov) ** 0.5 > 0.5


def test_a_sample_costs_three_decibels_against_the_posterior_mean():
    """MSE(sample) = MSE(mean) + tr(cov): -3.0 dB if calibrated; here -2.9 as measured."""
    rng, best, one, gap = np.random.default_rng(1), 0.0, 0.0, 0.0
    for seed in range(30):
        wide = Wide(seed)
        p, q = wide.affine(100)
        best += np.sum((wide.best - wide.truth) ** 2)
        one += np.sum((p @ rng.standard_normal(wide.d) + q - wide.truth) ** 2)
        gap += np.trace(wide.left)
    assert 10 * np.log10(best / one) == pytest.approx(-2.9, abs=0.4)
    assert 10 * np.log10(best / (best + gap)) == pytest.approx(-3.0, abs=0.3)


def test_averaging_samples_gains_what_the_spread_costs():
    wide = Wide(2)
    found, _ = wide.run(50, 8)
    error = ((found - wide.truth) ** 2).sum(1).mean()
    mean_error = ((found.mean(0) - wide.truth) ** 2).sum()
    gain = 10 * np.log10(error / mean_error)
    assert 1.5 < gain < 3.5
    spread = found.var(0, ddof=1).sum()
    assert spread == pytest.approx(np.trace(wide.left), rel=0.3)


# --- what the published code gets wrong


def test_noise_is_in_the_data_and_nowhere_else():
    """Equal data and ids give equal bytes; the same operator called in between changes nothing."""
    problem = LinearGaussian()
    first = solve(problem).image
    problem.op(first)
    assert torch.equal(first, solve(problem).image)
    assert not torch.allclose(first, solve(problem, seed=1).image, atol=1e-3)


def test_a_blur_needs_its_adjoint():
    """A one-sided blur moves the image; the identity in place of its adjoint leaves the data."""
    d = 32
    rows = torch.arange(d)
    blur = torch.zeros(d, d, dtype=DOUBLE)
    for shift in range(2, 8):
        blur[rows, (rows - shift) % d] = 1.0 / 6.0
    prior = GaussianOracle(
        FLOW, torch.zeros(d, dtype=DOUBLE), variances=torch.ones(d, dtype=DOUBLE)
    )
    truth = Rng(5, range(20)).normal((20, d), step=0, dtype=DOUBLE)

    class Unmatched(LinearOp):
        def forward(self, x):
            return x @ blur.T

        def adjoint(self, y):
            return y

    def misfit(op):
        measured = Measurement(truth @ blur.T, op, layout="plain")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OperatorScaleWarning)
            found = flow_chef(measured, prior, rng=Rng(0, range(20)))
        return measured.misfit(found.image)

    matched = misfit(MatrixOp(blur, space=(d,)))
    assert matched < 0.1
    assert misfit(Unmatched()) > 3.0 * matched


def test_the_scale_does_not_depend_on_the_resolution():
    """A pixel that is measured moves by its own residual, however many others there are."""

    def pixels(d):
        rows = torch.eye(d, dtype=DOUBLE)[::2].contiguous()
        prior = GaussianOracle(
            FLOW, torch.zeros(d, dtype=DOUBLE), variances=torch.ones(d, dtype=DOUBLE)
        )
        y = torch.full((1, d // 2), 0.7, dtype=DOUBLE)
        measured = Measurement(y, MatrixOp(rows, space=(d,)), layout="plain")
        settings = FlowChefSettings(n_steps=20, scale=0.3)
        rng = Rng(0, [0])
        found = flow_chef(measured, prior, rng=rng, settings=settings).image
        return found[0, :16], rng.normal((1, d), step=-1, dtype=DOUBLE)[0, :16]

    (small, z), (large, same) = pixels(32), pixels(512)
    assert torch.equal(z, same)
    torch.testing.assert_close(small, large, rtol=0, atol=1e-13)
    assert (small[::2] - 0.7).abs().max() < 0.1
    # the published mean over entries would move 16 times less
    assert (small[1::2] - 0.7).abs().max() > 0.5


# --- settings, batches, warnings


def test_a_slice_does_not_know_its_batch_or_chunk():
    problem = LinearGaussian(n=5)
    measured, prior = problem.measured(), problem.prior(FLOW)
    settings = FlowChefSettings(n_steps=10)
    together = flow_chef(measured, prior, rng=Rng(3, range(5)), settings=settings).image
    for i in (0, 3):
        alone = Measurement(measured.y[i : i + 1], measured.op)
        image = flow_chef(alone, prior, rng=Rng(3, [i]), settings=settings).image
        torch.testing.assert_close(image[0], together[i], rtol=0, atol=1e-12)
    chunks = flow_chef(
        measured, Slicewise(prior, chunk=2), rng=Rng(3, range(5)), settings=settings
    ).image
    torch.testing.assert_close(chunks, together, rtol=0, atol=1e-12)


def test_progress_counts_every_step():
    problem, seen = LinearGaussian(), []
    flow_chef(
        problem.measured(), problem.prior(FLOW), rng=problem.rng(),
        settings=FlowChefSettings(n_steps=4), progress=lambda i, n: seen.append((i, n)),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_operator_of_another_norm_is_pointed_out():
    problem = LinearGaussian()
    measured = problem.measured()
    raw = Measurement(22.0 * measured.y, measured.op * 22.0)
    with pytest.warns(OperatorScaleWarning, match="normalised"):
        flow_chef(raw, problem.prior(FLOW), rng=problem.rng(), settings=FlowChefSettings(n_steps=1))
    fixed, norm = raw.normalised()
    assert norm == pytest.approx(22.0, rel=1e-3)
    flow_chef(fixed, problem.prior(FLOW), rng=problem.rng(), settings=FlowChefSettings(n_steps=1))


@pytest.mark.parametrize(
    "options",
    [{"n_steps": 0}, {"scale": 0.0}, {"scale": 1.5}, {"scale": float("nan")}, {"inner": 0}],
)
def test_settings_that_cannot_be_meant(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FlowChefSettings(**options)
