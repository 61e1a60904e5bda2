"""Intrinsic dimension: the rank of Gaussian modes, found by spectrum and by divergence."""

import pytest
import torch
from contracts.core import DOUBLE, draw, mixture64

from medsci.core.check import GaussianOracle
from medsci.core.check.dimension import dimension_by_divergence, dimension_by_spectrum
from medsci.core.process.path import Path
from medsci.core.rng import Rng

PATHS = {"ve": Path.ve(), "rectified": Path.rectified()}


def samples(oracle, n, seed=5):
    return oracle.sample(n, 0.0, generator=torch.Generator().manual_seed(seed))


def flat(path, dimension, n, *, floor=0.0):
    """Return a Gaussian of unit variance in some directions and a thin floor in the others."""
    variances = torch.full((n,), floor**2, dtype=DOUBLE)
    variances[:dimension] = 1.0
    vectors = torch.linalg.qr(draw(n, n, seed=1)).Q
    return GaussianOracle(path, draw(n, seed=2), variances=variances, vectors=vectors)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("level", [0.02, 0.05, 0.1, 0.2])
def test_the_spectrum_finds_eight_dimensions_on_m64(name, level):
    path = PATHS[name]
    oracle, t = mixture64(path), float(path.time_at_sigma_hat(level))
    found = dimension_by_spectrum(oracle, samples(oracle, 8), path=path, t=t, rng=Rng(0, range(8)))
    assert found.dimension.tolist() == [8] * 8
    assert found.gap.min().item() > 4.0
    if level == 0.05:
        normal = 0.05**2 / (0.05**2 + 0.02**2)  # sigma times the slope of the score
        assert found.spectrum[:, 28].mean().item() == pytest.approx(normal, rel=0.05)
        assert found.gap.min().item() > 50.0


def test_control_the_mean_score_passes_for_a_normal():
    """Without the subtraction the published bias appears: seven or less instead of eight."""
    path = PATHS["ve"]
    oracle, t = mixture64(path), float(path.time_at_sigma_hat(0.2))
    x0 = samples(oracle, 8)
    found = []
    for i, sample in enumerate(x0):
        x = sample + 0.2 * draw(256, 64, seed=i)
        spectrum = torch.linalg.svdvals(oracle.score(x, t))
        found.append(64 - 1 - int((spectrum[:-1] / spectrum[1:]).argmax()))
    assert set(found) <= {6, 7}


@pytest.mark.parametrize("dimension", [1, 3, 11])
def test_the_spectrum_finds_any_rank(dimension):
    path = PATHS["rectified"]
    oracle = flat(path, dimension, 12)
    x0 = oracle.mean + (draw(3, dimension, seed=3) @ oracle.vectors[:, :dimension].T)
    found = dimension_by_spectrum(
        oracle, x0.reshape(3, 3, 4), path=path, t=0.05, rng=Rng(1, range(3)), cloud=100
    )
    assert found.dimension.tolist() == [dimension] * 3


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("level", "published"), [(0.05, 21.0), (0.1, 12.0), (0.2, 8.6)])
def test_the_divergence_on_m64_is_high_by_what_the_floor_adds(name, level, published):
    """Per direction of variance l the mean is `l (l + 2 sigma^2) / (l + sigma^2)^2`."""
    path = PATHS[name]
    oracle, t = mixture64(path), float(path.time_at_sigma_hat(level))
    measured = dimension_by_divergence(oracle, samples(oracle, 100), path=path, t=t).mean().item()
    spectrum, noise = oracle.variances, level**2
    closed = (spectrum * (spectrum + 2 * noise) / (spectrum + noise) ** 2).sum(1).mean().item()
    assert measured == pytest.approx(closed, rel=0.03)
    assert measured == pytest.approx(published, rel=0.08)
    assert measured > 8.4


def test_the_divergence_is_the_definition_by_the_score():
    path = Path.vp_cosine()
    oracle, t = mixture64(path), 0.1
    x0 = samples(oracle, 4)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    x = alpha * x0
    slope = torch.stack(
        [torch.autograd.functional.jacobian(lambda s: oracle.score(s[None], t)[0], r) for r in x]
    )
    trace = slope.diagonal(dim1=1, dim2=2).sum(1)
    expected = 64 + sigma**2 * (trace + oracle.score(x, t).square().sum(1))
    torch.testing.assert_close(dimension_by_divergence(oracle, x0, path=path, t=t), expected)


def test_without_a_floor_the_divergence_settles_at_the_dimension():
    path = PATHS["ve"]
    oracle = flat(path, 5, 20)
    x0 = oracle.mean + draw(400, 5, seed=3) @ oracle.vectors[:, :5].T
    values = dimension_by_divergence(oracle, x0, path=path, t=float(path.time_at_sigma_hat(0.05)))
    assert values.mean().item() == pytest.approx(5.0, abs=0.02)
    probed = dimension_by_divergence(
        oracle,
        x0,
        path=path,
        t=float(path.time_at_sigma_hat(0.05)),
        rng=Rng(0, range(400)),
        probes=4,
    )
    error = (probed - values).std().item() / 20
    assert abs(probed.mean().item() - values.mean().item()) < 4 * error
    # control: at a level above the spread of the data everything is normal
    far = dimension_by_divergence(oracle, x0, path=path, t=float(path.time_at_sigma_hat(20.0)))
    assert far.mean().item() < 0.1


def test_noisy_samples_tell_nothing():
    """Control: at noisy points `div s + |s|^2` has mean zero (Stein), so the estimate is n."""
    path = PATHS["ve"]
    oracle = flat(path, 5, 20)
    t = float(path.time_at_sigma_hat(0.05))
    clean = oracle.mean + draw(2000, 5, seed=3) @ oracle.vectors[:, :5].T
    noisy = clean + 0.05 * draw(2000, 20, seed=4)
    values = dimension_by_divergence(oracle, noisy, path=path, t=t)
    assert values.mean().item() == pytest.approx(20.0, abs=4 * values.std().item() / 2000**0.5)


def test_a_cloud_too_small_for_a_spectrum_is_refused():
    oracle = flat(PATHS["ve"], 2, 6)
    with pytest.raises(ValueError, match="at least as many"):
        dimension_by_spectrum(oracle, draw(1, 6), path=PATHS["ve"], t=0.1, rng=Rng(0, [0]), cloud=5)
