"""What RED-Diff offers beyond its steps: stop, warnings, starts, coupling, other operators."""

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from contracts.matrix_op import MatrixOp

from medsci.core import Path, Rng
from medsci.core.check import GaussianOracle
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.data_term import OperatorScaleWarning, warn_unless_unit_norm
from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
from medsci.operators import IdentityOp

DOUBLE = torch.float64
FLOW = Path.rectified()


def solve(problem: LinearGaussian, *, measured=None, path=FLOW, **options):
    extra = {
        name: options.pop(name)
        for name in ("start", "data_gradient", "progress")
        if name in options
    }
    return red_diff(
        problem.measured() if measured is None else measured, problem.prior(path),
        rng=problem.rng(), settings=RedDiffSettings(**options), **extra,
    )  # fmt: skip


# --- scale


@pytest.mark.parametrize("factor", [22.0, 0.1])
def test_a_raw_operator_is_pointed_out_and_normalising_helps(factor):
    """A projector of 64 x 64 pixels and 8 views has a norm of 22: the prior is then invisible."""
    problem = LinearGaussian()
    measured = problem.measured()
    raw = Measurement(factor * measured.y, measured.op * factor, noise=factor * problem.noise)
    with pytest.warns(OperatorScaleWarning, match=r"norm of about (22|0.1)"):
        lost = solve(problem, measured=raw, n_steps=20).image
    fixed = solve(problem, measured=raw.normalised()[0], n_steps=20).image
    expected = solve(problem, n_steps=20).image
    assert (fixed - expected).abs().max() < 1e-2
    assert (lost - expected).abs().max() > 5e-2


def test_norms_about_one_are_accepted():
    for factor in (0.8, 1.0, 1.3):
        problem = LinearGaussian(seed=3)
        measured = problem.measured()
        assert warn_unless_unit_norm(
            Measurement(factor * measured.y, measured.op * factor)
        ) == pytest.approx(factor, rel=0.05)


