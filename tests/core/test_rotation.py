"""The Painters' picture of a Gaussian walk, against a finely integrated probability flow."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16

from medsci.core.check import GaussianOracle
from medsci.core.check.rotation import appearance_times, in_plane, perturbation_gain, rotation
from medsci.core.process import Path

CIRCLE = Path.vp_cosine()  # t is the angle of the path over pi / 2


def rotated16() -> GaussianOracle:
    """G16 with a mean, in a basis of its own."""
    straight = gaussian16(CIRCLE)
    basis = torch.linalg.qr(draw(16, 16, seed=11))[0]
    return GaussianOracle(CIRCLE, straight.mean, variances=straight.variances, vectors=basis)


def integrate(oracle, x, times, *, substeps=120):
    """Walk `dx/dphi = cos phi e - sin phi x0` by Runge-Kutta 4 and return the states at `times`."""

    def slope(x, phi):
        x0 = oracle(x, phi / (0.5 * math.pi))
        noise = (x - math.cos(phi) * x0) / math.sin(phi)
        return math.cos(phi) * noise - math.sin(phi) * x0

    states = [x]
    for t, s in pairwise(times):
        h = 0.5 * math.pi * (s - t) / substeps
        for i in range(substeps):
            phi = 0.5 * math.pi * t + i * h
            k1 = slope(x, phi)
            k2 = slope(x + 0.5 * h * k1, phi + 0.5 * h)
            k3 = slope(x + 0.5 * h * k2, phi + 0.5 * h)
            k4 = slope(x + h * k3, phi + h)
            x = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        states.append(x)
    return states


TIMES = [1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2, 0.12]


@pytest.fixture(scope="module")
def walk():
    oracle = rotated16()
    return oracle, integrate(oracle, draw(4, 16, seed=1), TIMES)


def test_closed_form_is_the_integrated_flow(walk):
    """Published: 3e-13; 840 steps give 1.8e-13."""
    oracle, states = walk
    for t, state in zip(TIMES[1:], states[1:], strict=True):
        exact = oracle.flow(states[0], 1.0, t)
        assert ((state - exact).norm() / exact.norm()).item() < 3e-13


def test_every_mode_keeps_its_coordinate_and_turns_by_theta(walk):
    oracle, states = walk
    turning = rotation(oracle, TIMES)
    modes = [
        (x - float(CIRCLE.alpha(t)) * oracle.mean) @ oracle.vectors
        for x, t in zip(states, TIMES, strict=True)
    ]
    coordinate = torch.stack(modes) / turning.amplitude[:, None]
    torch.testing.assert_close(coordinate, coordinate[:1].expand_as(coordinate), rtol=1e-10, atol=0)
    data = turning.amplitude * turning.angle.sin()
    noise = turning.amplitude * turning.angle.cos()
    alpha = torch.tensor(CIRCLE.alpha(np.array(TIMES)))[:, None]
    torch.testing.assert_close(data, alpha * oracle.variances.sqrt())
    torch.testing.assert_close(noise**2 + alpha**2, torch.ones_like(noise))
    straight = (
        torch.stack(modes) / (data + noise)[:, None]
    )  # the control: a straight line, no rotation
    assert (straight - straight[:1]).abs().max() > 0.1


def test_a_mode_of_unit_variance_only_turns():
    turning = rotation(gaussian16(CIRCLE), TIMES)
    torch.testing.assert_close(turning.amplitude[:, 0], torch.ones(len(TIMES), dtype=DOUBLE))
    angles = 0.5 * math.pi * (1.0 - torch.tensor(TIMES, dtype=DOUBLE))
    torch.testing.assert_close(turning.angle[:, 0], angles)
    assert (turning.amplitude[1:, 5] < 0.999).all(), "a smaller mode must shrink as well"


def test_share_of_the_denoiser_is_the_square_of_the_sine(walk):
    oracle, states = walk
    for i, t in enumerate(TIMES):
        alpha = float(CIRCLE.alpha(t))
        told = (oracle(states[i], t) - oracle.mean) @ oracle.vectors
        seen = (states[i] - alpha * oracle.mean) @ oracle.vectors
        share = torch.sin(rotation(oracle, [t]).angle[0]) ** 2
        torch.testing.assert_close(alpha * told, share * seen, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", [Path.ve(), Path.rectified(), CIRCLE, Path.vp_linear()])
def test_large_variances_appear_first(path):
    oracle = gaussian16(path)
    times = appearance_times(oracle)
    assert np.all(np.diff(times) < 0.0), "the variances of G16 fall"
    level = path.sigma(times) / path.alpha(times)
    np.testing.assert_allclose(level, oracle.variances.sqrt().numpy(), rtol=1e-9)
    for k in (0, 7, 15):  # half of the mode is believed there, by the denoiser itself
        t = float(times[k])
        alpha = float(path.alpha(t))
        push = torch.zeros(1, 16, dtype=DOUBLE)
        push[0, k] = 1.0
        told = oracle(alpha * oracle.mean + push, t) - oracle.mean
        assert told[0, k].item() == pytest.approx(0.5 / alpha, rel=1e-9)


def test_modes_beyond_the_ends_of_the_path_are_put_there():
    path = Path.ve(sigma_max=2.0, sigma_min=0.1)
    oracle = GaussianOracle(
        path, torch.zeros(3, dtype=DOUBLE), variances=torch.tensor([9.0, 1.0, 1e-4], dtype=DOUBLE)
    )
    times = appearance_times(oracle)
    assert times[0] == 1.0
    assert 0.0 < times[1] < 1.0
    assert times[2] == 0.0


@pytest.mark.parametrize("t", [0.9, 0.4, 0.1])
def test_perturbation_gain_is_what_a_push_leaves_in_the_clean_sample(t):
    oracle = rotated16()
    x = draw(1, 16, seed=3)
    alpha, h = float(CIRCLE.alpha(t)), math.tan(0.5 * math.pi * t)
    pushed = oracle.flow(x + alpha * oracle.vectors.T, t, 0.0) - oracle.flow(x, t, 0.0)
    gain = perturbation_gain(oracle, t)
    torch.testing.assert_close(pushed @ oracle.vectors, torch.diag(gain))
    expected = (oracle.variances / (oracle.variances + h**2)).sqrt()
    torch.testing.assert_close(gain, expected)
    assert (gain[:-1] > gain[1:]).all(), "a push moves large modes most"


def test_an_image_like_walk_is_nearly_a_rotation_in_one_plane():
    """Spectrum 1 / k^2; the control is the plane of another sample's end."""
    oracle = GaussianOracle(
        CIRCLE,
        torch.zeros(256, dtype=DOUBLE),
        variances=8.0 / torch.arange(1, 257, dtype=DOUBLE) ** 2,
    )
    start = draw(8, 256, seed=2)
    end = oracle.flow(start, 1.0, 0.0)
    shares, angles = [], []
    for t in np.linspace(0.95, 0.05, 10):
        angle, share = in_plane(oracle.flow(start, 1.0, float(t)), start=start, end=end)
        shares.append(share)
        angles.append(angle)
    assert torch.stack(shares).min() > 0.99
    assert (torch.diff(torch.stack(angles), dim=0) > 0.0).all(), "it turns one way"
    late = oracle.flow(start, 1.0, 0.2)
    own = in_plane(late, start=start, end=end)[1]
    other = in_plane(late, start=start, end=end.roll(1, 0))[1]
    assert (1.0 - own < 0.2 * (1.0 - other)).all()


def test_the_plane_is_exact_where_it_must_be():
    start, end = draw(3, 2, 5), draw(3, 2, 5, seed=1)
    angle, share = in_plane(0.6 * start + 0.8 * end, start=start, end=end)
    torch.testing.assert_close(angle, torch.full((3,), math.atan2(0.8, 0.6), dtype=DOUBLE))
    torch.testing.assert_close(share, torch.ones(3, dtype=DOUBLE))
    complex_start = torch.complex(start, end)
    angle, share = in_plane(
        complex_start, start=complex_start, end=draw(3, 2, 5, dtype=torch.complex128)
    )
    torch.testing.assert_close(angle, torch.zeros(3, dtype=DOUBLE), rtol=0.0, atol=1e-9)
    assert in_plane(2.0 * start, start=start, end=start)[1].min() > 1.0 - 1e-9, "a line is a plane"
