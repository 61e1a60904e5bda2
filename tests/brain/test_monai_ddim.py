"""Our walk beside MONAI's DDIM scheduler: equal where its grid is right, and why not elsewhere."""

import warnings

import numpy as np
import pytest
import torch

from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.process import Path
from medsci.core.solve import Multistep, grid
from medsci.core.steer import Clip

DOUBLE = torch.float64
TABLE = Path.tabulated(alphas_bar_of("linear"))
WORDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def theirs(pred, *, n, x, clip):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.schedulers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=2e-2,
        prediction_type=WORDS[pred], clip_sample=clip,
    )  # fmt: skip
    scheduler.alphas_cumprod = torch.from_numpy(alphas_bar_of("linear"))  # as float64
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=DOUBLE)
    scheduler.set_timesteps(n)
    for row in scheduler.timesteps.tolist():
        x, _ = scheduler.step(answer(x, row, pred), row, x)
    return x


MEAN = torch.linspace(-0.4, 0.6, 8, dtype=DOUBLE)
VARIANCES = torch.linspace(0.05, 0.5, 8, dtype=DOUBLE)
TIMES = np.arange(1, 1001) / 1000
A, S = TABLE.alpha(TIMES).tolist(), TABLE.sigma(TIMES).tolist()


def oracle(x, t):
    """Return the posterior mean of independent Gaussian voxels."""
    row = round(1000 * t) - 1
    a, s = A[row], S[row]
    return MEAN + a * VARIANCES / (a * a * VARIANCES + s * s) * (x - a * MEAN)


def answer(x, row, pred):
    a, s, x0 = A[row], S[row], oracle(x, (row + 1) / 1000)
    noise = (x - a * x0) / s
    return {"x0": x0, "eps": noise, "v": a * noise - s * x0}[pred]


def ours(*, n, x, hooks=(), stop=None):
    times = grid.indices(1000, n, spacing="linspace")
    return Multistep("eps", order=1).plan(TABLE, times).run(oracle, x, hooks=hooks, stop=stop)


def noise():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


@pytest.mark.parametrize("pred", WORDS)
def test_a_thousand_steps_are_monais(pred):
    expected = theirs(pred, n=1000, x=noise(), clip=False)
    torch.testing.assert_close(ours(n=1000, x=noise()), expected, rtol=0.0, atol=1e-9)
    assert (ours(n=500, x=noise()) - expected).abs().max() > 1e-4  # control: half the steps


def test_it_clips_as_our_mode_ddim_does():
    expected = theirs("v", n=1000, x=2.0 * noise(), clip=True)
    kept = ours(n=1000, x=2.0 * noise(), hooks=[Clip(-1.0, 1.0, mode="ddim", path=TABLE)])
    torch.testing.assert_close(kept, expected, rtol=0.0, atol=1e-9)
    hooks = (Clip(-1.0, 1.0), Clip(-1.0, 1.0, mode="ddim", path=TABLE))
    halves = [ours(n=1000, x=2.0 * noise(), hooks=[hook], stop=900) for hook in hooks]
    assert (halves[0] - halves[1]).abs().max() > 1e-2  # control: the other mode, on the way


def test_on_other_grids_it_steps_to_a_row_it_does_not_visit():
    """Rows are spread over the table, steps go by `1000 // n`: the two part."""
    expected = theirs("x0", n=64, x=noise(), clip=False)
    assert (ours(n=64, x=noise()) - expected).abs().max() > 1e-3
    table = grid.neighbours(1000, grid.indices(1000, 64, spacing="linspace"))
    missed = sum(i - j != 1000 // 64 for i, j in table)
    assert missed > 32
