import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medsci.core import Denoiser, Path, Slicewise
from medsci.core.process.pred import PREDICTIONS, data_norm, row

VARIANCE = 0.36  # of Gaussian data with mean zero
D64 = torch.float64


class GaussianNet(nn.Module):
    """The exact network for Gaussian data: undoes the input scale, answers in its prediction."""

    def __init__(self, path: Path, pred: str, t: float) -> None:
        super().__init__()
        self.alpha, self.sigma = float(path.alpha(t)), float(path.sigma(t))
        self.pred = pred
        self.scale = data_norm(self.alpha, self.sigma, math.sqrt(VARIANCE))

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        x0 = self.alpha * VARIANCE / (self.alpha**2 * VARIANCE + self.sigma**2) * x
        p, q = row(self.pred, self.alpha, self.sigma, sigma_data=math.sqrt(VARIANCE))
        return p * x0 + q * (x - self.alpha * x0) / self.sigma


PATHS = {"rectified": Path.rectified(), "vp": Path.vp_linear(), "ve": Path.ve(5.0)}


@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_prediction_gives_the_same_posterior_mean(path: Path, pred: str) -> None:
    t, x = 0.6, torch.randn(3, 4, dtype=D64, generator=torch.Generator().manual_seed(0))
    net = GaussianNet(path, pred, t)
    denoiser = Denoiser(net, path=path, pred=pred, sigma_data=math.sqrt(VARIANCE))
    alpha, sigma = net.alpha, net.sigma
    expected = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x
    assert_close(denoiser(x, t), expected, rtol=1e-9, atol=1e-12)
    assert_close(denoiser(x, torch.full((3,), t, dtype=D64)), expected, rtol=1e-9, atol=1e-12)


def test_moved_to_another_path_the_posterior_mean_is_unchanged() -> None:
    source, target = Path.rectified(), Path.vp_linear()
    t = 0.37
    own = float(source.time_at_angle(target.angle(t)))
    net = GaussianNet(source, "edm", own)
    denoiser = Denoiser(net, path=source, pred="edm", sigma_data=math.sqrt(VARIANCE))
    x = torch.randn(2, 5, dtype=D64, generator=torch.Generator().manual_seed(2))
    alpha, sigma = float(target.alpha(t)), float(target.sigma(t))
    expected = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x
    assert_close(denoiser.on_path(target)(x, t), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(denoiser(x, t), expected, rtol=1e-3)  # the control: no move


class Recorder(nn.Module):
    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        self.x, self.code = x, code
        return torch.zeros_like(x)


def test_angle_code_is_equal_on_paths_of_equal_noise() -> None:
    codes = []
    for path in PATHS.values():
        net = Recorder()
        t = float(path.time_at_sigma_hat(0.7))
        Denoiser(net, path=path)(torch.zeros(2, 3), t)
        codes.append(net.code)
    assert_close(codes[0], codes[1])
    assert_close(codes[0], codes[2])
    assert codes[0].shape == (2,)


def test_unit_input_has_unit_variance() -> None:
    path, net, sd = Path.ve(80.0), Recorder(), 0.5
    generator = torch.Generator().manual_seed(0)
    for t in (0.3, 0.9):
        x0 = sd * torch.randn(4, 20000, generator=generator)
        x = path.perturb(x0, t, torch.randn(4, 20000, generator=generator))
        Denoiser(net, path=path, sigma_data=sd)(x, t)
        assert float(net.x.std()) == pytest.approx(1.0, abs=0.02)
        Denoiser(net, path=path, sigma_data=sd, unit_input=False)(x, t)
        assert abs(float(net.x.std()) - 1.0) > 0.05  # the control


def test_bfloat16_touches_the_network_only() -> None:
    net = nn.Conv2d(2, 2, 3, padding=1)
    wrapped = lambda precision: Denoiser(  # noqa: E731
        _TakesCode(net), path=Path.rectified(), pred="edm", precision=precision
    )
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    single, half = wrapped("float32")(x, 0.5), wrapped("bfloat16")(x, 0.5)
    assert half.dtype == torch.float32
    assert_close(half, single, rtol=0.05, atol=0.02)
    assert not torch.equal(half, single)


class _TakesCode(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_slicewise_does_not_change_the_result(chunk: int) -> None:
    net = GaussianNet(Path.rectified(), "v", 0.4)
    denoiser = Denoiser(net, path=Path.rectified(), sigma_data=math.sqrt(VARIANCE))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Slicewise(denoiser, chunk=chunk)(x, 0.4), denoiser(x, 0.4))


def test_says_how_to_fix() -> None:
    net = nn.Identity()
    with pytest.raises(ValueError, match="positive sd"):
        Denoiser(net, path=Path.rectified(), sigma_data=0.0)
    denoiser = Denoiser(net, path=Path.rectified())
    with pytest.raises(ValueError, match="chunk=0"):
        Slicewise(denoiser, chunk=0)
