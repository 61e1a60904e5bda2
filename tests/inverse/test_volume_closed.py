"""One step of each volume solver against float64 matrices, and whole walks against products."""

import itertools

import numpy as np
import pytest
import torch
from contracts.dense_volume import DensePrior, DenseSweeps, small_problem, smooth_covariance

from medsci.core import Path, Rng
from medsci.core.solve import grid
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
from medsci.inverse.solvers.mbir import MbirSettings, mbir

F64 = torch.float64
SPACE = (4, 1, 8, 8)
COVARIANCE = smooth_covariance(8)
NUMBERS = {"n_cg": 2, "rho": 0.2, "threshold": 0.05}


def denoised(x: np.ndarray, level: float) -> np.ndarray:
    """Return the mean of clean slices given slices with noise of sd `level`."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + level**2 * np.eye(64))
    return (x.reshape(-1, 64) @ gain.T).ravel()


def noise(step: int, tag: int = 0) -> np.ndarray:
    return Rng(5, range(4)).normal(SPACE, step=step, tag=tag, dtype=F64).numpy().ravel()


def dense_mbir(settings, *, wrap=False, share=False, early=False, batch=False) -> np.ndarray:
    """Walk by matrices; each switch puts one of the published method's choices back."""
    matrix, _, measured = small_problem()
    sweeps = DenseSweeps(matrix, measured.y.numpy(), 4, **NUMBERS, wrap=wrap)
    n = settings.n_steps
    span = settings.sigma_start / settings.sigma_min
    levels = settings.sigma_min * span ** (np.arange(n) / (n - 1))
    x = levels[-1] * noise(-1)
    for k in range(n - 1, 0, -1):
        d = levels[k] ** 2 - levels[k - 1] ** 2
        x = x + d * (denoised(x, levels[k]) - x) / levels[k] ** 2 + d**0.5 * noise(k)
        at = levels[k] if early else levels[k - 1]
        score = (denoised(x, at) - x) / at**2
        lengths = [np.linalg.norm(v.reshape(4, 64), axis=1) for v in (noise(k, 1), score)]
        if batch:
            lengths = [np.full(4, v.mean()) for v in lengths]
        e = np.repeat(2 * (settings.snr * lengths[0] / lengths[1]) ** 2, 64)
        x = x + e * score + np.sqrt(2 * e) * noise(k, 1)
        x = sweeps(x)
        sweeps.scale(1.0 if share else levels[0] / levels[1])
    return sweeps(denoised(x, levels[0]))


def mbir_error(**switches) -> float:
    """Run three levels: two full steps and the last one, which is without noise."""
    settings = MbirSettings(
        n_steps=3, sigma_start=2.0, sigma_min=0.1, corrector_cap=np.inf,
        consistency=AdmmTvSettings(**NUMBERS),
    )  # fmt: skip
    measured = small_problem()[2]
    prior = DensePrior(Path.vp_cosine(), COVARIANCE)
    ours = mbir(measured, prior, rng=Rng(5, range(4)), settings=settings)
    assert ours.n_calls == prior.calls == 5
    return float(np.abs(ours.image.numpy().ravel() - dense_mbir(settings, **switches)).max())


def test_mbir_equals_dense_matrices() -> None:
    assert mbir_error() < 1e-10


@pytest.mark.parametrize("switch", ["wrap", "share", "early", "batch"])
def test_control_the_published_choices_give_another_volume(switch: str) -> None:
    assert mbir_error(**{switch: True}) > 1e-4


def dds3d_error(*, n_steps: int = 2, wrap: bool = False, ddim: bool = False) -> float:
    settings = Dds3dSettings(
        n_steps=n_steps, eta=0.85, prox_noise=1e-3, consistency=AdmmTvSettings(**NUMBERS)
    )
    matrix, _, measured = small_problem()
    path = Path.vp_linear()
    rng, prior = Rng(5, range(4)), DensePrior(path, COVARIANCE)
    ours = dds3d(measured, prior, rng=rng, settings=settings).image
    sweeps = DenseSweeps(matrix, measured.y.numpy(), 4, **NUMBERS, wrap=wrap)
    times = grid.karras(
        path,
        settings.n_steps,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        final_zero=True,
    )
    x = path.sigma(times[0]) * noise(-1)
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        alpha, sigma = path.alpha(t), path.sigma(t)
        x0 = denoised(x / alpha, sigma / alpha)
        predicted = (x - alpha * x0) / sigma
        x0 = sweeps(x0, prox=1e-3 / (sigma / alpha) ** 2)
        if not ddim:
            predicted = (x - alpha * x0) / sigma
        kept = np.sqrt(1 - 0.85**2) * predicted
        x = path.alpha(s) * x0 + path.sigma(s) * (kept + 0.85 * noise(i))
    return float(np.abs(ours.numpy().ravel() - x).max())


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_dds3d_equals_dense_matrices(n_steps: int) -> None:
    assert dds3d_error(n_steps=n_steps) < 1e-10


