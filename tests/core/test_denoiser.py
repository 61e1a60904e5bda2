import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medsci.core import Denoiser, Path
from medsci.core.process.path import VpLinear
from medsci.core.process.pred import PREDICTIONS, data_norm, row
from medsci.core.process.shifted import MeanReverting, Residual

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


def calls_of(monkeypatch, name: str) -> list[float]:
    """Count the look-ups of a path."""
    seen: list[float] = []
    original = getattr(Path, name)

    def counted(self: Path, value: float) -> object:
        seen.append(value)
        return original(self, value)

    monkeypatch.setattr(Path, name, counted)
    return seen


def test_a_time_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = calls_of(monkeypatch, "time_at_angle")
    moved = Denoiser(Recorder(), path=Path.rectified()).on_path(Path.vp_linear(0.1, 19.25))
    x = torch.zeros(2, 3)
    for t in (0.5, 0.25, 0.5, 0.25, 0.5):
        moved(x, t)
    assert len(lookups) == 2
    same = Denoiser(Recorder(), path=Path.rectified()).on_path(Path.rectified())
    same(x, 0.123)
    assert len(lookups) == 2


@pytest.mark.parametrize("pred", ["x0", "eps", "edm"])
@pytest.mark.parametrize("target", PATHS.values(), ids=PATHS)
def test_one_time_per_sample_is_the_float_time_of_each(target: Path, pred: str) -> None:
    own = Path.rectified()
    denoiser = Denoiser(Bend(), path=own, pred=pred, sigma_data=0.7, time_code="log_sigma_hat")
    moved = denoiser.on_path(target)
    x = torch.randn(4, 5, dtype=D64, generator=torch.Generator().manual_seed(3))
    times = [0.9, 0.4, 0.11, 0.02]
    for one in (denoiser, moved):
        each = torch.cat([one(x[i : i + 1], t) for i, t in enumerate(times)])
        assert_close(one(x, torch.tensor(times, dtype=D64)), each, rtol=1e-11, atol=1e-12)
        shuffled = one(x, torch.tensor(times[::-1], dtype=D64))
        assert not torch.allclose(shuffled, each, rtol=1e-3)  # the control


class Bend(nn.Module):
    """A network that depends on its time code and is not linear."""

    def forward(self, x: torch.Tensor, code: torch.Tensor, **cond: object) -> torch.Tensor:
        return torch.tanh(x + code[:, None]) * 0.8


