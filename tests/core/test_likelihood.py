"""Likelihood: exact densities of oracles, total probability one, and what must not fit."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_order, draw, gaussian16
from torch import nn

from medsci.core.check import GaussianMixtureOracle
from medsci.core.check.likelihood import bits_per_dim, gaussian_log_density, log_likelihood
from medsci.core.denoise.denoiser import Denoiser
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve import Ancestral, Multistep, grid
from medsci.core.solve.adaptive import Adaptive
from medsci.core.solve.runge_kutta import RungeKutta

PATHS = {"rectified": Path.rectified(), "cosine": Path.vp_cosine(), "ve": Path.ve()}
RK4 = RungeKutta("rk4", "angle", "angle")
LEVEL = 0.01


def sixteen(path):
    """Return the target G16 as a mixture of one mode, which knows its density."""
    g = gaussian16(path)
    return mixture(path, g.mean[None], torch.diag(g.variances)[None], weights=torch.ones(1))


def three(path):
    """Return three full-covariance modes in four dimensions."""
    factors = 0.3 * draw(3, 4, 4, seed=2)
    covariances = factors @ factors.mT + 0.05 * torch.eye(4, dtype=DOUBLE)
    return mixture(path, draw(3, 4, seed=1), covariances, weights=torch.tensor([0.2, 0.5, 0.3]))


def mixture(path, means, covariances, *, weights):
    return GaussianMixtureOracle(path, weights.double(), means=means, covariances=covariances)


def states(oracle, n, level=LEVEL, seed=2):
    t = float(oracle.path.time_at_sigma_hat(level))
    return t, oracle.sample(n, t, generator=torch.Generator().manual_seed(seed))


def upwards(path, n, level=LEVEL):
    return grid.angle(path, n, sigma_min=level)[::-1].copy()


def known_end(oracle):
    """Return the exact density at the noise end where it still knows the data."""
    return partial(oracle.log_density, t=1.0) if float(oracle.path.alpha(1.0)) > 0.0 else None


@pytest.mark.parametrize(
    ("target", "name"),
    [(sixteen, "rectified"), (three, "rectified"), (three, "cosine"), (three, "ve")],
)
def test_the_log_density_of_an_oracle_is_exact_at_64_steps(target, name):
    oracle = target(PATHS[name])
    t, x = states(oracle, 16)
    options = {"solver": RK4, "path": oracle.path, "prior": known_end(oracle)}
    found = log_likelihood(oracle, x, grid=upwards(oracle.path, 64), **options)
    assert (found - oracle.log_density(x, t)).abs().max().item() < 1e-6


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (RK4, 4.0),
        (RungeKutta("heun", "angle", "angle"), 2.0),
        (Multistep("angle", "angle", order=2), 2.0),
        (Multistep("angle", "angle", order=2, corrector=True), 3.0),
        (Multistep("v", "ratio", order=1), 1.0),
    ],
)
def test_the_density_converges_at_the_order_of_its_solver(solver, order):
    oracle = three(PATHS["cosine"])
    t, x = states(oracle, 8, level=0.1)
    truth = oracle.log_density(x, t)

    def error(n):
        times = upwards(oracle.path, n, level=0.1)
        found = log_likelihood(oracle, x, solver=solver, grid=times, path=oracle.path)
        return (found - truth).abs().median().item()

    steps = (16, 32) if solver == RK4 else (24, 48, 96)
    assert_order(error, expected=order, steps=steps, tolerance=0.35)


def test_adaptive_steps_reach_their_tolerance():
    oracle = three(PATHS["rectified"])
    t, x = states(oracle, 3)
    solver, ends = Adaptive(1e-6, atol=1e-6, together=True), np.array([t, 1.0])
    found = log_likelihood(oracle, x, solver=solver, grid=ends, path=oracle.path)
    assert (found - oracle.log_density(x, t)).abs().max().item() < 3e-5
    loose = Adaptive(1e-2, atol=1e-2, together=True)
    worse = log_likelihood(oracle, x, solver=loose, grid=ends, path=oracle.path)
    assert (worse - found).abs().max().item() > 1e-4


class Wild(nn.Module):
    """A network that knows nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def forward(self, x, code):
        time = torch.full_like(x, 1e-3) * code.to(x)[:, None]
        return self.inside(torch.cat([x, time], 1))


def test_any_denoiser_gives_a_density_that_sums_to_one():
    """No oracle needed: a flow keeps probability, whatever network drives it."""
    net = Denoiser(Wild(), path=PATHS["cosine"], pred="v")
    axis = torch.linspace(-8.0, 8.0, 801, dtype=DOUBLE)[:, None]
    times = upwards(net.path, 32, level=0.2)
    density = log_likelihood(net, axis, solver=RK4, grid=times).exp()
    step = (axis[1] - axis[0]).item()
    assert density.sum().item() * step == pytest.approx(1.0, abs=1e-4)
    # and it is no Gaussian by accident
    mean = (density * axis[:, 0]).sum() * step
    second, third = ((density * (axis[:, 0] - mean) ** k).sum().item() * step for k in (2, 3))
    assert abs(third) / second**1.5 > 0.02
    # control: a part of the network that is hidden from its divergence breaks the sum
    hidden = lambda x, t: net(x, t) + 0.1 * x.detach()  # noqa: E731
    broken = log_likelihood(hidden, axis, solver=RK4, grid=times, path=net.path).exp()
    assert abs(broken.sum().item() * step - 1.0) > 0.02


