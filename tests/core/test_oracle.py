"""Oracles judge everything else, so they are judged here by autograd, quadrature and sampling."""

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_marginal, draw, mixture2
from torch.distributions import MultivariateNormal
from torch.func import jacrev, vmap

from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.check.oracle import Oracle
from medsci.core.process import Path
from medsci.core.solve import Rng

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


def autograd_jacobian(denoise, x, t):
    return vmap(jacrev(lambda row: denoise(row[None], t)[0]))(x)


def thin(path, *, dtype=DOUBLE):
    """A Gaussian of rank 2 on a floor in 5 dimensions, and its full covariance."""
    vectors = torch.linalg.qr(draw(5, 2, seed=4, dtype=dtype))[0]
    variances = torch.tensor([2.0, 0.5], dtype=DOUBLE)
    mean = draw(5, seed=2, dtype=dtype)
    oracle = GaussianOracle(path, mean, variances=variances, vectors=vectors, floor=0.1)
    inside = (vectors * (variances - 0.1)) @ vectors.mH
    return oracle, inside + 0.1 * torch.eye(5, dtype=dtype)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("path", PATHS)
def test_low_rank_gives_every_answer_of_the_full_covariance(path, dtype):
    oracle, C = thin(path, dtype=dtype)
    full = GaussianOracle.from_covariance(path, oracle.mean, covariance=C)
    x, t = draw(6, 5, scale=2.0, dtype=dtype), 0.4
    same = torch.testing.assert_close
    same(oracle(x, t), full(x, t))
    same(oracle.score(x, t), full.score(x, t))
    same(oracle.log_density(x, t), full.log_density(x, t))
    same(oracle.flow(x, t, 0.1), full.flow(x, t, 0.1))
    same(oracle.jacobian(x, t), full.jacobian(x, t))
    same(oracle.posterior(x, t)[1], full.posterior(x, t)[1])
    same(oracle.moments(t)[1], full.moments(t)[1])
    no_floor = GaussianOracle(path, oracle.mean, variances=oracle.variances, vectors=oracle.vectors)
    assert (no_floor(x, t) - full(x, t)).abs().max() > 1e-3, "the floor was not tested"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [1.0, 0.5, 0.1])
def test_gaussian_density_score_and_jacobian_agree(path, t):
    oracle, _ = thin(path)
    mean, total = oracle.moments(t)
    x = (mean + draw(6, 5, scale=1.5)).requires_grad_()
    log_p = oracle.log_density(x, t)
    torch.testing.assert_close(log_p, MultivariateNormal(mean, total).log_prob(x))
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    torch.testing.assert_close(alpha * oracle(x, t), x + sigma**2 * gradient)
    found = autograd_jacobian(oracle, x.detach(), t)
    torch.testing.assert_close(oracle.jacobian(x, t), found)


def test_complex_density_is_that_of_real_and_imaginary_part():
    """Circular noise of E|z|^2 = 1 has variance 1/2 in each part."""
    path, t = Path.rectified(), 0.4
    variances = torch.tensor([2.0, 0.3], dtype=DOUBLE)
    mean = draw(2, dtype=torch.complex128)
    oracle = GaussianOracle(path, mean, variances=variances)
    x = draw(7, 2, seed=3, dtype=torch.complex128)
    half = (0.36 * variances + 0.16) / 2.0
    parts = torch.view_as_real(x - 0.6 * mean)
    normal = torch.distributions.Normal(0.0, half.sqrt()[:, None].expand(2, 2))
    torch.testing.assert_close(oracle.log_density(x, t), normal.log_prob(parts).sum((1, 2)))


def test_gaussian_samples_and_posterior_samples_have_their_laws():
    path, t, n = Path.rectified(), 0.4, 20000
    oracle, C = thin(path)
    x0 = oracle.sample(n, 0.0, generator=torch.Generator().manual_seed(0))
    assert_marginal(x0, mean=oracle.mean, covariance=C)
    x = path.perturb(x0, t, draw(n, 5, seed=8))
    again = oracle.posterior_sample(x, t, rng=Rng(3, range(n)))
    assert_marginal(again, mean=oracle.mean, covariance=C)
    mean, left = oracle.posterior(x[:1], t)
    fixed = oracle.posterior_sample(x[:1].expand(n, -1), t, rng=Rng(4, range(n)))
    assert_marginal(fixed, mean=mean[0], covariance=left)
    with pytest.raises(AssertionError, match="covariance is off"):  # the mean of x0 is no draw
        assert_marginal(oracle(x, t), mean=oracle.mean, covariance=C)


