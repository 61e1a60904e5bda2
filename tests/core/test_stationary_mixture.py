"""The mixture of stationary textures: against the dense mixture, and against other derivations."""

import math

import pytest
import torch

from medsci.core import Path
from medsci.core.check import GaussianMixtureOracle, Oracle
from medsci.core.check.stationary_mixture import StationaryMixtureOracle, real_rows

DOUBLE = torch.float64
PATHS = {"ve": Path.ve(50.0), "vp": Path.vp_linear(), "flow": Path.rectified()}


def spectrum(*space: int, size: float = 0.2) -> torch.Tensor:
    """Return a power law, unequal along the axes, and symmetric."""
    squared = torch.zeros(space, dtype=DOUBLE)
    for axis, n in enumerate(space):
        f = torch.fft.fftfreq(n, dtype=DOUBLE) * n * (1.0 + 0.3 * axis)
        squared = squared + (f**2).reshape([-1 if a == axis else 1 for a in range(len(space))])
    return size * (1.0 + squared / 2.0) ** -1.5


def mixture(path=PATHS["ve"], *, space=(8, 8), channels=1, k=3, seed=0, power=None):
    generator = torch.Generator().manual_seed(seed)
    means = 0.3 * torch.randn((k, channels, *space), generator=generator, dtype=DOUBLE)
    power = spectrum(*space) if power is None else power
    weights = torch.arange(1.0, k + 1.0, dtype=DOUBLE)
    return StationaryMixtureOracle(path, means, spectrum=power, weights=weights)


def covariance(law) -> torch.Tensor:
    """Return the dense covariance from the definition: complex Fourier matrices and P."""
    shape = law.means.shape[1:]
    n = math.prod(shape)
    basis = torch.eye(n, dtype=DOUBLE).reshape(n, *shape)
    dims = tuple(range(2 - law.means.ndim, 0))
    filtered = torch.fft.ifftn(law.spectrum * torch.fft.fftn(basis, dim=dims), dim=dims)
    assert filtered.imag.abs().max() < 1e-14
    return filtered.real.reshape(n, n)


def dense(law) -> GaussianMixtureOracle:
    c = covariance(law)
    means = law.means.flatten(1)
    return GaussianMixtureOracle(
        law.path, law.weights, means=means, covariances=c.expand(len(means), -1, -1).clone()
    )


