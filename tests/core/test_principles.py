"""The three views of diffusion are one: variational, score and flow, as identities that hold.

After Lai et al. 2025, The Principles of Diffusion Models, arXiv:2510.21890; every identity comes
with a version that is slightly wrong and must fail.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16, mixture2, mixture64
from scipy.integrate import quad, solve_ivp

from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.process import Linear, Path, convert
from medsci.core.solve import Ancestral, Multistep, Rng, grid

PATHS = [Path.rectified(), Path.ve(), Path.vp_linear(), Path.vp_cosine()]


def coefficients(path, t):
    return float(path.alpha(t)), float(path.sigma(t))


def snr(path, t):
    alpha, sigma = coefficients(path, t)
    return (alpha / sigma) ** 2


def slope(function, t, *, h=1e-3):
    """Return a derivative in t by central differences of order 6."""
    weights = {1: 45.0, 2: -9.0, 3: 1.0}
    total = sum(w * (function(t + k * h) - function(t - k * h)) for k, w in weights.items())
    return total / (60.0 * h)


def three_modes(path):
    factors = draw(3, 3, 3, seed=1)
    covariances = factors @ factors.mT / 6.0 + 0.1 * torch.eye(3, dtype=DOUBLE)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
    means = draw(3, 3, scale=1.5, seed=5)
    return GaussianMixtureOracle(path, weights, means=means, covariances=covariances)


# --- the variational view is the score view ---------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_term_of_the_elbo_is_a_weighted_score_matching_loss(path):
    """KL(q(x_s | x_t, x0) | p(x_s | x_t)) = (SNR_s - SNR_t) / 2 |x0 - D|^2, and DSM times a weight.

    The two laws are Gaussians of equal variance: the plan of `Ancestral` with x0 and with D.
    """
    t, s = 0.6, 0.5
    alpha, sigma = coefficients(path, t)
    oracle = three_modes(path)
    x0 = oracle.sample(6, 0.0, generator=torch.Generator().manual_seed(0))
    x = path.perturb(x0, t, draw(6, 3, seed=8))
    step = Ancestral().plan(path, np.array([t, s])).steps[0]
    true_mean = step.rows[0].a * x + step.rows[0].b * x0
    model_mean = step.rows[0].a * x + step.rows[0].b * oracle(x, t)
    kl = (true_mean - model_mean).square().sum(1) / (2.0 * step.z**2)
    weight = 0.5 * (snr(path, s) - snr(path, t))
    torch.testing.assert_close(kl, weight * (x0 - oracle(x, t)).square().sum(1))
    conditional_score = (alpha * x0 - x) / sigma**2
    matching = (oracle.score(x, t) - conditional_score).square().sum(1)
    torch.testing.assert_close(kl, weight * sigma**4 / alpha**2 * matching)
    half = Ancestral(eta=0.5).plan(path, np.array([t, s])).steps[0]  # the control: another variance
    other = half.rows[0].b ** 2 / (2.0 * half.z**2)
    assert abs(other / weight - 1.0) > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_the_bridge_is_bayes_rule(path):
    """q(x_s | x_t, x0) by conditioning the joint Gaussian of the Markov chain x0, x_s, x_t."""
    t, s = 0.6, 0.3
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(path, t), coefficients(path, s)
    covariance = alpha / alpha_s * sigma_s**2  # of x_s and x_t given x0
    x0, x = 0.7, -0.4
    mean = alpha_s * x0 + covariance / sigma**2 * (x - alpha * x0)
    variance = sigma_s**2 - covariance**2 / sigma**2
    step = Ancestral().plan(path, np.array([t, s])).steps[0]
    assert step.rows[0].a * x + step.rows[0].b * x0 == pytest.approx(mean, rel=1e-12)
    assert step.z**2 == pytest.approx(variance, rel=1e-12)
    n = 20000
    states = torch.full((n, 1), x, dtype=DOUBLE)
    drawn = Linear(path).bridge(
        states, torch.full_like(states, x0), t=t, s=s, rng=Rng(0, range(n)), step=0
    )
    assert drawn.mean().item() == pytest.approx(mean, abs=4.5 * math.sqrt(variance / n))
    assert drawn.var().item() == pytest.approx(variance, rel=4.5 * math.sqrt(2.0 / n))


def negative_elbo(path, times, x0, *, mean, variance):
    """Return the bound on -ln p(x0) of a 1-D Gaussian model, every expectation in closed form.

    Prior, then one KL per step, then the likelihood of x0 at the last, nearly clean, time.
    """
    alpha, sigma = coefficients(path, times[0])
    total = 0.5 * (alpha * x0) ** 2 / sigma**2  # KL of N(alpha x0, sigma^2) from N(0, sigma^2)
    for t, s in pairwise(times):
        alpha, sigma = coefficients(path, t)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        square = ((x0 - mean) * (1.0 - gain * alpha)) ** 2 + (gain * sigma) ** 2
        total += 0.5 * (snr(path, s) - snr(path, t)) * square
    alpha, sigma = coefficients(path, times[-1])
    return total + 0.5 * (math.log(2.0 * math.pi * sigma**2 / alpha**2) + 1.0)


def test_the_elbo_tends_to_the_likelihood_of_the_model_as_steps_are_added():
    """From above, as 1 / n; and to the likelihood of this model, not of another one."""
    path, mean, x0 = Path.ve(sigma_max=2e3), 0.4, 1.3

    def exact(variance):
        return 0.5 * ((x0 - mean) ** 2 / variance + math.log(2.0 * math.pi * variance))

    for variance in (0.5, 1.0):
        bounds = []
        for n in (500, 1000, 2000):
            times = grid.log_snr(path, n, sigma_max=2e3, sigma_min=1e-3)
            bounds.append(negative_elbo(path, times, x0, mean=mean, variance=variance))
        assert bounds[0] > bounds[1] > bounds[2] > exact(variance)
        gaps = [bound - exact(variance) for bound in bounds]
        assert gaps[0] / gaps[1] == pytest.approx(2.0, abs=0.1)
        limit = 2.0 * bounds[2] - bounds[1]
        assert limit == pytest.approx(exact(variance), abs=2e-3)
        assert limit != pytest.approx(exact(1.5 - variance), abs=0.03)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.8, 0.2])
def test_tweedie(path, t):
    """alpha E[x0 | x] = x + sigma^2 score, with the left side by quadrature of Bayes' rule."""
    oracle = GaussianMixtureOracle(
        path,
        torch.tensor([0.4, 0.6], dtype=DOUBLE),
        means=torch.tensor([[-1.0], [0.8]], dtype=DOUBLE),
        covariances=torch.tensor([[[0.2]], [[0.05]]], dtype=DOUBLE),
    )
    alpha, sigma = coefficients(path, t)
    x = 0.3 * alpha

    def weight(x0):
        known = oracle.log_density(torch.tensor([[x0]], dtype=DOUBLE), 0.0).exp().item()
        return known * math.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2)

    points = [-1.0, 0.8, 0.3]
    mass = quad(weight, -6.0, 6.0, points=points, limit=200)[0]
    mean = quad(lambda x0: x0 * weight(x0), -6.0, 6.0, points=points, limit=200)[0] / mass
    state = torch.tensor([[x]], dtype=DOUBLE)
    tweedie = (x + sigma**2 * oracle.score(state, t).item()) / alpha
    assert tweedie == pytest.approx(mean, rel=1e-8)
    assert oracle(state, t).item() == pytest.approx(mean, rel=1e-8)
    if sigma**2 > 0.01:
        assert (x + sigma * oracle.score(state, t).item()) / alpha != pytest.approx(mean, rel=1e-3)


