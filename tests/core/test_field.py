"""Fields: derivatives against closed forms, and a gauge that moves samples but no density."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw

from medsci.core.check import GaussianMixtureOracle
from medsci.core.check.distribution import mmd_null
from medsci.core.check.field import (
    conservativity,
    divergence,
    gauge_decomposition,
    jacobian,
    linear_gauge_split,
    quadratic_potentials,
    radial_potentials,
    value_and_divergence,
)
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve import Multistep, grid

PATH = Path.ve(sigma_max=80.0)
QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=DOUBLE)


def squares(path=PATH):
    """Return the 5 x 5 grid of narrow modes, scaled to unit variance."""
    line = torch.linspace(-2.0, 2.0, 5, dtype=DOUBLE)
    means, sd = torch.cartesian_prod(line, line), 0.05
    scale = (means.square().mean() + sd**2).sqrt()
    covariances = (sd / scale) ** 2 * torch.eye(2, dtype=DOUBLE).expand(25, 2, 2)
    weights = torch.ones(25, dtype=DOUBLE)
    return GaussianMixtureOracle(path, weights, means=means / scale, covariances=covariances)


def at_level(sigma_hat, n=500):
    oracle, t = squares(), float(PATH.time_at_sigma_hat(sigma_hat))
    x = oracle.sample(n, t, generator=torch.Generator().manual_seed(0))
    return x, lambda x: oracle.score(x, t)


def net(seed=0):
    """Return a small random network and its input."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(12, 20), torch.nn.Tanh(), torch.nn.Linear(20, 12)]
    inside = torch.nn.Sequential(torch.nn.Flatten(), *layers).double()
    return lambda x: inside(x).reshape(x.shape), draw(4, 3, 2, 2, seed=1)


def test_the_jacobian_is_that_of_autograd_for_any_shape():
    field, x = net()
    ours = jacobian(field, x)
    for row, sample in zip(ours, x, strict=True):
        one = torch.autograd.functional.jacobian(lambda s: field(s[None])[0].flatten(), sample)
        torch.testing.assert_close(row, one.flatten(1))
    trace = ours.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(divergence(field, x), trace)
    value, also = value_and_divergence(field, x)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(also, trace)


def test_a_divergence_may_be_trained_on():
    gain = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    x = draw(3, 4)
    total = divergence(lambda x: gain * x**3, x).sum()
    (slope,) = torch.autograd.grad(total, gain)
    torch.testing.assert_close(slope, 3 * x.square().sum())
    assert not conservativity(lambda x: gain * x**3, x).requires_grad


def test_hutchinson_is_unbiased_and_better_with_more_probes():
    field, x = net()
    exact = divergence(field, x)
    draws = torch.stack(
        [divergence(field, x, method="hutchinson", rng=Rng(s, range(4))) for s in range(400)]
    )
    error = draws.std(0) / math.sqrt(400)
    assert ((draws.mean(0) - exact).abs() < 3.5 * error).all()
    many = divergence(field, x, method="hutchinson", rng=Rng(0, range(4)), probes=400)
    assert ((many - exact).abs() < 5 * draws.std(0) / 20).all()
    alone = divergence(field, x[2:3], method="hutchinson", rng=Rng(0, [2]), probes=3)
    both = divergence(field, x, method="hutchinson", rng=Rng(0, range(4)), probes=3)
    torch.testing.assert_close(both[2:3], alone)


def test_a_score_is_conservative_and_a_gauge_is_not():
    """For `s + A s` in the plane the index is `(tr H)^2 / (4 |H|^2)`, H the Hessian of ln p."""
    indices = []
    for level in (0.1, 0.2, 0.5, 0.7, 1.0, 5.0):
        x, score = at_level(level)
        turned = lambda x, s=score: s(x) + s(x) @ QUARTER_TURN.T  # noqa: E731
        assert conservativity(score, x).item() < 1e-25
        hessian = jacobian(score, x)
        trace = hessian.diagonal(dim1=1, dim2=2).sum(1)
        closed = trace.square().sum() / (4 * hessian.square().sum())
        assert conservativity(turned, x).item() == pytest.approx(closed.item(), rel=1e-9)
        indices.append(closed.item())
    assert indices[3] == pytest.approx(0.42, abs=0.01)
    assert indices[-1] == pytest.approx(0.5, abs=1e-3)  # far out: an isotropic Gaussian


def test_the_probed_index_agrees_with_the_exact_one():
    field, x = net()
    exact = conservativity(field, x).item()
    probed = conservativity(field, x, method="hutchinson", rng=Rng(0, range(4)), probes=400)
    assert probed.item() == pytest.approx(exact, rel=0.1)
    assert exact > 0.2
    x, score = at_level(0.3, n=50)
    rng = Rng(0, range(50))
    assert conservativity(score, x, method="hutchinson", rng=rng, probes=2).item() < 1e-25
    antisymmetric = lambda x: x @ QUARTER_TURN.T  # noqa: E731
    assert conservativity(antisymmetric, x).item() == pytest.approx(1.0)


def test_the_gauge_field_carries_no_mass():
    """`div(p r) / p = div r + s . r` vanishes for `r = A s`; without the right A it does not."""
    x, score = at_level(0.5)

    def flux(matrix):
        r = lambda x: score(x) @ matrix.T  # noqa: E731
        return (divergence(r, x) + (score(x) * r(x)).sum(1)).abs().max().item()

    assert flux(QUARTER_TURN) < 1e-13
    assert flux(QUARTER_TURN + 0.1 * torch.eye(2, dtype=DOUBLE)) > 0.1