def test_fit_is_probabilistic_pca():
    path = Path.ve()
    oracle, C = thin(path)
    data = oracle.sample(3000, 0.0, generator=torch.Generator().manual_seed(1)).reshape(-1, 1, 5, 1)
    fitted = GaussianOracle.fit(path, data, rank=2)
    values, vectors = torch.linalg.eigh(data.flatten(1).T.cov())
    torch.testing.assert_close(fitted.variances, values[-2:].flip(0))
    assert fitted.floor == pytest.approx(values[:3].mean().item(), rel=1e-12)
    overlap = (fitted.vectors.T @ vectors[:, -2:].flip(1)).abs()
    torch.testing.assert_close(overlap, torch.eye(2, dtype=DOUBLE))
    torch.testing.assert_close(fitted.moments(0.0)[1], C, rtol=0.1, atol=0.05)
    assert fitted(data[:4], 0.5).shape == (4, 1, 5, 1)
    whole = GaussianOracle.fit(path, data)
    torch.testing.assert_close(whole.moments(0.0)[1], data.flatten(1).T.cov())


def test_fitted_floor_is_the_most_likely_one_and_the_rank_matters():
    path = Path.ve()
    oracle, _ = thin(path)
    data = oracle.sample(3000, 0.0, generator=torch.Generator().manual_seed(1))

    def likelihood(**choice):
        return GaussianOracle.fit(path, data, **choice).log_density(data, 0.0).mean().item()

    best = likelihood(rank=2)
    floor = GaussianOracle.fit(path, data, rank=2).floor
    assert best > max(likelihood(rank=2, floor=factor * floor) for factor in (0.9, 1.1))
    assert best > likelihood(rank=1) + 0.1


def test_fit_of_few_images_and_of_complex_data():
    few = draw(4, 30, seed=5)
    fitted = GaussianOracle.fit(Path.ve(), few)
    assert fitted.variances.shape == (3,)
    assert fitted.floor == pytest.approx(0.0, abs=1e-25)
    torch.testing.assert_close(fitted(few, 1e-6), few, rtol=0.0, atol=1e-6)
    oracle, C = thin(Path.ve(), dtype=torch.complex128)
    data = oracle.sample(20000, 0.0, generator=torch.Generator().manual_seed(2))
    found = GaussianOracle.fit(Path.ve(), data).moments(0.0)[1]
    torch.testing.assert_close(found, C, rtol=0.05, atol=0.05)
    assert (found - C.mT).abs().max() > 0.1, "a transposed covariance would have passed"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [1.0, 0.5, 0.1, 0.003])
def test_mixture_jacobian_is_the_derivative_and_the_posterior_covariance(path, t):
    oracle = mixture(path)
    x = oracle.sample(5, t, generator=torch.Generator().manual_seed(0))
    found = oracle.jacobian(x, t)
    torch.testing.assert_close(found, autograd_jacobian(oracle, x, t), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, found.mT, rtol=1e-12, atol=1e-14)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    mean, left = oracle.posterior(x, t)
    torch.testing.assert_close(alpha / sigma**2 * left, found, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(mean, oracle(x, t))
    share = oracle.responsibilities(x, t)
    torch.testing.assert_close(share.sum(1), torch.ones(5, dtype=DOUBLE))


def test_jacobian_without_the_doubt_between_modes_is_wrong():
    path, t = Path.rectified(), 0.45
    oracle = mixture(path)
    x = 0.55 * (0.5 * oracle.means.sum(0, keepdim=True))
    within = (oracle.vectors * oracle.variances[:, None]) @ oracle.vectors.mT
    total = 0.55**2 * within + 0.45**2 * torch.eye(3, dtype=DOUBLE)
    share = oracle.responsibilities(x, t)
    inside = torch.einsum("bm,mij->bij", share, 0.55 * within @ torch.linalg.inv(total))
    found = autograd_jacobian(oracle, x, t)
    torch.testing.assert_close(oracle.jacobian(x, t), found)
    assert (inside - found).abs().max() > 0.1


def test_jacobian_is_finite_at_both_ends():
    oracle = mixture(Path.rectified())
    x = draw(4, 3)
    torch.testing.assert_close(oracle.jacobian(x, 1.0), torch.zeros(4, 3, 3, dtype=DOUBLE))
    eye = torch.eye(3, dtype=DOUBLE).expand(4, 3, 3)
    torch.testing.assert_close(oracle.jacobian(x, 0.0), eye)


@pytest.mark.parametrize("t", [1.0, 0.3, 0.05])
def test_diagonal_covariances_are_full_ones(t):
    diagonal = mixture2(Path.vp_cosine())
    full = GaussianMixtureOracle(
        diagonal.path,
        diagonal.weights,
        means=diagonal.means,
        covariances=torch.diag_embed(diagonal.variances),
    )
    x, rng = draw(6, 2), Rng(0, range(6))
    for answer in ("__call__", "score", "log_density", "jacobian", "responsibilities"):
        ours, theirs = getattr(diagonal, answer)(x, t), getattr(full, answer)(x, t)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        diagonal.posterior_sample(x, t, rng=rng).norm(dim=1),
        full.posterior_sample(x, t, rng=rng).norm(dim=1),
        rtol=0.3,
        atol=0.3,  # the eigenvectors may be swapped, the mode is the same
    )
    assert_marginal(
        diagonal.sample(20000, t, generator=torch.Generator().manual_seed(1)),
        mean=diagonal.moments(t)[0],
        covariance=full.moments(t)[1],
    )


