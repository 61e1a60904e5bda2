"""The loop: what one step computes, what it may not do, and from where it may start."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw
from torch.utils._python_dispatch import TorchDispatchMode

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Plan, Rng, Row, Step, grid
from medsci.core.steer import Hook

RF = Path.rectified()
SOLVERS = [
    Multistep("x0", order=1),
    Multistep("x0", order=2),
    Multistep("eps", order=3),
    Multistep("v", "ratio", order=2),
    Multistep("x0", order=3, corrector=True),
    Multistep("angle", "ratio", order=3, corrector=True),
    Ancestral(0.7),
]


def bend(x, t, shift=0.0):
    """Return a denoiser that is neither linear nor constant."""
    return torch.tanh(x) * (1.0 - 0.5 * t) + shift


def run(solver, denoise, x, n=8, **options):
    plan = solver.plan(RF, grid.uniform(n))
    return plan.run(denoise, x, rng=Rng(0, range(x.shape[0])), **options)


def test_a_plan_by_hand():
    """Every number of the row is used as the module says, the history newest first."""
    first = Step(t=1.0, s=0.5, rows=(Row(a=2.0, b=3.0),), f=(0.5, 0.25))
    second = Step(
        t=0.5,
        s=0.0,
        rows=(Row(a=0.0, b=1.0), Row(a=7.0, b=11.0, c=(13.0, 17.0))),
        f=(1.0, -1.0),
        z=0.5,
    )
    plan = Plan((first, second), history=2, nfe=2)
    x = draw(3, 4)
    rng = Rng(5, (4, 9, 2))
    f1 = 0.5 * x + 0.25 * bend(x, 1.0)
    x1 = 2.0 * x + 3.0 * bend(x, 1.0)
    d2 = bend(x1, 0.5)
    f2 = x1 - d2
    noise = rng.normal(x.shape, step=1, dtype=DOUBLE)
    expected = 7.0 * x1 + 11.0 * d2 + 13.0 * f2 + 17.0 * f1 + 0.5 * noise
    torch.testing.assert_close(plan.run(bend, x, rng=rng), expected)
    # started in the middle there is one direction only, so the first row is used
    torch.testing.assert_close(plan.run(bend, x1, rng=rng, start=1), d2 + 0.5 * noise)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_input_is_left_alone(solver):
    x = draw(2, 5)
    kept = x.clone()
    run(solver, bend, x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize(
    "alias", [lambda x: x, lambda x: x.view(-1).view(x.shape), lambda x: x.flip(-1), lambda x: x[:]]
)
def test_a_denoiser_that_returns_its_input(solver, alias):
    x = draw(2, 5)
    expected = run(solver, lambda x, t: alias(x).clone(), x)
    assert torch.equal(run(solver, lambda x, t: alias(x), x), expected)


def test_a_view_at_an_offset_is_an_alias_too():
    x = draw(2, 5)
    expected = run(SOLVERS[1], lambda x, t: x[:1].clone(), x)
    assert torch.equal(run(SOLVERS[1], lambda x, t: x[:1], x), expected)
    expected = run(SOLVERS[1], lambda x, t: x[1:].clone(), x)
    assert torch.equal(run(SOLVERS[1], lambda x, t: x[1:], x), expected)


@pytest.mark.parametrize("solver", SOLVERS[:-1], ids=repr)
def test_a_start_in_the_middle_is_a_shorter_grid(solver):
    solver = dataclasses.replace(solver, lower_final=True)  # the same orders in both plans
    times = grid.uniform(20)
    x = draw(3, 4)
    from_middle = solver.plan(RF, times).run(bend, x, start=12)
    anew = solver.plan(RF, times[12:]).run(bend, x)
    torch.testing.assert_close(from_middle, anew, rtol=1e-12, atol=1e-12)


def test_two_halves_make_a_whole_without_history():
    for solver in (SOLVERS[0], SOLVERS[-1]):
        plan = solver.plan(RF, grid.uniform(8))
        rng = Rng(0, range(3))
        x = draw(3, 4)
        half = plan.run(bend, x, rng=rng, stop=5)
        assert torch.equal(plan.run(bend, half, rng=rng, start=5), plan.run(bend, x, rng=rng))


def test_ranges_outside_the_plan():
    plan = SOLVERS[0].plan(RF, grid.uniform(4))
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="plan of 4; give 0 <= start"):
            plan.run(bend, draw(1, 2), start=start, stop=stop)
    x = draw(1, 2)
    assert torch.equal(plan.run(bend, x, start=2, stop=2), x)


def test_noise_needs_streams():
    with pytest.raises(ValueError, match="pass rng="):
        Ancestral(0.5).plan(RF, grid.uniform(4)).run(bend, draw(1, 2))


def test_conditions_reach_the_denoiser():
    x = draw(2, 3)
    shifted = run(SOLVERS[1], bend, x, cond={"shift": 0.3})
    assert torch.equal(shifted, run(SOLVERS[1], lambda x, t: bend(x, t, 0.3), x))
    assert not torch.equal(shifted, run(SOLVERS[1], bend, x))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_any_rank_and_dtype(shape, dtype):
    x = draw(*shape, dtype=dtype)
    end = run(SOLVERS[5], lambda x, t: 0.3 * x, x)
    assert end.shape == x.shape
    assert end.dtype == dtype


def test_complex_states_are_pairs_of_real_ones():
    x = draw(2, 6, dtype=torch.complex128)
    pair = torch.view_as_real(x)
    end = run(SOLVERS[4], lambda x, t: x * (1 - t) / (1 + t), x)
    torch.testing.assert_close(
        torch.view_as_real(end), run(SOLVERS[4], lambda x, t: x * (1 - t) / (1 + t), pair)
    )


# What the loop may not do


class Guarded(torch.Tensor):
    """A tensor whose value must not be read."""

    FORBIDDEN = frozenset(
        {"item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"}
    )

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in cls.FORBIDDEN:
            raise RuntimeError(f"{func.__name__} waits for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


class NoSync(TorchDispatchMode):
    """Refuse the operations by which a value travels from device to host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value was read")
        return func(*args, **(kwargs or {}))


