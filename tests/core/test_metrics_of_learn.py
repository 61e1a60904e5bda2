"""Metrics: limits by gradients, what features see, and metrics made of metrics."""

import math

import pytest
import torch
from contracts.core import DOUBLE, draw

from medsci.core.learn.metric import (
    Differences,
    Mapped,
    Metric,
    Perceptual,
    PseudoHuberNorm,
    SquaredError,
    Sum,
)


def gradient(metric, difference):
    x = difference.clone().requires_grad_(requires_grad=True)
    metric(x, torch.zeros_like(x)).sum().backward()
    return x.grad


@pytest.mark.parametrize(("width", "c"), [("sqrt", 0.00054 * 8.0), ("linear", 0.00054 * 64.0)])
def test_the_rounded_norm_is_squared_near_and_absolute_far(width, c):
    """Gradients: d / c for |d| << c (L2) and d / |d| for |d| >> c (L1 of the norm)."""
    metric, direction = PseudoHuberNorm(width=width), draw(3, 8, 8, seed=1)
    unit = direction / direction.flatten(1).norm(dim=1)[:, None, None]
    near, far = 1e-4 * c * unit, 1e4 * c * unit
    torch.testing.assert_close(gradient(metric, near), near / c, rtol=1e-7, atol=0.0)
    torch.testing.assert_close(gradient(metric, far), unit, rtol=1e-7, atol=0.0)
    middle = gradient(metric, c * unit)
    torch.testing.assert_close(middle, unit / math.sqrt(2.0))  # neither: where both fail
    assert not torch.allclose(gradient(metric, far), far / c, rtol=0.5)
    assert torch.equal(gradient(metric, 0.0 * unit), 0.0 * unit)


def test_the_two_widths_of_3072_numbers():
    """1.66 and 0.03, so that an error of norm one is near for one and far for the other."""
    one = torch.full((1, 3072), 1.0 / math.sqrt(3072.0), dtype=DOUBLE)
    zero = torch.zeros_like(one)

    def width(name):  # from the value at |d| = 1: sqrt(1 + c^2) - c = v
        v = float(PseudoHuberNorm(width=name)(one, zero))
        return (1.0 - v * v) / (2.0 * v)

    assert width("linear") == pytest.approx(1.66, abs=0.005)
    assert width("sqrt") == pytest.approx(0.03, abs=0.001)
    z = torch.complex(one, 0.5 * one)
    real = torch.view_as_real(z).flatten(1)
    for name in ("linear", "sqrt"):  # complex numbers count as two
        metric = PseudoHuberNorm(width=name)
        torch.testing.assert_close(metric(z, 0.0 * z), metric(real, 0.0 * real))


def features(x):
    """Return two maps: edges of either direction, and a coarse square."""
    edges = torch.stack(
        [x[:, 0, 1:, :-1] - x[:, 0, :-1, :-1], x[:, 0, :-1, 1:] - x[:, 0, 1:, 1:]], 1
    )
    return [edges, torch.nn.functional.avg_pool2d(torch.cat([x, x.square()], 1), 2)]


