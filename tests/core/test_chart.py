"""Charts: coordinates for noise; the log chart is multiplicative (geometric Brownian) diffusion."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch.testing import assert_close

from medsci.core import Linear, Multistep, Path, Rng, grid
from medsci.core.process.chart import Identity, Latent, Log, Logit, RealView
from medsci.core.process.path import VarianceExploding
from medsci.core.solve.bridge import bridge_walk

V = 0.8  # volatility
GBM = Linear(VarianceExploding(V, 0.0, 0.5), chart=Log())  # sigma = v sqrt(t), drift m = v^2 / 2
MODES, WIDTH = torch.tensor([1.2, 1.8], dtype=DOUBLE), 0.03
MATRIX = draw(6, 6, seed=3) + 3.0 * torch.eye(6, dtype=DOUBLE)
CHARTS = {
    "identity": (Identity(), draw(4, 6)),
    "log": (Log(), draw(4, 6).exp()),
    "log_shift": (Log(1.0), draw(4, 6).sigmoid()),
    "logit": (Logit(-1.0, 3.0), 4.0 * draw(4, 6).sigmoid() - 1.0),
    "real": (RealView(), torch.complex(draw(4, 6), draw(4, 6, seed=1))),
    "latent": (
        Latent(lambda x: x @ MATRIX.T, lambda u: torch.linalg.solve(MATRIX, u.T).T),
        draw(4, 6),
    ),
}


@pytest.mark.parametrize(("chart", "x"), CHARTS.values(), ids=CHARTS)
def test_round_trip(chart, x) -> None:
    u = chart.forward(x)
    assert not u.is_complex()
    assert_close(chart.inverse(u), x, rtol=1e-12, atol=1e-12)
    assert chart.forward(chart.inverse(2.0 * u)).sub(2.0 * u).abs().max() < 1e-11


def test_the_process_adds_noise_in_the_chart() -> None:
    for chart, x in CHARTS.values():
        process = Linear(Path.vp_cosine(), chart=chart)
        state, z = process.perturb(x, 0.4, Rng(0, range(4)))
        expected = chart.forward(x) * process.path.alpha(0.4) + process.path.sigma(0.4) * z
        assert_close(state, expected)
        assert_close(process.decode(process.encode(x)), x, rtol=1e-12, atol=1e-12)
        clean = process.bridge(state, process.encode(x), t=0.4, s=0.0, rng=Rng(0, range(4)), step=1)
        assert_close(process.decode(clean), x, rtol=1e-12, atol=1e-12)


def test_real_view_noises_both_parts() -> None:
    x = torch.zeros(1, 40000, dtype=torch.complex64)
    state, _ = Linear(Path.ve(1.0), chart=RealView()).perturb(x, 1.0, Rng(0, [0]))
    assert state.shape == (1, 40000, 2)
    assert float(RealView().inverse(state).abs().square().mean()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("chart", "x", "words"),
    [
        (Log(), [0.0, 1.0], "above 0"),
        (Log(1.0), [-1.5, 1.0], "smallest entry is -1.5"),
        (Log(), [math.nan, 1.0], "no NaN"),
        (Logit(), [0.5, 1.0], "a little outside"),
        (Logit(-1.0, 1.0), [-2.0, 0.0], "strictly"),
    ],
)
def test_the_domain_is_checked(chart, x, words) -> None:
    with pytest.raises(ValueError, match=words):
        chart.forward(torch.tensor([x]))
    with pytest.raises(ValueError, match="low < high"):
        Logit(1.0, 1.0)


# Multiplicative diffusion: dX = m X dt + v X dW, so ln X_t = ln X_0 + (m - v^2 / 2) t + v W_t


def multiplicative_sample(n: int, *, m: float) -> tuple[torch.Tensor, ...]:
    """Return x0, x_t, t and the conditional score grad_x ln p(x_t | x0), which is log-normal."""
    x0, z, t = draw(n).exp(), draw(n, seed=1), draw(n, seed=2).sigmoid()
    x = x0 * torch.exp((m - 0.5 * V**2) * t + V * t.sqrt() * z)
    law = torch.distributions.LogNormal(x0.log() + (m - 0.5 * V**2) * t, V * t.sqrt())
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(leaf).sum(), leaf)
    return x0, x, t, score


def test_score_in_the_chart_is_one_plus_x_times_score() -> None:
    x0, x, t, score = multiplicative_sample(500, m=0.5 * V**2)
    in_chart = -(x.log() - x0.log()) / (V**2 * t)  # of N(u0, v^2 t), the path of the process
    assert float(((1.0 + x * score) - in_chart).abs().max()) < 1e-12 * float(in_chart.abs().max())
    assert float((x * score - in_chart).abs().min()) > 0.9  # without the one of the Jacobian
    # the general form, whatever the drift
    for m in (0.0, 1.3):
        x0, x, t, score = multiplicative_sample(500, m=m)
        drifted = -1.0 - ((x / x0).log() - (m - 0.5 * V**2) * t) / (V**2 * t)
        assert_close(x * score, drifted, rtol=1e-11, atol=1e-11)


def test_their_loss_is_the_noise_loss_of_the_chart() -> None:
    """v^2 t x s + ln(x / x0) - m t + 1.5 v^2 t = v sqrt(t) (z - e), 1 + x s = -e / (v sqrt t)."""
    m, e = 0.5 * V**2, draw(500, seed=5)
    x0, x, t, score = multiplicative_sample(500, m=m)

    def theirs(s):
        return V**2 * t * x * s + (x / x0).log() - m * t + 1.5 * V**2 * t

    assert float(theirs(score).abs().max()) < 2e-15  # zero at the truth
    z = (x / x0).log() / (V * t.sqrt())
    network = (-e / (V * t.sqrt()) - 1.0) / x
    assert float((theirs(network) - V * t.sqrt() * (z - e)).abs().max()) < 2e-15
    assert float((theirs(network) - V * t.sqrt() * (z + e)).abs().max()) > 0.1


def mixture_denoiser(u: torch.Tensor, t: float) -> torch.Tensor:
    """Return E[u0 | u_t], entry by entry, for two log-normal modes with means 1.2 and 1.8."""
    means, variance = MODES.log() - 0.5 * WIDTH**2, V**2 * t
    gap = u[..., None] - means
    share = torch.softmax(-0.5 * gap**2 / (WIDTH**2 + variance), -1)
    return (share * (means + gap * WIDTH**2 / (WIDTH**2 + variance))).sum(-1)


def mode_means(x: torch.Tensor) -> list[float]:
    low = x < 1.47  # the geometric middle
    return [float(x[low].mean()), float(x[~low].mean())]


@pytest.mark.parametrize("way", ["bridge", "multiplicative", "flow"])
def test_a_log_normal_mixture_is_sampled_and_every_state_is_positive(way) -> None:
    n, rng, floor = 4000, Rng(1, [0]), math.inf
    steps = 12 if way == "flow" else 1000
    u = GBM.prior((1, n), rng, dtype=DOUBLE) + MODES.log().mean()
    times = grid.uniform(steps)
    if way == "flow":  # a deterministic walk of high order, new to this process
        angles = grid.angle(GBM.path, steps, sigma_min=0.003)
        x = GBM.decode(
            Multistep("angle", "angle", order=2).plan(GBM.path, angles).run(mixture_denoiser, u)
        )
    elif way == "bridge":
        x = GBM.decode(bridge_walk(mixture_denoiser, GBM, u, grid=times[::5], rng=rng))
    else:
        x, m, d = GBM.decode(u), 0.5 * V**2, 1.0 / steps
        for i, t in enumerate(times[:-1].tolist()):
            log_x = x.log()
            x_score = (mixture_denoiser(log_x, t) - log_x) / (V**2 * t) - 1.0
            xi = rng.normal((1, n), step=i, dtype=DOUBLE)
            last = i == steps - 1  # the last step without noise
            grow = d * (V**2 * x_score - m + 1.5 * V**2) + (0.0 if last else V * d**0.5) * xi
            x = x * torch.exp(grow)
            floor = min(floor, float(x.min()))
    assert min(floor, float(x.min())) > 0.0
    assert mode_means(x) == pytest.approx([1.2, 1.8], abs=0.006)  # .0005 with 20000
    assert float((x < 1.47).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_additive_noise_leaves_the_positive_numbers() -> None:
    x0 = MODES.repeat(1, 100)
    plain, _ = Linear(GBM.path).perturb(x0, 1.0, Rng(0, [0]))
    charted, _ = GBM.perturb(x0, 1.0, Rng(0, [0]))
    assert float(plain.min()) < 0.0 < float(GBM.decode(charted).min())
