"""Oracles judge everything else, so they are judged here by autograd, quadrature and sampling."""

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_marginal, draw

from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.process import Path

PATHS = [Path.rectified(), Path.ve(), Path.vp_linear(), Path.vp_cosine()]


def covariance(d=5, seed=1):
    factor = draw(d, d, seed=seed)
    return factor @ factor.mT / d + 0.05 * torch.eye(d, dtype=DOUBLE)


def mixture(path):
    covariances = torch.stack([covariance(3, seed) for seed in (1, 2)])
    weights = torch.tensor([0.3, 0.9], dtype=DOUBLE)
    return GaussianMixtureOracle(
        path, weights, means=draw(2, 3, scale=2.0, seed=5), covariances=covariances
    )


def gaussian(path):
    return GaussianOracle.from_covariance(path, draw(5, seed=2), covariance=covariance())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [1.0, 0.6, 0.01])
def test_gaussian_denoiser_is_the_regression_on_x(path, t):
    oracle = gaussian(path)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    C = covariance()
    total = alpha**2 * C + sigma**2 * torch.eye(5, dtype=DOUBLE)
    x = draw(7, 5, scale=3.0)
    expected = oracle.mean + alpha * torch.linalg.solve(total, (x - alpha * oracle.mean).T).T @ C
    torch.testing.assert_close(oracle(x, t), expected)
    mean, left = oracle.posterior(x, t)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(left, C - alpha**2 * C @ torch.linalg.solve(total, C))
    torch.testing.assert_close(oracle.moments(t)[1], total)


@pytest.mark.parametrize("path", PATHS)
def test_gaussian_flow_solves_the_probability_flow(path):
    """In the frame y = x / alpha the equation is dy/dh = (y - x0) / h."""
    oracle = gaussian(path)
    t, step = 0.5, 1e-4
    x = draw(4, 5)

    def level(time):
        return float(path.sigma(time)) / float(path.alpha(time))

    ahead, behind = oracle.flow(x, t, t + step), oracle.flow(x, t, t - step)
    slope = ahead / float(path.alpha(t + step)) - behind / float(path.alpha(t - step))
    slope = slope / (level(t + step) - level(t - step))
    y = x / float(path.alpha(t))
    torch.testing.assert_close(slope, (y - oracle(x, t)) / level(t), rtol=1e-5, atol=1e-6)


def test_gaussian_flow_is_a_semigroup_and_reaches_the_data():
    oracle = gaussian(Path.rectified())
    x = draw(20000, 5, seed=9)
    half_way = oracle.flow(x, 1.0, 0.4)
    torch.testing.assert_close(oracle.flow(half_way, 0.4, 0.0), oracle.flow(x, 1.0, 0.0))
    torch.testing.assert_close(oracle.flow(half_way, 0.4, 1.0), x)
    mean, total = oracle.moments(0.0)
    assert_marginal(oracle.flow(x, 1.0, 0.0), mean=mean, covariance=total)
    with pytest.raises(AssertionError, match="covariance is off"):
        assert_marginal(oracle.flow(x, 1.0, 0.0), mean=mean, covariance=1.1 * total)
    with pytest.raises(AssertionError, match="mean is off"):
        assert_marginal(oracle.flow(x, 1.0, 0.0), mean=mean + 0.05, covariance=total)


def test_gaussian_in_complex_numbers():
    factor = draw(4, 4, dtype=torch.complex128)
    C = factor @ factor.mH
    path = Path.rectified()
    oracle = GaussianOracle.from_covariance(
        path, draw(4, seed=1, dtype=torch.complex128), covariance=C
    )
    x = draw(6, 2, 2, seed=2, dtype=torch.complex128)
    total = 0.49 * C + 0.09 * torch.eye(4, dtype=torch.complex128)
    gap = (x.reshape(6, 4) - 0.7 * oracle.mean).T
    expected = oracle.mean + 0.7 * (C @ torch.linalg.solve(total, gap)).T
    torch.testing.assert_close(oracle(x, 0.3).reshape(6, 4), expected)
    z = draw(40000, 4, seed=3, dtype=torch.complex128)
    x0 = oracle.flow(z, 1.0, 0.0) - oracle.mean
    torch.testing.assert_close(x0.T @ x0.conj() / 40000, C, rtol=0.05, atol=0.1)


def test_oracles_keep_the_shape_of_the_state():
    oracle = GaussianOracle(
        Path.rectified(), torch.zeros(12, dtype=DOUBLE), variances=torch.ones(12, dtype=DOUBLE)
    )
    assert oracle(draw(3, 1, 3, 4), 0.5).shape == (3, 1, 3, 4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [1.0, 0.5, 0.1])
def test_mixture_score_is_the_gradient_and_tweedie_holds(path, t):
    oracle = mixture(path)
    x = draw(6, 3, scale=2.0).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    torch.testing.assert_close(alpha * oracle(x, t), x + sigma**2 * gradient, rtol=1e-6, atol=1e-8)


def test_mixture_density_integrates_to_one():
    covariances = torch.tensor([[[0.3]], [[0.05]]], dtype=DOUBLE)
    means = torch.tensor([[-1.0], [2.0]], dtype=DOUBLE)
    weights = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    oracle = GaussianMixtureOracle(Path.vp_cosine(), weights, means=means, covariances=covariances)
    x = torch.linspace(-12.0, 12.0, 4001, dtype=DOUBLE)[:, None]
    mass = np.trapezoid(oracle.log_density(x, 0.3).exp().numpy(), x[:, 0].numpy())
    assert mass == pytest.approx(1.0, abs=1e-9)


def test_mixture_of_equal_modes_is_a_gaussian():
    path = Path.vp_linear()
    C = covariance()
    mean = draw(5, seed=2)
    twice = GaussianMixtureOracle(
        path,
        torch.tensor([0.2, 0.8], dtype=DOUBLE),
        means=torch.stack([mean, mean]),
        covariances=torch.stack([C, C]),
    )
    x = draw(4, 5)
    torch.testing.assert_close(twice(x, 0.4), gaussian(path)(x, 0.4))


def test_mixture_samples_have_its_moments():
    oracle = mixture(Path.rectified())
    x = oracle.sample(40000, 0.3, generator=torch.Generator().manual_seed(0))
    w = oracle.weights
    mean = 0.7 * w @ oracle.means
    spread = (oracle.vectors * oracle.variances[:, None]) @ oracle.vectors.mT
    second = torch.einsum("m,mij->ij", w, spread + oracle.means[:, :, None] * oracle.means[:, None])
    total = 0.49 * second - mean[:, None] * mean + 0.09 * torch.eye(3, dtype=DOUBLE)
    assert_marginal(x, mean=mean, covariance=total, limit=5.0)


def test_what_is_refused():
    one = torch.ones(2, dtype=DOUBLE)
    with pytest.raises(ValueError, match="must be >= 0"):
        GaussianOracle(Path.rectified(), one, variances=-one)
    with pytest.raises(ValueError, match="must be positive"):
        GaussianMixtureOracle(
            Path.rectified(), 0.0 * one, means=draw(2, 3), covariances=draw(2, 3, 3)
        )