def test_random_probes_are_unbiased_and_belong_to_their_samples():
    oracle = three(PATHS["cosine"])
    _, x = states(oracle, 6, level=0.1)
    options = {"solver": Multistep("angle", "angle", order=2), "path": oracle.path}
    options["grid"] = upwards(oracle.path, 12, level=0.1)
    exact = log_likelihood(oracle, x, **options)
    copies = log_likelihood(oracle, x.repeat(200, 1), rng=Rng(0, range(1200)), **options)
    runs = copies.reshape(200, 6)
    error = runs.std(0) / math.sqrt(200)
    assert ((runs.mean(0) - exact).abs() < 4 * error).all()
    assert error.min() > 0.0
    many = log_likelihood(oracle, x, rng=Rng(0, range(6)), probes=64, **options)
    assert ((many - exact).abs() < 5 * runs.std(0) / 8).all()
    alone = log_likelihood(oracle, x[4:5], rng=Rng(7, [4]), probes=2, **options)
    whole = log_likelihood(oracle, x, rng=Rng(7, range(6)), probes=2, **options)
    torch.testing.assert_close(whole[4:5], alone)
    lone = {**options, "solver": Adaptive(1e-3, atol=1e-3)}
    walked = log_likelihood(oracle, x, rng=Rng(7, range(6)), probes=2, **lone)
    assert (walked - whole).abs().max() < 0.3 * (whole - exact).abs().max()


def test_a_wrong_denoiser_gives_a_wrong_likelihood():
    oracle = three(PATHS["cosine"])
    t, x = states(oracle, 64, level=0.1)
    options = {"solver": RK4, "grid": upwards(oracle.path, 24, level=0.1), "path": oracle.path}
    truth = oracle.log_density(x, t)
    for wrong in (
        lambda x, t: 1.05 * oracle(x, t),
        lambda x, t: oracle(x, 0.95 * t),
        lambda x, t: oracle(x, t).flip(1),
    ):
        found = log_likelihood(wrong, x, **options)
        assert (found - truth).abs().median().item() > 0.02


def test_data_of_the_own_law_are_likelier_than_the_own_law_says_of_others():
    """`E_p ln p - E_p ln q` is the Kullback-Leibler divergence: positive, in closed form here."""
    path = PATHS["cosine"]
    n, v, w = 3, 1.0, 0.4
    flat = partial(mixture, path, torch.zeros(1, n, dtype=DOUBLE), weights=torch.ones(1))
    eye = torch.eye(n, dtype=DOUBLE)[None]
    own, other = flat(v * eye), flat(w * eye)
    t, x = states(own, 4000, level=0.1)
    options = {"solver": RK4, "grid": upwards(path, 16, level=0.1), "path": path}
    gap = log_likelihood(own, x, **options) - log_likelihood(other, x, **options)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    ratio = (alpha**2 * v + sigma**2) / (alpha**2 * w + sigma**2)
    closed = 0.5 * n * (ratio - 1.0 - math.log(ratio))
    assert gap.mean().item() == pytest.approx(closed, abs=4 * gap.std().item() / math.sqrt(4000))
    assert closed > 0.3


def test_conditions_and_shapes_pass_through():
    path = PATHS["rectified"]
    oracle = three(path)
    _, x = states(oracle, 5, level=0.1)

    def conditional(x, t, *, shift):
        alpha = float(path.alpha(t))
        return oracle(x - alpha * shift, t) + shift

    shift = draw(1, 1, 2, 2, seed=4)
    times = upwards(path, 24, level=0.1)
    plain = log_likelihood(oracle, x, solver=RK4, grid=times, path=path)
    moved = x.reshape(5, 1, 2, 2) + float(path.alpha(times[0])) * shift
    found = log_likelihood(
        conditional, moved, solver=RK4, grid=times, path=path, cond={"shift": shift}
    )
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


def test_bits_per_dim_is_the_entropy_of_a_fine_code():
    """Standard normal data in bins of 1/100 need `log2(sqrt(2 pi e) 100)` bits per entry."""
    x = draw(2000, 8, seed=3)
    bits = bits_per_dim(gaussian_log_density(x, 1.0), 8, bin_width=0.01)
    entropy = math.log2(math.sqrt(2 * math.pi * math.e) * 100)
    assert bits.mean().item() == pytest.approx(entropy, abs=0.05)
    uniform = bits_per_dim(torch.zeros(1, dtype=DOUBLE), 5, bin_width=1 / 256)
    assert uniform.item() == pytest.approx(8.0)
    with pytest.raises(ValueError, match="positive"):
        bits_per_dim(torch.zeros(1, dtype=DOUBLE), 5, bin_width=0.0)


def test_walks_that_give_no_likelihood_are_refused():
    oracle = three(PATHS["cosine"])
    x, times = draw(2, 4), upwards(PATHS["cosine"], 4)
    with pytest.raises(ValueError, match="pass path="):
        log_likelihood(lambda x, t: x, x, solver=RK4, grid=times)
    with pytest.raises(ValueError, match=r"grid\[::-1\]"):
        log_likelihood(oracle, x, solver=RK4, grid=times[::-1].copy())
    with pytest.raises(ValueError, match="noise left"):
        log_likelihood(oracle, x, solver=RK4, grid=np.array([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="times must decrease"):
        log_likelihood(oracle, x, solver=Ancestral(), grid=times)
