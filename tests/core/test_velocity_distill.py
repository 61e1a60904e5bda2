"""Velocity distillation: its gradient in closed form, where it vanishes, and where it is blind."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn

from medsci.core.denoise import Denoiser
from medsci.core.learn.velocity_distill import VelocityDistill
from medsci.core.process import Path
from medsci.core.rng import Rng

RECTIFIED = Path.rectified()
V, TIME, B = 0.3, 0.6, 2000


class Wiener(nn.Module):
    """The denoiser of N(0, v)."""

    path = RECTIFIED

    def __init__(self, v):
        super().__init__()
        self.v = v

    def forward(self, x, t):
        a = (1.0 - t)[:, None]
        return a * self.v / (a**2 * self.v + (1.0 - a) ** 2) * x


class Average(nn.Module):
    """The average velocity of the flow of N(0, w); with `frozen`, of N(0, frozen) at t < 1."""

    def __init__(self, w, frozen=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=DOUBLE))
        self.frozen = frozen

    def forward(self, x, t):
        w = self.w
        if self.frozen is not None:
            w = torch.where(t < 1.0, torch.full_like(t, self.frozen), w)
        gain = (w / ((1.0 - t) ** 2 * w + t**2)).sqrt()
        return ((1.0 - gain) / t)[:, None] * x


class At:
    """A time law at one point."""

    def __call__(self, path, rng, *, step):
        return torch.full((len(rng.ids),), TIME, dtype=DOUBLE)


def student(w, frozen=None):
    return Denoiser(
        Average(w, frozen), path=RECTIFIED, pred="flow", time_code="unit_time", unit_input=False
    )


def slope(objective, w, *, frozen=None, step=0):
    """Return the gradient of the objective with respect to the variance of the student."""
    denoiser = student(w, frozen)
    loss, _ = objective(denoiser, draw(B, 4), rng=Rng(0, range(B)), step=step)
    loss.backward()
    return float(denoiser.net.w.grad)


def rate(w, t=TIME):
    """Return the velocity of N(0, w) per x."""
    return (t - (1.0 - t) * w) / ((1.0 - t) ** 2 * w + t**2)


def stretch(w, t=TIME):
    """Return the derivative of the flow map of N(0, w)."""
    return math.sqrt(w / ((1.0 - t) ** 2 * w + t**2))


def four_errors(w):
    """Return four relative standard errors of the mean of `x_t z` over the batch."""
    return 4.0 * math.hypot(math.sqrt(2.0), TIME / ((1.0 - TIME) * math.sqrt(w))) / (4 * B) ** 0.5


@pytest.mark.parametrize("w", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("own", [True, False])
def test_the_gradient_is_the_closed_form(w, own):
    """`-2 E[(v_pred - v_tgt) dx/dw]`, `x_t = (1 - t) sqrt(w) z + t n`, `dx/dw = z / 2 sqrt(w)`."""
    objective = VelocityDistill(Wiener(V), fake=None if own else Wiener(w), time_law=At())
    weight = stretch(w) if own else 1.0
    expected = -(1.0 - TIME) * weight * (rate(w) - rate(V))
    assert slope(objective, w) == pytest.approx(expected, rel=four_errors(w), abs=1e-12)


@pytest.mark.parametrize("w", [0.1, 0.3, 1.0, 3.0])
def test_with_the_law_of_the_draws_it_is_the_gradient_of_the_divergence(w):
    """KL(N(0, S_w) | N(0, S_v)) at time t, per entry, times 2 t / (1 - t)^2."""
    value = torch.tensor(w, dtype=DOUBLE, requires_grad=True)
    ratio = ((1.0 - TIME) ** 2 * value + TIME**2) / ((1.0 - TIME) ** 2 * V + TIME**2)
    (0.5 * (ratio - 1.0 - ratio.log())).backward()
    expected = 2.0 * TIME / (1.0 - TIME) ** 2 * float(value.grad)
    objective = VelocityDistill(Wiener(V), fake=Wiener(w), time_law=At())
    assert slope(objective, w) == pytest.approx(expected, rel=four_errors(w), abs=1e-12)


def test_descent_ends_at_the_law_of_the_teacher_and_only_there():
    for teacher in (V, 1.5):  # the second is the control: a wrong teacher has its own end
        denoiser = student(1.0)
        objective = VelocityDistill(Wiener(teacher))
        optimiser = torch.optim.Adam(denoiser.parameters(), lr=0.1)
        for step in range(100):
            optimiser.zero_grad()
            objective(denoiser, draw(16, 4), rng=Rng(1, range(16)), step=step)[0].backward()
            optimiser.step()
        assert float(denoiser.net.w.detach()) == pytest.approx(teacher, rel=3e-2)
    objective = VelocityDistill(Wiener(V))
    assert slope(objective, 1.01 * V) > 0.0 > slope(objective, 0.99 * V)
    assert abs(slope(objective, V)) < 1e-14


def test_a_student_right_before_the_noise_and_wrong_at_it_gets_no_gradient():
    """The limit of doing without a second network; with one, the gradient is back."""
    assert abs(slope(VelocityDistill(Wiener(V)), 3.0, frozen=V)) < 1e-12
    assert slope(VelocityDistill(Wiener(V), fake=Wiener(3.0)), 3.0, frozen=V) > 1e-3


def test_the_value_is_the_squared_difference_of_velocities():
    objective = VelocityDistill(Wiener(V), fake=Wiener(1.0), time_law=At())
    loss, seen = objective(student(1.0), draw(B, 4), rng=Rng(0, range(B)), step=0)
    spread = (1.0 - TIME) ** 2 + TIME**2
    assert float(loss.detach()) == pytest.approx((rate(1.0) - rate(V)) ** 2 * spread, rel=0.05)
    assert seen["loss"].shape == seen["t"].shape == (B,)
    assert not seen["loss"].requires_grad


def test_the_difference_rule_gives_nearly_the_same():
    exact = slope(VelocityDistill(Wiener(V), time_law=At()), 1.0)
    near = slope(VelocityDistill(Wiener(V), derivative="difference", time_law=At()), 1.0)
    assert near == pytest.approx(exact, rel=1e-2)


def test_samples_do_not_mix_and_the_start_may_be_given():
    objective, denoiser, x0 = VelocityDistill(Wiener(V)), student(1.0), draw(5, 3)
    _, whole = objective(denoiser, x0, rng=Rng(3, range(5)), step=2)
    _, part = objective(denoiser, x0[2:3], rng=Rng(3, [2]), step=2)
    torch.testing.assert_close(whole["loss"][2:3], part["loss"], rtol=1e-12, atol=0)
    _, same = objective(denoiser, 7.0 * x0, rng=Rng(3, range(5)), step=2)
    assert torch.equal(whole["loss"], same["loss"])  # the data themselves are not looked at
    _, other = objective(denoiser, x0, rng=Rng(3, range(5)), step=2, noise=draw(5, 3, seed=4))
    assert not torch.equal(whole["loss"], other["loss"])


def test_what_is_refused():
    bent = Denoiser(Average(1.0), path=Path.vp_cosine(), pred="v")
    with pytest.raises(ValueError, match="rectified"):
        VelocityDistill(Wiener(V))(bent, draw(2, 3), rng=Rng(0, range(2)), step=0)
    with pytest.raises(ValueError, match=r"dt=0\.7"):
        VelocityDistill(Wiener(V), dt=0.7)
