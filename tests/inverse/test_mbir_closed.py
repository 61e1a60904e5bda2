"""The predictor-corrector sampler without data, on a Gaussian: its variance is a recursion."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.matrix_op import MatrixOp
from torch import Tensor, nn

from medsci.core import Path, Rng
from medsci.inverse.measurement import Measurement, Solution
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.mbir import MbirSettings, mbir

F64 = torch.float64
VARIANCE = 0.0625
SIDE = 64
PUBLISHED = {2000: 1.0053, 500: 1.0214, 200: 1.0549}  # final variance over v, from 378 to 0.01


class WhitePrior(nn.Module):
    """Denoiser of white N(0, v); keeps the noise levels and the variances of what it is shown."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.levels: list[float] = []
        self.last = torch.empty(0)

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        self.levels.append(sigma / alpha)
        self.last = x / alpha
        return alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x


def settings(n_steps: int, **other) -> MbirSettings:
    return MbirSettings(
        n_steps=n_steps, sigma_start=378.0, corrector_cap=math.inf,
        consistency=AdmmTvSettings(n_cg=1, rho=0.0), **other,
    )  # fmt: skip


def unconditional(prior: nn.Module, n_slices: int, chosen: MbirSettings, *, side=SIDE) -> Solution:
    """Walk with an operator that sees nothing."""
    op = MatrixOp(torch.zeros(1, side**2, dtype=F64), space=(side, side))
    nothing = Measurement(torch.zeros(n_slices, 1, dtype=F64), op)
    return mbir(nothing, prior, rng=Rng(1, range(n_slices)), settings=chosen)


def ladder(n_steps: int) -> np.ndarray:
    return 0.01 * 37800.0 ** (np.arange(n_steps) / (n_steps - 1))


def predicted_variance(levels: np.ndarray, *, last: bool) -> float:
    """Follow `V <- V (1 - d / (v + sigma_k^2))^2 + d` from the top, to level 0 or beyond it."""
    squares = np.concatenate([[0.0], levels**2])
    variance = squares[-1]
    for k in range(len(levels), 0 if last else 1, -1):
        d = squares[k] - squares[k - 1]
        variance = variance * (1 - d / (VARIANCE + squares[k])) ** 2 + d
    return variance


@pytest.mark.parametrize(("n_steps", "expected"), PUBLISHED.items())
def test_recursion_gives_the_published_inflation(n_steps: int, expected: float) -> None:
    """With and without the noise of the last step, against v and against v + sigma_0^2."""
    levels = ladder(n_steps)
    assert predicted_variance(levels, last=True) / VARIANCE == pytest.approx(expected, abs=6e-5)
    before = predicted_variance(levels, last=False) / (VARIANCE + 0.01**2)
    assert before == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("n_steps", "path"),
    [
        (200, Path.ve(400.0)),
        (200, Path.vp_cosine()),
        pytest.param(500, Path.rectified(), marks=pytest.mark.slow),
        pytest.param(2000, Path.vp_linear(0.1, 40.0), marks=pytest.mark.slow),
    ],
)
def test_sampler_obeys_the_recursion_exactly(n_steps: int, path: Path) -> None:
    """Every step is `x (1 - d / (v + sigma_k^2)) + sqrt(d) n`, so its variance is the recursion."""
    chosen = settings(n_steps, n_corrector=0)
    ours = unconditional(WhitePrior(path), 2, chosen, side=4)
    levels, rng = ladder(n_steps), Rng(1, [0, 1])
    x = levels[-1] * rng.normal((2, 1, 4, 4), step=-1, dtype=F64)
    for k in range(n_steps - 1, 0, -1):
        d = levels[k] ** 2 - levels[k - 1] ** 2
        n = rng.normal((2, 1, 4, 4), step=k, dtype=F64)
        x = x * (1 - d / (VARIANCE + levels[k] ** 2)) + d**0.5 * n
    x = x * VARIANCE / (VARIANCE + 0.01**2)  # the last step is without noise
    assert float((ours.image - x[:, 0]).abs().max()) < 1e-9
    assert ours.n_calls == n_steps


def test_variance_of_the_draws() -> None:
    for n_steps in (100, 200):
        prior = WhitePrior(Path.ve(400.0))
        x = unconditional(prior, 16, settings(n_steps, n_corrector=0)).image
        expected = predicted_variance(ladder(n_steps), last=False)
        assert float(prior.last.var()) == pytest.approx(expected, rel=0.01)
        shrunk = expected * (VARIANCE / (VARIANCE + 0.01**2)) ** 2
        assert float(x.var()) == pytest.approx(shrunk, rel=0.01)


def test_langevin_steps_inflate_the_variance_by_the_square_of_their_ratio() -> None:
    """At the stationary point `V (1 - e / V_k)^2 + 2 e = V` with `e = 2 r^2 V_k^2 / V`."""
    for snr in (0.16, 0.3):
        prior = WhitePrior(Path.ve(400.0))
        unconditional(prior, 16, settings(150, snr=snr))
        inflation = float(prior.last.var()) / (VARIANCE + 0.01**2)
        assert inflation == pytest.approx(1.0 + snr**2, rel=0.008)


def test_levels_are_whole_numbers_and_the_corrector_acts_below() -> None:
    n_steps, prior = 150, WhitePrior(Path.ve(400.0))
    solution = unconditional(prior, 1, settings(n_steps), side=1)
    levels = ladder(n_steps)
    expected = [levels[-1], *np.repeat(levels[-2:0:-1], 2), levels[0], levels[0]]
    np.testing.assert_allclose(prior.levels, expected, rtol=1e-9)
    assert len(set(solution.history["noise_level"])) == n_steps
    # the control: an index cut off from a float32 time repeats levels and leaves others out
    cut = (torch.linspace(1.0, 0.0, 2000) * 1999).long()
    assert len(set(cut.tolist())) == 1879  # of 2000


def test_a_step_of_one_slice_does_not_depend_on_the_others() -> None:
    chosen = replace(settings(50), corrector_cap=10.0)
    together = unconditional(WhitePrior(Path.ve(400.0)), 5, chosen, side=8).image
    alone = unconditional(WhitePrior(Path.ve(400.0)), 2, chosen, side=8).image
    assert torch.equal(together[:2], alone)
