"""Flow-guided distillation: its minimisers on Gaussians have closed forms, by first leg."""

import numpy as np
import pytest
import torch
from contracts.affine_fit import AffineAt, solve_table
from contracts.core import DOUBLE, draw

from medsci.core.denoise import Denoiser, from_callable
from medsci.core.learn import Objective
from medsci.core.learn.flow_guided import FlowGuided
from medsci.core.process.path import Path, expand
from medsci.core.rng import Rng

VARIANCES = torch.tensor([4.0, 1.0, 0.25, 0.09], dtype=DOUBLE)
SD = VARIANCES.sqrt()
RF = Path.rectified()
N = 2000


def independent(path):
    """Return the denoiser of independent pairs, `E[x0 | x_t]`."""

    def denoise(x, t):
        alpha, sigma = (expand(c, x) for c in (path.alpha(t), path.sigma(t)))
        return alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2) * x

    return from_callable(denoise, path=path)


def straight(path):
    """Return the denoiser of the pairs `x0 = sd z`."""

    def denoise(x, t):
        alpha, sigma = (expand(c, x) for c in (path.alpha(t), path.sigma(t)))
        return SD * x / (alpha * SD + sigma)

    return from_callable(denoise, path=path)


def slope(objective, path=RF, *, roll=0, n=N):
    """Return the gain of x0 against z that minimises the objective on the pairs `x0 = sd z`."""
    student = Denoiser(
        AffineAt([1.0], 4), path=path, pred="x0", time_code="unit_time", unit_input=False
    )
    z = draw(n, 4, seed=1)
    x0, rng = SD * z.roll(roll, 0), Rng(2, range(n))
    moves = 14 if n == N else 24
    solve_table(
        student.net,
        lambda: objective(student, x0, rng=rng, step=0, noise=z)[0],
        rounds=moves if objective.first_leg == "student" else 2,  # its leg moves the target
    )
    return student.net.table.detach()[0, 0] * float(path.sigma(1.0))


def over_times(integrand, low=0.2, high=0.8):
    """Return the mean over times uniform between low and high, of the gains of all coordinates."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    times = low + (high - low) * (0.5 + 0.5 * nodes)
    parts = [0.5 * w * integrand(float(s)) for s, w in zip(times, weights, strict=True)]
    return torch.stack(parts).sum(0)


def gain(s):
    """Return how much x0 the independent denoiser reads from a state at time s."""
    return (1.0 - s) * VARIANCES / ((1.0 - s) ** 2 * VARIANCES + s**2)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_teachers_two_steps_pull_the_student_by_their_weight(weight):
    """The teacher's first leg from `z` goes to `s z`, its second to `gain(s) s z`."""
    objective = FlowGuided(independent(RF), "teacher", weight=weight)
    two_steps = over_times(lambda s: gain(s) * s)
    expected = (SD + weight * two_steps) / (1.0 + weight)
    torch.testing.assert_close(slope(objective), expected, rtol=0.02, atol=0.01)
    if weight:
        assert (expected - SD).abs().max().item() > 0.2  # the control: pairs alone say otherwise


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_students_own_first_leg_ends_at_its_fixed_point(weight):
    """From `z` by `g z`: `x_s = ((1 - s) g + s) z`, and `g` solves a linear equation."""
    objective = FlowGuided(independent(RF), "student", weight=weight)
    own = over_times(lambda s: gain(s) * (1.0 - s))
    rest = over_times(lambda s: gain(s) * s)
    expected = (SD + weight * rest) / (1.0 + weight - weight * own)
    torch.testing.assert_close(slope(objective), expected, rtol=0.02, atol=0.01)
    by_teacher = (SD + weight * rest) / (1.0 + weight)
    assert (expected - by_teacher).abs().max().item() > 0.1  # the two legs differ


PATHS = {
    "cosine": Path.vp_cosine(),
    "linear": Path.vp_linear(),
    "rectified": RF,
    "ve": Path.ve(sigma_max=20.0),
}