def test_regression_on_the_noise_is_regression_on_the_score():
    """The minimisers agree: every prediction of the oracle converts to one x0."""
    path, t = Path.vp_cosine(), 0.4
    oracle, x = three_modes(path), draw(5, 3)
    alpha, sigma = coefficients(path, t)
    told = {
        "score": oracle.score(x, t),
        "eps": -sigma * oracle.score(x, t),
        "x0": oracle(x, t),
        "flow": -sigma * oracle.score(x, t) - oracle(x, t),
        "v": -sigma * alpha * oracle.score(x, t) - sigma * oracle(x, t),
    }
    for source, value in told.items():
        x0 = convert(value, x, source=source, target="x0", alpha=alpha, sigma=sigma)
        torch.testing.assert_close(x0, oracle(x, t))
    wrong = convert(told["eps"], x, source="v", target="x0", alpha=alpha, sigma=sigma)
    assert (wrong - oracle(x, t)).abs().max() > 0.1


# --- the score view is the flow view ----------------------------------------------------------


def velocity(oracle, x, t):
    """Return dx/dt of the probability flow, `alpha' x0 + sigma' e`."""
    path = oracle.path
    alpha, sigma = coefficients(path, t)
    x0 = oracle(x, t)
    rates = [slope(lambda u, c=c: float(c(u)), t) for c in (path.alpha, path.sigma)]
    return rates[0] * x0 + rates[1] * (x - alpha * x0) / sigma


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.7, 0.3])
def test_the_probability_flow_obeys_the_continuity_equation(path, t):
    """d ln p / dt + div v + v . score = 0: time by differences, space in closed form."""
    oracle = three_modes(path)
    x = oracle.sample(50, t, generator=torch.Generator().manual_seed(2))
    alpha, sigma = coefficients(path, t)
    in_time = slope(lambda u: oracle.log_density(x, u), t)
    rates = [slope(lambda u, c=c: float(c(u)), t) for c in (path.alpha, path.sigma)]
    trace = oracle.jacobian(x, t).diagonal(dim1=1, dim2=2).sum(1)
    divergence = rates[0] * trace + rates[1] * (3.0 - alpha * trace) / sigma
    transport = (velocity(oracle, x, t) * oracle.score(x, t)).sum(1)
    size = in_time.abs().max()
    assert (in_time + divergence + transport).abs().max() < 1e-8 * size
    twice = (1.1 * velocity(oracle, x, t) * oracle.score(x, t)).sum(1)  # the control
    assert (in_time + 1.1 * divergence + twice).abs().max() > 0.01 * size