def test_mixture_posterior_samples_are_exact():
    """Pairs (x0, x_t) from data then noise, and from x_t then posterior, have one law."""
    path, t, n = Path.rectified(), 0.45, 20000
    oracle = mixture(path)
    x0 = oracle.sample(n, 0.0, generator=torch.Generator().manual_seed(0))
    x = path.perturb(x0, t, draw(n, 3, seed=8))
    again = oracle.posterior_sample(x, t, rng=Rng(3, range(n)))
    mean, C = oracle.moments(0.0)
    joint_mean = torch.cat([mean, 0.55 * mean])
    noisy = 0.55**2 * C + 0.45**2 * torch.eye(3, dtype=DOUBLE)
    joint = torch.cat([torch.cat([C, 0.55 * C], 1), torch.cat([0.55 * C, noisy], 1)])
    assert_marginal(torch.cat([again, x], 1), mean=joint_mean, covariance=joint)
    assert_marginal(torch.cat([x0, x], 1), mean=joint_mean, covariance=joint)
    with pytest.raises(AssertionError, match="is off"):  # draws that belong to another x
        assert_marginal(torch.cat([again.roll(1, 0), x], 1), mean=joint_mean, covariance=joint)
    between = 0.55 * oracle.means.mean(0, keepdim=True)
    mean_at, left = oracle.posterior(between, t)
    fixed = oracle.posterior_sample(between.expand(n, 3), t, rng=Rng(4, range(n)))
    assert_marginal(fixed, mean=mean_at[0], covariance=left[0], limit=5.0)
    assert oracle.responsibilities(between, t).min() > 0.05, "one mode has it all"


def test_posterior_sample_depends_on_the_sample_id_only():
    oracle = mixture(Path.rectified())
    x = draw(4, 3)
    together = oracle.posterior_sample(x, 0.5, rng=Rng(0, [5, 6, 7, 8]))
    alone = oracle.posterior_sample(x[2:3], 0.5, rng=Rng(0, [7]))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-14, atol=1e-14)
    assert not torch.equal(together, oracle.posterior_sample(x, 0.5, rng=Rng(0, range(4))))


def test_oracles_are_oracles():
    for oracle in (gaussian(PATHS[0]), mixture(PATHS[0])):
        assert isinstance(oracle, Oracle)
    assert not isinstance(lambda x, t: x, Oracle)


def test_what_is_refused():
    one = torch.ones(2, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"vectors of shape \(dimensions, variances\)"):
        GaussianOracle(Path.rectified(), one, variances=one[:1])
    with pytest.raises(ValueError, match="choose 1 to 2"):
        GaussianOracle.fit(Path.rectified(), draw(5, 2), rank=3)
    with pytest.raises(ValueError, match="at least two samples"):
        GaussianOracle.fit(Path.rectified(), draw(1, 2))
    flat = GaussianOracle(Path.rectified(), one, variances=0.0 * one)
    with pytest.raises(ValueError, match="no density at t=0"):
        flat.log_density(draw(3, 2), 0.0)
    with pytest.raises(ValueError, match="must be >= 0"):
        GaussianOracle(Path.rectified(), one, variances=-one)
    with pytest.raises(ValueError, match="must be positive"):
        GaussianMixtureOracle(
            Path.rectified(), 0.0 * one, means=draw(2, 3), covariances=draw(2, 3, 3)
        )
