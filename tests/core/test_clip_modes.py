"""The two ways to clip: what each keeps, for every solver."""

from itertools import pairwise

import pytest
import torch
from contracts.core import draw

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid
from medsci.core.steer import Clip, Hook

PATHS = {"rectified": Path.rectified(), "cosine": Path.vp_cosine(0.008), "ve": Path.ve(3.0, 0.1)}
LOW, HIGH = -0.3, 0.5


def wide(x, t):
    return 2.0 * torch.tanh(x) * (1.0 - 0.5 * t)


def by_hand(path, x, times):
    """Walk with `alpha' clamp(x0) + sigma' e`, e from the raw estimate."""
    for t, s in pairwise(times.tolist()):
        x0 = wide(x, t)
        noise = (x - float(path.alpha(t)) * x0) / float(path.sigma(t))
        x = float(path.alpha(s)) * x0.clamp(LOW, HIGH) + float(path.sigma(s)) * noise
    return x


@pytest.mark.parametrize("name", PATHS)
def test_the_published_mode_is_its_formula(name):
    path, x, times = PATHS[name], draw(3, 5, scale=2.0), grid.uniform(7)
    plan = Multistep("eps", order=1).plan(path, times)
    ours = plan.run(wide, x, hooks=[Clip(LOW, HIGH, mode="ddim", path=path)])
    torch.testing.assert_close(ours, by_hand(path, x, times), rtol=1e-11, atol=1e-11)
    half = [
        plan.run(wide, x, hooks=[hook], stop=4)
        for hook in (Clip(LOW, HIGH), Clip(LOW, HIGH, mode="ddim", path=path))
    ]
    assert (half[0] - half[1]).abs().max() > 1e-2  # control: the other mode, before all saturates


class Noise(Hook):
    """Note the noise estimate that the step goes on from."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def denoised(self, state):
        alpha, sigma = float(self.path.alpha(state.t)), float(self.path.sigma(state.t))
        self.seen.append((state.x - alpha * state.x0) / sigma)


@pytest.mark.parametrize(
    "solver",
    [Multistep("eps", "ratio", order=3), Multistep("x0", order=2), Ancestral(0.7)],
    ids=repr,
)
@pytest.mark.parametrize("mode", ["ddim", "consistent"])
def test_what_is_kept_with_any_solver(solver, mode):
    path = PATHS["rectified"]
    raw, clipped = Noise(path), Noise(path)
    plan = solver.plan(path, grid.uniform(20))
    x = draw(3, 5, scale=2.0)
    hooks = [raw, Clip(LOW, HIGH, mode=mode, path=path), clipped]
    end = plan.run(wide, x, rng=Rng(0, range(3)), hooks=hooks)
    for before, after in zip(raw.seen, clipped.seen, strict=True):
        if mode == "ddim":
            torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    moved = max(float((a - b).abs().max()) for a, b in zip(raw.seen, clipped.seen, strict=True))
    assert (moved > 0.1) == (mode == "consistent")
    assert end.isfinite().all()


def test_the_mode_needs_a_path():
    with pytest.raises(ValueError, match="without a path"):
        Clip(LOW, HIGH, mode="ddim")


def test_gradients_pass():
    x = draw(2, 3).requires_grad_()
    hook = Clip(LOW, HIGH, mode="ddim", path=PATHS["rectified"])
    plan = Multistep("eps", order=1).plan(PATHS["rectified"], grid.uniform(4))
    (slope,) = torch.autograd.grad(plan.run(wide, x, hooks=[hook], grad="full").sum(), x)
    step = 1e-6 * torch.ones_like(x)
    rise = (
        plan.run(wide, x.detach() + step, hooks=[hook]).sum()
        - plan.run(wide, x.detach() - step, hooks=[hook]).sum()
    )
    assert float(rise / 2e-6) == pytest.approx(float(slope.sum()), rel=1e-4)