@pytest.mark.parametrize("path", PATHS)
def test_flow_and_diffusion_share_their_marginals_by_fokker_planck(path):
    """The extra drift and the noise of the reverse diffusion cancel: div(p score) = laplacian p."""
    t = 0.5
    oracle = three_modes(path)
    x = oracle.sample(20, t, generator=torch.Generator().manual_seed(2)).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).exp().sum(), x, create_graph=True)
    laplacian = sum(
        torch.autograd.grad(gradient[:, k].sum(), x, retain_graph=True)[0][:, k] for k in range(3)
    )
    x = x.detach()
    alpha, sigma = coefficients(path, t)
    trace = oracle.jacobian(x, t).diagonal(dim1=1, dim2=2).sum(1)
    score = oracle.score(x, t)
    div_score = (alpha * trace - 3.0) / sigma**2
    p = oracle.log_density(x, t).exp()
    torch.testing.assert_close(p * (div_score + score.square().sum(1)), laplacian)


# --- solvers --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("basis", ["x0", "eps", "v"])
def test_ddim_is_the_exponential_euler_step(path, basis):
    """With D held fixed the equation is linear; DDIM solves it exactly, plain Euler does not."""
    t, s, x, held = 0.7, 0.4, 1.3, -0.6

    def rate(u, state):
        alpha, sigma = coefficients(path, u)
        d_alpha, d_sigma = (slope(lambda w, c=c: float(c(w)), u) for c in (path.alpha, path.sigma))
        return d_alpha * held + d_sigma * (state - alpha * held) / sigma

    exact = solve_ivp(rate, (t, s), [x], method="DOP853", rtol=1e-12, atol=1e-12).y[0, -1]
    plan = Multistep(basis, order=1).plan(path, np.array([t, s]))
    state = torch.full((1, 1), x, dtype=DOUBLE)
    ddim = plan.run(lambda x, t: torch.full_like(x, held), state).item()
    assert ddim == pytest.approx(exact, rel=1e-9)
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(path, t), coefficients(path, s)
    assert ddim == pytest.approx(sigma_s / sigma * x + (alpha_s - alpha * sigma_s / sigma) * held)
    turned = Multistep("angle", order=1).plan(path, np.array([t, s])).steps[0]
    other = turned.rows[0].a * x + turned.rows[0].b * held  # holds another direction fixed
    assert other != pytest.approx(exact, rel=1e-3)
    euler = x + (s - t) * float(rate(t, np.array([x]))[0])
    if not isinstance(path, type(Path.rectified())):  # straight lines are Euler's own
        assert euler != pytest.approx(exact, rel=1e-3)


# --- flow maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_flow_maps_form_a_semigroup_and_consistency_is_its_end(path):
    oracle = gaussian16(path)
    x = draw(5, 16, scale=float(path.sigma(0.9)))
    direct = oracle.flow(x, 0.9, 0.2)
    torch.testing.assert_close(oracle.flow(oracle.flow(x, 0.9, 0.5), 0.5, 0.2), direct)
    torch.testing.assert_close(oracle.flow(direct, 0.2, 0.9), x)
    torch.testing.assert_close(oracle.flow(x, 0.9, 0.9), x)
    clean = oracle.flow(x, 0.9, 0.0)
    for t in (0.7, 0.4, 0.05):  # a consistency function is constant along the path
        torch.testing.assert_close(oracle.flow(oracle.flow(x, 0.9, t), t, 0.0), clean)

    def ddim(x, t, s):  # the control: a map of one step is no flow map
        return Multistep(order=1).plan(path, np.array([t, s])).run(oracle, x)

    two = ddim(ddim(x, 0.9, 0.5), 0.5, 0.2)
    assert ((two - ddim(x, 0.9, 0.2)).norm() / direct.norm()).item() > 1e-3


