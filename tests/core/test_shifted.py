"""Conditional means: residual and mean-reverting diffusion are shifts of an ordinary path."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, median_error
from torch.testing import assert_close

from medsci.core import Ancestral, Linear, Multistep, Path, Rng, grid, sample
from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.denoise.wrappers import Shift
from medsci.core.process.pred import x0_weights
from medsci.core.process.shifted import Centred, FromResidual, MeanReverting, Residual, Shifted
from medsci.core.solve.staircase import staircase, stairs

ABAR = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
TABLE = Path.tabulated(ABAR)


# Residual diffusion


def test_tables_of_the_source_are_sums_of_the_rates() -> None:
    n = 4000
    falling, rising = np.arange(n, 0, -1.0), np.arange(1.0, n + 1)
    a, b2 = np.cumsum(falling) / falling.sum(), 0.01 * np.cumsum(rising) / rising.sum()
    t = np.arange(1, n + 1) / n
    path = Residual(0.01)
    assert np.abs(path.shift(t) - a).max() < 2.0 / n
    assert np.abs(path.sigma(t) ** 2 - b2).max() < 0.02 / n
    even = Residual(0.01, decrease=0.0, increase=0.0)
    np.testing.assert_allclose(even.shift(t), t, atol=1e-15)
    np.testing.assert_allclose(even.sigma(t) ** 2, 0.01 * t, rtol=1e-14)
    assert np.abs(even.shift(t) - a).max() > 0.1
    assert (float(path.shift(1.0)), float(path.alpha(0.0))) == (1.0, 1.0)


def test_no_input_image_is_ddim() -> None:
    """A = 1 - sqrt(abar), B = sqrt(1 - abar), mu = 0: the coefficients of x0 and z after a step."""
    path, times = Shifted(TABLE), grid.indices(1000, 1000)
    rows, worst = stairs(path, times), 0.0
    clean, noise = (
        torch.tensor([[1.0, 0.0]], dtype=DOUBLE),
        torch.tensor([[0.0, 1.0]], dtype=DOUBLE),
    )
    for i in range(1000):
        x = float(TABLE.alpha(times[i])) * clean + float(TABLE.sigma(times[i])) * noise
        ours = staircase(lambda x, a, b: (-clean, noise), x, levels=rows[i : i + 2])
        ddim = float(TABLE.alpha(times[i + 1])) * clean + float(TABLE.sigma(times[i + 1])) * noise
        worst = max(worst, float((ours - ddim).abs().max()))
    assert worst < 4.5e-16
    # the whole walk is DDIM too; the bridge of the process takes the same steps with a mean
    oracle = GaussianOracle(TABLE, draw(3), variances=torch.tensor([1.0, 0.2, 0.05], dtype=DOUBLE))
    coarse = grid.indices(1000, 20)
    x, t_of = draw(4, 3), {float(path.shift(t)): float(t) for t in coarse}

    def heads(x, a, b):
        t = t_of[a]
        x0 = oracle(x, t)
        return -x0, (x - (1.0 - a) * x0) / b

    walked = Ancestral(0.0).plan(TABLE, coarse).run(oracle, x)
    assert_close(staircase(heads, x, levels=stairs(path, coarse)), walked, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_stair_keeps_the_marginal(eta) -> None:
    x0, mu, n = 0.7, -0.4, 40000
    z = Rng(0, [0]).normal((1, n), step=99, dtype=DOUBLE)
    for rows in ([[0.9, 0.8], [0.5, 0.3]], [[0.9, 0.8], [0.9, 0.3]], [[0.9, 0.8], [0.1, 0.8]]):
        (a, b), (a_next, b_next) = rows
        x = x0 + a * (mu - x0) + b * z
        out = staircase(
            lambda x, a, b: (torch.full_like(x, mu - x0), z),
            x,
            levels=np.array(rows),
            eta=eta,
            rng=Rng(0, [0]),
        )
        assert float(out.mean()) == pytest.approx(x0 + a_next * (mu - x0), abs=4.5 / math.sqrt(n))
        assert float(out.std()) == pytest.approx(b_next, rel=0.02)


ORDERS = ("together", "residual_first", "noise_first")


def walk_every_way(modes, weights, *, width: float, steps: int) -> dict[str, torch.Tensor]:
    """Return where every order ends, from equal states, for a prior of modes and exact heads."""
    mu, path = torch.zeros(1, 2, dtype=DOUBLE), Residual(1.0)

    def heads(x, a, b):
        spread = max((1.0 - a) ** 2 * width**2 + b**2, 1e-300)
        gap = x[:, None] - (1.0 - a) * modes
        share = torch.softmax(-0.5 * gap.square().sum(-1) / spread + weights.log(), 1)
        means = modes + (1.0 - a) * width**2 / spread * gap
        x0 = (share[..., None] * means).sum(1)
        return mu - x0, (x - (1.0 - a) * x0) / max(b, 1e-300)

    x = draw(256, 2, seed=3)
    return {
        order: staircase(heads, x, levels=stairs(path, grid.uniform(steps), order=order))
        for order in ORDERS
    }


def test_the_order_of_removal_matters_unless_the_end_is_certain() -> None:
    one, sure = torch.tensor([[0.8, -0.5]], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    for end in walk_every_way(one, sure, width=0.0, steps=7).values():
        assert_close(end, one.expand(256, 2), rtol=0.0, atol=2e-15)

    modes = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]], dtype=DOUBLE)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    counts, gaps = (5, 20, 160), []
    for steps in counts:
        ends = walk_every_way(modes, weights, width=0.1, steps=steps)
        gaps.append(float((ends["residual_first"] - ends["together"]).norm(dim=1).mean()))
    # In y = (x - A mu) / (1 - A) every staircase follows dy = z dh along one level h = B / (1 - A),
    # so what the order changes is the error of the steps: measured .11, .018, .0022
    assert gaps[0] > 0.08
    assert gaps[2] < 0.2 * gaps[1] < 0.1 * gaps[0]
    # and the corner (1, 0), where h jumps: without noise x = mu, and all end at the prior mean
    assert_close(ends["noise_first"], (weights @ modes).expand(256, 2), rtol=0.0, atol=1e-9)
    assert float((ends["noise_first"] - ends["together"]).norm(dim=1).mean()) > 0.9


def test_heads_of_a_paired_gaussian() -> None:
    """For (x0, mu) jointly normal, residual and noise given (x, mu) are linear: least squares."""
    n, a, b = 200000, 0.6, 0.5
    x0 = draw(n)
    mu = 0.8 * x0 + 0.3 * draw(n, seed=1) + 0.2  # a degraded image
    z = draw(n, seed=2)
    x = x0 + a * (mu - x0) + b * z
    # x0 | mu ~ N(m, v), then x | x0, mu ~ N((1 - a) x0 + a mu, b^2)
    v = 1.0 - 0.8**2 / (0.8**2 + 0.3**2)
    gain = v * (1.0 - a) / ((1.0 - a) ** 2 * v + b**2)
    slope = 0.8 / (0.8**2 + 0.3**2)  # m = slope (mu - 0.2)
    on_x, on_mu = gain, slope - gain * (a + (1.0 - a) * slope)
    constant = -0.2 * slope * (1.0 - gain * (1.0 - a))
    residual = torch.tensor([-on_x, 1.0 - on_mu, -constant], dtype=DOUBLE)
    noise = torch.tensor(
        [1.0 - (1.0 - a) * on_x, -a - (1.0 - a) * on_mu, -(1.0 - a) * constant], dtype=DOUBLE
    ) / b  # fmt: skip
    design = torch.stack([x, mu, torch.ones_like(x)], 1)
    for target, expected in ((mu - x0, residual), (z, noise)):
        fitted = torch.linalg.lstsq(design, target[:, None]).solution[:, 0]
        assert_close(fitted, expected, rtol=0.0, atol=0.012)
        shuffled = torch.stack([x, mu.flip(0), torch.ones_like(x)], 1)
        wrong = torch.linalg.lstsq(shuffled, target[:, None]).solution[:, 0]
        assert float((wrong - expected).abs().max()) > 0.05

    # with these heads the walk ends in the law of x0 given mu
    mu0 = 1.1

    def heads(x, a, b):
        gain = v * (1.0 - a) / ((1.0 - a) ** 2 * v + b**2)
        m = slope * (mu0 - 0.2)
        x0 = m + gain * (x - (1.0 - a) * m - a * mu0)
        return mu0 - x0, (x - (1.0 - a) * x0 - a * mu0) / b

    for eta in (0.0, 1.0):
        start = mu0 + 0.1 * Rng(0, [0]).normal((1, 40000), step=-1, dtype=DOUBLE)
        levels = stairs(Residual(0.01), grid.uniform(300))
        end = staircase(heads, start, levels=levels, eta=eta, rng=Rng(0, [0]))
        assert float(end.mean()) == pytest.approx(slope * (mu0 - 0.2), abs=0.01)
        assert float(end.var()) == pytest.approx(v, rel=0.04)


def test_a_residual_network_is_a_denoiser() -> None:
    path, mu = Residual(0.04), draw(3, 5, seed=7)
    truth = draw(3, 5)
    denoiser = FromResidual(lambda x, t, *, mu: mu - truth, path)
    end = sample(Shift(denoiser, None), (3, 5), solver=Multistep(order=2), grid=grid.uniform(5),
                 cond={"mu": mu}, dtype=DOUBLE)  # fmt: skip
    assert_close(end, truth, rtol=1e-12, atol=1e-12)
    wrong = FromResidual(lambda x, t, *, mu: (mu - truth).clamp(-1.0, 1.0), path)  # as released
    assert float((wrong(mu, 0.5, mu=mu) - truth).abs().max()) > 0.5


def test_noise_alone_is_a_row_of_the_centred_state_and_the_residual_is_none() -> None:
    path, x0, z, mu = Residual(0.04), draw(3, 5), draw(3, 5, seed=1), draw(3, 5, seed=2)
    t = 0.6
    x = path.perturb(x0, t, z, mu=mu)
    alpha, shift, sigma = (float(c(t)) for c in (path.alpha, path.shift, path.sigma))
    on_x, on_f = x0_weights("eps", alpha, sigma)
    assert_close(on_x * (x - shift * mu) + on_f * z, x0, rtol=1e-12, atol=1e-12)
    assert float((on_x * x + on_f * z - x0).abs().max()) > 0.1  # the mean forgotten
    with pytest.raises(ZeroDivisionError):  # at t = 1 the noise says nothing about the data
        x0_weights("eps", float(path.alpha(1.0)), float(path.sigma(1.0)))
    design = torch.stack([x0.flatten(), z.flatten()], 1)  # no p, q with p x0 + q z = mu - x0
    residual = (mu - x0).flatten()[:, None]
    left = design @ torch.linalg.lstsq(design, residual).solution - residual
    assert float(left.square().mean()) > 0.3


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Residual(0.0), "sum_scale > 0"),
        (lambda: MeanReverting(-1.0), "level > 0"),
        (lambda: MeanReverting(1.0, 1.0), "remaining in"),
        (
            lambda: staircase(no_heads, draw(1, 2), levels=np.array([[0.0, 0.0], [1.0, 0.0]])),
            "grow",
        ),
        (lambda: staircase(no_heads, draw(1, 2), levels=np.zeros((2, 2)), eta=0.5), "pass rng"),
        (lambda: staircase(no_heads, draw(1, 2), levels=np.zeros((2, 2)) - 1.0), ">= 0"),
    ],
)
def test_says_how_to_fix(build, words) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def no_heads(x, a, b):
    return x, x


# Mean-reverting diffusion


def theta(path: MeanReverting, t: np.ndarray) -> np.ndarray:
    """Return the rate of the source, from its own formula."""
    shape = {
        "constant": lambda t: np.ones_like(t),
        "linear": lambda t: t,
        "cosine": lambda t: 1.0 - (np.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(
            0.008 / 1.008 * math.pi / 2)) ** 2,
    }[path.rate]  # fmt: skip
    nodes, weights = np.polynomial.legendre.leggauss(60)
    area = 0.5 * (weights * shape(0.5 + 0.5 * nodes)).sum()
    return -math.log(path.remaining) * shape(t) / area


@pytest.mark.parametrize("rate", ["constant", "linear", "cosine"])
def test_coefficients_solve_the_equation(rate) -> None:
    """alpha' = -theta alpha, shift' = theta (1 - shift), (sigma^2)' = 2 theta (S^2 - sigma^2)."""
    path, t, h = MeanReverting(0.2, 0.005, rate=rate), np.linspace(0.02, 0.98, 49), 1e-5
    rates = theta(path, t)

    def slope(f):
        return (f(t + h) - f(t - h)) / (2.0 * h)

    np.testing.assert_allclose(slope(path.alpha), -rates * path.alpha(t), rtol=1e-6)
    np.testing.assert_allclose(slope(path.shift), rates * (1.0 - path.shift(t)), rtol=1e-6)
    variance = path.sigma(t) ** 2
    np.testing.assert_allclose(
        slope(lambda t: path.sigma(t) ** 2), 2.0 * rates * (0.04 - variance), rtol=1e-5
    )
    assert float(path.alpha(1.0)) == pytest.approx(0.005)
    early = np.geomspace(1e-7, 1e-2, 30)
    assert np.all(np.diff(path.sigma(early)) > 0.0)
    np.testing.assert_allclose(path.shift(early) + path.alpha(early), 1.0, rtol=1e-14)