@pytest.mark.parametrize("leg", ["student", "teacher"])
@pytest.mark.parametrize("name", PATHS)
def test_with_a_straight_teacher_pairs_and_guidance_agree(name, leg):
    """The map from the noise end is the teacher's: `sd z` where alpha(1) is zero."""
    path = PATHS[name]
    alpha, sigma = float(path.alpha(1.0)), float(path.sigma(1.0))
    found = slope(FlowGuided(straight(path), leg), path, n=64)
    torch.testing.assert_close(found, SD, rtol=2.0 * alpha / sigma * 2.0 + 1e-9, atol=1e-9)
    shuffled = slope(FlowGuided(straight(path), leg), path, roll=1, n=64)
    assert (shuffled - SD).abs().max().item() > 0.3  # the control


@pytest.mark.parametrize("leg", ["student", "teacher"])
def test_guidance_is_the_same_on_paths_of_equal_signal_to_noise(leg):
    """A first-order step does not see the scale of the state, so every path gets one target."""
    noise, aim = draw(6, 4), draw(6, 4, seed=1)
    rng = Rng(0, range(6))
    found = []
    for path in (RF, PATHS["cosine"]):
        objective = FlowGuided(independent(path), leg)
        s = objective._between(path, rng, step=0)
        found.append(objective.target(noise, s, end=aim))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    by_time = FlowGuided(independent(PATHS["cosine"]), leg)
    s = FlowGuided(independent(RF), leg)._between(RF, rng, step=0)
    assert (by_time.target(noise, s, end=aim) - found[0]).abs().max().item() > 0.01  # control


def test_the_released_variant_is_euler_in_the_velocity():
    teacher = independent(RF)
    noise, aim = draw(6, 4), draw(6, 4, seed=1)
    s = torch.linspace(0.2, 0.8, 6, dtype=DOUBLE)
    x_s = noise + (s[:, None] - 1.0) * (noise - aim)
    velocity = (x_s - teacher(x_s, s)) / s[:, None]
    expected = x_s - s[:, None] * velocity
    target = FlowGuided(teacher, "student").target(noise, s, end=aim)
    torch.testing.assert_close(target, expected, rtol=1e-12, atol=1e-12)


def test_times_lie_between_and_only_the_student_gets_a_gradient():
    objective = FlowGuided(independent(RF), between=(0.3, 0.5))
    s = objective._between(RF, Rng(0, range(2000)), step=1)
    assert 0.3 <= s.min().item() < 0.302
    assert 0.498 < s.max().item() <= 0.5
    nets = [AffineAt([1.0], 4), AffineAt([0.5], 4)]
    for net in nets:
        net.table.data.fill_(0.3)
    student, teacher = (Denoiser(net, path=RF, pred="flow", unit_input=False) for net in nets)
    x0, z = draw(5, 4), draw(5, 4, seed=1)
    for leg in ("student", "teacher"):
        guided = FlowGuided(teacher, leg)
        assert isinstance(guided, Objective)
        loss, seen = guided(student, x0, rng=Rng(9, range(5)), step=2, noise=z)
        loss.backward()
        assert student.net.table.grad.abs().max().item() > 0.0
        assert teacher.net.table.grad is None
        _, alone = guided(student, x0[3:4], rng=Rng(9, [3]), step=2, noise=z[3:4])
        torch.testing.assert_close(alone["loss"], seen["loss"][3:4], rtol=1e-12, atol=0)
        assert torch.equal(seen["t"], torch.ones(5, dtype=DOUBLE))


def test_settings_that_make_no_sense():
    teacher = independent(RF)
    with pytest.raises(ValueError, match="between"):
        FlowGuided(teacher, between=(0.8, 0.2))
    with pytest.raises(ValueError, match="weight=-1"):
        FlowGuided(teacher, weight=-1.0)
    student = Denoiser(AffineAt([1.0], 4), path=RF, pred="flow")
    with pytest.raises(ValueError, match="pass the noise"):
        FlowGuided(teacher)(student, draw(2, 4), rng=Rng(0, range(2)), step=0)
    with pytest.raises(ValueError, match="pass end"):
        FlowGuided(teacher).target(draw(2, 4), torch.full((2,), 0.5, dtype=DOUBLE))