def test_r_data_n_over_m_is_the_number_of_unknowns_over_that_of_data():
    problem = LinearGaussian(m=3)
    parity = solve(problem, n_steps=15, r_data="n/m").image
    assert torch.equal(parity, solve(problem, n_steps=15, r_data=6 / 3).image)
    half = Measurement(problem.measured().y, problem.op, noise=0.05, n_data=problem.y.size // 2)
    assert torch.equal(
        solve(problem, measured=half, n_steps=15, r_data="n/m").image,
        solve(problem, n_steps=15, r_data=4.0).image,
    )


def test_the_rule_of_lambda():
    assert RedDiffSettings().weight_of_prior == 0.02
    assert RedDiffSettings(n_steps=50).weight_of_prior == 0.02
    assert RedDiffSettings(n_steps=49).weight_of_prior == 0.05
    assert RedDiffSettings(n_steps=20, lam=0.0).weight_of_prior == 0.0
    assert RedDiffSettings(weight="map").weight_of_prior == 1.0


# --- noise


def test_data_are_overfitted_unless_the_noise_is_known():
    """Misfit below .6 of the noise at the end, and flagged; within [.9, 1.1] with tau = 1."""
    problem = LinearGaussian(n=60, noise=0.2)
    options = {"n_steps": 150, "lr": 0.01}
    truth = torch.from_numpy(problem.truth).reshape(60, 2, 3)
    assert problem.measured().misfit(truth) == pytest.approx(1.0, abs=0.1)
    whole = solve(problem, **options)
    assert whole.history["misfit"][-1] < 0.6
    assert whole.history["overfit"][-1] == 1.0
    held = solve(problem, tau=1.0, **options)
    assert held.n_calls == 150
    assert 0.9 < held.history["misfit"][-1] < 1.1
    assert held.history["overfit"][-1] == 0.0
    # the history belongs to the image that comes back
    assert problem.measured().misfit(held.image) == pytest.approx(held.history["misfit"][-1])


def test_a_walk_may_stop_at_the_noise():
    problem = LinearGaussian(n=60, noise=0.2)
    options = {"n_steps": 150, "lr": 0.01, "tau": 1.0, "at_tau": "stop"}
    early = solve(problem, stop_after=0.0, **options)
    misfit = early.history["misfit"]
    n = len(misfit)
    assert n < 150
    assert early.n_calls == n
    assert 0.9 < misfit[-1] < 1.1
    below = [m <= 1.0 for m in misfit]
    assert below[-3:] == [True] * 3
    assert not any(all(below[i : i + 3]) for i in range(n - 3))
    late = solve(problem, stop_after=0.8, **options)
    assert len(late.history["misfit"]) == 122  # the third step from the 120th on
    assert problem.measured().misfit(early.image) == pytest.approx(misfit[-1])


def test_a_stop_needs_the_noise():
    problem = LinearGaussian()
    silent = Measurement(problem.measured().y, problem.op)
    with pytest.raises(ValueError, match="noise"):
        solve(problem, measured=silent, tau=1.0)
    with pytest.raises(ValueError, match="give the noise"):
        solve(problem, measured=silent, weight="map")
    # and without it the misfit is relative to the data, and nothing is called overfitted
    found = solve(problem, measured=silent, n_steps=60)
    assert found.history["overfit"] == (0.0,) * 60
    assert found.history["misfit"][-1] == pytest.approx(silent.misfit(found.image))


# --- starts and what comes back


def test_the_image_after_the_last_step_comes_back():
    """One step of Adam moves every entry by lr; the published code returns the start."""
    problem = LinearGaussian()
    start = torch.full((4, 2, 3), 0.3, dtype=DOUBLE)
    kept = start.clone()
    found = solve(problem, n_steps=1, lr=0.07, start=start).image
    assert (found - start).abs().sub(0.07).abs().max() < 1e-6
    assert torch.equal(start, kept)


def test_starts():
    problem = LinearGaussian()
    measured = problem.measured()
    backprojection = solve(problem, n_steps=3).image
    assert torch.equal(
        backprojection, solve(problem, n_steps=3, start=measured.backprojection).image
    )
    zeros = solve(problem, n_steps=3, init="zeros").image
    assert torch.equal(
        zeros, solve(problem, n_steps=3, start=torch.zeros(4, 2, 3, dtype=DOUBLE)).image
    )
    assert not torch.allclose(zeros, backprojection, atol=1e-3)
    # a long walk forgets where it came from
    near = solve(problem, n_steps=400, lam=0.25, init="zeros").image
    far = solve(problem, n_steps=400, lam=0.25, start=near + 2.0).image
    assert (far - near).square().mean().sqrt() < 0.1
    # and a measurement serves many runs
    assert torch.equal(measured.rhs, problem.measured().rhs)


def test_progress_counts_every_step_and_ends():
    problem, seen = LinearGaussian(noise=0.2), []
    solve(problem, n_steps=4, progress=lambda i, n: seen.append((i, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    options = {"n_steps": 200, "tau": 50.0, "at_tau": "stop", "stop_after": 0.0}
    solve(problem, progress=lambda i, n: seen.append((i, n)), **options)
    assert seen == [(1, 200), (2, 200), (200, 200)]


def test_calls_are_counted():
    problem, calls = LinearGaussian(), []
    prior = problem.prior(FLOW)

    class Counted:
        path = FLOW

        def __call__(self, x, t):
            calls.append(t)
            assert not torch.is_grad_enabled()
            return prior(x, t)

    for options, expected in (({}, 7), ({"n_avg": 3, "antithetic": True}, 42), ({"inner": 4}, 7)):
        calls.clear()
        found = red_diff(
            problem.measured(), Counted(), rng=problem.rng(),
            settings=RedDiffSettings(n_steps=7, **options),
        )  # fmt: skip
        assert found.n_calls == len(calls) == expected
        levels = [t / (1.0 - t) for t in calls]
        assert (max(levels), min(levels)) == pytest.approx((157.0, 0.01))


# --- noise that is shared or averaged, and coupling


def test_shared_noise_is_one_for_all_slices():
    seen = []

    class Spy:
        path = FLOW

        def __call__(self, x, t):
            seen.append(x / t)
            return torch.zeros_like(x)

    y = torch.zeros(5, 8, dtype=DOUBLE)
    for share in ("z", "no"):
        red_diff(
            Measurement(y, IdentityOp(), layout="plain"), Spy(), rng=Rng(0, range(5)),
            settings=RedDiffSettings(n_steps=1, share_noise=share),
        )  # fmt: skip
    shared, own = seen
    assert (shared - shared[0]).abs().max() == 0.0
    assert (own - own[0]).abs().max() > 0.1


def test_averaging_lowers_the_spread_between_seeds():
    problem = LinearGaussian(n=20)

    def spread(**options) -> float:
        runs = []
        for seed in range(4):
            found = red_diff(
                problem.measured(), problem.prior(FLOW), rng=problem.rng(seed),
                settings=RedDiffSettings(n_steps=30, lam=0.25, **options),
            )  # fmt: skip
            runs.append(found.image)
        return float(torch.stack(runs).std(0).mean())

    plain = spread()
    assert spread(n_avg=4) < 0.8 * plain
    assert spread(antithetic=True) < 0.2 * plain  # exact for an affine denoiser
    assert spread(average=0.1) < 1.05 * plain


def test_variation_between_slices_is_smoothed_where_it_is_noise():
    """Slices that are alike: coupling them lowers the error, and too much of it raises it."""
    problem = LinearGaussian(n=12, m=6, noise=0.1)
    truth = np.tile(problem.truth[:1], (12, 1))
    y = truth @ problem.a.T + 0.1 * np.random.default_rng(1).standard_normal((12, 6))

    def run(tv_z: float, ramp: float = 0.0) -> tuple[float, float]:
        rising = ramp * np.arange(12)[:, None] * np.ones(6)
        data = problem.measured(y + rising @ problem.a.T)
        found = solve(problem, measured=data, n_steps=60, lam=0.05, lr=0.05, tv_z=tv_z)
        image = problem.flat(found.image)
        error = np.sqrt(((image - truth - rising) ** 2).mean())
        return float(error), float(np.diff(image, axis=0).std())

    plain, coupled = run(0.0), run(0.03)
    assert coupled[0] < 0.95 * plain[0]
    assert coupled[1] < 0.6 * plain[1]
    assert run(1.0, ramp=0.1)[0] > run(0.0, ramp=0.1)[0]


# --- operators that are not linear


def test_magnitudes_by_autograd():
    """y = |A x|^2 / 2: the gradient of the misfit comes from torch, and the sign is lost."""
    problem = LinearGaussian(n=8, m=6, isotropic=0.1)
    a = problem.op.matrix

    def forward(image):
        return 0.5 * (image.flatten(1) @ a.T).square()

    truth = torch.from_numpy(problem.truth).reshape(8, 2, 3)
    y = forward(truth)

    def gradient(image):
        leaf = image.detach().requires_grad_()
        loss = 0.5 * (forward(leaf) - y).square().sum()
        return torch.autograd.grad(loss, leaf)[0]

    def misfit(image):
        return float((forward(image) - y).norm() / y.norm())

    measured = Measurement(y, MatrixOp(a, space=(2, 3)), layout="real")
    start = torch.from_numpy(problem.mean).expand(8, 6).reshape(8, 2, 3)
    found = solve(problem, measured=measured, lam=1e-4, data_gradient=gradient, start=start)
    assert "misfit" not in found.history
    assert misfit(found.image) < 0.05
    silent = solve(
        problem, measured=measured, lam=1e-4, data_gradient=torch.zeros_like, start=start
    )
    assert misfit(silent.image) > 5 * misfit(found.image)
    with pytest.raises(ValueError, match="linear"):
        solve(problem, data_gradient=gradient, tau=1.0)


# --- settings


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 0}, {"inner": 0}, {"n_avg": 0}, {"lr": 0.0}, {"lr": float("nan")},
        {"lam": -1.0}, {"sigma_min": 0.0}, {"sigma_max": 1e-3}, {"betas": (0.9, 1.0)},
        {"r_data": 0.0}, {"average": 1.5}, {"stop_after": -0.1}, {"tv_z": -1.0}, {"tau": 0.0},
        {"tv_z": float("nan")}, {"sigma_max": float("inf")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(options):
    with pytest.raises(ValueError, match=r"came; give") as caught:
        RedDiffSettings(**options)
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize("name", PATHS)
def test_single_precision_gives_the_same_image_as_double(name):
    path, n = PATHS[name], 30
    zero, one = torch.zeros(6, dtype=DOUBLE), torch.linspace(0.1, 1.0, 6, dtype=DOUBLE)
    y = torch.linspace(-1.0, 1.0, 18, dtype=DOUBLE).reshape(3, 6)

    def end(dtype):
        prior = GaussianOracle(path, zero.to(dtype), variances=one.to(dtype))
        settings = RedDiffSettings(n_steps=n, sigma_min=1e-6, antithetic=True, lr=0.01)
        measured = Measurement(y.to(dtype), IdentityOp(), layout="plain")
        return red_diff(measured, prior, rng=Rng(0, range(3)), settings=settings).image

    single = end(torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), end(DOUBLE), rtol=0, atol=1e-3)