MU = draw(24, 4, seed=8)
REVERT = MeanReverting(0.5, 0.005, rate="constant")
CENTRED = Centred(REVERT)
MIXTURE = GaussianMixtureOracle(
    CENTRED,
    torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE),
    means=draw(3, 4, seed=2),
    covariances=torch.stack([s * torch.eye(4, dtype=DOUBLE) for s in (0.1, 0.02, 0.3)]),
)  # the law of x0 - mu


class RevertDenoiser:
    """E[x0 | x_t, mu] in the frame of the images, as a network would give it."""

    path = REVERT

    def __call__(self, x, t, *, mu):
        return mu + MIXTURE(x - mu, t)


def own_walk(x, times, *, order, mu, drop_mu=False):
    """Walk by the published data form, exact in lambda, with all terms of mu in place."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    a, s = REVERT.alpha(times), REVERT.sigma(times)
    lam, kept = np.log(a / s), []
    for i in range(len(times) - 1):
        kept.insert(0, RevertDenoiser()(x, float(times[i]), mu=mu))
        k = min(order, i + 1)
        at = 0.5 * (lam[i] + lam[i + 1]) + 0.5 * (lam[i + 1] - lam[i]) * nodes
        measure = 0.5 * (lam[i + 1] - lam[i]) * weights * np.exp(at) * s[i + 1]
        x = s[i + 1] / s[i] * x
        for j in range(k):
            others = [m for m in range(k) if m != j]
            lagrange = np.ones_like(at)
            for m in others:
                lagrange *= (at - lam[i - m]) / (lam[i - j] - lam[i - m])
            x = x + float((measure * lagrange).sum()) * kept[j]
        if not drop_mu:
            x = x + float(1.0 - s[i + 1] / s[i] + s[i + 1] / s[i] * a[i] - a[i + 1]) * mu
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_mean_is_one_shift_at_every_order(order) -> None:
    times = grid.log_snr(REVERT, 12, sigma_min=0.02)
    x, _ = Linear(REVERT).perturb(MU, float(times[0]), Rng(0, range(24)), cond={"mu": MU})
    plan = Multistep("x0", order=order, lower_final=False).plan(CENTRED, times)
    first, last = float(REVERT.shift(times[0])), float(REVERT.shift(times[-1]))
    walked = plan.run(Shift(RevertDenoiser()), x - first * MU, cond={"mu": MU}) + last * MU
    # the quadrature of the weights is good to 1e-15 of their size; the states are of size 3
    assert_close(own_walk(x, times, order=order, mu=MU), walked, rtol=0.0, atol=1e-14)
    gap = own_walk(x, times, order=order, mu=MU, drop_mu=True) - walked
    assert float(gap.abs().median()) > 0.05


def test_states_minus_mu_are_an_ordinary_diffusion() -> None:
    """The flow of dx = theta (mu - x) dt + g dw, integrated in x by Runge-Kutta, is the plan's."""
    rate, level = -math.log(0.005), 0.5
    x, _ = Linear(REVERT).perturb(MU, 1.0, Rng(1, range(24)), cond={"mu": MU})

    def drift(x, t):
        return rate * (MU - x) - rate * level**2 * MIXTURE.score(x - MU, t)

    times, y = np.geomspace(1.0, 0.003, 301), x
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h, m = s - t, 0.5 * (s + t)
        k1 = drift(y, t)
        k2 = drift(y + 0.5 * h * k1, m)
        k3 = drift(y + 0.5 * h * k2, m)
        y = y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + drift(y + h * k3, s))

    plan = Multistep("x0", order=2).plan(CENTRED, grid.log_snr(REVERT, 80, sigma_min=float(
        REVERT.sigma(0.003) / REVERT.alpha(0.003))))  # fmt: skip
    first, last = float(REVERT.shift(1.0)), float(REVERT.shift(0.003))
    end = plan.run(Shift(RevertDenoiser()), x - first * MU, cond={"mu": MU}) + last * MU
    assert median_error(end, y) < 1e-3
    unshifted = plan.run(Shift(RevertDenoiser()), x, cond={"mu": MU}) + last * MU
    assert median_error(unshifted, y) > 0.1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_around_the_mean_ends_in_the_law(eta) -> None:
    n = 800
    mu = draw(1, 4, seed=8).expand(n, 4)
    end = sample(Shift(RevertDenoiser()), (n, 4), solver=Ancestral(eta), cond={"mu": mu},
                 grid=grid.angle(CENTRED, 60), dtype=DOUBLE)  # fmt: skip
    mean, covariance = MIXTURE.moments(0.0)
    spread = (covariance.diagonal() / n).sqrt()
    assert float((((end - mu).mean(0) - mean) / spread).abs().max()) < 5.0
    assert float((end - mu).var(0).div(covariance.diagonal()).sub(1.0).abs().max()) < 0.2