def test_control_a_wrap_around_or_the_old_noise_estimate_give_another_volume() -> None:
    assert dds3d_error(wrap=True) > 1e-4
    assert dds3d_error(ddim=True) > 1e-4


def affine_walk(
    path: Path, settings: Dds3dSettings, matrix: np.ndarray, data: np.ndarray, *, noisy: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return mean, and the matrices on the start and on the noise of each step, of one slice."""
    eye, normal = np.eye(64), matrix.T @ matrix
    times = grid.karras(
        path,
        settings.n_steps,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        final_zero=True,
    )
    mean, chain, fresh = np.zeros(64), path.sigma(times[0]) * eye, []
    for t, s in itertools.pairwise(times):
        alpha, sigma = path.alpha(t), path.sigma(t)
        prox = settings.prox_noise / (sigma / alpha) ** 2
        solve = np.linalg.inv(normal + prox * eye)
        gain = np.linalg.solve(COVARIANCE + (sigma / alpha) ** 2 * eye, COVARIANCE).T / alpha
        estimate, shift = prox * solve @ gain, solve @ matrix.T @ data
        keep = np.sqrt(1 - settings.eta**2) * path.sigma(s) / sigma
        step = keep * eye + (path.alpha(s) - keep * alpha) * estimate
        mean = step @ mean + (path.alpha(s) - keep * alpha) * shift
        if noisy:
            fresh = [step @ m for m in fresh] + [settings.eta * path.sigma(s) * eye]
            chain = step @ chain
    return mean, chain, fresh


def walk_settings(n_steps: int, eta: float, prox_noise: float = 0.03**2) -> Dds3dSettings:
    return Dds3dSettings(
        n_steps=n_steps, eta=eta, prox_noise=prox_noise, sigma_max=5.0, sigma_min=0.02,
        consistency=AdmmTvSettings(n_cg=300, rho=0.0, tol=1e-14),
    )  # fmt: skip


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_fifty_steps_of_dds3d_are_the_product_of_their_matrices(eta: float) -> None:
    matrix, _, measured = small_problem(noise=0.03)
    path, settings = Path.vp_cosine(), walk_settings(50, eta)
    prior = DensePrior(path, COVARIANCE)
    ours = dds3d(measured, prior, rng=Rng(5, range(4)), settings=settings).image.numpy()
    for k in range(4):
        mean, chain, fresh = affine_walk(path, settings, matrix, measured.y[k].numpy(), noisy=True)
        expected = mean + chain @ noise(-1).reshape(4, 64)[k]
        for i, m in enumerate(fresh):
            expected = expected + m @ noise(i).reshape(4, 64)[k]
        assert np.abs(ours[k].ravel() - expected).max() < 1e-9


def posterior_gap(n_steps: int, *, factor: float = 1.0, eta: float = 1.0) -> float:
    """Return how far the mean of the walk is from the posterior mean, relative to its length."""
    matrix, _, measured = small_problem(noise=0.03)
    data, path = measured.y[1].numpy(), Path.vp_cosine()
    inner = matrix @ COVARIANCE @ matrix.T + 0.03**2 * np.eye(len(matrix))
    exact = COVARIANCE @ matrix.T @ np.linalg.solve(inner, data)
    settings = walk_settings(n_steps, eta, factor * 0.03**2)
    mean = affine_walk(path, settings, matrix, data, noisy=False)[0]
    return float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))


def test_with_the_rule_of_diffpir_the_mean_tends_to_the_posterior_mean() -> None:
    """With all noise fresh, the steps at a level iterate to its fixed point, m + C A^T (...)."""
    gaps = [posterior_gap(n) for n in (25, 100, 400)]
    assert gaps[1] < 0.5 * gaps[0]
    assert gaps[2] < 0.5 * gaps[1]
    assert gaps[2] < 0.012


def test_control_another_weight_or_kept_noise_tend_elsewhere() -> None:
    assert posterior_gap(400, factor=10.0) > 0.15
    assert posterior_gap(400, factor=0.1) > 0.15
    assert posterior_gap(400, eta=0.0) > 0.1  # the deterministic walk keeps a bias


def test_measurement_is_left_as_it_was() -> None:
    """A reference rewrote its input in place; here data, operator and estimates stay."""
    _, _, measured = small_problem()
    kept = measured.y.clone(), measured.op.matrix.clone(), measured.backprojection.clone()
    prior = DensePrior(Path.ve(), COVARIANCE)
    rng = Rng(0, range(4))
    first = mbir(measured, prior, rng=rng, settings=MbirSettings(n_steps=4)).image
    dds3d(measured, prior, rng=rng, settings=Dds3dSettings(n_steps=3))
    assert torch.equal(measured.y, kept[0])
    assert torch.equal(measured.op.matrix, kept[1])
    assert torch.equal(measured.backprojection, kept[2])
    again = Measurement(kept[0], measured.op)
    assert torch.equal(first, mbir(again, prior, rng=rng, settings=MbirSettings(n_steps=4)).image)
