"""DPS against dense matrices; what scales it, what it may not mix, and what it cannot do."""

import itertools

import numpy as np
import pytest
import torch
from contracts.linear_gaussian import PATHS, LinearGaussian, karras
from contracts.matrix_op import MatrixOp
from torch.testing import assert_close

from medsci.core import Path, Rng, Slicewise
from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.data_term import OperatorScaleWarning
from medsci.inverse.solvers.dps import DpsSettings, dps
from medsci.operators.linear_op import LinearOp

N = 20
ZETA = 0.3


def solve(problem: LinearGaussian, path: Path, *, y=None, **options):
    settings = DpsSettings(**{"n_steps": N, "zeta": ZETA, "eta": 0.7, **options})
    return dps(problem.measured(y), problem.prior(path), rng=problem.rng(), settings=settings)


def dense(problem: LinearGaussian, *, zeta=ZETA, eta=0.7, n=N, pooled=False) -> np.ndarray:
    """The published algorithm in the published notation, on the variance-preserving path."""
    levels = karras(n, 50.0, 0.01)
    alpha = 1.0 / np.sqrt(1.0 + levels**2)
    sigma = levels * alpha
    x = sigma[0] * problem.draw(-1)
    for i, (k, j) in enumerate(itertools.pairwise(range(n + 1))):
        x0 = problem.denoise(x / alpha[k], levels[k])
        jacobian = problem.gain(levels[k]) / alpha[k]
        residual = problem.y - x0 @ problem.a.T
        slope = -2.0 * residual @ problem.a @ jacobian
        norm = np.linalg.norm(residual, axis=None if pooled else 1)
        e = (x - alpha[k] * x0) / sigma[k]
        c1 = eta * np.sqrt((1 - alpha[k] ** 2 / alpha[j] ** 2) * sigma[j] ** 2 / sigma[k] ** 2)
        c2 = np.sqrt(sigma[j] ** 2 - c1**2)
        x = alpha[j] * x0 + c1 * problem.draw(i) + c2 * e - zeta * slope / np.reshape(norm, (-1, 1))
    return x


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_run_is_that_of_dense_matrices_on_every_path(path: Path, is_complex: bool) -> None:
    problem = LinearGaussian(is_complex=is_complex)
    found = solve(problem, path)
    ours = problem.flat(found.image)
    assert np.abs(ours - dense(problem)).max() < 1e-9
    assert found.n_calls == N
    assert len(found.history["misfit"]) == N
    # controls: the other convention of the factor 2, one norm for the batch, data of another slice
    assert np.abs(ours - dense(problem, zeta=2 * ZETA)).max() > 1e-3
    assert np.abs(ours - dense(problem, pooled=True)).max() > 1e-3
    shuffled = problem.flat(solve(problem, path, y=problem.y[::-1].copy()).image)
    assert np.abs(shuffled - dense(problem)).max() > 1e-2


def test_a_slice_is_the_same_alone_and_in_chunks() -> None:
    problem = LinearGaussian()
    path = PATHS["flow"]
    whole = solve(problem, path).image
    measured = problem.measured()
    settings = DpsSettings(n_steps=N, zeta=ZETA, eta=0.7)
    part = dps(
        Measurement(measured.y[1:3], measured.op, noise=measured.noise),
        problem.prior(path),
        rng=Rng(0, [1, 2]),
        settings=settings,
    )
    assert_close(part.image, whole[1:3], rtol=1e-10, atol=1e-12)
    chunked = dps(
        measured, Slicewise(problem.prior(path), chunk=3), rng=problem.rng(), settings=settings
    )
    assert_close(chunked.image, whole, rtol=1e-10, atol=1e-12)


class Thick(LinearOp):
    """Means of pairs of slices: fewer rows of data than slices."""

    def forward(self, x):
        return 0.5 * (x[0::2] + x[1::2])

    def adjoint(self, y):
        return 0.5 * y.repeat_interleave(2, dim=0)


def test_data_that_mix_slices_pull_towards_themselves() -> None:
    problem = LinearGaussian()
    truth = torch.from_numpy(problem.truth).reshape(4, 2, 3)
    measured = Measurement(Thick()(truth), Thick())
    prior = problem.prior(PATHS["vp"])
    found = [
        measured.misfit(
            dps(
                measured,
                prior,
                rng=problem.rng(),
                settings=DpsSettings(n_steps=100, zeta=zeta),
            ).image
        )
        for zeta in (0.0, 0.3)
    ]
    assert found[1] < 0.3 * found[0]


def test_without_a_step_it_is_the_prior_and_the_noise_level_is_not_used() -> None:
    problem, quiet = LinearGaussian(), LinearGaussian(noise=0.0, simulated=0.05)
    path = PATHS["ve"]
    assert torch.equal(solve(problem, path).image, solve(quiet, path).image)
    free = solve(problem, path, zeta=0.0).image
    other = solve(problem, path, zeta=0.0, y=problem.y + 1.0).image
    assert torch.equal(free, other)
    assert not torch.allclose(solve(problem, path).image, free, atol=1e-2)


def test_the_type_of_the_data_is_that_of_the_result() -> None:
    problem = LinearGaussian()
    single = problem.measured()
    single = Measurement(
        single.y.float(), MatrixOp(problem.op.matrix.float(), space=(2, 3)), noise=0.05
    )

    class Single:
        path = PATHS["vp"]

        def __call__(self, x, t):
            return problem.prior(self.path)(x.double(), t).float()

    found = dps(single, Single(), rng=problem.rng(), settings=DpsSettings(n_steps=3))
    assert found.image.dtype == torch.float32
    assert solve(problem, PATHS["vp"]).image.dtype == torch.float64


def test_an_operator_in_raw_units_is_warned_about() -> None:
    problem = LinearGaussian()
    measured = problem.measured()
    raw = Measurement(20.0 * measured.y, 20.0 * problem.op, noise=1.0)
    with pytest.warns(OperatorScaleWarning, match="norm"):
        dps(
            raw,
            problem.prior(PATHS["vp"]),
            rng=problem.rng(),
            settings=DpsSettings(n_steps=2),
        )


def test_progress_counts_the_steps() -> None:
    problem, seen = LinearGaussian(), []
    dps(
        problem.measured(), problem.prior(PATHS["vp"]), rng=problem.rng(),
        settings=DpsSettings(n_steps=3), progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_steps": 0}, "at least 1"),
        ({"zeta": -1.0}, "zeta"),
        ({"eta": 1.5}, r"\[0, 1\]"),
        ({"sigma_max": 0.005}, "sigma_max > sigma_min"),
    ],
)
def test_settings_say_what_is_wrong(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DpsSettings(**wrong)


def test_a_prior_without_gradient_is_refused() -> None:
    problem = LinearGaussian()

    class Frozen:
        path = PATHS["vp"]

        def __call__(self, x, t):
            return problem.prior(self.path)(x.detach(), t)

    with pytest.raises(ValueError, match="differentiably"):
        dps(
            problem.measured(),
            Frozen(),
            rng=problem.rng(),
            settings=DpsSettings(n_steps=2),
        )
