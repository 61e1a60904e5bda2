"""Phases: the student's few steps are the teacher's many, exactly, on every path."""

import numpy as np
import pytest
import torch
from contracts.affine_fit import AffineAt, solve_table
from contracts.core import DOUBLE, draw

from medsci.core.check.straightness import noise_drift
from medsci.core.denoise import Denoiser, from_callable
from medsci.core.learn import Objective, PseudoHuber, SquaredError
from medsci.core.learn.phased import Phased, leg, x0_of_leg
from medsci.core.process.path import Path, expand
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng
from medsci.core.solve import Multistep, sample

VARIANCES = torch.tensor([4.0, 1.0, 0.25, 0.09], dtype=DOUBLE)
MEAN = torch.tensor([0.5, -0.7, 0.9, 0.3], dtype=DOUBLE)
DDIM = Multistep("eps", order=1)
EDGES = (1.0, 0.6, 0.3, 0.0)
PATHS = {
    "cosine": Path.vp_cosine(),
    "linear": Path.vp_linear(),
    "rectified": Path.rectified(),
    "ve": Path.ve(sigma_max=20.0),
}


def gaussian(path, variances=VARIANCES):
    """Return the exact denoiser, for a float time or one time per sample."""

    def denoise(x, t, **cond):
        alpha, sigma = (expand(c, x) for c in (path.alpha(t), path.sigma(t)))
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return from_callable(denoise, path=path)


def student_of(objective, path, pred="x0"):
    """Return the affine student that minimises the objective with the squared error."""
    times = objective.rungs[:-1].tolist()
    student = Denoiser(
        AffineAt(times, 4), path=path, pred=pred, time_code="unit_time", unit_input=False
    )
    x0 = MEAN + VARIANCES.sqrt() * draw(400, 4, seed=1)
    rng = Rng(0, range(400))
    solve_table(student.net, lambda: objective(student, x0, rng=rng, step=0)[0])
    return student.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_a_leg_is_the_first_order_step_and_its_inverse(name, tensor):
    path = PATHS[name]
    x, x0 = draw(5, 3), draw(5, 3, seed=1)
    expected = DDIM.plan(path, np.array([0.8, 0.3])).run(lambda y, t: x0, x)
    t, s = (torch.full((5,), v, dtype=DOUBLE) if tensor else v for v in (0.8, 0.3))
    there = leg(path, x, x0, t=t, s=s)
    torch.testing.assert_close(there, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x0_of_leg(path, x, there, t=t, s=s), x0, rtol=1e-9, atol=1e-9)
    assert (x0_of_leg(path, x, there, t=t, s=0.5 * t) - x0).abs().max().item() > 1e-2  # control


