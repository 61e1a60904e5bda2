"""DDRM: the published update, its moments by a scalar recursion, and how far it is from Bayes."""

import itertools

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, karras
from torch import Tensor
from torch.testing import assert_close

from medsci.core import Path, Rng, Slicewise
from medsci.core.check import GaussianOracle
from medsci.errors import UsageError
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.ddrm import DdrmSettings, ddrm
from medsci.operators import IdentityOp, LinearOp

N = 20
VALUES = np.array([1.0, 0.5, 0.05, 0.0, 0.3, 0.0])


class Turned(LinearOp):
    """`A = U diag(s) V^T` with any V and U; its own decomposition."""

    def __init__(self, values: np.ndarray, *, seed: int = 0, turn: bool = True) -> None:
        super().__init__()
        d = len(values)
        rng = np.random.default_rng(seed)
        u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] if turn else np.eye(d) for _ in "uv")
        self.u, self.v = torch.from_numpy(u), torch.from_numpy(v)
        self.values = torch.from_numpy(values)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.v * self.values) @ self.u.mT

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.u * self.values) @ self.v.mT

    @property
    def singular_values(self) -> Tensor:
        return self.values

    def to_coefficients(self, x: Tensor) -> Tensor:
        return (x @ self.v).unsqueeze(1)

    def from_coefficients(self, c: Tensor) -> Tensor:
        return c.squeeze(1) @ self.v.mT

    def data_coefficients(self, y: Tensor) -> Tensor:
        return (y @ self.u).unsqueeze(1)


def prior_of(path: Path, cov: np.ndarray, mean: np.ndarray) -> GaussianOracle:
    return GaussianOracle.from_covariance(
        path, torch.from_numpy(mean), covariance=torch.from_numpy(cov)
    )


def problem(n: int = 4, noise: float = 0.1):
    rng = np.random.default_rng(1)
    d = len(VALUES)
    root = rng.standard_normal((d, d)) / d**0.5
    op = Turned(VALUES)
    cov, mean = root @ root.T + 0.05 * np.eye(d), 0.3 * rng.standard_normal(d)
    truth = mean + rng.standard_normal((n, d)) @ np.linalg.cholesky(cov).T
    y = op(torch.from_numpy(truth)) + noise * torch.from_numpy(rng.standard_normal((n, d)))
    return op, y, cov, mean


def dense(op, y, cov, mean, *, noise, eta=0.85, eta_b=1.0, scale=1.0) -> np.ndarray:
    """The published update, one direction after the other."""
    v, u = op.v.numpy(), op.u.numpy()
    n, d = len(y), len(VALUES)
    levels = karras(N, 50.0, 0.01)
    draw = [
        Rng(0, range(n)).normal((n, 1, d), step=k, dtype=torch.float64).numpy()[:, 0] @ v
        for k in range(-1, N)
    ]
    ybar = np.divide(y.numpy() @ u, VALUES, out=np.zeros((n, d)), where=VALUES > 0)
    x = np.zeros((n, d))
    for i, s in enumerate(VALUES):
        seen = s > 0 and levels[0] >= noise / s
        sd = np.sqrt(levels[0] ** 2 - (noise / s) ** 2) if seen else levels[0]
        x[:, i] = (ybar[:, i] if seen else 0.0) + sd * draw[0][:, i]
    for k, (level, lower) in enumerate(itertools.pairwise(levels)):
        gain = cov @ np.linalg.inv(cov + level**2 * np.eye(d))
        x0 = (mean + (x @ v.T - mean) @ gain.T) @ v
        new = np.empty_like(x)
        for i, s in enumerate(VALUES):
            z, p, b = draw[k + 1][:, i], x0[:, i], ybar[:, i]
            fresh = scale * eta * lower * z
            keep = np.sqrt(1 - eta**2) * lower
            if s == 0:
                new[:, i] = p + keep * (x[:, i] - p) / level + fresh
            elif lower < noise / s:
                new[:, i] = p + keep * (b - p) / (noise / s) + fresh
            else:
                sd = np.sqrt(lower**2 - (eta_b * noise / s) ** 2)
                new[:, i] = (1 - eta_b) * p + eta_b * b + scale * sd * z
        x = new
    return x @ v.T


