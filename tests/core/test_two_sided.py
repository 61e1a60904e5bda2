"""Two-sided interpolants: coefficients, identities, and an oracle of two mixtures."""

import itertools
import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw
from contracts.interpolant import BRIDGE, DATA, OTHER, generator
from torch.testing import assert_close

from medsci.core import Path
from medsci.core.check import GaussianMixtureOracle
from medsci.core.check.interpolant import InterpolantOracle
from medsci.core.process.two_sided import TwoSided

MEANS, GAMMAS = ("linear", "trig", "encoding", "mirror"), ("sqrt", "quadratic", "sin2", "none")
ALL = [TwoSided(m, g, scale=0.7) for m, g in itertools.product(MEANS, GAMMAS)]
INSIDE = np.array([0.07, 0.31, 0.49, 0.62, 0.93])


many = pytest.mark.parametrize("interpolant", ALL, ids=lambda i: f"{i.means}-{i.gamma}")
noisy = pytest.mark.parametrize(
    "interpolant", [i for i in ALL if i.gamma != "none"], ids=lambda i: f"{i.means}-{i.gamma}"
)


@many
def test_rates_are_the_derivatives(interpolant) -> None:
    h, noise = 1e-6, interpolant.weights(INSIDE)[2]
    for function, (up, down) in zip(
        interpolant.rates(INSIDE),
        zip(interpolant.weights(INSIDE + h), interpolant.weights(INSIDE - h), strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(function, (up - down) / (2.0 * h), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(interpolant.heat(INSIDE), noise * interpolant.rates(INSIDE)[2],
                               rtol=1e-12, atol=1e-15)  # fmt: skip


@many
def test_the_ends_are_the_two_sides(interpolant) -> None:
    x0, x1, z = draw(3, 2), draw(3, 2, seed=1), draw(3, 2, seed=2)
    for t, side in ((0.0, x0), (1.0, x0 if interpolant.means == "mirror" else x1)):
        assert_close(interpolant.perturb(x0, x1, t=t, z=z), side, rtol=0.0, atol=1e-12)
    assert all(math.isfinite(float(interpolant.heat(t))) for t in (0.0, 1.0))


@many
def test_float_array_and_tensor_agree(interpolant) -> None:
    for method in (interpolant.weights, interpolant.rates, lambda t: [interpolant.heat(t)]):
        arrays, tensors = method(INSIDE), method(torch.from_numpy(INSIDE))
        for array, tensor in zip(arrays, tensors, strict=True):
            assert_close(tensor, torch.from_numpy(np.asarray(array)), rtol=1e-12, atol=1e-15)
            assert float(method(float(INSIDE[1]))[0]) == pytest.approx(float(arrays[0][1]))


def test_encoding_passes_through_pure_noise() -> None:
    a, b, g = TwoSided("encoding", "sin2").weights(0.5)
    assert (float(a), float(b)) == (0.0, 0.0)
    assert float(g) == pytest.approx(1.0)


# The oracle


@noisy
def test_the_score_is_the_gradient_of_the_density(interpolant) -> None:
    oracle = InterpolantOracle(interpolant, DATA, second=OTHER)
    for t in INSIDE:
        x = oracle.sample(20, float(t), generator=generator()).requires_grad_()
        (slope,) = torch.autograd.grad(oracle.log_density(x, float(t)).sum(), x)
        assert_close(oracle.score(x.detach(), float(t)), slope, rtol=1e-9, atol=1e-9)


@many
def test_the_four_means_hang_together(interpolant) -> None:
    """b - v + g g' score = 0 and score = -eta / g, with the score from the density itself."""
    oracle = InterpolantOracle(interpolant, DATA, second=OTHER)
    for t in INSIDE.tolist():
        x = oracle.sample(20, t, generator=generator())
        leaf = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(oracle.log_density(leaf, t).sum(), leaf)
        b, v = oracle.b(x, t), oracle.v(x, t)
        size = 1.0 + float(v.abs().max()) + float(score.abs().max())
        heat = float(interpolant.heat(t))
        assert float((b - v + heat * score).abs().max()) < 1e-12 * size
        assert_close(interpolant.b_from_v(v, score, t=t), b, rtol=1e-9, atol=1e-9)
        assert_close(interpolant.v_from_b(b, score, t=t), v, rtol=1e-9, atol=1e-9)
        assert_close(interpolant.eta_from_score(score, t=t), oracle.eta(x, t), rtol=1e-9, atol=1e-9)
        if interpolant.gamma == "none":
            assert_close(b, v)
            continue
        assert_close(interpolant.score_from_eta(oracle.eta(x, t), t=t), score, rtol=1e-9, atol=1e-9)
        if abs(heat) > 0.01:  # the control: the other sign
            assert float((b - v - heat * score).abs().max()) > 1e-3


@many
def test_the_drift_transports_the_density(interpolant) -> None:
    """d ln p / dt + div b + b . score = 0: a sign or a rate that is wrong would show."""
    oracle, h = InterpolantOracle(interpolant, DATA, second=OTHER), 1e-5
    for t in (0.13, 0.4, 0.77):
        x = oracle.sample(8, t, generator=generator()).requires_grad_()
        (score,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
        b = oracle.b(x, t)
        divergence = sum(
            torch.autograd.grad(b[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)
        )
        rate = (oracle.log_density(x, t + h) - oracle.log_density(x, t - h)) / (2.0 * h)
        residual = rate + divergence + (b * score).sum(1)
        scale = (rate.abs() + divergence.abs()).max().item() + 1.0
        assert residual.abs().max().item() < 1e-6 * scale


def test_the_oracle_knows_the_conditional_means_of_draws() -> None:
    """E[f(x_t) . (target - mean)] = 0 for any f: what it calls a mean is the mean of the target."""
    n, t = 200000, 0.35
    interpolant = BRIDGE.interpolant
    x0, x1 = (law.sample(n, 0.0, generator=generator(i)) for i, law in enumerate((DATA, OTHER)))
    z = torch.randn(n, 2, generator=generator(2), dtype=DOUBLE)
    x = interpolant.perturb(x0, x1, t=t, z=z)
    for name in ("b", "v", "eta", "score"):
        mean = getattr(BRIDGE, name)(x, t)
        target = interpolant.target(name, x0, x1=x1, z=z, t=t)
        for test in (torch.ones_like(x), x, torch.sin(2.0 * x)):
            products = (test * (target - mean)).sum(1)
            assert abs(float(products.mean())) < 4.5 * float(products.std()) / math.sqrt(n)
        biased = (target - 1.1 * mean) * mean
        assert abs(float(biased.sum(1).mean())) > 0.05 * float(mean.square().sum(1).mean())


def test_noise_on_the_other_side_is_the_one_sided_path() -> None:
    """With x1 ~ N(0, I) and g = 0 the drift is the flow of our path, read from its denoiser."""
    unit = GaussianMixtureOracle(Path.rectified(), torch.ones(1, dtype=DOUBLE),
                                 means=torch.zeros(1, 2, dtype=DOUBLE),
                                 covariances=torch.eye(2, dtype=DOUBLE)[None])  # fmt: skip
    x = draw(30, 2, scale=2.0)
    flow = InterpolantOracle(TwoSided("linear", "none"), DATA, second=unit)
    trig = InterpolantOracle(TwoSided("trig", "none"), DATA, second=unit)
    circle = GaussianMixtureOracle(Path.vp_cosine(), DATA.weights, means=DATA.means,
                                   covariances=(DATA.vectors * DATA.variances[:, None])
                                   @ DATA.vectors.mT)  # fmt: skip
    for t in (0.2, 0.6, 0.95):
        assert_close(flow.b(x, t), (x - DATA(x, t)) / t, rtol=1e-9, atol=1e-9)
        alpha, sigma = math.cos(0.5 * math.pi * t), math.sin(0.5 * math.pi * t)
        x0 = circle(x, t)
        eps = (x - alpha * x0) / sigma
        assert_close(trig.b(x, t), 0.5 * math.pi * (alpha * eps - sigma * x0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["eta", "score"])
def test_says_how_to_fix(name) -> None:
    x = draw(2, 2)
    with pytest.raises(ValueError, match="gamma='none'"):
        TwoSided("linear", "sqrt", scale=0.0)
    with pytest.raises(ValueError, match="choose b or v"):
        TwoSided("linear", "none").target(name, x, x1=x, z=x, t=0.5)
