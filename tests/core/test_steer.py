"""Hooks: what they may change, and what follows from it."""

import pytest
import torch
from contracts.core import draw, gaussian16, median_error

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid
from medsci.core.steer import Clip, DataConsistency, Hook, StepState, Trace

RF = Path.rectified()
SOLVERS = [
    Multistep("x0", order=1),
    Multistep("x0", order=2),
    Multistep("eps", "ratio", order=3),
    Multistep("v", "ratio", order=3, corrector=True),
    Multistep("angle", "angle", order=2, corrector=True),
    Ancestral(0.6),
]


def bend(x, t):
    return 2.0 * torch.tanh(x) * (1.0 - 0.5 * t)


def walk(solver, x, *, denoise=bend, n=16, **options):
    plan = solver.plan(RF, grid.uniform(n))
    return plan.run(denoise, x, rng=Rng(0, range(x.shape[0])), **options)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_hook_on_x0_is_the_same_as_another_denoiser(solver):
    """The direction is formed after the hook: clipping inside or outside is one thing."""
    x = draw(3, 4)
    outside = walk(solver, x, hooks=[Clip(-0.3, 0.5)])
    inside = walk(solver, x, denoise=lambda x, t: bend(x, t).clamp(-0.3, 0.5))
    assert torch.equal(outside, inside)
    assert not torch.equal(outside, walk(solver, x))


def test_clip_bounds_the_result():
    end = walk(SOLVERS[1], draw(50, 4, scale=3.0), hooks=[Clip(-0.3, 0.5)])
    assert end.max() <= 0.5
    assert end.min() >= -0.3
    with pytest.raises(ValueError, match="low < high"):
        Clip(1.0, 0.0)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_data_consistency_sets_what_was_measured(solver):
    """Inpainting: known entries arrive, and the others move towards what they imply."""
    known = torch.tensor([True, False, True, False])
    y = torch.tensor([0.7, 0.0, -0.4, 0.0], dtype=torch.float64)
    hook = DataConsistency(lambda x0, state: torch.where(known, y, x0))
    end = walk(solver, draw(5, 4), hooks=[hook], n=40)
    torch.testing.assert_close(end[:, known], y[known].expand(5, 2), atol=0.02, rtol=0.0)
    free = walk(solver, draw(5, 4), n=40)
    assert (free[:, known] - y[known]).abs().max() > 0.5


def test_the_projection_sees_the_state():
    seen = []

    def project(x0, state: StepState):
        seen.append((state.i, state.t, state.cond["scale"]))
        return x0 * state.cond["scale"]

    plan = SOLVERS[0].plan(RF, grid.uniform(2))
    plan.run(
        lambda x, t, scale: x, draw(1, 2), hooks=[DataConsistency(project)], cond={"scale": 0.5}
    )
    assert seen == [(0, 1.0, 0.5), (1, 0.5, 0.5)]


class ResetAt(Hook):
    def __init__(self, step, point):
        self.step, self.point = step, point

    def _act(self, state, point):
        if (state.i, point) == (self.step, self.point):
            state.reset = True

    def before(self, state):
        self._act(state, "before")

    def denoised(self, state):
        self._act(state, "denoised")

    def after(self, state):
        self._act(state, "after")


@pytest.mark.parametrize("solver", SOLVERS[:-1], ids=repr)
@pytest.mark.parametrize(("step", "point"), [(6, "before"), (6, "denoised"), (5, "after")], ids=str)
def test_a_reset_forgets_the_directions(solver, step, point):
    """It is the same as stopping there and starting anew."""
    plan = solver.plan(RF, grid.uniform(16))
    x = draw(2, 3)
    reset = plan.run(bend, x, hooks=[ResetAt(step, point)])
    anew = plan.run(bend, plan.run(bend, x, stop=6), start=6)
    assert torch.equal(reset, anew)
    if plan.history:
        assert not torch.equal(reset, plan.run(bend, x))