@pytest.mark.parametrize("eta_b", [1.0, 0.6])
@pytest.mark.parametrize("noise", [0.1, 0.0])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_run_is_that_of_dense_matrices_on_every_path(path: Path, noise, eta_b) -> None:
    op, y, cov, mean = problem()
    settings = DdrmSettings(n_steps=N, eta_b=eta_b)

    def run(data: Tensor) -> np.ndarray:
        found = ddrm(
            Measurement(data, op, noise=noise), prior_of(path, cov, mean), rng=Rng(0, range(4)),
            settings=settings, spectrum=op,
        )  # fmt: skip
        assert (found.n_calls, len(found.history["misfit"])) == (N, N)
        return found.image.numpy()

    ours = run(y)
    exact = dense(op, y, cov, mean, noise=noise, eta_b=eta_b)
    assert np.abs(ours - exact).max() < 1e-9
    # controls: noise divided by the root of two, all of it fresh, data of another slice
    for wrong in ({"scale": 0.5**0.5}, {"eta": 1.0}):
        assert (
            np.abs(ours - dense(op, y, cov, mean, noise=noise, eta_b=eta_b, **wrong)).max() > 1e-3
        )
    assert np.abs(run(y.flip(0)) - exact).max() > 1e-2


def recursion(s, noise, y, *, variance=1.0, eta=0.85, levels=None) -> tuple[float, float]:
    """Mean and variance of one direction of a Gaussian prior N(0, variance), number by number."""
    levels = karras(N, 50.0, 0.01) if levels is None else levels
    own = noise / s if s > 0 else np.inf
    ybar = y / s if s > 0 else 0.0
    clear = own <= levels[0]
    m, v = (ybar, levels[0] ** 2 - own**2) if clear else (0.0, levels[0] ** 2)
    for level, lower in itertools.pairwise(levels):
        gain, keep = variance / (variance + level**2), np.sqrt(1 - eta**2) * lower
        if s == 0:
            slope = gain + keep / level * (1 - gain)
            m, v = slope * m, slope**2 * v + (eta * lower) ** 2
        elif lower < own:
            slope = gain * (1 - keep / own)
            m, v = slope * m + keep / own * ybar, slope**2 * v + (eta * lower) ** 2
        else:
            m, v = ybar, lower**2 - own**2
    return m, v


def test_the_moments_are_those_of_the_scalar_recursion() -> None:
    """4000 draws of a diagonal problem, each direction within three standard errors."""
    op = Turned(VALUES, turn=False)
    y = np.array([0.8, -0.4, 0.05, 0.0, 0.3, 0.0])
    variances = np.array([1.0, 0.5, 2.0, 1.0, 0.3, 0.2])
    n, noise = 4000, 0.3
    measured = Measurement(torch.from_numpy(y).expand(n, -1).contiguous(), op, noise=noise)
    prior = prior_of(PATHS["vp"], np.diag(variances), np.zeros(6))
    x = ddrm(measured, prior, rng=Rng(0, range(n)), spectrum=op).image.numpy()

    def misses(**wrong) -> int:
        count = 0
        for i, s in enumerate(VALUES):
            options = {"variance": variances[i], **wrong}
            m, v = recursion(s, noise, y[i], **options)
            count += abs(x[:, i].mean() - m) > 3 * np.sqrt(v / n)
            count += abs(x[:, i].var() - v) > 3 * v * np.sqrt(2 / n)
        return count

    assert misses() == 0
    assert misses(eta=1.0) > 3
    assert misses(variance=0.7) > 3


# A = I, prior N(0, 1), y = 1, levels uniform from 1 to 0: noise, eta, mean and variance
TABLE = [(0.2, 0.85, 0.973, 0.0078), (0.5, 0.85, 0.904, 0.0272), (0.5, 1.0, 0.017, 0.486),
         (1.0, 1.0, 0.0, 0.487)]  # fmt: skip
UNIFORM = {"n_steps": 99, "sigma_max": 1.0, "sigma_min": 1.0 / 99.0, "rho_grid": 1.0}


