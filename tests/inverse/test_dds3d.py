import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.dense_volume import DensePrior, small_problem, smooth_covariance
from torch import nn
from torch.testing import assert_close

from medsci.core import Path, Rng, Slicewise
from medsci.core.solve import grid
from medsci.inverse.measurement import Measurement, Solution
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
from medsci.operators import CartesianMriOp, SampleOp

VARIANCE = 0.09
SHAPE = (6, 8, 10)
QUICK = Dds3dSettings(n_steps=6)


class GaussianPrior(nn.Module):
    """Exact denoiser of independent N(0, v) real and imaginary parts."""

    def __init__(self, path: Path, variance: float = VARIANCE) -> None:
        super().__init__()
        self.path, self.variance = path, variance

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        return alpha * self.variance / (alpha**2 * self.variance + sigma**2) * x


def problem(noise_sd: float = 0.02):
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(6, 3, 8, 10, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.rand(10, generator=generator) < 0.6
    op = CartesianMriOp(maps, mask)
    truth = 0.3 * 2**0.5 * torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
    y = op(truth)
    y = y + noise_sd * torch.randn(y.shape, dtype=y.dtype, generator=generator) * mask
    return op, y, truth


def run(prior: nn.Module, op, y, *, seed: int = 0, **settings) -> torch.Tensor:
    consistency = AdmmTvSettings(**settings.pop("consistency", {"n_cg": 4, "rho": 0.0}))
    chosen = Dds3dSettings(consistency=consistency, **settings)
    solution = dds3d(Measurement(y, op), prior, rng=Rng(seed, range(y.shape[0])), settings=chosen)
    assert solution.n_calls == chosen.n_steps
    return solution.image


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunks_do_not_change_the_result(chunk: int) -> None:
    op, y, _ = problem()
    prior = GaussianPrior(Path.vp_cosine())
    coupled = {"n_cg": 3, "rho": 0.1}
    whole = run(prior, op, y, n_steps=8, consistency=coupled)
    parts = run(Slicewise(prior, chunk=chunk), op, y, n_steps=8, consistency=coupled)
    assert torch.equal(parts, whole)
    _, truth, measured = small_problem(16)
    dense = DensePrior(Path.vp_cosine(), smooth_covariance(8))  # rounds by the size of its batch
    error = [
        float((dds3d(measured, p, rng=Rng(0, range(16)), settings=QUICK).image - truth).norm())
        for p in (dense, Slicewise(dense, chunk=chunk))
    ]
    assert abs(20 * np.log10(error[0] / error[1])) < 1e-3  # dB


@pytest.mark.parametrize(
    "path", [Path.ve(80.0), Path.vp_linear(), Path.rectified(), Path.ve(9.0, 0.0, 3.0)]
)
def test_the_path_of_the_prior_does_not_matter(path: Path) -> None:
    """Real images: the same states up to a scale, the same volume."""
    _, truth, measured = small_problem(4)

    def solution(p: Path) -> Solution:
        prior = DensePrior(p, smooth_covariance(8), mean=0.1)
        return dds3d(measured, prior, rng=Rng(0, range(4)), settings=QUICK)

    ours, other = solution(path), solution(Path.vp_cosine())
    assert ours.image.shape == truth.shape
    assert not ours.image.is_complex()
    assert float((ours.image - other.image).abs().max()) < 1e-9


CHANGES = [
    {"n_steps": 7}, {"sigma_max": 0.6}, {"sigma_min": 0.03}, {"rho_grid": 3.0}, {"eta": 0.5},
    {"prox_noise": 1e-3}, {"n_cg": 1}, {"rho": 0.1}, {"threshold": 0.05}, {"prox": 0.1},
    {"n_sweeps": 2}, {"axes": (0, 1)}, {"tol": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_setting_does_something(change: dict) -> None:
    measured, prior = small_problem(3)[2], GaussianPrior(Path.vp_cosine())
    outer = set(change) <= set(Dds3dSettings.__dataclass_fields__)
    inner = {} if outer else change
    settings = replace(QUICK, consistency=replace(QUICK.consistency, **inner))
    settings = replace(settings, **(change if outer else {}))
    plain, other = (
        dds3d(measured, prior, rng=Rng(0, range(3)), settings=s).image for s in (QUICK, settings)
    )
    assert float((plain - other).abs().max()) > 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        {"n_steps": 0}, {"sigma_min": 0.0}, {"sigma_max": 0.01}, {"eta": 1.5},
        {"prox_noise": -1.0}, {"rho_grid": 0.0},
    ],
)  # fmt: skip
def test_says_what_is_wrong(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Dds3dSettings(**bad)


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not() -> None:
    op, y, _ = problem()
    prior = GaussianPrior(Path.vp_cosine())
    first = run(prior, op, y, n_steps=6)
    assert torch.equal(first, run(prior, op, y, n_steps=6))
    assert not torch.allclose(first, run(prior, op, y, n_steps=6, seed=1), atol=1e-4)


def test_uncoupled_slices_do_not_know_their_neighbours() -> None:
    op, y, _ = problem()
    prior = GaussianPrior(Path.vp_cosine())
    whole = run(prior, op, y, n_steps=6)
    part = dds3d(
        Measurement(y[2:4], op.slices(2, 4)), prior, rng=Rng(0, [2, 3]),
        settings=Dds3dSettings(n_steps=6, consistency=AdmmTvSettings(n_cg=4, rho=0.0)),
    )  # fmt: skip
    assert_close(part.image, whole[2:4], rtol=1e-5, atol=1e-6)


def test_deterministic_walk_is_the_product_of_its_matrices() -> None:
    """eta = 0, Gaussian prior, exact solve: every step is affine and known in closed form."""
    path = Path.vp_cosine()
    mask = torch.tensor([[True, False, True, True]])
    y = 0.5 * torch.ones(2, 1, 4, dtype=torch.complex64) * mask
    settings = Dds3dSettings(
        n_steps=12, eta=0.0, prox_noise=4e-3, consistency=AdmmTvSettings(n_cg=6, rho=0.0)
    )
    measured = Measurement(y, SampleOp(mask))
    ours = dds3d(measured, GaussianPrior(path), rng=Rng(3, [0, 1]), settings=settings).image
    times = grid.karras(
        path,
        settings.n_steps,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        final_zero=True,
    )
    start = float(path.sigma(times[0])) * Rng(3, [0, 1]).normal((2, 2, 1, 4), step=-1).double()
    x = torch.complex(start[:, 0], start[:, 1]).numpy()
    kept, data = mask.numpy().astype(float), y.numpy()
    for t, s in itertools.pairwise(times):
        alpha, sigma = path.alpha(t), path.sigma(t)
        x0 = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x
        prox = 4e-3 / (sigma / alpha) ** 2
        x0 = (kept * data + prox * x0) / (kept + prox)
        x = path.alpha(s) * x0 + path.sigma(s) / sigma * (x - alpha * x0)
    assert np.abs(ours.numpy() - x).max() < 2e-5


def lines_known(eta: float, *, prox_noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample 0.4 measured on every second line with noise 0.3; return measured and missing."""
    mask = torch.tensor([[True, False] * 8])
    y = torch.full((150, 16, 16), 0.4, dtype=torch.complex64) * mask
    settings = Dds3dSettings(
        n_steps=60, eta=eta, prox_noise=prox_noise, sigma_max=20.0, sigma_min=0.01,
        consistency=AdmmTvSettings(n_cg=3, rho=0.0),
    )  # fmt: skip
    prior = GaussianPrior(Path.vp_cosine())
    measured = Measurement(y, SampleOp(mask))
    x = dds3d(measured, prior, rng=Rng(0, range(150)), settings=settings).image
    return x.real[..., 0::2], x.real[..., 1::2]


def test_missing_lines_follow_the_prior_and_measured_lines_the_data() -> None:
    measured, missing = lines_known(0.0, prox_noise=0.3**2)
    assert float(missing.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(missing.std()) == pytest.approx(VARIANCE**0.5, rel=0.05)
    # between the posterior mean, 0.4 v / (v + s^2) = 0.2, and the data, as the rule weighs them
    assert 0.2 < float(measured.mean()) < 0.4
    assert float(measured.std()) < 0.8 * VARIANCE**0.5


def test_without_data_weight_measured_lines_fall_back_to_the_prior() -> None:
    measured, _ = lines_known(0.0, prox_noise=1e6)
    assert abs(float(measured.mean())) < 0.02
    assert float(measured.std()) == pytest.approx(VARIANCE**0.5, rel=0.05)


def test_fresh_noise_narrows_the_spread() -> None:
    assert float(lines_known(0.85, prox_noise=0.09)[1].std()) < 0.85 * VARIANCE**0.5


def test_the_prior_helps_and_a_wrong_prior_hurts() -> None:
    """Strongly correlated rows: half of the lines follow from the other half."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(6, 8, 1, dtype=torch.complex64, generator=generator).expand(6, 8, 10)
    op = SampleOp(torch.tensor([[True, False] * 5]))

    class RowPrior(nn.Module):
        path = Path.vp_cosine()

        def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
            alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
            weight = alpha * 1.0 / (alpha**2 + sigma**2 / 10)
            return weight * x.mean(-1, keepdim=True).expand(x.shape)

    def error(prior: nn.Module) -> float:
        x = run(prior, op, op(truth), n_steps=40, sigma_max=20.0, eta=0.0,
            consistency={"n_cg": 2, "rho": 0.0},
        )  # fmt: skip
        return float((x - truth).abs().square().mean() ** 0.5)

    assert error(RowPrior()) < 0.15
    assert error(GaussianPrior(Path.vp_cosine(), 2.0)) > 0.5


def test_progress_counts_every_step() -> None:
    op, y, _ = problem()
    seen: list[tuple[int, int]] = []
    settings = Dds3dSettings(n_steps=5, consistency=AdmmTvSettings(n_cg=1))
    solution = dds3d(
        Measurement(y, op), GaussianPrior(Path.vp_cosine()), rng=Rng(0, range(6)),
        settings=settings, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 5) for i in range(1, 6)]
    levels = solution.history["noise_level"]
    assert levels[0] == pytest.approx(settings.sigma_max)
    assert levels[-1] == pytest.approx(settings.sigma_min)
    assert all(isinstance(c, float) for c in solution.history["correction"])
    assert len(levels) == len(solution.history["correction"]) == solution.n_calls == 5