class Kick(Hook):
    """Move the state once, and own up to it or not."""

    def __init__(self, *, reset):
        self.reset = reset

    def after(self, state):
        if state.i == 20:
            state.x = state.x + 0.5
            state.reset = self.reset


def test_a_moved_state_needs_a_reset():
    """Old directions belong to the old trajectory: keeping them costs accuracy."""
    oracle = gaussian16(RF)
    plan = Multistep("v", "ratio", order=3, corrector=True).plan(RF, grid.uniform(60))
    x = draw(16, 16)
    kicked = plan.run(oracle, x, stop=21) + 0.5
    exact = oracle.flow(kicked, plan.steps[21].t, 0.0)
    honest = median_error(plan.run(oracle, x, hooks=[Kick(reset=True)]), exact)
    silent = median_error(plan.run(oracle, x, hooks=[Kick(reset=False)]), exact)
    assert honest < silent / 3


class Put(Hook):
    """Replace the state by a tensor that belongs to somebody else."""

    def __init__(self, bank):
        self.bank = bank

    def before(self, state):
        if state.i == 3:
            state.x = self.bank
            state.reset = True


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_tensor_put_in_by_a_hook_is_not_overwritten(solver):
    bank = draw(2, 3, seed=8)
    kept = bank.clone()
    end = walk(solver, draw(2, 3), hooks=[Put(bank)])
    assert torch.equal(bank, kept)
    plan = solver.plan(RF, grid.uniform(16))
    assert torch.equal(end, plan.run(bend, bank, rng=Rng(0, range(2)), start=3))


class State0(Hook):
    """Put the state itself in place of x0, so that the two share memory."""

    def denoised(self, state):
        state.x0 = state.x


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_hook_may_alias_x_and_x0(solver):
    x = draw(2, 3)
    assert torch.equal(
        walk(solver, x, hooks=[State0()]), walk(solver, x, denoise=lambda x, t: x.clone())
    )


def test_hooks_act_in_their_order():
    x = draw(3, 4)
    double = DataConsistency(lambda x0, state: 2.0 * x0)
    one = walk(SOLVERS[0], x, hooks=[double, Clip(-0.3, 0.5)])
    other = walk(SOLVERS[0], x, hooks=[Clip(-0.3, 0.5), double])
    assert one.abs().max() <= 0.5
    assert other.abs().max() > 0.5


def test_hooks_may_leave_things_for_one_another():
    class Leave(Hook):
        def before(self, state):
            state.extra["weight"] = 1.0 + state.i

    weights = []
    note = Trace(lambda state: weights.append(state.extra["weight"]), at="denoised")
    walk(SOLVERS[0], draw(1, 2), n=3, hooks=[Leave(), note])
    assert weights == [1.0, 2.0, 3.0]


def test_trace_keeps_copies():
    trace, estimates = Trace(), Trace("x0", at="denoised")
    x = draw(2, 3)
    end = walk(SOLVERS[1], x, n=4, hooks=[trace, estimates])
    assert trace.times == [0.75, 0.5, 0.25, 0.0]
    assert estimates.times == [1.0, 0.75, 0.5, 0.25]
    assert torch.equal(trace.values[-1], end)
    assert not torch.equal(trace.values[0], trace.values[1])
    assert torch.equal(estimates.values[0], bend(x, 1.0))
    first = Trace(at="before")
    walk(SOLVERS[1], x, n=4, hooks=[first])
    assert torch.equal(first.values[0], x)


def test_trace_says_what_it_can_record():
    with pytest.raises(ValueError, match="before the denoiser ran"):
        Trace("x0", at="before")


def test_hooks_work_with_gradients():
    x = draw(2, 3).requires_grad_()
    end = walk(SOLVERS[3], x, hooks=[Clip(-0.3, 0.5)], grad="full")
    inside = walk(SOLVERS[3], x, denoise=lambda x, t: bend(x, t).clamp(-0.3, 0.5), grad="full")
    for one, other in zip(
        torch.autograd.grad(end.sum(), x), torch.autograd.grad(inside.sum(), x), strict=True
    ):
        torch.testing.assert_close(one, other)