@pytest.mark.parametrize(("noise", "eta", "mean", "variance"), TABLE)
def test_it_is_not_a_posterior_sampler(noise, eta, mean, variance, record_property) -> None:
    """The measured means of an implementation elsewhere, whose variances are half of these: it
    divides the standard deviation of the noise by the root of two."""
    levels = np.linspace(1.0, 0.0, 100)
    found = recursion(1.0, noise, 1.0, eta=eta, levels=levels)
    assert found == pytest.approx((mean, variance), abs=6e-4)
    exact = (1.0 / (1.0 + noise**2), noise**2 / (1.0 + noise**2))
    record_property("mean, variance, and those of the posterior", (*found, *exact))


def test_the_solver_forgets_the_data_where_the_table_says_so() -> None:
    n = 400
    measured = Measurement(torch.ones(n, 1).double(), IdentityOp(), noise=0.5)
    prior = prior_of(PATHS["vp"], np.eye(1), np.zeros(1))
    for _, eta, mean, variance in TABLE[1:3]:
        settings = DdrmSettings(eta=eta, **UNIFORM)
        x = ddrm(measured, prior, rng=Rng(0, range(n)), settings=settings).image
        assert float(x.mean()) == pytest.approx(mean, abs=3.5 * (variance / n) ** 0.5)
        assert float(x.var()) == pytest.approx(variance, rel=3.5 * (2 / n) ** 0.5)


def test_without_noise_the_data_are_kept_and_the_rest_is_drawn() -> None:
    op, y, cov, mean = problem(noise=0.0)
    found = ddrm(
        Measurement(y, op), prior_of(PATHS["ve"], cov, mean), rng=Rng(0, range(4)), spectrum=op
    )
    assert_close(op(found.image), y, rtol=0.0, atol=1e-12)
    other = ddrm(
        Measurement(y, op), prior_of(PATHS["ve"], cov, mean), rng=Rng(1, range(4)), spectrum=op
    )
    assert float((other.image - found.image).abs().max()) > 0.1


def test_a_slice_is_the_same_alone_and_in_chunks() -> None:
    op, y, cov, mean = problem()
    prior = prior_of(PATHS["flow"], cov, mean)
    whole = ddrm(Measurement(y, op, noise=0.1), prior, rng=Rng(0, range(4)), spectrum=op).image
    part = ddrm(Measurement(y[1:3], op, noise=0.1), prior, rng=Rng(0, [1, 2]), spectrum=op).image
    assert_close(part, whole[1:3], rtol=1e-12, atol=1e-12)
    chunked = ddrm(
        Measurement(y, op, noise=0.1), Slicewise(prior, chunk=3), rng=Rng(0, range(4)), spectrum=op
    )
    assert_close(chunked.image, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_operators_that_are_known_need_no_spectrum(dtype: torch.dtype) -> None:
    """Denoising: the identity on real and complex images is its own decomposition."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 4, 5, dtype=dtype, generator=generator)
    d = 40 if dtype.is_complex else 20
    prior = prior_of(PATHS["vp"], np.eye(d), np.zeros(d))
    found = ddrm(Measurement(y, IdentityOp(), noise=0.3), prior, rng=Rng(0, range(3)))
    assert (found.image.dtype, found.image.shape) == (dtype, y.shape)
    drawn = torch.view_as_real(found.image) if dtype.is_complex else found.image
    real = torch.view_as_real(y) if dtype.is_complex else y
    m, v = recursion(1.0, 0.3, 1.0)  # the mean is linear in y
    assert float((drawn - m * real).std()) == pytest.approx(v**0.5, rel=0.3)


def test_an_operator_without_a_known_decomposition_is_refused() -> None:
    op, y, cov, mean = problem()
    with pytest.raises(UsageError, match="singular value"):
        ddrm(Measurement(y, op), prior_of(PATHS["vp"], cov, mean), rng=Rng(0, range(4)))


@pytest.mark.parametrize("wrong", [{"eta": 1.2}, {"eta_b": -0.1}, {"n_steps": 0}])
def test_settings_say_what_is_wrong(wrong: dict) -> None:
    with pytest.raises(ValueError, match="give"):
        DdrmSettings(**wrong)
