"""Pseudo-inverse guidance: dense matrices, both weights, and where it is exact."""

import itertools

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian, karras
from contracts.matrix_op import MatrixOp
from torch.testing import assert_close

from medsci.core import Ancestral, Path, Rng, Slicewise
from medsci.core.check import GaussianOracle
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers._walk import times_of
from medsci.inverse.solvers.pi_gdm import PiGdmSettings, pi_gdm
from medsci.operators.linear_op import LinearOp

N = 20
EXACT = {"n_cg": 60, "tol": 1e-14}
WEIGHTS = ["tweedie", "code"]


def solve(problem: LinearGaussian, path: Path, *, y=None, prior=None, **options):
    settings = PiGdmSettings(**{"n_steps": N, "eta": 0.7, **EXACT, **options})
    prior = problem.prior(path) if prior is None else prior
    return pi_gdm(problem.measured(y), prior, rng=problem.rng(), settings=settings)


def dense(problem: LinearGaussian, weight: str, *, eta=0.7, factor=1.0, n=N) -> np.ndarray:
    """The variance-preserving notation of the published code; inverses in the space of data."""
    levels = karras(n, 50.0, 0.01)
    alpha = 1.0 / np.sqrt(1.0 + levels**2)
    sigma = levels * alpha
    x = sigma[0] * problem.draw(-1)
    unit = np.eye(len(problem.a))
    for i, (k, j) in enumerate(itertools.pairwise(range(n + 1))):
        r2 = factor * sigma[k] ** 2  # = level^2 / (1 + level^2)
        x0 = problem.denoise(x / alpha[k], levels[k])
        jacobian = problem.gain(levels[k]) / alpha[k]
        inside = r2 * problem.a @ problem.a.T + problem.noise**2 * unit
        residual = problem.y - x0 @ problem.a.T
        v = r2 * residual @ np.linalg.pinv(inside, rcond=1e-12) @ problem.a
        shift = 0.0
        if weight == "tweedie":
            x0 = x0 + sigma[k] ** 2 / alpha[k] / r2 * v @ jacobian
        else:
            shift = alpha[j] * alpha[k] * v @ jacobian
        e = (x - alpha[k] * x0) / sigma[k]
        c1 = eta * np.sqrt((1 - alpha[k] ** 2 / alpha[j] ** 2) * sigma[j] ** 2 / sigma[k] ** 2)
        c2 = np.sqrt(sigma[j] ** 2 - c1**2)
        x = alpha[j] * x0 + c1 * problem.draw(i) + c2 * e + shift
    return x


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_run_is_that_of_dense_matrices_on_every_path(path: Path, is_complex, weight) -> None:
    problem = LinearGaussian(is_complex=is_complex)
    found = solve(problem, path, weight=weight)
    ours = problem.flat(found.image)
    assert np.abs(ours - dense(problem, weight)).max() < 1e-9
    assert (found.n_calls, len(found.history["misfit"])) == (N, N)
    # controls: twice the variance, the other rule, data of another slice
    assert np.abs(ours - dense(problem, weight, factor=2.0)).max() > 1e-4
    assert np.abs(ours - dense(problem, WEIGHTS[weight == "tweedie"])).max() > 1e-2
    shuffled = solve(problem, path, weight=weight, y=problem.y[::-1].copy())
    assert np.abs(problem.flat(shuffled.image) - dense(problem, weight)).max() > 1e-2


def exact_walk(problem: LinearGaussian, path: Path, **options) -> np.ndarray:
    """The same walk with the exact denoiser of each slice's posterior."""
    mean, cov = problem.posterior()
    times = times_of(path, options["n_steps"], sigma_max=50.0, sigma_min=0.01, rho_grid=7.0)
    start = float(path.sigma(times[0])) * torch.from_numpy(problem.draw(-1))
    offset = torch.from_numpy(mean)
    oracle = GaussianOracle.from_covariance(
        path, torch.zeros(problem.d).double(), covariance=torch.from_numpy(cov)
    )

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        return offset + oracle(x - float(path.alpha(t)) * offset, t)

    plan = Ancestral(eta=options["eta"]).plan(path, times)
    return plan.run(denoise, start.reshape(problem.n, -1), rng=problem.rng()).numpy()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_for_an_isotropic_gaussian_it_is_the_posterior_denoiser(path: Path) -> None:
    """Mean and covariance: the walk is that of the exact posterior, noise for noise."""
    problem = LinearGaussian(isotropic=0.4, noise=0.1)
    options = {"n_steps": N, "eta": 1.0}
    exact = exact_walk(problem, path, **options)

    def gap(**more) -> float:
        found = solve(problem, path, **{"sigma_data": 0.4, **options, **more})
        return float(np.abs(problem.flat(found.image) - exact).max())

    assert gap() < 1e-8
    # controls: the published spread of the data, the other rule
    assert gap(sigma_data=1.0) > 0.003
    assert gap(weight="code") > 0.02


