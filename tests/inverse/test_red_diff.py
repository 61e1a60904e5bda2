"""RED-Diff step by step: its gradient, its Adam, whole runs against dense matrices, its options."""

from typing import get_args

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from contracts.matrix_op import MatrixOp

from medsci.core import Path, Rng, Slicewise
from medsci.core.check import GaussianOracle
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.data_term import LeastSquares
from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
from medsci.inverse.solvers.red_diff_weights import Weight, noise_weight, times_of_walk
from medsci.operators import IdentityOp

DOUBLE = torch.float64
ONE_STEP = {"n_steps": 1, "optimiser": "gradient", "lr": 1.0, "lam": 1.0}
EVERYTHING = {
    "weight": "log", "n_avg": 2, "antithetic": True, "inner": 2, "tv_z": 0.02, "average": 0.2,
    "r_data": "n/m", "share_noise": "z", "init": "zeros", "betas": (0.8, 0.95),
}  # fmt: skip


def solve(problem: LinearGaussian, path: Path, *, measured=None, **options):
    return red_diff(
        problem.measured() if measured is None else measured, problem.prior(path),
        rng=problem.rng(), settings=RedDiffSettings(**options),
    )  # fmt: skip


# --- the gradient


@pytest.mark.parametrize("weight", get_args(Weight))
@pytest.mark.parametrize("name", PATHS)
def test_the_gradient_in_x0_is_the_published_one_in_noise(name, weight):
    """g = A^T (A mu - y) + w (e(x_t) - z), on every path and for every weight, to 1e-12."""
    problem, path = LinearGaussian(), PATHS[name]
    prior, measured = problem.prior(path), problem.measured()
    for level in (0.05, 1.24, 40.0):
        found = solve(problem, path, weight=weight, sigma_max=level, sigma_min=level, **ONE_STEP)
        start = measured.backprojection.unsqueeze(1)
        gradient = start - found.image.unsqueeze(1)
        t = float(path.time_at_sigma_hat(level))
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        z = problem.rng().normal(gradient.shape, step=0, dtype=DOUBLE)
        x = alpha * start + sigma * z
        w = noise_weight(weight, level, noise=problem.noise)
        regulariser = w * ((x - alpha * prior(x, t)) / sigma - z)
        published = measured.gradient(start) + regulariser
        scale = published.abs().max()
        assert (gradient - published).abs().max() < 1e-12 * max(scale, w)
        # the controls: the weight of the noise on the difference of images, and data twice
        wrong = measured.gradient(start) + w * (start - prior(x, t))
        assert (gradient - wrong).abs().max() > 1e-6 * scale
        twice = 2.0 * measured.gradient(start) + regulariser
        assert (gradient - twice).abs().max() > 1e-6 * scale


def test_single_precision_keeps_the_gradient_at_high_noise():
    """e(x_t) - z cancels where sigma / alpha is 150; the form in x0 does not."""
    level, path = 150.0, Path.ve(200.0)
    centre, one = torch.zeros(6, dtype=DOUBLE), torch.ones(6, dtype=DOUBLE)
    wide = GaussianOracle(path, centre, variances=one)
    narrow = GaussianOracle(path, centre.float(), variances=one.float())
    truth = torch.linspace(-1.0, 1.0, 300).reshape(50, 6)
    settings = RedDiffSettings(sigma_max=level, sigma_min=level, **ONE_STEP)
    found = red_diff(
        Measurement(truth, IdentityOp(), layout="plain"), narrow,
        rng=Rng(0, range(50)), settings=settings, start=truth, data_gradient=torch.zeros_like,
    )  # fmt: skip
    t = float(path.time_at_sigma_hat(level))
    z = Rng(0, range(50)).normal(truth.shape, step=0)
    x = (truth + float(path.sigma(t)) * z).double()
    exact = truth.double() - wide(x, t)
    x = truth + float(path.sigma(t)) * z
    in_noise = level * ((x - narrow(x, t)) / level - z)
    error = ((truth - found.image).double() - exact).abs().max()
    assert error < 1e-6
    assert (in_noise.double() - exact).abs().max() > 10 * error


# --- the optimiser


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_adam_is_that_of_torch_to_the_last_bit(dtype):
    problem, path, n = LinearGaussian(), Path.vp_linear(), 30
    y, matrix = torch.from_numpy(problem.y).to(dtype), problem.op.matrix.to(dtype)
    measured = Measurement(y, MatrixOp(matrix, space=(2, 3)), noise=0.05)
    prior = GaussianOracle.from_covariance(
        path, torch.from_numpy(problem.mean).to(dtype),
        covariance=torch.from_numpy(problem.cov).to(dtype),
    )  # fmt: skip

    def reference(betas):
        mu = measured.rhs.clone().requires_grad_()
        adam = torch.optim.Adam([mu], lr=0.1, betas=betas, eps=1e-8, foreach=False)
        times = times_of_walk(path, n, sigma_max=157.0, sigma_min=0.01)
        for k, t in enumerate(times.tolist()):
            with torch.no_grad():
                z = problem.rng().normal(mu.shape, step=k, dtype=dtype)
                x = float(path.alpha(t)) * mu + float(path.sigma(t)) * z
                mu.grad = LeastSquares(measured)(mu)[0] + 0.25 * (mu - prior(x, t))
            adam.step()
        return mu.detach().squeeze(1)

    settings = RedDiffSettings(n_steps=n, lam=0.25)
    found = red_diff(measured, prior, rng=problem.rng(), settings=settings)
    # h(r) / r of the linear weight is 1 up to one rounding, so ask for it exactly
    assert all(p == 0.25 for p in found.history["pull"])
    assert torch.equal(found.image, reference((0.9, 0.99)))
    assert not torch.equal(found.image, reference((0.9, 0.999)))


