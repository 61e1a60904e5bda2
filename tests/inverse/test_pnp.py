"""Plug-and-play: fixed points in closed form, the schedule, and dense matrices."""

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian
from torch.testing import assert_close

from medsci.core import Path, Rng, Slicewise
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.data_term import OperatorScaleWarning
from medsci.inverse.solvers.pnp import PnpSettings, levels_of, pnp

EXACT = {"n_cg": 60, "tol": 1e-14}
VARIANTS = ["hqs", "admm", "red", "pgd"]
SIGMA = 0.2


def solve(problem: LinearGaussian, path: Path, *, y=None, prior=None, **options):
    settings = PnpSettings(**{**EXACT, **options})
    prior = problem.prior(path) if prior is None else prior
    return pnp(problem.measured(y), prior, rng=problem.rng(), settings=settings)


def dense(problem: LinearGaussian, variant: str, n: int, *, weight=0.23, dual=1.0) -> np.ndarray:
    sd, a = max(problem.noise, 0.005), problem.a
    levels = np.exp(np.linspace(np.log(49 / 255), np.log(sd), n))
    if variant != "hqs":
        levels = np.full(n, SIGMA)
    z, u = problem.y @ a, np.zeros((problem.n, problem.d))

    def closest(point: np.ndarray, rho: float) -> np.ndarray:
        inverse = np.linalg.inv(a.T @ a + rho * np.eye(problem.d))
        return (problem.y @ a + rho * point) @ inverse

    for level in levels:
        rho = weight * sd**2 / level**2
        if variant == "hqs":
            z = problem.denoise(closest(z, rho), level)
        elif variant == "admm":
            x = closest(z - u, rho)
            z = problem.denoise(x + u, level)
            u = u + dual * (x - z)
        else:
            slope = (z @ a.T - problem.y) @ a
            if variant == "red":
                slope = slope + rho * (z - problem.denoise(z, level))
                z = z - slope / (1.0 + rho)
            else:
                z = problem.denoise(z - slope, level)
    return z


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_twenty_iterations_are_those_of_dense_matrices_on_every_path(
    path: Path, is_complex: bool, variant: str
) -> None:
    problem = LinearGaussian(is_complex=is_complex)
    found = solve(problem, path, variant=variant, n_iter=20, sigma=SIGMA)
    ours = problem.flat(found.image)
    assert np.abs(ours - dense(problem, variant, 20)).max() < 1e-9
    assert (found.n_calls, len(found.history["misfit"])) == (20, 20)
    if variant != "pgd":  # controls: the factor 2 between conventions, data of another slice
        assert np.abs(ours - dense(problem, variant, 20, weight=0.46)).max() > 1e-4
    shuffled = solve(
        problem, path, variant=variant, n_iter=20, sigma=SIGMA, y=problem.y[::-1].copy()
    )
    assert np.abs(problem.flat(shuffled.image) - dense(problem, variant, 20)).max() > 1e-2
    if variant == "admm":
        assert np.abs(ours - dense(problem, variant, 20, dual=0.0)).max() > 1e-3


N_ITER = {"admm": 250, "hqs": 250, "red": 1200, "pgd": 320}  # contractions of 0.9, 0.98 for red


def fixed(problem: LinearGaussian, variant: str, **options) -> np.ndarray:
    options = {
        "n_iter": N_ITER[variant],
        "sigma": SIGMA,
        "sigma_start": SIGMA,
        "sigma_end": SIGMA,
        **options,
    }
    return problem.flat(solve(problem, PATHS["ve"], variant=variant, **options).image)


@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_admm_stops_at_the_posterior_mean_whatever_the_level(sigma: float) -> None:
    problem = LinearGaussian(noise=0.1)
    mean, _ = problem.posterior()
    ours = fixed(problem, "admm", weight=1.0, sigma=sigma)
    assert np.abs(ours - mean).max() < 1e-8
    # controls: half the weight, no weight of the noise, the prior of noisy images
    assert np.abs(ours - problem.posterior(noise=0.1 * 0.5**0.5)[0]).max() > 1e-3
    assert np.abs(ours - problem.posterior(extra=sigma**2)[0]).max() > 1e-3


def test_the_weight_of_admm_is_a_factor_on_the_variance_of_the_noise() -> None:
    problem = LinearGaussian(noise=0.1)
    mean, _ = problem.posterior(noise=0.1 * 2.0**0.5)
    assert np.abs(fixed(problem, "admm", weight=2.0) - mean).max() < 1e-8