def test_a_perceptual_error_is_the_angle_between_features():
    """Unit features at an angle are `2 - 2 cos` apart, whatever their size."""
    metric = Perceptual(lambda x: [x])
    turned = torch.tensor([0.0, 0.3, math.pi / 2, math.pi], dtype=DOUBLE)
    a = torch.stack([torch.ones(4), torch.zeros(4)], 1).double()[:, :, None].expand(4, 2, 5)
    b = torch.stack([turned.cos(), turned.sin()], 1)[:, :, None].expand(4, 2, 5)
    torch.testing.assert_close(metric(a, b), 2.0 - 2.0 * turned.cos())
    torch.testing.assert_close(metric(3.0 * a, 0.2 * b), metric(a, b), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(SquaredError()(3.0 * a, 0.2 * b), SquaredError()(a, b))  # control


def test_layers_are_averaged_over_places_weighed_and_summed():
    x, y = draw(3, 1, 8, 8, seed=1), draw(3, 1, 8, 8, seed=2)
    single = [Perceptual(lambda v, i=i: [features(v)[i]])(x, y) for i in (0, 1)]
    torch.testing.assert_close(Perceptual(features)(x, y), single[0] + single[1])
    weighed = Perceptual(features, weights=(2.0, 0.5))(x, y)
    torch.testing.assert_close(weighed, 2.0 * single[0] + 0.5 * single[1])
    torch.testing.assert_close(
        Perceptual(features)(x[1:2], y[1:2]), Perceptual(features)(x, y)[1:2]
    )
    assert torch.equal(Perceptual(features)(x, x), torch.zeros(3, dtype=DOUBLE))
    with pytest.raises(ValueError, match="2 feature maps came for 1"):
        Perceptual(features, weights=(1.0,))(x, y)


def test_the_prediction_gets_the_gradient_and_the_target_none():
    x, y = (draw(2, 1, 8, 8, seed=s).requires_grad_(requires_grad=True) for s in (1, 2))
    Perceptual(features)(x, y).sum().backward()
    assert x.grad.abs().sum() > 0.0
    assert y.grad is None
    step = 1e-6 * draw(2, 1, 8, 8, seed=3)
    change = (Perceptual(features)(x + step, y) - Perceptual(features)(x, y)).sum()
    assert float(change.detach()) == pytest.approx(float((x.grad * step).sum()), rel=1e-3)
    zero = torch.zeros(2, 1, 8, 8, dtype=DOUBLE)
    assert gradient(Perceptual(features), zero).isfinite().all()


def test_differences_see_velocities_and_no_offset():
    x, y = draw(4, 3, 10, seed=1), draw(4, 3, 10, seed=2)
    for dim in (2, -1):
        ours = Differences(dim)(x, y)
        torch.testing.assert_close(ours, SquaredError()(x.diff(dim=2), y.diff(dim=2)))
        torch.testing.assert_close(Differences(dim)(x + draw(4, 3, 1, seed=3), y), ours)
    assert not torch.allclose(SquaredError()(x + 1.0, y), SquaredError()(x, y))  # control
    for dim in (0, -3):
        with pytest.raises(ValueError, match="after the first"):
            Differences(dim)(x, y)


def arm(angles):
    """Return the joint positions of an arm of three links of length one, by forward kinematics."""
    total = angles.cumsum(1)
    return torch.stack([total.cos().cumsum(1), total.sin().cumsum(1)], -1)


def test_a_mapped_metric_is_taken_after_the_map():
    """Near the root one radian moves the hand three lengths, at the last joint one."""
    rest = torch.zeros(1, 3, dtype=DOUBLE)
    errors = []
    for joint in range(3):
        bent = rest.clone()
        bent[0, joint] = 1e-3
        errors.append(float(Mapped(arm)(bent, rest)) * 6 / 1e-6)
        assert float(SquaredError()(bent, rest)) == pytest.approx(1e-6 / 3)  # control: all alike
    assert errors == pytest.approx([1 + 4 + 9, 1 + 4, 1], rel=1e-3)
    whole = torch.full((1, 3), 0.0, dtype=DOUBLE)
    whole[0, 0] = 2.0 * math.pi
    assert float(Mapped(arm)(whole, rest)) == pytest.approx(0.0, abs=1e-24)


def test_sums_add_and_everything_is_a_metric():
    x, y = draw(4, 3, seed=1), draw(4, 3, seed=2)
    total = Sum(((2.0, SquaredError()), (0.5, Mapped(arm, PseudoHuberNorm()))))
    parts = 2.0 * SquaredError()(x, y) + 0.5 * PseudoHuberNorm()(arm(x), arm(y))
    torch.testing.assert_close(total(x, y), parts)
    for metric in (total, Differences(1), Mapped(arm), Perceptual(features), PseudoHuberNorm()):
        assert isinstance(metric, Metric)
    with pytest.raises(ValueError, match="no metric"):
        Sum(())
    with pytest.raises(ValueError, match="scale=0"):
        PseudoHuberNorm(0.0)
