"""The hallucination score: a streaming variance, and what it tells on the grid of Gaussians."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, mixture2
from contracts.guard import LiveMemory, NoSync

from medsci.core.check.altered import Smoothed
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid
from medsci.core.steer import Trace
from medsci.core.steer.hallucination import Hallucination, filtered

RF = Path.rectified()
DDIM = Multistep("x0", order=1)

# The published schedule, cut where nothing of the data is left; a step is a row of the table.
ALPHAS_BAR = np.cumprod(1.0 - np.linspace(1e-3, 0.2, 1000))
ROWS = int((ALPHAS_BAR > 1e-9).sum())
TABLE = Path.tabulated(ALPHAS_BAR[:ROWS])
TIMES = np.unique([*range(101), *range(100, ROWS, 6), ROWS])[::-1] / ROWS  # early steps are coarse
TICKS = torch.arange(-2, 3, dtype=DOUBLE) / math.sqrt(2.0 + 0.05**2)
SD = 0.05 / math.sqrt(2.0 + 0.05**2)
WINDOWS = (5, 10, 15, 20, 40, 60)


class SmoothedGrid:
    """The smoothed denoiser of `mixture2`, which is one-dimensional: a table and a look-up."""

    def __init__(self, bandwidth):
        self.bandwidth = bandwidth
        nodes, weights = np.polynomial.hermite_e.hermegauss(65)
        self.nodes, self.weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())

    def sharp(self, x, t):
        alpha, sigma = float(TABLE.alpha(t)), float(TABLE.sigma(t))
        spread = (alpha * SD) ** 2 + sigma**2
        off = x[..., None] - alpha * TICKS
        share = torch.softmax(-0.5 * off * off / spread, -1)
        return (share * (TICKS + alpha * SD**2 / spread * off)).sum(-1)

    def __call__(self, x, t):
        if not self.bandwidth:
            return self.sharp(x, t)
        end, n = 1.001 * float(x.abs().max()), 800
        points = torch.linspace(-end, end, n + 1, dtype=DOUBLE)
        moved = points[:, None] + float(TABLE.alpha(t)) * self.bandwidth * self.nodes
        values = (self.sharp(moved, t) * self.weights).sum(-1)
        place = (x + end) * (n / (2.0 * end))
        left = place.long()
        return torch.lerp(values[left], values[left + 1], place - left)


def walk(bandwidth, *, windows=WINDOWS, n=8000):
    """Return which samples end more than 5 sd from every mode, and their score per window."""
    hooks = [Hallucination(k) for k in windows]
    end = DDIM.plan(TABLE, TIMES).run(SmoothedGrid(bandwidth), draw(n, 2), hooks=hooks)
    off = (end[..., None] - TICKS).abs().min(-1).values.norm(dim=1)
    return off > 5.0 * SD, [hook.score() for hook in hooks], end


def area(score, bad):
    """Return the area under the curve: how often a bad sample scores above a good one."""
    rank = torch.argsort(torch.argsort(score)).double() + 1.0
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    return float((rank[bad].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def removed(score, bad):
    """Return the share of bad samples above the score that keeps 96 % of the good ones."""
    return (score[bad] > score[~bad].quantile(0.96)).double().mean().item()


def test_the_table_is_the_smoothed_oracle():
    x = 0.3 * draw(40, 2)
    for row in (10, 60):
        t = row / ROWS
        slow = Smoothed(mixture2(TABLE), path=TABLE, bandwidth=0.1, nodes=256)
        torch.testing.assert_close(SmoothedGrid(0.1)(x, t), slow(x, t), atol=0.02, rtol=0.0)
        torch.testing.assert_close(SmoothedGrid(0.0)(x, t), mixture2(TABLE)(x, t))


def test_a_sharp_denoiser_does_not_hallucinate():
    bad, _, _ = walk(0.0, windows=(5,))
    assert not bad.any()


def test_smoothing_makes_hallucinations_and_narrow_windows_see_them():
    """Bandwidth .05: 0.4 % bad; areas .97 / .89 / .71 / .50 / .25 / .26 for last 5 ... 60."""
    bad, scores, end = walk(0.05)
    rate = bad.double().mean().item()
    assert 0.002 < rate < 0.007
    areas = [area(score, bad) for score in scores]
    assert areas == pytest.approx([0.97, 0.89, 0.71, 0.50, 0.25, 0.26], abs=0.05)
    assert removed(scores[0], bad) > 0.75  # 84 %, published: 95 %
    assert removed(scores[1], bad) < 0.2  # twice the window
    kept = filtered(end, scores[0], quantile=0.96)
    off = (kept[..., None] - TICKS).abs().min(-1).values.norm(dim=1)
    assert (off > 5.0 * SD).double().mean().item() < 0.3 * rate
    # the controls: shuffled scores know nothing
    generator = torch.Generator().manual_seed(0)
    shuffled = [scores[0][torch.randperm(len(bad), generator=generator)] for _ in range(30)]
    assert np.mean([area(s, bad) for s in shuffled]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([removed(s, bad) for s in shuffled]) < 0.1


def test_more_smoothing_makes_more_of_them_and_hides_them():
    """Bandwidth .1: 5.6 % bad, and the same threshold removes a fifth of them."""
    bad, scores, _ = walk(0.1, windows=(5, 10, 60))
    assert 0.04 < bad.double().mean().item() < 0.07
    assert area(scores[0], bad) == pytest.approx(0.90, abs=0.05)
    assert area(scores[2], bad) < 0.4
    assert removed(scores[0], bad) < 0.4


# The recorder


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("window", [2, 5, (1, 7), (-4, -1), 50])
def test_the_map_is_the_variance_of_the_estimates(window, dtype):
    plan = Ancestral(1.0).plan(RF, grid.uniform(12))
    hook, trace = Hallucination(window), Trace("x0", at="denoised")
    x = draw(3, 2, 5, dtype=dtype)
    plan.run(lambda x, t: torch.sin(x), x, rng=Rng(0, range(3)), hooks=[hook, trace])
    first, end = window if isinstance(window, tuple) else (-window, None)
    chosen = torch.stack(trace.values[first:end])
    expected = (chosen - chosen.mean(0)).abs().square().mean(0)
    torch.testing.assert_close(hook.map(), expected)
    torch.testing.assert_close(hook.score(), expected.flatten(1).mean(1))
    assert expected.max() > 0.0


def test_a_second_walk_starts_anew():
    plan, hook = DDIM.plan(RF, grid.uniform(8)), Hallucination(4)
    scores = []
    for seed in (1, 2, 1):
        plan.run(lambda x, t: torch.sin(x), draw(3, 4, seed=seed), hooks=[hook])
        scores.append(hook.score())
    assert torch.equal(scores[0], scores[2])
    assert not torch.equal(scores[0], scores[1])


def test_the_memory_does_not_grow_with_the_window_and_nothing_waits():
    plan, x = DDIM.plan(RF, grid.uniform(40)), draw(2, 1000)

    def peak(window):
        with LiveMemory() as memory, NoSync():
            plan.run(lambda x, t: torch.sin(x), x, hooks=[Hallucination(window)])
        return memory.peak

    assert peak(30) == peak(3)
    free = LiveMemory()
    with free:
        plan.run(lambda x, t: torch.sin(x), x)
    assert peak(30) > free.peak


def test_filtering_keeps_a_share_in_order():
    samples, score = draw(10, 3), torch.tensor([5.0, 1, 9, 2, 8, 3, 7, 4, 6, 0])
    assert torch.equal(filtered(samples, score, quantile=1.0), samples)
    kept = filtered(samples, score, quantile=0.5)
    assert torch.equal(kept, samples[score <= 5.0])
    with pytest.raises(ValueError, match="share to keep"):
        filtered(samples, score, quantile=0.0)


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="at least two"):
        Hallucination(1)
    hook = Hallucination((100, 120))
    DDIM.plan(RF, grid.uniform(8)).run(lambda x, t: x, draw(1, 2), hooks=[hook])
    with pytest.raises(ValueError, match="overlap"):
        hook.score()