def test_slices_do_not_share_moments_noise_or_steps():
    """Adam's state, the noise and the weights of a slice are its own, alone or in a volume."""
    problem, path = LinearGaussian(n=5), Path.rectified()
    measured, prior = problem.measured(), problem.prior(path)
    settings = RedDiffSettings(n_steps=12)
    together = red_diff(measured, prior, rng=Rng(3, range(5)), settings=settings).image
    for i in range(5):
        alone = Measurement(measured.y[i : i + 1], measured.op, noise=0.05)
        image = red_diff(alone, prior, rng=Rng(3, [i]), settings=settings).image
        torch.testing.assert_close(image[0], together[i], rtol=0, atol=1e-12)
    again = red_diff(measured, prior, rng=Rng(3, range(5)), settings=settings).image
    assert torch.equal(again, together)  # nothing is left over from the runs before
    chunks = Slicewise(prior, chunk=2)
    image = red_diff(measured, chunks, rng=Rng(3, range(5)), settings=settings).image
    torch.testing.assert_close(image, together, rtol=0, atol=1e-12)
    other = red_diff(measured, prior, rng=Rng(4, range(5)), settings=settings).image
    assert (other - together).abs().max() > 1e-3


# --- whole runs


def ddpm_levels(n: int, high: float, low: float = 0.01) -> np.ndarray:
    """Levels of equal steps in u, with ln(1 + r^2) = .1 u + 9.95 u^2."""
    ends = [np.roots([9.95, 0.1, -np.log1p(r * r)]).max() for r in (high, low)]
    u = np.linspace(*ends, n)
    return np.sqrt(np.exp(0.1 * u + 9.95 * u**2) - 1.0)


def dense(
    problem: LinearGaussian, levels: np.ndarray, *, n=20, lr=0.1, lam=0.25, weight="linear",
    n_avg=1, antithetic=False, inner=1, tv_z=0.0, average=0.0, r_data=1.0, share_noise="no",
    init="backprojection", betas=(0.9, 0.99), post=True,
):  # fmt: skip
    """RED-Diff in numpy, on rows of real numbers, without paths: x_t / alpha = mu + r z."""
    mu = problem.y @ problem.a if init == "backprojection" else np.zeros((problem.n, problem.d))
    levels = levels.reshape(n, n_avg)
    r = mu.size / problem.y.size if r_data == "n/m" else r_data
    first, second, count, kept = np.zeros_like(mu), np.zeros_like(mu), 0, []
    for k in range(n):
        seen = []
        for j, level in enumerate(levels[k]):
            z = problem.rng().normal(problem.shape, step=k, tag=j, dtype=DOUBLE)
            z = z.reshape(problem.n, -1).numpy()
            z = np.tile(z[:1], (problem.n, 1)) if share_noise == "z" else z
            signs = (1, -1) if antithetic else (1,)
            x0 = np.mean([problem.denoise(mu + s * level * z, level) for s in signs], axis=0)
            share = {"linear": 1.0, "log": np.log1p(level) / level, "sqrt": level**-0.5}[weight]
            seen.append((share, x0))
        for _ in range(inner):
            g = r * (mu @ problem.a.T - problem.y) @ problem.a
            g = g + lam / n_avg * sum(share * (mu - x0) for share, x0 in seen)
            g = g + tv_z * tv_gradient(mu, problem.is_complex)
            count += 1
            first = betas[0] * first + (1 - betas[0]) * g
            second = betas[1] * second + (1 - betas[1]) * g**2
            m, v = first / (1 - betas[0] ** count), second / (1 - betas[1] ** count)
            before, mu = mu, mu - lr * m / (np.sqrt(v) + 1e-8)
        kept.append(mu)
    if average:
        return np.mean(kept[-round(average * n) :], axis=0)
    return mu if post else before


def tv_gradient(mu: np.ndarray, is_complex: bool) -> np.ndarray:
    half = mu.shape[1] // 2
    image = mu[:, :half] + 1j * mu[:, half:] if is_complex else mu
    change = np.diff(image, axis=0)
    change = change / np.sqrt(np.abs(change) ** 2 + 1e-6)
    g = np.zeros_like(image)
    g[1:] += change
    g[:-1] -= change
    return np.hstack([g.real, g.imag]) if is_complex else g


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("name", ["ve", "flow"])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_run_is_that_of_dense_matrices(name, is_complex, options):
    problem = LinearGaussian(is_complex=is_complex)
    path = Path.ve(151.0) if name == "ve" else PATHS[name]
    found = solve(problem, path, n_steps=20, lam=0.25, sigma_max=151.0, **options)
    ours = problem.flat(found.image)
    levels = ddpm_levels(20 * options.get("n_avg", 1), high=151.0)
    assert found.history["level"] == pytest.approx(
        levels.reshape(20, -1).mean(1).tolist(), rel=1e-9
    )
    expected = dense(problem, levels, **options)
    assert np.abs(ours - expected).max() < 1e-9
    # the controls: the image before the last step, another weight, the walk upwards
    if not options:
        assert np.abs(ours - dense(problem, levels, post=False)).max() > 1e-3
        assert np.abs(ours - dense(problem, levels, weight="sqrt")).max() > 1e-2
        assert np.abs(ours - dense(problem, levels[::-1])).max() > 1e-2
    per_step = options.get("n_avg", 1) * (2 if options else 1)
    assert found.n_calls == 20 * per_step