class Rows(LinearOp):
    """A matrix on every row of an image: many samples in a slice."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x):
        return x @ self.matrix.mT

    def adjoint(self, y):
        return y @ self.matrix


def moments(**options) -> tuple[float, float, float]:
    """Bias in posterior deviations, and ratios of variances along and across the data."""
    problem = LinearGaussian(isotropic=0.4, noise=0.1, n=1)
    prior = problem.prior(PATHS["ve"])

    class RowPrior:
        path = prior.path

        def __call__(self, x, t):
            return prior(x.reshape(-1, problem.d), t).reshape(x.shape)

    y = torch.from_numpy(problem.y).expand(4, 1000, -1).contiguous()
    settings = PiGdmSettings(n_steps=150, eta=0.0, sigma_data=0.4, **options)
    measured = Measurement(y, Rows(problem.op.matrix), noise=problem.noise)
    found = pi_gdm(measured, RowPrior(), rng=Rng(0, range(4)), settings=settings)
    mean, cov = problem.posterior()
    _, _, rows = np.linalg.svd(problem.a)
    left = (found.image.reshape(-1, problem.d).numpy() - mean) @ rows.T
    exact = np.diag(rows @ cov @ rows.T)
    ratio = left.var(axis=0) / exact
    bias = float(np.abs(left.mean(0) / np.sqrt(exact)).max())
    return bias, ratio[: len(problem.a)].mean(), ratio[len(problem.a) :].mean()


def test_the_samples_of_an_isotropic_gaussian_have_the_posteriors_moments() -> None:
    bias, along, across = moments()
    assert bias < 0.05  # three standard errors of 4000 draws
    assert along == pytest.approx(1.0, abs=0.05)
    assert across == pytest.approx(1.0, abs=0.05)
    # the control: the rule of published code overcounts the data, and its spread there is gone
    assert moments(weight="code")[1] < 0.01


def test_without_noise_it_is_the_pseudo_inverse() -> None:
    problem = LinearGaussian(noise=0.0)
    for weight in WEIGHTS:
        ours = problem.flat(solve(problem, PATHS["flow"], weight=weight).image)
        assert np.isfinite(ours).all()
        assert np.abs(ours - dense(problem, weight)).max() < 1e-7


def test_a_rank_deficient_operator_without_noise_stays_finite_in_single_precision() -> None:
    """Long after convergence, conjugate gradients would divide noise by noise."""
    problem = LinearGaussian(m=4, noise=0.0)
    matrix = problem.op.matrix.clone()
    matrix[3] = matrix[2]
    op = MatrixOp(matrix.float(), space=(2, 3))
    y = op(torch.from_numpy(problem.truth).float().reshape(4, 2, 3))

    class Single:
        path = PATHS["vp"]

        def __call__(self, x, t):
            return problem.prior(self.path)(x.double(), t).float()

    settings = PiGdmSettings(n_steps=N, n_cg=200, tol=1e-12)
    found = pi_gdm(Measurement(y, op), Single(), rng=problem.rng(), settings=settings)
    assert found.image.dtype == torch.float32
    assert found.image.isfinite().all()
    assert found.history["misfit"][-1] < 0.02


def test_a_slice_is_the_same_alone_and_in_chunks() -> None:
    problem, path = LinearGaussian(), PATHS["flow"]
    whole = solve(problem, path).image
    measured = problem.measured()
    settings = PiGdmSettings(n_steps=N, eta=0.7, **EXACT)
    part = Measurement(measured.y[1:3], measured.op, noise=measured.noise)
    found = pi_gdm(part, problem.prior(path), rng=Rng(0, [1, 2]), settings=settings)
    assert_close(found.image, whole[1:3], rtol=1e-9, atol=1e-11)
    chunked = Slicewise(problem.prior(path), chunk=3)
    assert_close(solve(problem, path, prior=chunked).image, whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"sigma_data": 0.0}, "positive"), ({"eta": -1.0}, "share"),
     ({"n_steps": 0}, "at least 1")],
)  # fmt: skip
def test_settings_say_what_is_wrong(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PiGdmSettings(**wrong)