class Watch(Hook):
    def after(self, state):
        state.extra["norm"] = state.x.norm()


class Peek(Hook):
    def after(self, state):
        state.extra["norm"] = state.x.norm().item()


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_no_value_is_read(solver):
    x = draw(2, 6).as_subclass(Guarded)
    with NoSync():
        end = run(solver, bend, x, hooks=[Watch()])
    assert isinstance(end, Guarded)
    with pytest.raises(RuntimeError, match="waits for the device"):
        run(solver, bend, x, hooks=[Peek()])
    with pytest.raises(RuntimeError, match="a value was read"), NoSync():
        run(solver, bend, draw(2, 6), hooks=[Peek()])


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Multistep("x0", order=1), {"mul_": 1, "add_": 1}),
        (Multistep("x0", order=2, lower_final=False), {"mul_": 1, "add_": 2}),
        (Multistep("x0", order=3, lower_final=False), {"mul_": 1, "add_": 3}),
        (Multistep("v", "ratio", order=2, lower_final=False), {"mul_": 2, "add_": 3}),
    ],
    ids=["x0 1", "x0 2", "x0 3", "v 2"],
)
def test_kernels_per_step(solver, expected):
    """Order k costs k + 1 in-place passes; other bases form their direction in two more.

    No pass allocates: the new state takes the memory of the direction that is forgotten.
    """
    plan = solver.plan(RF, grid.uniform(12, t_min=0.1))
    x = draw(2, 3)

    def kernels(stop):
        with Count() as count:
            plan.run(lambda x, t: x.sin(), x, stop=stop)
        return count.calls

    one_step = kernels(9) - kernels(8)  # at full order
    assert one_step == {"sin": 1, **expected}


def test_hooks_absent_cost_nothing_and_present_see_every_step():
    seen = []

    class Note(Hook):
        def before(self, state):
            seen.append(("before", state.i, state.t))

        def denoised(self, state):
            seen.append(("denoised", state.i, state.n))

        def after(self, state):
            seen.append(("after", state.i, state.s))

    x = draw(1, 3)
    assert torch.equal(run(SOLVERS[1], bend, x, n=2, hooks=[Note()]), run(SOLVERS[1], bend, x, n=2))
    assert seen == [
        ("before", 0, 1.0),
        ("denoised", 0, 2),
        ("after", 0, 0.5),
        ("before", 1, 0.5),
        ("denoised", 1, 2),
        ("after", 1, 0.0),
    ]


# Gradients


def unrolled(x, weight, times):
    """Second-order Adams-Bashforth on the velocity of the rectified flow, written out."""
    older = None
    for i in range(len(times) - 1):
        t, s = times[i], times[i + 1]
        x0 = torch.tanh(weight * x)
        f = (x - x0) / t  # (x - (1 - t) x0) / t - x0
        if older is None:
            x = x + (s - t) * f
        else:
            r = (s - t) / (t - times[i - 1])
            x = x + (s - t) * ((1.0 + 0.5 * r) * f - 0.5 * r * older)
        older = f
    return x


@pytest.mark.parametrize("grad", ["full", "checkpoint"])
def test_gradients_are_those_of_the_unrolled_loop(grad):
    times = np.array([1.0, 0.8, 0.55, 0.3, 0.0])
    plan = Multistep("v", "ratio", order=2, lower_final=False).plan(RF, times)

    def loss_and_gradients(walk):
        weight = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
        x = draw(3, 4).requires_grad_()
        end = walk(x, weight)
        return end, *torch.autograd.grad(end.square().sum(), (x, weight))

    manual = loss_and_gradients(lambda x, w: unrolled(x, w, times.tolist()))
    ours = loss_and_gradients(lambda x, w: plan.run(lambda x, t: torch.tanh(w * x), x, grad=grad))
    for value, expected in zip(ours, manual, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_all_modes_take_the_same_walk(solver):
    x = draw(2, 5).requires_grad_()
    ends = [run(solver, bend, x, grad=grad) for grad in ("none", "full", "checkpoint")]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert [end.requires_grad for end in ends] == [False, True, True]


def test_checkpoints_do_not_keep_the_graph_of_the_network():
    kept = {}
    for grad in ("full", "checkpoint"):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1], lambda t: t
        ):
            run(
                SOLVERS[0],
                lambda x, t: x.sin().exp().tanh(),
                draw(2, 5).requires_grad_(),
                grad=grad,
            )
        kept[grad] = sum(sizes)
    assert kept["checkpoint"] <= kept["full"] / 2


def test_plans_hold_nothing_but_floats():
    plan = Multistep("angle", "ratio", order=3, corrector=True).plan(RF, grid.uniform(20))
    for step in plan.steps:
        for row in step.rows:
            numbers = (step.t, step.s, step.z, *step.f, row.a, row.b, *row.c)
            assert all(type(number) is float and math.isfinite(number) for number in numbers)