def test_a_linear_field_on_a_gaussian_splits_in_closed_form():
    matrix, factor = draw(5, 5, seed=1), draw(5, 5, seed=2)
    covariance = factor @ factor.T
    gradient, rest = linear_gauge_split(matrix, covariance)
    torch.testing.assert_close(gradient, gradient.mT)
    torch.testing.assert_close(gradient + rest, matrix)
    flux = rest @ covariance
    torch.testing.assert_close(flux, -flux.mT, rtol=1e-9, atol=1e-9)
    assert abs(rest.trace().item()) < 1e-10
    # orthogonal in L2(p): E <G x, R x> = tr(G^T R C)
    assert abs((gradient.T @ rest @ covariance).trace().item()) < 1e-8
    symmetric = 0.5 * (matrix + matrix.T)  # control: symmetrising is not the split
    skew = (matrix - symmetric) @ covariance
    assert (skew + skew.mT).abs().max() > 0.1


def test_the_sampled_split_finds_the_closed_form():
    matrix, factor = draw(3, 3, seed=1), draw(3, 3, seed=2)
    x = draw(4000, 3, seed=3) @ factor.T
    split = gauge_decomposition(lambda x: x @ matrix.T, x, potentials=quadratic_potentials)
    centred = x - x.mean(0)
    gradient, _ = linear_gauge_split(matrix, centred.T @ centred / len(x))
    torch.testing.assert_close(
        split.gradient - split.gradient.mean(0), centred @ gradient.T, rtol=1e-9, atol=1e-9
    )
    inner = (split.gradient * split.remainder).sum(1).mean()
    assert abs(inner.item()) < 1e-10
    _, exact = linear_gauge_split(matrix, factor @ factor.T)
    share = (exact @ factor).square().sum() / (matrix @ factor).square().sum()
    assert split.share == pytest.approx(share.item(), rel=0.05)
    # control: a gradient field has no remainder
    pure = gauge_decomposition(lambda x: x @ gradient.T, x, potentials=quadratic_potentials)
    assert pure.share < 1e-20


def test_a_turned_score_splits_into_the_score_and_the_turn():
    """On the 5 x 5 mixture, with bumps as potentials; the two parts are orthogonal in L2(p)."""
    x, score = at_level(0.4, n=1500)
    line = torch.linspace(-2.2, 2.2, 9, dtype=DOUBLE)
    bumps = radial_potentials(torch.cartesian_prod(line, line), 0.45)
    potentials = lambda x: torch.cat([quadratic_potentials(x), bumps(x)], 1)  # noqa: E731
    field = lambda x: score(x) + score(x) @ QUARTER_TURN.T  # noqa: E731
    split = gauge_decomposition(field, x, potentials=potentials)
    s, r = score(x), score(x) @ QUARTER_TURN.T
    assert abs((split.gradient * split.remainder).sum(1).mean().item()) < 1e-9
    assert split.share == pytest.approx(0.5, abs=0.06)  # |A s| = |s|
    off = (split.gradient - s).square().sum() / s.square().sum()
    assert off.item() < 0.1
    assert ((split.remainder - r).square().sum() / r.square().sum()).item() < 0.1
    # the remainder is orthogonal to a potential that was not in the basis; the field is not
    wave = torch.stack([torch.cos(2 * x[:, 0]), torch.cos(3 * x[:, 1])], 1)
    own = (split.remainder * wave).sum(1)
    assert abs(own.mean().item()) < 4 * own.std().item() / math.sqrt(len(x)) + 0.1
    # control: without a gauge nothing is left but what the basis cannot express
    pure = gauge_decomposition(score, x, potentials=potentials)
    assert pure.share < 0.1


def test_a_gauge_moves_samples_and_keeps_their_law():
    """The flow of `s + A s` carries every point elsewhere; the law of the end is the same."""
    oracle, n = squares(), 400

    def turned(x, t, strength=1.0):
        h = float(PATH.sigma(t))
        return oracle(x, t) + strength * h * h * (oracle.score(x, t) @ QUARTER_TURN.T)

    def stretched(x, t):  # control: r = B s with symmetric B is no gauge
        h = float(PATH.sigma(t))
        return oracle(x, t) + h * h * 0.3 * oracle.score(x, t)

    times = grid.log_snr(PATH, 160, sigma_max=80.0, sigma_min=0.05)
    plan = Multistep("eps", "log_snr", order=2).plan(PATH, times)
    start = 80.0 * draw(n, 2, seed=1)
    plain, gauged, wrong = (plan.run(d, start) for d in (oracle, turned, stretched))
    t = float(PATH.time_at_sigma_hat(0.05))
    truth = oracle.sample(n, t, generator=torch.Generator().manual_seed(9))
    rng = Rng(0, range(99))
    assert (gauged - plain).square().mean().sqrt().item() == pytest.approx(1.65, abs=0.1)
    verdict = mmd_null(gauged, truth, rng=rng)
    assert verdict.p_value > 0.02
    assert mmd_null(wrong, truth, rng=rng).p_value <= 0.02


def test_what_cannot_be_diagnosed_is_refused():
    x = draw(2, 3)
    with pytest.raises(Exception, match="hutchinson"):
        divergence(lambda x: x, x, method="other")
    with pytest.raises(ValueError, match="pass rng"):
        divergence(lambda x: x, x, method="hutchinson")
