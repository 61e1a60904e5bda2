"""Consistency: the boundary, the flow map as fixed point, guidance, and what must not come out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw
from torch import nn

from medsci.core.denoise import Denoiser
from medsci.core.learn import PseudoHuber, SquaredError
from medsci.core.learn.consistency import Consistency
from medsci.core.process import Path
from medsci.core.process.pred import x0_weights
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng
from medsci.core.solve import Multistep, grid

V, WRONG = 0.3, 0.8
PATHS = {
    "rectified": Path.rectified(),
    "cosine": Path.vp_cosine(),
    "ve": Path.ve(sigma_max=5.0),
}


class Wiener(nn.Module):
    """The denoiser of N(0, v), for one time per sample; with `c`, of N(c, v) without v."""

    def __init__(self, v, path):
        super().__init__()
        self.v, self.path = v, path

    def forward(self, x, t, *, c=0.0):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        return c + alpha * self.v / (alpha**2 * self.v + sigma**2) * (x - alpha * c)


class FlowMap(nn.Module):
    """The exact end of the flow of N(0, v)."""

    def __init__(self, v, path):
        super().__init__()
        self.v, self.path = v, path

    def forward(self, x, t):
        spread = self.path.alpha(t) ** 2 * self.v + self.path.sigma(t) ** 2
        return (self.v / spread).sqrt()[:, None] * x


class Table(nn.Module):
    """A gain per rung of `n` steps, uniform in time: every linear function of x, time by time."""

    def __init__(self, n):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(n + 1, dtype=DOUBLE))

    def forward(self, x, t):
        return self.gain[(t * (len(self.gain) - 1)).round().long()][:, None] * x


def student(path, n):
    return Denoiser(Table(n), path=path, pred="x0", time_code="unit_time", unit_input=False)


def truth(path, times):
    alpha, sigma = path.alpha(times), path.sigma(times)
    return np.sqrt(V / (alpha**2 * V + sigma**2))


def fit(objective, path, n, *, rounds, batch=400):
    """Solve the least squares of every rung, with the target of the round before; return gains.

    The student is linear in x at every rung and the Hessian is diagonal, so one Newton step of the
    squared error is its exact solution.
    """
    x0, z = math.sqrt(V) * draw(batch, 2, seed=5), draw(batch, 2, seed=6)
    gains = torch.ones(n + 1, dtype=DOUBLE)

    def slope(objective, at):
        moving = student_at(path, n, at)
        objective(moving, x0, rng=Rng(0, range(batch)), step=0, noise=z)[0].backward()
        return moving.net.gain.grad

    for _ in range(rounds):
        own = slope(objective, gains)  # the student is its own target
        held = replace(objective, target=student_at(path, n, gains))
        curvature = slope(held, gains + 1.0) - own
        gains = gains - own / curvature.clamp_min(1e-12)
    return gains.numpy()


def student_at(path, n, gains):
    frozen = student(path, n)
    with torch.no_grad():
        frozen.net.gain.copy_(gains)
    return frozen


def composed(path, n, skip, v=V):
    """Return the gains of the teacher's DDIM steps of `skip` rungs, one after the other."""
    times = np.linspace(0.0, 1.0, n + 1)
    gains = np.ones(n + 1)
    for i in range(1, n + 1):
        j = max(i - skip, 0)
        a, b = (float(path.alpha(times[k])) for k in (i, j))
        s, r = (float(path.sigma(times[k])) for k in (i, j))
        gains[i] = gains[j] * (r / s + (b - a * r / s) * a * v / (a**2 * v + s**2))
    return gains


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("skip", [1, 4])
def test_a_linear_student_becomes_the_chain_of_the_teachers_steps(name, skip):
    path, n = PATHS[name], 12
    objective = Consistency(Wiener(V, path), grid=grid.uniform(n), skip=skip, metric=SquaredError())
    gains = fit(objective, path, n, rounds=n // skip + 2)
    np.testing.assert_allclose(gains, composed(path, n, skip), rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_the_chain_tends_to_the_flow_map_and_not_to_the_conditional_mean(name):
    path = PATHS[name]
    errors = []
    for n in (8, 16, 32):
        times = np.linspace(0.0, 1.0, n + 1)
        objective = Consistency(
            Wiener(V, path), grid=grid.uniform(n), skip=1, metric=SquaredError()
        )
        gains = fit(objective, path, n, rounds=n + 1)
        errors.append(abs(gains / truth(path, times) - 1.0).max())
    assert errors[2] < 0.1
    assert 1.5 < errors[0] / errors[1] < 2.8  # order one, that of DDIM
    assert 1.5 < errors[1] / errors[2] < 2.8
    alpha, sigma = float(path.alpha(1.0)), float(path.sigma(1.0))
    mean = alpha * V / (alpha**2 * V + sigma**2)
    assert abs(gains[-1] - mean) > 5.0 * abs(gains[-1] - truth(path, np.array(1.0)))


def test_control_a_wrong_teacher_gives_its_own_chain():
    path, n = PATHS["rectified"], 16
    wrong = Consistency(Wiener(WRONG, path), grid=grid.uniform(n), skip=1, metric=SquaredError())
    gains = fit(wrong, path, n, rounds=n + 1)
    np.testing.assert_allclose(gains, composed(path, n, 1, WRONG), rtol=1e-6)
    assert abs(gains[-1] - truth(path, np.array(1.0))) > 0.2


def test_training_without_a_teacher_finds_the_same_chain():
    path, n = PATHS["rectified"], 8
    objective = Consistency(None, grid=grid.uniform(n), skip=1, metric=SquaredError())
    gains = fit(objective, path, n, rounds=n + 1, batch=4000)
    np.testing.assert_allclose(gains, composed(path, n, 1), rtol=0.05)
    assert abs(gains[-1] - composed(path, n, 1, WRONG)[-1]) > 0.1


def loss_of(f, teacher, path, n):
    objective = Consistency(teacher, f, grid=grid.uniform(n), skip=1, metric=SquaredError())
    x0 = math.sqrt(V) * draw(300, 2)
    inside = given(f, path)
    return float(objective(inside, x0, rng=Rng(1, range(300)), step=0)[0].detach())


def given(f, path):
    class Net(nn.Module):
        def forward(self, x, t):
            return f(x, t)

    return Denoiser(Net(), path=path, pred="x0", time_code="unit_time", unit_input=False)


@pytest.mark.parametrize("name", PATHS)
def test_the_loss_of_the_flow_map_falls_with_the_fourth_power_of_the_step(name):
    """One step of DDIM is wrong by its square; any other function is wrong by the step itself."""
    path = PATHS[name]

    def order(f, teacher):
        coarse, fine = (loss_of(f, teacher, path, n) for n in (200, 800))
        return math.log(coarse / fine, 4.0)

    assert 3.4 < order(FlowMap(V, path), Wiener(V, path)) < 4.6
    assert 1.4 < order(Wiener(V, path), Wiener(V, path)) < 2.6  # the conditional mean
    assert 1.4 < order(FlowMap(V, path), Wiener(WRONG, path)) < 2.6


def test_pseudo_huber_has_the_same_fixed_point():
    path, n = PATHS["rectified"], 6
    objective = Consistency(Wiener(V, path), grid=grid.uniform(n), skip=2)
    assert objective.metric == PseudoHuber(0.001)
    at = student_at(path, n, torch.from_numpy(composed(path, n, 2)))
    off = student_at(path, n, torch.from_numpy(1.1 * composed(path, n, 2)))
    size = []
    for denoiser in (at, off):
        objective(denoiser, draw(50, 2), rng=Rng(0, range(50)), step=0)[0].backward()
        size.append(float(denoiser.net.gain.grad.abs().max()))
    assert size[0] < 1e-12
    assert size[1] > 1e-6


@pytest.mark.parametrize("pred", ["eps", "v", "flow", "score", "edm"])
@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_but_x0_is_the_identity_at_the_data(pred, name):
    class Noisy(nn.Module):
        def forward(self, x, code):
            return 3.0 + x.flip(1)

    x = draw(4, 3)
    denoiser = Denoiser(Noisy(), path=PATHS[name], pred=pred, time_code="unit_time")
    for t in (0.0, torch.zeros(4, dtype=DOUBLE)):
        torch.testing.assert_close(denoiser(x, t), x, rtol=0, atol=0)
    free = Denoiser(Noisy(), path=PATHS[name], pred="x0", time_code="unit_time")
    assert (free(x, 0.0) - x).abs().max() > 1.0


@pytest.mark.parametrize("t", [0.0, 0.01, 0.3, 1.0, 50.0])
def test_the_weights_of_latent_consistency_models_are_the_row_edm(t):
    d, tau = 0.5, 10.0 * t
    on_x, on_f = x0_weights("edm", 1.0, tau, sigma_data=d)
    assert on_x == pytest.approx(d**2 / (tau**2 + d**2), rel=1e-12)
    assert on_f == pytest.approx(d * tau / math.hypot(tau, d), rel=1e-12, abs=1e-15)


class Spy(nn.Module):
    """A denoiser that remembers its states."""

    def __init__(self, path):
        super().__init__()
        self.path, self.seen = path, []

    def forward(self, x, t, **cond):
        self.seen.append((x, t, cond))
        return torch.zeros_like(x)


def test_the_step_is_ddim_on_the_grid():
    path, times = PATHS["cosine"], grid.angle(PATHS["cosine"], 10)
    target = Spy(path)
    objective = Consistency(Wiener(V, path), target, grid=times, skip=3)
    x0, rng = draw(40, 2), Rng(2, range(40))
    seen = objective(given(lambda x, t: x, path), x0, rng=rng, step=4, noise=draw(40, 2, seed=9))[1]
    state, lower, _ = target.seen[0]
    rungs = [int(np.argmin(abs(times - float(t)))) for t in seen["t"]]
    assert set(rungs) == set(range(10))
    for b, i in enumerate(rungs):
        j = min(i + 3, 10)
        assert float(lower[b]) == times[j]
        x_t = path.perturb(x0[b : b + 1], float(times[i]), draw(40, 2, seed=9)[b : b + 1])
        plan = Multistep(order=1).plan(path, times[[i, j]])
        step = plan.run(lambda x, t: Wiener(V, path)(x, torch.tensor([t], dtype=DOUBLE)), x_t)
        torch.testing.assert_close(state[b : b + 1], step, rtol=1e-10, atol=1e-10)


def test_guidance_is_drawn_per_sample_and_given_to_the_teacher_only():
    path, n = PATHS["cosine"], 64
    target = Spy(path)
    objective = Consistency(
        Wiener(V, path),
        target,
        grid=grid.uniform(8),
        skip=8,
        guidance=(2.0, 14.0),
        null={"c": torch.zeros(1, 1, dtype=DOUBLE)},
    )
    cond = {"c": torch.ones(n, 1, dtype=DOUBLE)}

    class Net(nn.Module):
        def forward(self, x, t, *, c):
            return 0.0 * x * c

    denoiser = Denoiser(Net(), path=path, pred="x0", time_code="unit_time")
    x0, z = draw(n, 2), draw(n, 2, seed=3)
    _, seen = objective(denoiser, x0, rng=Rng(0, range(n)), step=0, noise=z, cond=cond)
    assert torch.equal(target.seen[0][2]["c"], cond["c"])
    x_t, t = path.perturb(x0, seen["t"], z), seen["t"]
    full = Wiener(V, path)(x_t, t, c=1.0)
    none = Wiener(V, path)(x_t, t, c=0.0)
    scale = (target.seen[0][0] - none) / (full - none)  # the state at the data is the guided x0
    torch.testing.assert_close(scale[:, 0], scale[:, 1], rtol=1e-8, atol=1e-8)
    assert 2.0 <= float(scale.min()) < 4.0
    assert 12.0 < float(scale.max()) <= 14.0


def test_a_conditional_mean_moves_both_states():
    path = Residual()
    target = Spy(path)
    objective = Consistency(None, target, grid=grid.uniform(4), skip=1)
    x0, mu, z = draw(6, 2), draw(6, 2, seed=1), draw(6, 2, seed=2)

    class Net(nn.Module):
        def forward(self, x, code, *, mu):
            return x

    denoiser = Denoiser(Net(), path=path, pred="x0", time_code="unit_time")
    objective(denoiser, x0, rng=Rng(0, range(6)), step=0, noise=z, cond={"mu": mu})
    state, s, _ = target.seen[0]
    torch.testing.assert_close(state, path.perturb(x0, s, z, mu=mu), rtol=1e-10, atol=1e-10)


def test_samples_do_not_mix_and_the_target_has_no_gradient():
    path = PATHS["rectified"]
    average = student_at(path, 10, torch.full((11,), 0.5, dtype=DOUBLE))
    objective = Consistency(Wiener(V, path), average, grid=grid.uniform(10), skip=2)
    denoiser, x0 = student(path, 10), draw(5, 3)
    loss, whole = objective(denoiser, x0, rng=Rng(7, range(5)), step=1)
    _, part = objective(denoiser, x0[1:2], rng=Rng(7, [1]), step=1)
    torch.testing.assert_close(whole["loss"][1:2], part["loss"], rtol=1e-12, atol=0)
    loss.backward()
    assert average.net.gain.grad is None
    assert denoiser.net.gain.grad.abs().max() > 0.0
    _, later = objective(denoiser, x0, rng=Rng(7, range(5)), step=2)
    assert not torch.equal(whole["loss"], later["loss"])


def test_a_teacher_of_another_path_is_the_same_teacher():
    path = PATHS["rectified"]
    x0, rng = draw(30, 2), Rng(3, range(30))
    losses = [
        Consistency(Wiener(V, own), FlowMap(V, path), grid=grid.uniform(10), skip=2)(
            student(path, 10), x0, rng=rng, step=0
        )[1]["loss"]
        for own in (path, PATHS["cosine"])
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-8, atol=1e-12)


def test_what_is_refused():
    path = PATHS["rectified"]
    with pytest.raises(ValueError, match="skip=5 came with a grid of 4 steps"):
        Consistency(None, grid=grid.uniform(4), skip=5)
    with pytest.raises(ValueError, match="low <= high"):
        Consistency(Wiener(V, path), guidance=(3.0, 2.0), null={"c": 0})
    with pytest.raises(ValueError, match="null conditions"):
        Consistency(Wiener(V, path), guidance=(2.0, 3.0))
    for own, times in ((path, grid.uniform(4, t_min=0.1)), (Path.vp_cosine(0.008), None)):
        objective = Consistency(None, grid=grid.uniform(4) if times is None else times, skip=1)
        with pytest.raises(ValueError, match="still has noise"):
            objective(student(own, 4), draw(2, 3), rng=Rng(0, range(2)), step=0)
