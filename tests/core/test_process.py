import pytest
import torch
from torch.testing import assert_close

from medsci.core import Linear, Path, Rng
from medsci.core.process import ComplexGaussian

PATHS = [Path.vp_linear(), Path.rectified(), Path.ve(10.0)]
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
