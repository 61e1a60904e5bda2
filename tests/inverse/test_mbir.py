"""The predictor-corrector solver: what its settings do, and what it must not do."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.dense_volume import DensePrior, small_problem, smooth_covariance
from contracts.matrix_op import MatrixOp
from torch import Tensor, nn

from medsci.core import Path, Rng, Slicewise
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.mbir import MbirSettings, mbir
from medsci.operators import SampleOp

QUICK = MbirSettings(n_steps=15)
WALK = MbirSettings(n_steps=60)
COVARIANCE = smooth_covariance(8)


class White(nn.Module):
    """Exact denoiser of white N(0, v), entry by entry; keeps what it was shown."""

    def __init__(self, path: Path | None = None, variance: float = 0.09) -> None:
        super().__init__()
        self.path, self.variance = path or Path.vp_cosine(), variance
        self.batches: list[int] = []

    def forward(self, x: Tensor, t: float) -> Tensor:
        self.batches.append(len(x))
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        return alpha * self.variance / (alpha**2 * self.variance + sigma**2) * x


def solve(prior: nn.Module, settings: MbirSettings, *, n: int = 8, seed: int = 0) -> Tensor:
    measured = small_problem(n)[2]
    solution = mbir(measured, prior, rng=Rng(seed, range(n)), settings=settings)
    assert solution.image.shape == (n, 8, 8)
    return solution.image


def rms(x: Tensor) -> float:
    return float(x.abs().square().mean()) ** 0.5


def with_(settings: MbirSettings, **consistency) -> MbirSettings:
    return replace(settings, consistency=replace(settings.consistency, **consistency))


def unchecked(settings: MbirSettings) -> MbirSettings:
    """Share the split variables although the settings would refuse."""
    copy = replace(settings)
    object.__setattr__(copy, "zu_carry", "share")
    return copy


STIFF = MbirSettings(
    n_steps=60, sigma_start=50.0, consistency=AdmmTvSettings(n_cg=5, rho=0.025, threshold=0.004)
)


def test_shared_variables_diverge_and_scaled_ones_do_not() -> None:
    """Old noise in (z, u) is fed back into what the data do not see, the more CG steps the more."""
    truth, prior = small_problem(8)[1], DensePrior(Path.ve(), COVARIANCE)

    def error(settings: MbirSettings) -> float:
        return rms(solve(prior, settings) - truth) / rms(truth)

    assert error(STIFF) < 0.4
    assert error(replace(STIFF, zu_carry="reset")) < 0.8
    assert error(unchecked(STIFF)) > 4.0
    assert error(unchecked(with_(STIFF, n_cg=1, rho=0.25))) > 4.0
    assert error(unchecked(with_(STIFF, n_cg=1))) < 0.5  # the published number of CG steps
    assert error(unchecked(with_(STIFF, rho=0.0))) < 0.5  # so it is the split that diverges


def test_divergence_is_refused_by_name() -> None:
    few, many = AdmmTvSettings(n_cg=2), AdmmTvSettings(n_cg=3)
    MbirSettings(zu_carry="share", consistency=few)
    MbirSettings(zu_carry="share", consistency=replace(many, rho=0.0))
    with pytest.raises(ValueError, match=r"n_cg=3, which diverges.*zu_carry='scale'"):
        MbirSettings(zu_carry="share", consistency=many)


def test_prior_and_coupling_and_data_each_help() -> None:
    _, truth, measured = small_problem(8)
    right = DensePrior(Path.vp_cosine(), COVARIANCE)
    wrong = DensePrior(Path.vp_cosine(), np.eye(64) * 0.09)
    blind = Measurement(torch.zeros_like(measured.y), measured.op * 0.0)
    drawn = mbir(blind, right, rng=Rng(0, range(8)), settings=with_(WALK, rho=0.0)).image
    error = rms(solve(right, WALK) - truth)
    assert rms(solve(wrong, WALK) - truth) > 1.3 * error
    assert rms(solve(right, with_(WALK, rho=0.0)) - truth) > 1.1 * error
    assert rms(drawn - truth) > 2.0 * error


@pytest.mark.parametrize(
    "path", [Path.ve(80.0), Path.vp_linear(), Path.rectified(), Path.ve(9.0, 0.001, math.inf)]
)
def test_the_path_of_the_prior_does_not_matter(path: Path) -> None:
    other = solve(DensePrior(Path.vp_cosine(), COVARIANCE, mean=0.2), QUICK)
    ours = solve(DensePrior(path, COVARIANCE, mean=0.2), QUICK)
    assert float((ours - other).abs().max()) < 1e-9


def test_a_path_that_is_too_short_is_refused_before_the_first_call() -> None:
    prior = DensePrior(Path.ve(2.0), COVARIANCE)
    with pytest.raises(ValueError, match="choose sigma_min and sigma_max inside"):
        solve(prior, QUICK)
    assert prior.calls == 0


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunks_do_not_change_the_result(chunk: int) -> None:
    whole = solve(White(), QUICK, n=16)
    assert torch.equal(solve(Slicewise(White(), chunk=chunk), QUICK, n=16), whole)
    prior = DensePrior(Path.vp_cosine(), COVARIANCE)  # its matrix products round by batch size
    gap = solve(Slicewise(prior, chunk=chunk), QUICK, n=16) - solve(prior, QUICK, n=16)
    assert rms(gap) < 1e-9


def test_whole_chunks_are_not_cut_smaller() -> None:
    inner = White()
    solve(Slicewise(inner, chunk=4), replace(QUICK, n_steps=2), n=8)
    assert inner.batches == [4] * 6  # two calls for each of three evaluations


def test_slices_are_on_their_own_without_coupling_and_keep_their_noise() -> None:
    measured, settings = small_problem(5)[2], with_(QUICK, rho=0.0)
    whole = mbir(measured, White(), rng=Rng(3, range(5)), settings=settings).image
    part = Measurement(measured.y[2:4], measured.op)
    alone = mbir(part, White(), rng=Rng(3, [2, 3]), settings=settings).image
    torch.testing.assert_close(alone, whole[2:4], rtol=0.0, atol=1e-12)
    other = mbir(part, White(), rng=Rng(3, [0, 1]), settings=settings).image
    assert rms(other - alone) > 1e-3


def test_seeds_decide() -> None:
    prior = White()
    assert torch.equal(solve(prior, QUICK), solve(prior, QUICK))
    assert rms(solve(prior, QUICK, seed=1) - solve(prior, QUICK)) > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_number_of_slices_and_complex_images(n: int) -> None:
    """A complex image is two channels of the state, and obeys the same equations as a real one."""
    mask = torch.tensor([[True, True, False, True]])
    truth = 0.3 * Rng(2, range(n)).normal((n, 6, 4), step=0, dtype=torch.complex128)
    op = SampleOp(mask)
    solution = mbir(Measurement(op(truth), op), White(), rng=Rng(0, range(n)), settings=QUICK)
    assert solution.image.is_complex()
    assert solution.n_calls == 29
    assert rms((solution.image - truth)[..., mask[0]]) < 0.05
    assert rms(solution.image[..., 2]) == pytest.approx(0.3 * 2**0.5, rel=0.7)


def test_a_slice_of_which_the_data_leave_no_noise_is_not_shaken() -> None:
    """Where a prior expects nothing and the data agree, the score vanishes and e has no bound."""

    class Sure(nn.Module):
        path = Path.ve()

        def forward(self, x: Tensor, t: float) -> Tensor:
            return 0.9999 * x

    op = MatrixOp(torch.eye(4, dtype=torch.float64), space=(2, 2))
    nothing = Measurement(torch.zeros(2, 4, dtype=torch.float64), op)
    worst = {}
    for cap in (10.0, math.inf):
        chosen = replace(with_(QUICK, n_cg=1), corrector_cap=cap)
        history = mbir(nothing, Sure(), rng=Rng(0, [0, 1]), settings=chosen).history
        pairs = zip(history["correction"], history["noise_level"], strict=True)
        worst[cap] = max(correction / level for correction, level in pairs)
    assert worst[10.0] < 5.0  # the data undo what the steps did: noise of the level
    assert worst[math.inf] > 20.0


def test_a_score_of_zero_is_no_division_by_zero() -> None:
    class Same(nn.Module):
        path = Path.ve()

        def forward(self, x: Tensor, t: float) -> Tensor:
            return x.clone()

    assert torch.isfinite(solve(Same(), QUICK)).all()


@functools.cache
def plain_solution() -> Tensor:
    return solve(White(), QUICK, n=3)


CHANGES = [
    {"n_steps": 30}, {"sigma_start": 3.0}, {"sigma_min": 0.02}, {"snr": 0.1}, {"n_corrector": 2},
    {"corrector_cap": 0.9}, {"zu_carry": "share"}, {"zu_carry": "reset"}, {"n_cg": 1},
    {"rho": 0.1}, {"threshold": 0.05}, {"prox": 0.1}, {"n_sweeps": 2}, {"axes": (0, 1)},
    {"tol": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_setting_does_something(change: dict) -> None:
    outer = set(change) <= set(MbirSettings.__dataclass_fields__)
    settings = replace(QUICK, **change) if outer else with_(QUICK, **change)
    assert rms(solve(White(), settings, n=3) - plain_solution()) > 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        {"n_steps": 1}, {"n_corrector": -1}, {"sigma_min": 0.0}, {"sigma_start": 0.005},
        {"snr": -0.1}, {"corrector_cap": 0.0},
    ],
)  # fmt: skip
def test_says_what_is_wrong(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        MbirSettings(**bad)


def test_progress_and_history_count_every_level() -> None:
    seen: list[tuple[int, int]] = []
    solution = mbir(
        small_problem()[2], White(), rng=Rng(0, range(4)), settings=replace(QUICK, n_steps=5),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 5) for i in range(1, 6)]
    levels = solution.history["noise_level"]
    assert levels == pytest.approx(5.0 * (0.01 / 5.0) ** (np.arange(5) / 4))
    assert len(solution.history["correction"]) == 5
    assert all(isinstance(c, float) and c > 0.0 for c in solution.history["correction"])
    with pytest.raises(ValueError, match="one per id"):
        mbir(small_problem()[2], White(), rng=Rng(0, [0]), settings=QUICK)
