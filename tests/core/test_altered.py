"""Oracles with a known fault: the fault is there, of the right size, and nothing else is."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16, mixture2
from torch.func import jacrev, vmap

from medsci.core.check.altered import Gauge, Smoothed
from medsci.core.check.distribution import mmd_null, support_distance
from medsci.core.check.oracle import Oracle
from medsci.core.process import Path
from medsci.core.solve import Multistep, Rng, grid

VE = Path.ve()
TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=DOUBLE)
STRETCH = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=DOUBLE)


def walk(denoise, x, *, steps=150, sigma_max=80.0, sigma_min=0.002):
    times = grid.karras(VE, steps, sigma_max=sigma_max, sigma_min=sigma_min)
    return Multistep("angle", order=2, lower_final=False).plan(VE, times).run(denoise, x)


def jacobian(field, x):
    return vmap(jacrev(lambda row: field(row[None])[0]))(x)


def flux_divergence(oracle, field, x, t):
    """Return `div(p r)` by autograd, per sample."""

    def flux(x):
        return oracle.log_density(x, t).exp()[:, None] * field(x)

    return jacobian(flux, x).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("t", [0.5, 0.25])
def test_the_gauge_changes_no_density(t):
    """Published: max |div(p r)| = 6e-16; a symmetric matrix is the control."""
    oracle = mixture2(VE)
    gauge = Gauge(oracle, 0.7 * TURN)
    x = oracle.sample(200, t, generator=torch.Generator().manual_seed(0))
    largest = flux_divergence(oracle, lambda x: gauge.gauge(x, t), x, t).abs().max()
    size = flux_divergence(oracle, lambda x: x, x, t).abs().max()
    assert largest < 1e-14 * max(size.item(), 1.0)
    wrong = flux_divergence(oracle, lambda x: 0.7 * oracle.score(x, t) @ STRETCH, x, t)
    assert wrong.abs().max() > 0.01 * size


@pytest.mark.parametrize("path", [VE, Path.rectified(), Path.vp_cosine()])
def test_the_denoiser_belongs_to_the_altered_score(path):
    matrix = draw(16, 16, seed=3)
    matrix = 0.3 * (matrix - matrix.T)
    oracle = gaussian16(path)
    gauge = Gauge(oracle, matrix)
    x, t = draw(4, 16), 0.4
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    torch.testing.assert_close(alpha * gauge(x, t), x + sigma**2 * gauge.score(x, t))
    score = oracle.score(x, t)
    torch.testing.assert_close(gauge.score(x, t), score + gauge.gauge(x, t))
    orthogonal = (score * gauge.gauge(x, t)).sum(1)
    torch.testing.assert_close(orthogonal, torch.zeros_like(orthogonal), rtol=0.0, atol=1e-12)
    found = jacobian(lambda x: gauge(x, t), x)
    torch.testing.assert_close(gauge.jacobian(x, t), found)
    assert (found - found.mT).norm() > 0.1 * found.norm(), "no gradient any more"
    assert torch.equal(gauge.log_density(x, t), oracle.log_density(x, t))
    assert isinstance(gauge, Oracle)
    nothing = Gauge(oracle, 0.0 * matrix)
    torch.testing.assert_close(nothing(x, t), oracle(x, t))


def test_points_move_and_their_law_stays():
    """Published: 1.7 rms apart, MMD^2 6.9e-4 against a null of 3.2e-4."""
    oracle = mixture2(VE)
    n = 800
    x = draw(n, 2, scale=80.0, seed=1)
    plain = walk(oracle, x)
    turned = walk(Gauge(oracle, 0.3 * TURN), x)
    moved = (turned - plain).square().sum(1).mean().sqrt()
    assert moved.item() == pytest.approx(1.7, abs=0.1)
    data = oracle.sample(n, 0.0, generator=torch.Generator().manual_seed(5))
    assert mmd_null(turned, data, rng=Rng(0, range(200))).p_value > 0.01
    assert (support_distance(turned, oracle.means, sd=0.0354) < 6.0).all()

    def stretched(x, t):  # the control: a symmetric matrix is no gauge
        x0 = oracle(x, t)
        return x0 - 0.2 * (x - x0) @ STRETCH

    assert mmd_null(walk(stretched, x), data, rng=Rng(0, range(200))).p_value < 0.01


def separable(oracle, x, t, *, bandwidth):
    """The smoothed denoiser of the grid, coordinate by coordinate, by a fine sum."""
    ticks = oracle.means[:, 0].unique()
    variance, level = oracle.variances[0, 0], float(VE.sigma(t)) ** 2
    n = torch.linspace(-7.0, 7.0, 1001, dtype=DOUBLE)
    weight = torch.softmax(-0.5 * n**2, 0)
    y = (x[..., None] + bandwidth * n)[..., None]
    share = torch.softmax(-0.5 * (y - ticks) ** 2 / (variance + level), -1)
    x0 = (share * (ticks + variance / (variance + level) * (y - ticks))).sum(-1)
    return x0 @ weight


@pytest.mark.parametrize("sigma_hat", [0.5, 0.1, 0.02])
def test_smoothing_is_the_average_over_a_neighbourhood(sigma_hat):
    oracle, t = mixture2(VE), float(VE.time_at_sigma_hat(sigma_hat))
    x = draw(100, 2, seed=4)
    exact = separable(oracle, x, t, bandwidth=0.1)
    coarse, fine = (
        (Smoothed(oracle, path=VE, bandwidth=0.1, nodes=n)(x, t) - exact).abs().max()
        for n in (64, 256)
    )
    assert coarse < 0.01
    assert fine < 0.003
    if sigma_hat < 0.5:
        assert (oracle(x, t) - exact).abs().max() > 0.05, "the smoothing does nothing here"


def test_smoothing_leaves_linear_denoisers_alone_and_scales_with_the_data():
    gaussian = gaussian16(Path.rectified())
    x = draw(4, 16)
    smooth = Smoothed(gaussian, path=gaussian.path, bandwidth=0.5)
    torch.testing.assert_close(smooth(x, 0.4), gaussian(x, 0.4))
    straight = mixture2(Path.rectified())
    h = 0.1
    t, t_ve = h / (1.0 + h), float(VE.time_at_sigma_hat(h))
    ours = Smoothed(straight, path=straight.path, bandwidth=0.2)(x[:, :2] * (1.0 - t), t)
    theirs = Smoothed(mixture2(VE), path=VE, bandwidth=0.2)(x[:, :2], t_ve)
    torch.testing.assert_close(ours, theirs)
    sharp = Smoothed(straight, path=straight.path, bandwidth=0.0)
    assert torch.equal(sharp(x[:, :2], t), straight(x[:, :2], t))


def test_smoothing_is_the_same_every_time_and_draws_nothing():
    oracle = mixture2(VE)
    x = draw(5, 2)
    before = torch.random.get_rng_state()
    first = Smoothed(oracle, path=VE, bandwidth=0.1)(x, 0.3)
    again = Smoothed(oracle, path=VE, bandwidth=0.1)(x.flip(0), 0.3).flip(0)
    torch.testing.assert_close(first, again, rtol=1e-13, atol=1e-13)
    assert torch.equal(before, torch.random.get_rng_state())


def hallucinated(bandwidth, *, n, steps, nodes):
    """Return the share of samples at least half-way between modes (10 sd), and the farthest."""
    oracle = mixture2(VE)
    start = float(VE.time_at_sigma_hat(3.0))
    x = oracle.sample(n, start, generator=torch.Generator().manual_seed(2))
    denoise = Smoothed(oracle, path=VE, bandwidth=bandwidth, nodes=nodes)
    end = walk(denoise, x, steps=steps, sigma_max=3.0, sigma_min=0.01)
    far = support_distance(end, oracle.means, sd=math.sqrt(oracle.variances[0, 0].item()))
    return (far > 10.0).double().mean().item(), far.max().item()


def test_a_smoothed_denoiser_hallucinates_between_the_modes():
    choice = {"n": 600, "steps": 30, "nodes": 32}
    sharp, farthest = hallucinated(0.0, **choice)
    assert sharp == 0.0
    assert farthest < 6.0
    little, much = hallucinated(0.1, **choice)[0], hallucinated(0.2, **choice)[0]
    assert much > 0.02
    assert little < 0.25 * much


@pytest.mark.slow
def test_shares_of_hallucinations_by_bandwidth():
    """Published for 0, .1 and .2: none, .3 % and 6.1 %."""
    choice = {"n": 3000, "steps": 40, "nodes": 64}
    assert hallucinated(0.0, **choice)[0] == 0.0
    assert 0.0 < hallucinated(0.1, **choice)[0] < 0.006
    assert 0.03 < hallucinated(0.2, **choice)[0] < 0.08


def test_what_is_refused():
    oracle = mixture2(Path.rectified())
    with pytest.raises(ValueError, match="give an antisymmetric matrix"):
        Gauge(oracle, STRETCH)
    with pytest.raises(ValueError, match="no x0 at t=1"):
        Gauge(oracle, TURN)(draw(2, 2), 1.0)
    with pytest.raises(ValueError, match="even number of nodes"):
        Smoothed(oracle, path=oracle.path, bandwidth=0.1, nodes=7)
    with pytest.raises(ValueError, match="bandwidth >= 0"):
        Smoothed(oracle, path=oracle.path, bandwidth=-0.1)