def test_projected_gradients_stop_where_the_noise_has_no_say() -> None:
    problem = LinearGaussian(noise=0.1)
    for step in (0.5, 1.0):
        mean, _ = problem.posterior(noise=SIGMA / step**0.5)
        assert np.abs(fixed(problem, "pgd", step=step) - mean).max() < 1e-8
    assert np.abs(fixed(problem, "pgd") - problem.posterior()[0]).max() > 1e-2


def test_red_and_half_quadratic_splitting_stop_at_the_prior_of_noisy_images() -> None:
    problem = LinearGaussian(noise=0.1)
    rough, _ = problem.posterior(extra=SIGMA**2)
    red = fixed(problem, "red", weight=1.0)
    assert np.abs(red - rough).max() < 1e-8
    smooth = fixed(problem, "hqs", weight=1.0)
    assert np.abs(smooth - problem.denoise(rough, SIGMA)).max() < 1e-8
    assert np.abs(red - problem.posterior()[0]).max() > 1e-2
    assert np.abs(smooth - rough).max() > 1e-2


def test_the_schedule_falls_from_the_start_to_the_noise() -> None:
    problem = LinearGaussian(noise=0.05)
    levels = np.array(levels_of(problem.measured(), PnpSettings(n_iter=8)))
    assert levels[0] == pytest.approx(49 / 255)
    assert levels[-1] == pytest.approx(0.05)
    assert_close(levels[1:] / levels[:-1], np.full(7, (0.05 / (49 / 255)) ** (1 / 7)))
    loud = levels_of(LinearGaussian(noise=0.7).measured(), PnpSettings(n_iter=3))
    assert loud == pytest.approx((0.7, 0.7, 0.7))


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_noise_the_floor_stands_in_for_it(variant: str) -> None:
    silent, faint = LinearGaussian(noise=0.0), LinearGaussian(noise=0.005, simulated=0.0)
    ours = [
        problem.flat(solve(problem, PATHS["ve"], variant=variant, n_iter=30).image)
        for problem in (silent, faint)
    ]
    assert np.isfinite(ours[0]).all()
    assert_close(ours[0], ours[1], rtol=0.0, atol=1e-10)


def test_the_default_recovers_more_than_the_pseudo_inverse() -> None:
    problem = LinearGaussian(n=64, noise=0.02)
    ours = problem.flat(solve(problem, PATHS["ve"]).image)
    plain = problem.y @ np.linalg.pinv(problem.a).T
    assert np.square(ours - problem.truth).mean() < 0.8 * np.square(plain - problem.truth).mean()
    mixed = problem.flat(solve(problem, PATHS["ve"], y=problem.y[::-1].copy()).image)
    assert np.square(mixed - problem.truth).mean() > np.square(ours - problem.truth).mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_slice_is_the_same_alone_and_in_chunks(variant: str) -> None:
    problem, path = LinearGaussian(), PATHS["flow"]
    whole = solve(problem, path, variant=variant, n_iter=10).image
    measured = problem.measured()
    part = pnp(
        Measurement(measured.y[1:3], measured.op, noise=measured.noise), problem.prior(path),
        rng=Rng(0, [1, 2]), settings=PnpSettings(variant=variant, n_iter=10, **EXACT),
    )  # fmt: skip
    assert_close(part.image, whole[1:3], rtol=1e-10, atol=1e-12)
    chunked = Slicewise(problem.prior(path), chunk=3)
    found = solve(problem, path, variant=variant, n_iter=10, prior=chunked).image
    assert_close(found, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["red", "pgd"])
def test_an_operator_in_raw_units_is_warned_about(variant: str) -> None:
    problem = LinearGaussian()
    raw = Measurement(20.0 * problem.measured().y, 20.0 * problem.op, noise=1.0)
    settings = PnpSettings(variant=variant, n_iter=1)
    with pytest.warns(OperatorScaleWarning, match="norm"):
        pnp(raw, problem.prior(PATHS["ve"]), rng=problem.rng(), settings=settings)


def test_nothing_is_drawn() -> None:
    problem = LinearGaussian()
    prior = problem.prior(PATHS["vp"])
    first, second = (pnp(problem.measured(), prior, rng=Rng(s, range(4))).image for s in (0, 1))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"n_iter": 0}, "at least 1"), ({"weight": 0.0}, "weight"), ({"step": 2.0}, r"\(0, 2\)"),
     ({"sigma_end": -1.0}, "sigma_end"), ({"sigma_start": float("inf")}, "sigma_start")],
)  # fmt: skip
def test_settings_say_what_is_wrong(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PnpSettings(**wrong)
