"""The linear process: marginals of its bridge, conditional means, and what DDPM makes of it."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn
from torch.testing import assert_close

from medsci.core import Denoiser, Linear, Path, Rng
from medsci.core.check.dirac import DiracMixtureOracle
from medsci.core.denoise.on_path import OnPath
from medsci.core.denoise.wrappers import Shift
from medsci.core.process import ComplexGaussian
from medsci.core.process.noise import StudentT
from medsci.core.process.process import Process, bridge_noise
from medsci.core.process.shifted import Centred, MeanReverting, Residual, Shifted

PATHS = [Path.vp_linear(), Path.rectified(), Path.ve(10.0)]
SHIFTED = [Residual(1.0), MeanReverting(), Shifted(Path.vp_cosine())]
N = 40000


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_bridge_keeps_the_marginal(path: Path, eta: float) -> None:
    process, x0 = Linear(path), torch.full((1, N), 0.7)
    rng, t, s = Rng(5, [0]), 0.8, 0.45
    x_t, _ = process.perturb(x0, t, rng)
    x_s = process.bridge(x_t, x0, t=t, s=s, rng=rng, step=1, eta=eta)
    residual = x_s - path.alpha(s) * x0
    assert float(residual.mean()) == pytest.approx(0.0, abs=0.03 * path.sigma(s))
    assert float(residual.std()) == pytest.approx(float(path.sigma(s)), rel=0.02)


def test_bridge_with_the_wrong_data_misses_the_marginal() -> None:
    process, x0, rng = Linear(PATHS[0]), torch.full((1, N), 0.7), Rng(5, [0])
    x_t, _ = process.perturb(x0, 0.8, rng)
    x_s = process.bridge(x_t, -x0, t=0.8, s=0.45, rng=rng, step=1)
    assert abs(float((x_s - PATHS[0].alpha(0.45) * x0).mean())) > 0.1


def test_deterministic_bridge_keeps_the_noise() -> None:
    path = PATHS[0]
    process, x0, rng = Linear(path), torch.randn(2, 6), Rng(1, [0, 1])
    x_t, z = process.perturb(x0, 0.7, rng)
    x_s = process.bridge(x_t, x0, t=0.7, s=0.2, rng=rng, step=1, eta=0.0)
    assert_close(x_s, path.perturb(x0, 0.2, z))


def test_complex_noise_has_unit_power() -> None:
    prior = Linear(Path.rectified(), ComplexGaussian()).prior((1, N), Rng(0, [0]))
    assert prior.is_complex()
    assert float(prior.abs().square().mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("path", SHIFTED, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_bridge_with_a_conditional_mean_keeps_the_marginal(path, eta) -> None:
    process, x0 = Linear(path), torch.full((1, N), 0.7, dtype=DOUBLE)
    cond, rng, t, s = {"mu": torch.full((1, N), -1.9, dtype=DOUBLE)}, Rng(5, [0]), 0.8, 0.45
    x_t, z = process.perturb(x0, t, rng, cond=cond)
    mean = float(path.alpha(s)) * 0.7 - float(path.shift(s)) * 1.9
    sigma = float(path.sigma(s))

    def off(mu: float) -> float:
        asked = {"mu": torch.full_like(x0, mu)}
        x_s = process.bridge(x_t, x0, t=t, s=s, rng=rng, step=1, eta=eta, cond=asked)
        assert float(x_s.std()) == pytest.approx(sigma, rel=0.02)
        return abs(float(x_s.mean()) - mean) * math.sqrt(N) / sigma

    assert off(-1.9) < 4.5
    assert off(0.0) > 20.0  # the mean forgotten
    if eta == 0.0:
        x_s = process.bridge(x_t, x0, t=t, s=s, rng=rng, step=1, eta=0.0, cond=cond)
        assert_close(x_s, path.perturb(x0, s, z, mu=cond["mu"]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [*PATHS, *SHIFTED], ids=lambda p: type(p).__name__)
def test_a_bridge_to_clean_data_returns_the_estimate(path) -> None:
    process, rng = Linear(path), Rng(1, [0, 1])
    x_t, x0, cond = draw(2, 5), draw(2, 5, seed=1), {"mu": draw(2, 5, seed=2)}
    assert_close(process.bridge(x_t, x0, t=0.7, s=0.0, rng=rng, step=0, cond=cond), x0)


def test_the_prior_is_the_end_of_the_path() -> None:
    path, mu = Residual(0.04), torch.full((1, N), 3.0)
    x = Linear(path).prior((1, N), Rng(0, [0]), cond={"mu": mu})
    assert float(x.mean()) == pytest.approx(3.0, abs=0.005)
    assert float(x.std()) == pytest.approx(0.2, rel=0.02)
    assert isinstance(Linear(path), Process)


def test_ddpm_bound_is_the_weighted_denoising_loss() -> None:
    """KL of two bridges = (SNR_s - SNR_t) / 2 |x0 - D|^2, SNR = alpha^2 / sigma^2 (Kingma 2021)."""
    x0, guess = draw(1, 6), draw(1, 6, seed=1)
    for path in (*PATHS, Path.tabulated(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000)))):
        process, rng, t, s = Linear(path), Rng(0, [0]), 0.62, 0.55
        x_t, _ = process.perturb(x0, t, rng)
        one, two = (process.bridge(x_t, d, t=t, s=s, rng=rng, step=1) for d in (x0, guess))
        alpha, sigma, alpha_s, sigma_s = (
            float(c(at)) for at in (t, s) for c in (path.alpha, path.sigma)
        )
        kl = float((one - two).square().sum()) / (
            2.0 * bridge_noise(alpha, sigma, alpha_s, sigma_s, eta=1.0) ** 2
        )
        gain = (alpha_s / sigma_s) ** 2 - (alpha / sigma) ** 2
        assert kl == pytest.approx(0.5 * gain * float((x0 - guess).square().sum()), rel=1e-10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t": 0.5, "s": 0.5}, "0 <= s < t <= 1"),
        ({"t": 0.5, "s": 0.2, "eta": 1.1}, "share of fresh noise"),
        ({"t": 0.5, "s": 0.2}, "no mu came"),
    ],
)
def test_says_how_to_fix(options, words) -> None:
    process = Linear(Residual())
    with pytest.raises(ValueError, match=words):
        process.bridge(draw(1, 2), draw(1, 2), rng=Rng(0, [0]), step=0, **options)
    with pytest.raises(ValueError, match="pass cond="):
        process.perturb(draw(1, 2), 0.5, Rng(0, [0]))
    with pytest.raises(ValueError, match="no mu came"):
        process.prior((1, 2), Rng(0, [0]), cond={"label": 3})


# One path in place of another: at equal signal-to-noise the denoiser is the same function


ATOMS = draw(5, 6)
LEVELS = [0.05, 0.3, 1.0, 4.0]


@pytest.mark.parametrize("dof", [None, 3.0, 64.0])
@pytest.mark.parametrize("sigma_hat", LEVELS)
def test_the_denoiser_is_unchanged_at_equal_noise_level(dof, sigma_hat) -> None:
    noise = draw(40, 6) if dof is None else StudentT(dof).sample(
        (40, 6), Rng(0, range(40)), step=0, dtype=DOUBLE
    )  # fmt: skip
    y, mu = draw(40, 6, seed=4) + sigma_hat * noise, draw(40, 6, seed=5)
    circle, found = DiracMixtureOracle(Path.vp_cosine(), ATOMS, dof=dof), []
    for path in (Path.ve(), Path.vp_linear(), Path.rectified(), Centred(Residual(30.0))):
        t = float(path.time_at_sigma_hat(sigma_hat))
        found.append(DiracMixtureOracle(path, ATOMS, dof=dof)(float(path.alpha(t)) * y, t))
        moved = OnPath(circle, path)
        found.append(moved(float(path.alpha(t)) * y, t))
    shifted = Residual(30.0)
    t = float(shifted.time_at_sigma_hat(sigma_hat))
    x = float(shifted.alpha(t)) * y + float(shifted.shift(t)) * mu
    found.append(OnPath(circle, shifted, mu=mu)(x, t))
    for other in found[1:]:
        close = 1e-14 if sigma_hat >= 1.0 else 1e-13  # exponents of up to 4e3 at little noise
        assert_close(other, found[0], rtol=0.0, atol=close)
    wrong = DiracMixtureOracle(Path.ve(), ATOMS, dof=dof)(
        1.01 * y, float(Path.ve().time_at_sigma_hat(sigma_hat))
    )
    assert float((wrong - found[0]).abs().max()) > 1e-7


def test_a_network_is_unchanged_at_equal_noise_level() -> None:
    class Net(nn.Module):
        def forward(self, x, code):
            return torch.tanh(1.3 * x + 0.001 * code[:, None].double())

    denoiser = Denoiser(Net(), path=Path.vp_linear(), pred="v")
    t, mu = 0.37, draw(4, 6, seed=2)
    x = draw(4, 6)
    own = denoiser(x, t)
    scale = math.hypot(float(denoiser.path.alpha(t)), float(denoiser.path.sigma(t)))
    for path in (Path.ve(), Path.rectified(), Residual(1.0), MeanReverting(1.0)):
        s = float(path.time_at_angle(denoiser.path.angle(t)))
        norm = math.hypot(float(path.alpha(s)), float(path.sigma(s))) / scale
        state = norm * x + float(path.shift(s)) * mu
        moved = denoiser.on_path(path, mu=mu)
        assert_close(moved(state, s), own, rtol=0.0, atol=1e-14)
        if path.shifted:  # and once more, seen from the mean
            assert_close(Shift(moved, mu)(norm * x, s), own, rtol=0.0, atol=1e-14)
        assert float((moved(1.01 * state, s) - own).abs().max()) > 1e-4
