"""DiffPIR against dense matrices: a whole run, its affine map, and the limits of its weight."""

import itertools

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian, karras
from torch.testing import assert_close

from medsci.core import Path, Rng, Slicewise
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.diff_pir import DiffPirSettings, diff_pir
from medsci.operators.linear_op import LinearOp

N = 20
EXACT = {"n_cg": 60, "tol": 1e-14}


def solve(problem: LinearGaussian, path: Path, *, y=None, **options):
    settings = DiffPirSettings(**{"n_steps": N, "weight": 2.0, "zeta": 0.3, **EXACT, **options})
    return diff_pir(problem.measured(y), problem.prior(path), rng=problem.rng(), settings=settings)


def dense(
    problem: LinearGaussian, *, weight=2.0, zeta=0.3, start=None, fresh=1.0, n=N
) -> np.ndarray:
    levels = karras(n, 50.0, 0.01)
    alpha = 1.0 / np.sqrt(1.0 + levels**2)
    sigma = levels * alpha
    x = sigma[0] * (problem.draw(-1) if start is None else start)
    for i, (k, j) in enumerate(itertools.pairwise(range(n + 1))):
        rho = weight * problem.noise**2 / levels[k] ** 2
        x0 = problem.denoise(x / alpha[k], levels[k])
        right = problem.y @ problem.a + rho * x0
        x0 = np.linalg.solve(problem.a.T @ problem.a + rho * np.eye(problem.d), right.T).T
        e = (x - alpha[k] * x0) / sigma[k]
        noise = fresh * problem.draw(i)
        x = alpha[j] * x0 + sigma[j] * (np.sqrt(1 - zeta) * e + np.sqrt(zeta) * noise)
    return x


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_run_is_that_of_dense_matrices_on_every_path(path: Path, is_complex: bool) -> None:
    problem = LinearGaussian(is_complex=is_complex)
    found = solve(problem, path)
    ours = problem.flat(found.image)
    assert np.abs(ours - dense(problem)).max() < 1e-9
    assert (found.n_calls, len(found.history["misfit"])) == (N, N)
    # controls: the data term without its 1/2, zeta for its root, data of another slice
    assert np.abs(ours - dense(problem, weight=1.0)).max() > 1e-3
    assert np.abs(ours - dense(problem, zeta=0.3**2)).max() > 1e-2
    shuffled = problem.flat(solve(problem, path, y=problem.y[::-1].copy()).image)
    assert np.abs(shuffled - dense(problem)).max() > 1e-2


def test_a_deterministic_run_is_one_affine_map_of_the_first_noise() -> None:
    """x = P z + q for every z, with P the product of the matrices of the steps."""
    problem = LinearGaussian()
    levels, weight = karras(N, 50.0, 0.01), 2.0
    p, unit = levels[0] * np.eye(problem.d), np.eye(problem.d)
    for k in range(N):
        rho = weight * problem.noise**2 / levels[k] ** 2
        prox = rho * np.linalg.inv(problem.a.T @ problem.a + rho * unit)
        share = levels[k + 1] / levels[k]
        p = (share * unit + (1.0 - share) * prox @ problem.gain(levels[k])) @ p
    q = dense(problem, zeta=0.0, start=0.0)
    ours = problem.flat(solve(problem, PATHS["flow"], zeta=0.0).image)
    z = problem.draw(-1)
    assert np.abs(ours - (z @ p.T + q)).max() < 1e-9
    assert np.abs(ours - (z @ p + q)).max() > 1e-3  # the control: the factors do not commute


def test_without_noise_the_image_fits_the_data_and_the_rest_is_the_priors() -> None:
    problem = LinearGaussian(noise=0.0)
    found = solve(problem, PATHS["vp"])
    assert found.history["misfit"][-1] < 1e-9
    ours = problem.flat(found.image)
    assert np.abs(ours @ problem.a.T - problem.y).max() < 1e-9
    mean, _ = problem.posterior(noise=1e-6)
    far = np.linalg.norm(problem.truth - np.linalg.pinv(problem.a) @ problem.y.T.mean(1))
    assert np.linalg.norm(ours - mean) < far
    assert solve(LinearGaussian(), PATHS["vp"]).history["misfit"][-1] > 1e-3  # the control


def test_the_weight_goes_from_the_data_to_the_prior() -> None:
    problem = LinearGaussian(n=8)
    misfit = [
        solve(problem, PATHS["vp"], weight=weight).history["misfit"][-1]
        for weight in (0.1, 1.0, 10.0, 1e6)
    ]
    assert misfit == sorted(misfit)
    free = solve(problem, PATHS["vp"], weight=1e12).image
    other = solve(problem, PATHS["vp"], weight=1e12, y=problem.y + 1.0).image
    assert_close(free, other, atol=1e-3, rtol=0.0)


def test_a_slice_is_the_same_alone_and_in_chunks() -> None:
    problem, path = LinearGaussian(), PATHS["flow"]
    whole = solve(problem, path, tol=1e-6).image
    measured = problem.measured()
    settings = DiffPirSettings(n_steps=N, weight=2.0, zeta=0.3, n_cg=60)
    part = Measurement(measured.y[1:3], measured.op, noise=measured.noise)
    found = diff_pir(part, problem.prior(path), rng=Rng(0, [1, 2]), settings=settings)
    assert_close(found.image, whole[1:3], rtol=1e-10, atol=1e-12)
    prior = Slicewise(problem.prior(path), chunk=3)
    found = diff_pir(measured, prior, rng=problem.rng(), settings=settings)
    assert_close(found.image, whole, rtol=1e-10, atol=1e-12)


class Mixed(LinearOp):
    """A of every slice, and the slices then mixed by a matrix along the volume."""

    def __init__(self, inner: LinearOp, along: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.along = inner, along

    def forward(self, x):
        return self.along @ self.inner(x)

    def adjoint(self, y):
        return self.inner.adjoint(self.along.mT @ y)


def test_slices_that_the_operator_couples_are_solved_as_one_system() -> None:
    """An exact proximal step needs the step sizes of the whole volume."""
    problem = LinearGaussian(n=4)
    along = torch.eye(4).double() + 0.4 * torch.ones(4, 4).double().tril(-1)
    op = Mixed(problem.op, along)
    measured = Measurement(along @ problem.measured().y, op, noise=0.05)
    settings = DiffPirSettings(n_steps=1, weight=2.0, sigma_max=3.0, zeta=0.0, **EXACT)
    found = diff_pir(measured, problem.prior(PATHS["ve"]), rng=problem.rng(), settings=settings)
    rho = 2.0 * 0.05**2 / 3.0**2
    big = np.kron(along.numpy(), problem.a)
    x0 = problem.denoise(3.0 * problem.draw(-1), 3.0)
    right = big.T @ measured.y.numpy().ravel() + rho * x0.ravel()
    exact = np.linalg.solve(big.T @ big + rho * np.eye(len(big.T)), right)
    assert np.abs(problem.flat(found.image).ravel() - exact).max() < 1e-9


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"weight": 0.0}, "positive"), ({"zeta": 1.5}, r"\[0, 1\]"), ({"n_cg": 0}, "positive"),
     ({"rho_grid": 0.0}, "rho_grid")],
)  # fmt: skip
def test_settings_say_what_is_wrong(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiffPirSettings(**wrong)