def states(law, n=4, t=0.3, seed=1):
    return law.sample(n, t, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
@pytest.mark.parametrize(
    ("space", "channels"), [((8, 8), 1), ((5, 6), 2), ((3, 4, 5), 1), ((9,), 1)]
)
def test_every_answer_is_that_of_the_dense_mixture(name, t, space, channels):
    law = mixture(PATHS[name], space=space, channels=channels)
    judge = dense(law)
    x = states(law, t=t)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(law(x, t), judge(x, t), **close)
    torch.testing.assert_close(law.score(x, t), judge.score(x, t), **close)
    torch.testing.assert_close(law.log_density(x, t), judge.log_density(x, t), **close)
    torch.testing.assert_close(law.responsibilities(x, t), judge.responsibilities(x, t), **close)
    torch.testing.assert_close(law.jacobian(x, t), judge.jacobian(x, t), **close)


def test_a_spectrum_for_every_channel():
    power = torch.stack([spectrum(6, 6), spectrum(6, 6, size=0.02)])
    law = mixture(space=(6, 6), channels=2, power=power)
    x = states(law)
    torch.testing.assert_close(law(x, 0.3), dense(law)(x, 0.3), rtol=1e-9, atol=1e-10)
    same = mixture(space=(6, 6), channels=2, power=spectrum(6, 6))
    assert (same(x, 0.3) - law(x, 0.3)).abs().max() > 1e-3  # control: the second channel matters


def test_another_texture_or_other_means_are_seen():
    law, x = mixture(), states(mixture())
    assert (mixture(power=2 * spectrum(8, 8))(x, 0.3) - law(x, 0.3)).abs().max() > 1e-3
    assert (mixture(seed=5)(x, 0.3) - law(x, 0.3)).abs().max() > 1e-3


def test_ends_are_finite():
    law = mixture(Path.rectified())
    x = states(law)
    torch.testing.assert_close(law(x, 0.0), x)  # nothing to undo
    prior_mean = torch.einsum("k,k...->...", law.weights, law.means)
    torch.testing.assert_close(law(x, 1.0), prior_mean.expand_as(x))  # nothing to see


def test_derivative_by_autograd_is_the_jacobian():
    law = mixture(space=(4, 5), channels=2)
    x = states(law, n=1)
    found = torch.autograd.functional.jacobian(lambda u: law(u, 0.1), x).reshape(40, 40)
    torch.testing.assert_close(found, law.jacobian(x, 0.1)[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, found.mT, rtol=1e-9, atol=1e-11)  # a covariance


def test_score_is_the_slope_of_the_density_and_obeys_tweedie():
    law, t = mixture(), 0.2
    x = states(law, t=t).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_density(x, t).sum(), x)
    torch.testing.assert_close(law.score(x.detach(), t), slope)
    alpha, sigma = law.path.alpha(t), law.path.sigma(t)
    torch.testing.assert_close(alpha * law(x, t).detach(), x.detach() + sigma**2 * slope)


def test_single_precision_agrees():
    law = mixture(space=(16, 16))
    single = StationaryMixtureOracle(
        law.path, law.means.float(), spectrum=law.spectrum.float(), weights=law.weights.float()
    )
    for t in (0.01, 0.3, 1.0):
        x = states(law, t=t)
        found = single(x.float(), t)
        assert found.dtype == torch.float32
        assert (found - law(x, t)).abs().max() < 1e-4


def by_information(law, y, matrix, noise):
    """Return the posterior mean from precision matrices and the evidence from its definition."""
    c = covariance(law)
    precision = torch.linalg.inv(c)
    posterior = torch.linalg.inv(precision + matrix.mT @ matrix / noise**2)
    marginal = matrix @ c @ matrix.mT + noise**2 * torch.eye(len(matrix), dtype=DOUBLE)
    means, evidence = [], []
    for mean, weight in zip(law.means.flatten(1), law.weights, strict=True):
        means.append((precision @ mean + y @ matrix / noise**2) @ posterior)
        normal = torch.distributions.MultivariateNormal(matrix @ mean, marginal)
        evidence.append(weight.log() + normal.log_prob(y))
    share = torch.softmax(torch.stack(evidence), 0)
    return torch.einsum("kb,kbd->bd", share, torch.stack(means)), share.mT


@pytest.mark.parametrize("channels", [1, 2])
def test_posterior_mean_by_another_derivation(channels):
    law = mixture(channels=channels, seed=3)
    n = 64 * channels
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(6, n, generator=generator, dtype=DOUBLE) / 8
    clean = law.sample(5, 0.0, generator=generator).flatten(1)
    y = clean @ matrix.mT + 0.3 * torch.randn(5, 6, generator=generator, dtype=DOUBLE)
    found, share = law.posterior_mean(y, matrix, noise=0.3)
    expected, shares = by_information(law, y, matrix, 0.3)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(share, shares, rtol=1e-9, atol=1e-12)
    assert 0.05 < float(share.max(1).values.min()) < 0.99  # the data leave a doubt to get right
    wrong, _ = law.posterior_mean(y, matrix, noise=0.6)
    assert (wrong - found).abs().max() > 1e-2  # control: the noise counts


def test_posterior_mean_of_white_noise_is_the_denoiser():
    law = mixture()
    x, t = states(law, t=0.1), 0.1
    found, share = law.posterior_mean(
        x.flatten(1), torch.eye(64, dtype=DOUBLE), noise=float(law.path.sigma(t))
    )
    torch.testing.assert_close(found, law(x, t), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(share, law.responsibilities(x, t), rtol=1e-8, atol=1e-10)


def test_no_estimate_is_closer_than_the_posterior_mean():
    law = mixture()
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(20, 64, generator=generator, dtype=DOUBLE) / 8
    clean = law.sample(2000, 0.0, generator=generator)
    y = clean.flatten(1) @ matrix.mT
    y = y + 0.1 * torch.randn(y.shape, generator=generator, dtype=DOUBLE)
    found, _ = law.posterior_mean(y, matrix, noise=0.1)
    best = float((found - clean).square().mean())
    for other in (0.97 * found, 1.03 * found, law.posterior_mean(y, matrix, noise=0.15)[0]):
        assert float((other - clean).square().mean()) > best


def test_rows_of_a_complex_operator_act_on_states():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 12, generator=generator, dtype=torch.complex128)
    rows = real_rows(
        lambda y: (y @ a.conj()).reshape(1, 3, 4),
        lambda image: torch.stack([image.real, image.imag], dim=1),
        like=torch.zeros(1, 5, dtype=torch.complex128),
    )
    image = torch.randn(1, 3, 4, generator=generator, dtype=torch.complex128)
    state = torch.stack([image.real, image.imag], dim=1).flatten()
    expected = torch.view_as_real(a @ image.flatten()).flatten()
    torch.testing.assert_close(rows @ state, expected)


def test_draws_have_the_moments_of_the_law():
    law = mixture(space=(4, 4), k=2)
    x = law.sample(20000, 0.0, generator=torch.Generator().manual_seed(0)).flatten(1)
    mean, cov = dense(law).moments(0.0)
    assert (x.mean(0) - mean).abs().max() < 5 * float(cov.diagonal().max() / 20000) ** 0.5
    assert (torch.cov(x.mT) - cov).abs().max() < 0.05 * float(cov.max())


def test_it_is_an_oracle():
    assert isinstance(mixture(), Oracle)


def test_says_what_is_wrong():
    means = torch.zeros(2, 1, 4, 4)
    path = PATHS["ve"]
    with pytest.raises(ValueError, match=r"spectrum is .* space or"):
        StationaryMixtureOracle(path, means, spectrum=torch.ones(4))
    with pytest.raises(ValueError, match="must be positive"):
        StationaryMixtureOracle(path, means, spectrum=torch.zeros(4, 4))
    lopsided = torch.ones(4, 4)
    lopsided[1, 1] = 2.0
    with pytest.raises(ValueError, match="order of"):
        StationaryMixtureOracle(path, means, spectrum=lopsided)
    with pytest.raises(ValueError, match="one positive weight"):
        StationaryMixtureOracle(
            path, means, spectrum=torch.ones(4, 4), weights=torch.tensor([1.0, 0.0])
        )
    law = StationaryMixtureOracle(path, means, spectrum=torch.ones(4, 4))
    with pytest.raises(ValueError, match="positive noise"):
        law.posterior_mean(torch.zeros(1, 3), torch.zeros(3, 16), noise=0.0)
