"""Velocity matching: the identity in closed form, the flow map as its solution, and the bias."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn

from medsci.core.denoise import Denoiser
from medsci.core.learn._velocity import check_derivative
from medsci.core.learn.velocity_matching import VelocityMatching
from medsci.core.process import Path
from medsci.core.rng import Rng

RECTIFIED = Path.rectified()
V = 0.3  # variance of the data
B = 400
TIMES = (torch.arange(B, dtype=DOUBLE) + 0.5) / B


class Wiener(nn.Module):
    """The denoiser of N(0, v), for one time per sample, on any path."""

    def __init__(self, v, path=RECTIFIED):
        super().__init__()
        self.v, self.path = v, path

    def forward(self, x, t):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        return alpha * self.v / (alpha**2 * self.v + sigma**2) * x


class FlowMap(nn.Module):
    """The exact end of the flow of N(0, v)."""

    def __init__(self, v):
        super().__init__()
        self.v, self.path = v, RECTIFIED

    def forward(self, x, t):
        return x * (self.v / ((1.0 - t) ** 2 * self.v + t**2)).sqrt()[:, None]


class Series(nn.Module):
    """`u = k(t) x`, with k a Chebyshev series in the time."""

    def __init__(self, terms=12):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(terms, dtype=DOUBLE))

    def forward(self, x, t):
        rows = [torch.ones_like(t), 2.0 * t - 1.0]
        while len(rows) < len(self.weight):
            rows.append(2.0 * (2.0 * t - 1.0) * rows[-1] - rows[-2])
        return torch.stack(rows[: len(self.weight)], 1) @ self.weight[:, None] * x


class Spread:
    """A time law that covers (0, 1) evenly."""

    def __call__(self, path, rng, *, step):
        return TIMES


def student(net=None):
    return Denoiser(
        net or Series(), path=RECTIFIED, pred="flow", time_code="unit_time", unit_input=False
    )


def gain_of_u(v, t):
    """Return `(1 - sqrt(v / (a^2 v + s^2))) / t`, the average velocity of N(0, v) per x."""
    return (1.0 - (v / ((1.0 - t) ** 2 * v + t**2)).sqrt()) / t


def solve(objective, *, terms=12, rounds=1, d=4):
    """Find where the gradient of the objective vanishes, by Newton; once suffices if it is affine.

    The target is held fixed in every gradient, so this is no minimiser of a function: it is the
    point at which training stops.
    """
    denoiser, data = student(Series(terms)), math.sqrt(V) * draw(B, d, seed=3)
    weight = denoiser.net.weight

    def gradient(value):
        with torch.no_grad():
            weight.copy_(value)
        weight.grad = None
        objective(denoiser, data, rng=Rng(0, range(B)), step=0)[0].backward()
        return weight.grad.clone()

    point = torch.zeros(terms, dtype=DOUBLE)
    for _ in range(rounds):
        g = gradient(point)
        size = 1.0 if rounds == 1 else 1e-5
        basis = size * torch.eye(terms, dtype=DOUBLE)
        slope = torch.stack([(gradient(point + e) - g) / size for e in basis], 1)
        point = point - torch.linalg.solve(slope, g)
    with torch.no_grad():
        weight.copy_(point)
        t = torch.linspace(0.05, 1.0, 20, dtype=DOUBLE)
        return denoiser.predict(torch.ones(20, 1, dtype=DOUBLE), t)[:, 0], t


@pytest.mark.parametrize("v", [0.01, 0.3, 4.0])
def test_the_identity_holds_in_closed_form(v):
    t = torch.linspace(0.01, 0.999, 200, dtype=DOUBLE)
    x = draw(200, 3, scale=2.0)
    truth = gain_of_u(torch.tensor(v, dtype=DOUBLE), t)[:, None] * x
    target = VelocityMatching(Wiener(v)).target(FlowMap(v), x, t)
    gap = (truth - target).abs().max()
    assert gap < 4e-10
    wrong = VelocityMatching(Wiener(1.3 * v)).target(FlowMap(v), x, t)  # control
    assert (truth - wrong).abs().max() > 1e-2


def test_the_solution_is_the_flow_map_and_not_the_velocity():
    errors = []
    for terms in (6, 10, 14):
        k, t = solve(VelocityMatching(Wiener(V), time_law=Spread()), terms=terms)
        errors.append(float((k - gain_of_u(torch.tensor(V, dtype=DOUBLE), t)).abs().max()))
    assert errors[2] < 1e-4
    assert errors[2] < 0.1 * errors[1] < 0.01 * errors[0] * 2.0  # as a series of a smooth function
    velocity = (1.0 - (1.0 - t) * V / ((1.0 - t) ** 2 * V + t**2)) / t
    assert (k - velocity).abs().max() > 0.4  # at t = 1 the mean is lost: 1 - 0 against 1 - sqrt(v)


def test_control_a_wrong_teacher_gives_its_own_flow_map():
    k, t = solve(VelocityMatching(Wiener(0.6), time_law=Spread()))
    assert (k - gain_of_u(torch.tensor(V, dtype=DOUBLE), t)).abs().max() > 0.1
    assert (k - gain_of_u(torch.tensor(0.6, dtype=DOUBLE), t)).abs().max() < 1e-3


def test_the_difference_tends_to_the_exact_derivative_with_order_two():
    x, t = draw(50, 3), torch.linspace(0.1, 0.9, 50, dtype=DOUBLE)
    exact = VelocityMatching(Wiener(V)).target(FlowMap(V), x, t)
    errors = []
    for dt in (0.02, 0.01, 0.005):
        rule = VelocityMatching(Wiener(V), derivative="difference", dt=dt)
        errors.append(float((rule.target(FlowMap(V), x, t) - exact).abs().max()))
    assert errors[1] < 3e-3
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5
    k, times = solve(VelocityMatching(Wiener(V), derivative="difference", time_law=Spread()))
    assert (k - gain_of_u(torch.tensor(V, dtype=DOUBLE), times)).abs().max() < 5e-3


def test_the_difference_stays_on_the_path_at_its_ends():
    x = draw(2, 3)
    t = torch.tensor([1e-4, 1.0], dtype=DOUBLE)
    rule = VelocityMatching(Wiener(V), derivative="difference")
    exact = VelocityMatching(Wiener(V)).target(FlowMap(V), x, t)
    assert (rule.target(FlowMap(V), x, t) - exact).abs().max() < 0.02


def test_the_normaliser_biases_the_solution():
    """With d / (|d| + c) in place of d the flow map has a residual, in closed form."""
    t = torch.linspace(0.05, 0.95, 40, dtype=DOUBLE)
    x, v = draw(40, 64), torch.tensor(V, dtype=DOUBLE)
    u = gain_of_u(v, t)[:, None] * x
    slope = (Wiener(V)(x, t) * -1.0 + x) / t[:, None] - u  # v - u = t du/dt
    slope = slope / t[:, None]
    size = slope.square().mean(1, keepdim=True).sqrt()
    for c in (0.1, 1.0):
        target = VelocityMatching(Wiener(V), normaliser=c).target(FlowMap(V), x, t)
        bias = t[:, None] * slope * (size + c - 1.0) / (size + c)
        torch.testing.assert_close(target - u, bias, rtol=1e-8, atol=1e-10)
        assert bias.abs().max() > 1e-2
    for c, drawn in ((0.1, 0.385), (1.0, 0.082)):  # measured; the exact rule is right to 1e-4
        rule = VelocityMatching(Wiener(V), normaliser=c, time_law=Spread())
        k, times = solve(rule, terms=8, rounds=4, d=16)
        assert (k - gain_of_u(v, times)).abs().max() > 0.2
        assert float((1.0 - k[-1]) ** 2) == pytest.approx(drawn, abs=0.01)  # in one step


def test_a_teacher_of_another_path_is_the_same_teacher():
    x, t = draw(30, 3), torch.linspace(0.05, 0.95, 30, dtype=DOUBLE)
    own = VelocityMatching(Wiener(V)).target(FlowMap(V), x, t)
    for path in (Path.vp_cosine(), Path.vp_linear(0.1, 40.0)):
        moved = VelocityMatching(Wiener(V, path)).target(FlowMap(V), x, t)
        torch.testing.assert_close(moved, own, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pred", ["flow", "v", "x0", "edm"])
def test_any_prediction_and_time_code_has_the_same_derivative(pred):
    class Net(nn.Module):
        def forward(self, x, code):
            return torch.sin(x) * torch.cos(0.01 * code[:, None])

    denoiser = Denoiser(Net(), path=RECTIFIED, pred=pred, time_code="angle")
    x, t = draw(20, 3), torch.linspace(0.1, 0.9, 20, dtype=DOUBLE)
    exact = VelocityMatching(Wiener(V)).target(denoiser, x, t)
    near = VelocityMatching(Wiener(V), derivative="difference", dt=1e-5).target(denoiser, x, t)
    torch.testing.assert_close(exact, near, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_student_once_and_samples_do_not_mix():
    denoiser, x0 = student(), draw(5, 3)
    objective = VelocityMatching(Wiener(V))
    with torch.no_grad():
        denoiser.net.weight.fill_(0.1)
    loss, seen = objective(denoiser, x0, rng=Rng(9, range(5)), step=0)
    assert loss.requires_grad
    torch.testing.assert_close(loss.detach(), seen["loss"].mean())
    _, part = objective(denoiser, x0[3:4], rng=Rng(9, [3]), step=0)
    torch.testing.assert_close(seen["loss"][3:4], part["loss"], rtol=1e-12, atol=0)
    assert not objective.target(denoiser, x0, TIMES[:5] + 0.1).requires_grad
    paired, _ = objective(denoiser, x0, rng=Rng(9, range(5)), step=0, noise=draw(5, 3, seed=8))
    assert not torch.equal(paired, loss)


class NoForward(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2.0 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2.0 * grad


class Opaque(nn.Module):
    def forward(self, x, code):
        return NoForward.apply(x)


def test_a_layer_without_forward_mode_is_named_and_the_difference_works():
    x, t = draw(4, 3), torch.full((4,), 0.5, dtype=DOUBLE)
    with pytest.raises(ValueError, match="use derivative='difference'"):
        VelocityMatching(Wiener(V)).target(student(Opaque()), x, t)
    difference = VelocityMatching(Wiener(V), derivative="difference")
    assert difference.target(student(Opaque()), x, t).isfinite().all()


def test_attention_of_the_unet_has_a_derivative():
    from medsci.nets import UNet2dConfig, build_network

    config = UNet2dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=8)
    net = build_network(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))

    class Velocity(nn.Module):
        path = RECTIFIED

        def forward(self, x, t):
            return 0.5 * x

    denoiser = Denoiser(net, path=RECTIFIED, pred="flow")
    x, t = draw(2, 2, 8, 8, dtype=torch.float32), torch.tensor([0.3, 0.8], dtype=DOUBLE)
    exact = VelocityMatching(Velocity()).target(denoiser, x, t)
    half = Denoiser(net, path=RECTIFIED, pred="flow", precision="bfloat16")
    assert torch.equal(VelocityMatching(Velocity()).target(half, x, t), exact)
    near = VelocityMatching(Velocity(), derivative="difference", dt=1e-4).target(denoiser, x, t)
    assert exact.std() > 0.1
    assert (exact - near).abs().max() < 0.02 * exact.abs().max()


def test_what_is_refused():
    x0, rng = draw(3, 2), Rng(0, range(3))
    other = Denoiser(Series(), path=Path.vp_cosine(), pred="v")
    with pytest.raises(ValueError, match="rectified"):
        VelocityMatching(Wiener(V))(other, x0, rng=rng, step=0)
    with pytest.raises(ValueError, match="jvp"):
        check_derivative("exact", 0.01)
    with pytest.raises(ValueError, match="dt=0"):
        VelocityMatching(Wiener(V), dt=0.0)
    with pytest.raises(ValueError, match="positive one, or None"):
        VelocityMatching(Wiener(V), normaliser=-1.0)