@pytest.mark.parametrize("path", PATHS)
def test_average_velocity_of_the_flow_map_satisfies_its_own_equation(path):
    """psi(0 <- t) = x - t u(x, t) gives u = v - t du/dt, the total derivative along the flow."""
    oracle, t = gaussian16(path), 0.5
    x = draw(4, 16, scale=float(path.sigma(t))) + float(path.alpha(t)) * oracle.mean

    def average(x, t):
        return (x - oracle.flow(x, t, 0.0)) / t

    total = slope(lambda u: average(oracle.flow(x, t, u), u), t)
    torch.testing.assert_close(
        average(x, t), velocity(oracle, x, t) - t * total, rtol=1e-7, atol=1e-7
    )
    partial = slope(lambda u: average(x, u), t)  # the control: x held fixed
    assert (average(x, t) - velocity(oracle, x, t) + t * partial).abs().max() > 0.01


def test_solvers_converge_to_one_flow_whatever_the_view():
    """eps, x0, v and angle bases, two paths of equal SNR: one end point on the grid of modes."""
    ve, straight = Path.ve(), Path.rectified()
    x = draw(16, 64, scale=80.0, seed=1)
    ends = []
    for basis in ("x0", "eps", "v", "angle"):
        plan = Multistep(basis, order=3).plan(
            ve, grid.karras(ve, 150, sigma_max=80.0, sigma_min=0.002)
        )
        ends.append(plan.run(mixture64(ve), x))
    times = grid.karras(straight, 150, sigma_max=80.0, sigma_min=0.002)
    scale, last = (float(straight.alpha(u)) for u in (times[0], times[-1]))
    end = Multistep("v", order=3).plan(straight, times).run(mixture64(straight), scale * x)
    ends.append(end / last)
    for end in ends[1:]:
        assert ((end - ends[0]).norm(dim=1) / ends[0].norm(dim=1)).median().item() < 1e-4


def test_the_flow_carries_likelihood():
    """ln p_0(x_0) = ln p_1(x_1) + int div v dt along the flow, on M2; the control drops the div."""
    path = Path.vp_cosine()
    oracle = mixture2(path)
    start, end = 0.98, 0.1
    x = oracle.sample(3, start, generator=torch.Generator().manual_seed(4))

    def rate(t, packed):
        state = torch.as_tensor(packed[:6]).reshape(3, 2)
        alpha, sigma = coefficients(path, t)
        d_alpha, d_sigma = -0.5 * math.pi * sigma, 0.5 * math.pi * alpha
        x0 = oracle(state, t)
        trace = oracle.jacobian(state, t).diagonal(dim1=1, dim2=2).sum(1)
        v = d_alpha * x0 + d_sigma * (state - alpha * x0) / sigma
        divergence = d_alpha * trace + d_sigma * (2.0 - alpha * trace) / sigma
        return np.concatenate([v.flatten().numpy(), divergence.numpy()])

    first = np.concatenate([x.flatten().numpy(), np.zeros(3)])
    last = solve_ivp(rate, (start, end), first, method="DOP853", rtol=1e-9, atol=1e-10).y[:, -1]
    gain = -torch.as_tensor(last[6:])
    found = oracle.log_density(torch.as_tensor(last[:6]).reshape(3, 2), end)
    expected = oracle.log_density(x, start) + gain
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert gain.abs().min() > 0.1


def test_a_wrong_score_gives_a_wrong_law():
    """The flow of a model is as good as its score: shrink it and the variance is off by as much."""
    path = Path.ve()
    oracle = GaussianOracle(
        path, torch.zeros(1, dtype=DOUBLE), variances=torch.ones(1, dtype=DOUBLE)
    )
    x = draw(2000, 1, scale=80.0)
    plan = Multistep("angle", order=2).plan(
        path, grid.karras(path, 100, sigma_max=80.0, sigma_min=0.002)
    )
    right = plan.run(oracle, x)
    torch.testing.assert_close(right, oracle.flow(x, 1.0, 0.0), rtol=0.0, atol=5e-3)
    wrong = plan.run(lambda x, t: 0.97 * oracle(x, t), x)
    assert (wrong - right).abs().max() > 0.1
