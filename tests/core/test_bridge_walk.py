"""The generic ancestral walk: the plan's twin on linear processes, and a home for all others."""

import inspect
import math
from dataclasses import dataclass

import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from torch.testing import assert_close

from medsci.core import Ancestral, Clip, Hook, Linear, Path, Rng, Trace, grid
from medsci.core.check import GaussianOracle
from medsci.core.process.bernoulli import Bernoulli
from medsci.core.process.joint import Joint
from medsci.core.process.noise import ComplexGaussian, StudentT
from medsci.core.process.shifted import Centred, MeanReverting
from medsci.core.solve.bridge import OnPart, bridge_walk

PATHS = [Path.vp_linear(), Path.rectified(), Path.ve(20.0)]
VARIANCES = torch.tensor([2.0, 0.5, 0.02], dtype=DOUBLE)
IDS = (0, 1, 2, 7)


def setting(path: Path) -> tuple[GaussianOracle, torch.Tensor]:
    return GaussianOracle(path, draw(3), variances=VARIANCES), draw(4, 3, scale=2.0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_it_is_the_ancestral_plan_on_a_linear_process(path, eta) -> None:
    oracle, x = setting(path)
    times = grid.uniform(9)
    planned = Ancestral(eta).plan(path, times).run(oracle, x, rng=Rng(3, IDS))
    before = x.clone()
    walked = bridge_walk(oracle, Linear(path), x, grid=times, rng=Rng(3, IDS), eta=eta)
    assert_close(walked, planned, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    other = bridge_walk(oracle, Linear(path), x, grid=times, rng=Rng(3, IDS), eta=eta + (
        0.1 if eta < 1.0 else -0.1))  # fmt: skip
    assert float((other - planned).abs().max()) > 1e-3


def test_hooks_and_complex_states_as_in_the_plan() -> None:
    path = PATHS[0]
    x = torch.complex(draw(4, 3), draw(4, 3, seed=1))
    oracle = GaussianOracle(path, torch.complex(draw(3), draw(3)), variances=VARIANCES)

    class Push(Hook):
        def after(self, state) -> None:
            state.x = state.x + 0.01 * state.t

    def run(walk):
        seen = Trace("x0", at="denoised")
        return walk((Push(), seen)), seen

    times = grid.uniform(6)
    process, plan = Linear(path, ComplexGaussian()), Ancestral().plan(path, times)
    ours, own = run(
        lambda hooks: bridge_walk(oracle, process, x, grid=times, rng=Rng(3, IDS), hooks=hooks)
    )
    theirs, planned = run(lambda hooks: plan.run(oracle, x, rng=Rng(3, IDS), hooks=hooks))
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert own.times == planned.times
    for a, b in zip(own.values, planned.values, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_last_step_returns_the_estimate() -> None:
    for process in (Linear(PATHS[1]), Linear(PATHS[1], StudentT(3.0)), Bernoulli(PATHS[1])):
        guess = draw(4, 3).sigmoid()
        end = bridge_walk(lambda x, t: guess, process, torch.ones(4, 3, dtype=DOUBLE),  # noqa: B023
                          grid=grid.uniform(3), rng=Rng(0, IDS))  # fmt: skip
        assert_close(end, guess, rtol=1e-14, atol=1e-14)


def test_a_conditional_mean_needs_no_centring_here() -> None:
    """On the states themselves, with mu as a condition: the plan's walk on the centred path."""
    path, mu = MeanReverting(0.7), draw(4, 3, seed=5)
    oracle, y = setting(Centred(path))
    times = grid.uniform(8)
    planned = Ancestral().plan(Centred(path), times).run(oracle, y, rng=Rng(3, IDS))
    x = y + float(path.shift(1.0)) * mu
    walked = bridge_walk(
        lambda x, t, *, mu: oracle(x - float(path.shift(t)) * mu, t),
        Linear(path), x, grid=times, rng=Rng(3, IDS), cond={"mu": mu},
    )  # fmt: skip
    assert_close(walked, planned, rtol=1e-12, atol=1e-12)


def test_a_sample_walks_alone_as_in_a_batch() -> None:
    process = Linear(PATHS[0], StudentT(4.0))

    def walk(ids):
        rng = Rng(2, ids)
        return bridge_walk(lambda x, t: 0.5 * x, process, process.prior((len(ids), 6), rng),
                           grid=grid.uniform(5), rng=rng)  # fmt: skip

    assert_batch_invariant(walk)


# A toy of deformation recovery: points turned by a random angle, turned back step by step


@dataclass(frozen=True)
class Turning:
    """Rotations composed: at time t a set of points is turned by t times its own angle."""

    spread: float = 2.0

    def prior(self, shape, rng, *, dtype=torch.float32, cond=None):
        return self.turn(cond["atlas"].expand(shape), self.spread * rng.normal(shape[:1], step=-1))

    def perturb(self, x0, t, rng, *, step=0, cond=None):
        angle = t * self.spread * rng.normal(x0.shape[:1], step=step, dtype=x0.dtype)
        return self.turn(x0, angle), angle

    def bridge(self, x_t, x0, *, t, s, rng, step, eta=1.0, cond=None):
        z_t, z_0 = (torch.view_as_complex(x.contiguous()) for x in (x_t, x0))
        recovery = (z_0 * z_t.conj()).sum(1).angle()  # the rotation from x_t to the estimate
        return self.turn(x_t, (1.0 - s / t) * recovery)

    @staticmethod
    def turn(x, angle):
        turned = torch.view_as_complex(x.contiguous()) * torch.exp(1j * angle)[:, None]
        return torch.view_as_real(turned)


def test_a_deformation_process_in_a_few_lines() -> None:
    assert len(inspect.getsource(Turning).splitlines()) < 25
    process, rng = Turning(1.0), Rng(0, range(50))
    atlas = draw(7, 2).expand(50, 7, 2)
    x, angle = process.perturb(atlas, 1.0, rng)
    trace = Trace("x")
    times = grid.uniform(5)
    end = bridge_walk(lambda x, t: atlas, process, x, grid=times, rng=rng, hooks=[trace])
    assert_close(end, atlas, rtol=1e-12, atol=1e-12)
    for s, state in zip(times[1:].tolist(), trace.values, strict=True):
        # a rotation all the way: distances are kept, and the angle falls with time
        assert_close(state.norm(dim=2), atlas.norm(dim=2), rtol=1e-12, atol=1e-12)
        near = angle.abs() < math.pi
        assert_close(state[near], process.turn(atlas, s * angle)[near], rtol=1e-9, atol=1e-9)
    flat, _ = Linear(Path.rectified()).perturb(atlas, 0.5, rng)  # the control: a linear process
    assert float((flat.norm(dim=2) - atlas.norm(dim=2)).abs().max()) > 0.1


def test_a_hook_may_work_on_one_part() -> None:
    joint = Joint({"img": Linear(PATHS[0]), "mask": Bernoulli(PATHS[0])})
    rng = Rng(0, IDS)
    start = joint.prior({"img": (4, 3), "mask": (4, 3)}, rng)
    clip, seen = OnPart("img", Clip(-0.1, 0.1)), Trace(lambda state: dict(state.x0), at="denoised")
    mask = OnPart("mask", Trace("x"))

    def denoise(x, t):
        return {"img": 3.0 * x["img"], "mask": 0.2 + 0.6 * x["mask"]}

    end = bridge_walk(denoise, joint, start, grid=grid.uniform(4), rng=rng,
                      hooks=[clip, seen, mask])  # fmt: skip
    assert float(end["img"].abs().max()) <= 0.1001
    assert all(float(x0["img"].abs().max()) <= 0.1001 for x0 in seen.values)
    assert all(x0["mask"].min() >= 0.2 for x0 in seen.values)
    assert len(mask.hook.values) == 4
    assert set(mask.hook.values[0].unique().tolist()) <= {0.0, 1.0}
    free = bridge_walk(denoise, joint, start, grid=grid.uniform(4), rng=rng)
    assert float(free["img"].abs().max()) > 0.5


def test_the_grid_is_checked() -> None:
    oracle, x = setting(PATHS[0])
    with pytest.raises(ValueError, match="decrease strictly"):
        bridge_walk(oracle, Linear(PATHS[0]), x, grid=grid.uniform(3)[::-1], rng=Rng(0, IDS))