class GaussianAround(nn.Module):
    """The exact network for Gaussian data of mean 0.3 on a path that ends around mu."""

    def __init__(self, path: Path, pred: str, t: float) -> None:
        super().__init__()
        self.path, self.pred, self.t = path, pred, t

    def posterior_mean(self, x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        alpha, sigma, shift = (
            float(f(self.t)) for f in (self.path.alpha, self.path.sigma, self.path.shift)
        )
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return 0.3 + gain * (x - shift * mu - alpha * 0.3)

    def forward(self, x: torch.Tensor, code: torch.Tensor, *, mu: torch.Tensor) -> torch.Tensor:
        alpha, sigma, shift = (
            float(f(self.t)) for f in (self.path.alpha, self.path.sigma, self.path.shift)
        )
        x0 = self.posterior_mean(x, mu)
        p, q = row(self.pred, alpha, sigma)
        return p * x0 + q * (x - alpha * x0 - shift * mu) / sigma


@pytest.mark.parametrize("pred", PREDICTIONS)
def test_every_prediction_on_a_path_with_a_mean(pred: str) -> None:
    path, t = Residual(0.4), 0.6
    net = GaussianAround(path, pred, t)
    denoiser = Denoiser(net, path=path, pred=pred, unit_input=False)
    generator = torch.Generator().manual_seed(1)
    x, mu = torch.randn(2, 3, 4, dtype=D64, generator=generator)
    expected = net.posterior_mean(x, mu)
    assert_close(denoiser(x, t, mu=mu), expected, rtol=1e-9, atol=1e-12)
    each = torch.full((3,), t, dtype=D64)
    assert_close(denoiser(x, each, mu=mu), expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(denoiser(x, t, mu=mu.flip(0)), expected, rtol=1e-3)  # the control
    bare = Denoiser(Bend(), path=path, pred=pred)
    if pred == "x0":  # the answer needs no state, so no mean either
        bare(x, t)
    else:
        with pytest.raises(ValueError, match="pass the condition mu="):
            bare(x, t)


@pytest.mark.parametrize("pair", ["to centred", "from centred", "between"])
def test_moved_between_paths_with_a_mean(pair: str) -> None:
    shifted, t = Residual(0.4), 0.45
    own: Path = VpLinear() if pair == "from centred" else shifted
    new: Path = {"to centred": VpLinear(), "from centred": shifted}.get(pair, MeanReverting(0.5))
    own_time = float(own.time_at_angle(new.angle(t)))
    net = GaussianAround(own, "eps", own_time)
    denoiser = Denoiser(net, path=own, pred="eps", unit_input=False)
    generator = torch.Generator().manual_seed(1)
    x, mu = torch.randn(2, 3, 4, dtype=D64, generator=generator)
    expected = GaussianAround(new, "x0", t).posterior_mean(x, mu)
    assert_close(denoiser.on_path(new)(x, t, mu=mu), expected, rtol=1e-9, atol=1e-11)
    each = torch.full((3,), t, dtype=D64)
    assert_close(denoiser.on_path(new)(x, each, mu=mu), expected, rtol=1e-9, atol=1e-11)
    held = denoiser.on_path(new, mu=torch.zeros_like(mu))(x, t, mu=mu)
    assert not torch.allclose(held, expected, rtol=1e-3)  # the control: another mean
    with pytest.raises(ValueError, match="conditional mean"):
        denoiser.on_path(new)(x, t)


@pytest.mark.parametrize("n_rows", [1000, 77])
def test_rows_are_told_exactly(n_rows: int) -> None:
    path, net, x = Path.tabulated(np.linspace(0.99, 0.01, n_rows)), Recorder(), torch.zeros(2, 3)
    rows = range(n_rows)
    for code, dtype in (("row", torch.float32), ("nearest_row", torch.int64)):
        denoiser = Denoiser(net, path=path, pred="x0", time_code=code, unit_input=False)
        told = []
        for i in rows:
            denoiser(x, (i + 1) / n_rows)
            told.append(net.code)
        assert told[0].dtype == dtype
        expected = torch.arange(n_rows, dtype=dtype)
        assert torch.equal(torch.stack(told), expected[:, None].expand(-1, 2))
        denoiser(torch.zeros(n_rows, 3), (torch.arange(n_rows, dtype=D64) + 1) / n_rows)
        exact = {"rtol": 1e-7, "atol": 1e-7} if code == "row" else {"rtol": 0, "atol": 0}
        assert_close(net.code, expected, **exact)
    between = Denoiser(net, path=path, pred="x0", time_code="row", unit_input=False)
    between(x, 10.4 / n_rows)
    assert float(net.code[0]) == pytest.approx(9.4)
    between(x, 0.2 / n_rows)
    assert float(net.code[0]) == 0.0  # nothing lies before the first row


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("time", 300.0),
        ("unit_time", 0.3),
        ("sigma_hat", 3.0 / 7.0),
        ("log_sigma_hat", 0.25 * math.log(3.0 / 7.0)),
        ("angle", 1000.0 * math.atan2(0.3, 0.7) / (0.5 * math.pi)),
    ],
)
def test_time_codes_by_hand(code: str, expected: float) -> None:
    net = Recorder()
    denoiser = Denoiser(net, path=Path.rectified(), time_code=code)
    for dtype in (torch.float32, D64):
        denoiser(torch.zeros(2, 3, dtype=dtype), 0.3)
        assert_close(net.code, torch.full((2,), expected, dtype=dtype))
        denoiser(torch.zeros(2, 3, dtype=dtype), torch.tensor([0.3, 0.3], dtype=D64))
        assert_close(net.code, torch.full((2,), expected, dtype=dtype))


def test_says_how_to_fix() -> None:
    net = nn.Identity()
    with pytest.raises(ValueError, match="positive sd"):
        Denoiser(net, path=Path.rectified(), sigma_data=0.0)
    with pytest.raises(ValueError, match=r"use Path\.tabulated"):
        Denoiser(net, path=Path.rectified(), time_code="row")
    with pytest.raises(ValueError, match="covers"):  # pure noise is beyond sigma 80
        Denoiser(net, path=Path.ve(80.0)).on_path(Path.rectified())(torch.zeros(1, 2), 1.0)