def test_on_the_rectified_path_a_leg_is_an_euler_step():
    x, x0 = draw(5, 3), draw(5, 3, seed=1)
    velocity = (x - x0) / 0.8  # (z - x0) of the state x = .2 x0 + .8 z
    torch.testing.assert_close(
        leg(PATHS["rectified"], x, x0, t=0.8, s=0.3), x - 0.5 * velocity, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", PATHS)
def test_the_student_takes_the_walk_of_the_teacher_in_one_step_per_phase(name):
    path, teacher = PATHS[name], gaussian(PATHS[name])
    objective = Phased(teacher, EDGES, 6, metric=SquaredError())
    student = student_of(objective, path)
    options = {"solver": DDIM, "seed": 4, "dtype": DOUBLE}
    many = sample(teacher, (64, 4), grid=objective.rungs, **options)
    few = sample(student, (64, 4), grid=np.array(EDGES), **options)
    torch.testing.assert_close(few, many, rtol=0, atol=1e-9)
    naive = sample(teacher, (64, 4), grid=np.array(EDGES), **options)
    assert (naive - many).abs().max().item() > 0.05  # the teacher itself cannot
    wrong = Phased(gaussian(path, 2.0 * VARIANCES), EDGES, 6, metric=SquaredError())
    other = sample(student_of(wrong, path), (64, 4), grid=np.array(EDGES), **options)
    assert (other - many).abs().max().item() > 0.1  # control: taught by another teacher


def walk(denoise, path, times, x):
    """Return the states of a first-order walk."""
    states = [x]
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        states.append(DDIM.plan(path, np.array([t, s])).run(denoise, states[-1]))
    return states


@pytest.mark.parametrize("on", ["rung", "chord"])
def test_what_is_exact_within_a_phase(on):
    """From rungs, every step to the end; on chords, the noise estimate along the student's walk."""
    path, teacher = PATHS["cosine"], gaussian(PATHS["cosine"])
    objective = Phased(teacher, (0.99, 0.6, 0.3, 0.0), 6, on=on, metric=SquaredError())
    student, rungs = student_of(objective, path, "eps"), objective.rungs
    x = path.perturb(MEAN + draw(64, 4), 0.99, draw(64, 4, seed=1))
    taught = walk(teacher, path, rungs, x)
    jump = drift = 0.0
    for first in (0, 6, 12):
        phase = rungs[first : first + 7]
        for i in range(6):
            end = DDIM.plan(path, phase[[i, 6]]).run(student, taught[first + i])
            jump = max(jump, (end - taught[first + 6]).abs().max().item())
        own = walk(student, path, phase[:-1], taught[first])
        times = phase[:-1].tolist()
        drift = max(drift, noise_drift(student, path, times=times, states=own).item())
        assert noise_drift(teacher, path, times=times, states=taught[first : first + 6]) > 0.03
        once = DDIM.plan(path, phase[[0, 6]]).run(student, taught[first])
        torch.testing.assert_close(once, taught[first + 6], rtol=0, atol=1e-9)  # either way
    assert (jump < 1e-9) == (on == "rung")
    assert (drift < 1e-9) == (on == "chord")
    assert max(jump, drift) > 0.02  # the other one is not
    own = walk(student, path, rungs[:-1], x)
    across = noise_drift(student, path, times=rungs[:-1].tolist(), states=own)
    assert across > 0.1  # from phase to phase the estimate does change


def test_pairs_make_the_target_their_own_sample():
    """With one phase and a point mass, every walk ends at the point, whatever the ladder."""
    point = draw(7, 4)
    path = PATHS["rectified"]
    teacher = from_callable(lambda x, t, *, label: point[label], path=path)
    objective = Phased(teacher, (1.0, 0.0), 5)
    rung = np.array([0, 1, 2, 3, 4, 2, 0])
    t = torch.from_numpy(objective.rungs[rung])
    x_t = path.perturb(point, t, draw(7, 4, seed=1))
    label = torch.arange(7)
    target = objective.target(x_t, rung, cond={"label": label})
    torch.testing.assert_close(target, point, rtol=1e-12, atol=1e-12)
    mixed = objective.target(x_t, rung, cond={"label": label.roll(1)})
    torch.testing.assert_close(mixed, point.roll(1, 0), rtol=1e-12, atol=1e-12)


def test_a_shifted_path_moves_with_its_mean():
    path, mu, x0, z = Residual(), draw(6, 4), draw(6, 4, seed=1), draw(6, 4, seed=2)
    x_t = path.perturb(x0, 0.8, z, mu=mu)
    there = leg(path, x_t, x0, t=0.8, s=0.3, mu=mu)
    torch.testing.assert_close(there, path.perturb(x0, 0.3, z, mu=mu))
    torch.testing.assert_close(x0_of_leg(path, x_t, there, t=0.8, s=0.3, mu=mu), x0)
    row = torch.arange(6)
    teacher = from_callable(lambda x, t, *, mu, row: x0[row], path=path)
    objective = Phased(teacher, (1.0, 0.5, 0.0), 3)
    rung = np.array([0, 1, 2, 3, 4, 5])
    x_t = path.perturb(x0, torch.from_numpy(objective.rungs[rung]), z, mu=mu)
    torch.testing.assert_close(objective.target(x_t, rung, cond={"mu": mu, "row": row}), x0)


def test_the_teacher_gets_no_gradient_and_a_sample_has_its_loss_in_any_batch():
    path = PATHS["cosine"]
    nets = [AffineAt([0.5], 3), AffineAt([0.5], 3)]
    for net, seed in zip(nets, (1, 2), strict=True):
        net.table.data.copy_(draw(1, 2, 3, seed=seed))
    student, teacher = (Denoiser(net, path=path, pred="v", unit_input=False) for net in nets)
    objective = Phased(teacher, EDGES, 4)
    assert isinstance(objective, Objective)
    assert isinstance(objective.metric, PseudoHuber)
    x0 = draw(5, 3)
    loss, seen = objective(student, x0, rng=Rng(9, range(5)), step=2)
    loss.backward()
    assert student.net.table.grad.abs().max().item() > 0.0
    assert teacher.net.table.grad is None
    _, alone = objective(student, x0[3:4], rng=Rng(9, [3]), step=2)
    torch.testing.assert_close(alone["loss"], seen["loss"][3:4], rtol=1e-12, atol=0)
    assert set(seen["t"].tolist()) <= set(objective.rungs[:-1].tolist())
    _, other = objective(student, x0, rng=Rng(9, range(5)), step=3)
    assert not torch.equal(other["t"], seen["t"])


@pytest.mark.parametrize(
    ("edges", "ladder", "words"),
    [
        ((0.0, 1.0), 4, "decrease"),
        ((1.0,), 4, "two or more"),
        ((1.5, 0.0), 4, r"\[0, 1\]"),
        ((1.0, 0.5, 0.5, 0.0), 4, "decrease"),
        ((1.0, 0.0), 0, "ladder=0"),
    ],
)
def test_ladders_that_cannot_be_walked(edges, ladder, words):
    with pytest.raises(ValueError, match=words):
        Phased(gaussian(PATHS["cosine"]), edges, ladder)
