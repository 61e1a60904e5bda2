"""Volumes of which one channel was measured, against the posterior of a Gaussian.

States are `(1, 2, i, j, k)`: an image seen through thick slices, and a second channel that the data
never show and only the prior ties to the first.
"""

import numpy as np
import pytest
import torch
from contracts.dense_volume import DensePrior
from contracts.operators import assert_adjoint, assert_normal, random
from torch import Tensor

from medsci.core import Ancestral, Path, Rng, grid
from medsci.core.steer import SkipGradient
from medsci.inverse.measurement import Measurement, Solution
from medsci.inverse.methods import settings_of, solve
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
from medsci.inverse.solvers.dps import squared_misfit
from medsci.operators import LinearOp, MaskOp
from medsci.operators.channel import ChannelOp
from medsci.operators.resample import ResampleOp

F64 = torch.float64
BOX, SLICES, NOISE, MEAN = (4, 3, 6), (4, 3, 2), 0.05, 0.2
N = 2 * int(np.prod(BOX))
EXACT = AdmmTvSettings(n_cg=300, rho=0.0, tol=1e-14)


def covariance(tie: float = 0.9, sd: float = 0.4) -> np.ndarray:
    """Return a smooth covariance in space, with channels of correlation `tie`."""
    place = np.indices(BOX).reshape(3, -1).T
    gap = ((place[:, None] - place) ** 2).sum(-1)
    space = 0.95 * np.exp(-gap / (2 * 1.5**2)) + 0.05 * np.eye(len(place))
    return sd**2 * np.kron([[1.0, tie], [tie, 1.0]], space)


def looking() -> LinearOp:
    """Return two thick slices of the first channel, of norm one; one voxel was not measured."""
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    thick[2, 3] = 1.0
    look = ResampleOp.between(
        np.eye(4), BOX, target_affine=thick, target_shape=SLICES, dtype=F64, profile="box"
    )
    seen = torch.ones(SLICES, dtype=torch.bool)
    seen[0, 0, 0] = False
    op = MaskOp(seen) @ look @ ChannelOp(0, n_channels=2)
    return op * (1.0 / op.norm(torch.ones(1, 2, *BOX, dtype=F64)))


OP = looking()
BASIS = torch.eye(N, dtype=F64).reshape(N, 1, 2, *BOX)
MATRIX = torch.stack([OP(e).flatten() for e in BASIS], 1).numpy()
KEPT = MATRIX[np.abs(MATRIX).sum(1) > 0]
DRAW = np.random.default_rng(3)
TRUTH = MEAN + np.linalg.cholesky(covariance()) @ DRAW.standard_normal(N)
DATA = KEPT @ TRUTH + NOISE * DRAW.standard_normal(len(KEPT))


def measured(data: np.ndarray = DATA) -> Measurement:
    y = np.zeros(len(MATRIX))
    y[np.abs(MATRIX).sum(1) > 0] = data
    values = torch.from_numpy(y).reshape(1, *SLICES)
    return Measurement(values, OP, noise=NOISE, n_data=len(KEPT), layout="plain")


def posterior_mean(c: np.ndarray, data: np.ndarray = DATA, mean: float = MEAN) -> np.ndarray:
    inner = KEPT @ c @ KEPT.T + NOISE**2 * np.eye(len(KEPT))
    prior = np.full(N, mean)
    return prior + c @ KEPT.T @ np.linalg.solve(inner, data - KEPT @ prior)


def run(method: str, c: np.ndarray, *, data=DATA, mean: float = MEAN, settings=None) -> Solution:
    prior = DensePrior(Path.vp_cosine(), c, mean)
    return solve(measured(data), prior, rng=Rng(0, [0]), method=method, settings=settings)


def expected(method: str, c: np.ndarray, settings=None) -> np.ndarray:
    """Return the mean of a walk that is affine in data and noise: the noise cancels."""
    full = run(method, c, settings=settings).image
    noise = run(method, c, data=0 * DATA, mean=0.0, settings=settings).image
    return (full - noise).numpy().ravel()


def gap(found: np.ndarray, c: np.ndarray, part: slice = slice(None)) -> float:
    """Return the distance to the posterior mean, relative to what the data moved."""
    exact = posterior_mean(c)[part]
    return float(np.linalg.norm(found[part] - exact) / np.linalg.norm(exact - MEAN))


def walk(n_steps: int, prox_noise: float = NOISE**2) -> Dds3dSettings:
    return Dds3dSettings(n_steps=n_steps, prox_noise=prox_noise, sigma_max=10.0, consistency=EXACT)


def test_the_composed_operator_has_an_exact_adjoint():
    x = random(1, 2, *BOX, dtype=F64)
    assert_adjoint(OP, x, random(1, *SLICES, dtype=F64, seed=1))
    assert_normal(OP, x)
    m = measured()
    assert m.rhs.shape == x.shape
    torch.testing.assert_close(m.image(m.state(x)), x)
    torch.testing.assert_close(m.gradient(x), OP.adjoint(OP(x) - m.y))
    assert float(m.rhs[:, 1].abs().max()) == 0.0, "the data say nothing about the second channel"


def test_dds3d_tends_to_the_posterior_mean_in_both_channels():
    c, unseen = covariance(), slice(N // 2, None)
    found = [expected("dds3d", c, walk(n)) for n in (25, 100, 400)]
    for part in (slice(None), unseen):
        gaps = [gap(f, c, part) for f in found]
        assert gaps[1] < 0.5 * gaps[0], "four times the steps, less than half the gap"
        assert gaps[2] < 0.5 * gaps[1]
    assert gap(found[2], c) < 0.012


def test_control_another_weight_or_a_prior_without_the_tie_miss_it():
    c, unseen = covariance(), slice(N // 2, None)
    assert gap(expected("dds3d", c, walk(100, 10 * NOISE**2)), c) > 0.06
    untied = expected("dds3d", covariance(tie=0.0), walk(25))
    assert np.abs(untied[unseen] - MEAN).max() < 1e-6, "nothing ties the second channel"
    assert gap(untied, c, unseen) > 0.9


def test_pigdm_is_exact_for_equal_independent_voxels():
    c = 0.4**2 * np.eye(N)
    chosen = settings_of("pigdm", {"n_steps": "60", "sigma_data": "0.4", "eta": "0", "n_cg": "80"})
    assert gap(expected("pigdm", c, chosen), c) < 0.02
    wrong = settings_of("pigdm", {"n_steps": "60", "sigma_data": "1.5", "eta": "0", "n_cg": "80"})
    assert gap(expected("pigdm", c, wrong), c) > 0.05


QUICK = {
    "dds3d": {"n_steps": "60", "sigma_max": "10", "prox_noise": "0.0025", "consistency.rho": "0"},
    "diffpir": {"n_steps": "60"},
    "pigdm": {"n_steps": "60", "sigma_data": "0.4"},
    "flowchef": {"n_steps": "60"},
    "dps": {"n_steps": "200"},
    "red-diff": {},
    "mbir": {"n_steps": "60", "consistency.rho": "0"},
    "pnp": {},
}


@pytest.mark.parametrize("method", QUICK)
def test_every_method_takes_such_states_and_fits_the_data(method):
    """Their calibration is measured elsewhere; here both channels move towards the posterior."""
    c = covariance()
    found = run(method, c, settings=settings_of(method, QUICK[method]))
    assert found.image.shape == (1, 2, *BOX)
    assert measured().misfit(found.image) < 0.5 * measured().misfit(torch.full_like(BASIS[0], MEAN))
    moved = found.image.numpy().ravel() - MEAN
    towards = posterior_mean(c) - MEAN
    for part in (slice(0, N // 2), slice(N // 2, None)):
        assert moved[part] @ towards[part] > 0.3 * (towards[part] @ towards[part])


def guided(zeta: float) -> Tensor:
    """Sample by the rule of Remedios et al.: the gradient of |A x0 - y|, the network skipped."""
    path, m = Path.vp_cosine(), measured()
    times = grid.karras(path, 256, sigma_max=20.0, sigma_min=0.01, final_zero=True)
    start = Rng(0, [0]).normal((1, 2, *BOX), step=-1, dtype=F64) * float(path.sigma(times[0]))
    hook = SkipGradient(lambda x0: squared_misfit(m, x0).sqrt(), zeta, skip_last=False)
    plan = Ancestral(eta=1.0).plan(path, times)
    return plan.run(DensePrior(path, covariance(), MEAN), start, rng=Rng(0, [0]), hooks=(hook,))


def test_guidance_without_backpropagation_at_the_published_step():
    """The gradient of a norm has length one: 20 over 8.3 million voxels is 20 / 2873 per voxel."""
    zeta = 20.0 * (N / (192 * 224 * 192)) ** 0.5
    m = measured()
    free, steered = m.misfit(guided(0.0)), m.misfit(guided(zeta))
    assert steered < 2.5 < free
    assert m.misfit(guided(20.0)) > free, "control: the number itself, on few voxels, is too much"


def test_one_channel_is_the_plain_case():
    op = ResampleOp.between(
        np.eye(4), BOX, target_affine=np.diag([1.0, 1, 3, 1]), target_shape=SLICES, dtype=F64
    )
    y = random(1, *SLICES, dtype=F64)
    c = covariance()[: N // 2, : N // 2]
    prior = DensePrior(Path.vp_cosine(), c)
    bare = dds3d(Measurement(y, op), prior, rng=Rng(0, [0]), settings=walk(5)).image
    picked = Measurement(y, op @ ChannelOp(0, n_channels=1), layout="plain")
    wrapped = dds3d(picked, prior, rng=Rng(0, [0]), settings=walk(5)).image
    torch.testing.assert_close(wrapped[:, 0], bare)


def test_a_state_of_other_channels_is_refused():
    op = ResampleOp.between(
        np.eye(4), BOX, target_affine=np.diag([1.0, 1, 3, 1]), target_shape=SLICES, dtype=F64
    )
    m = Measurement(random(1, *SLICES, dtype=F64), op)
    with pytest.raises(ValueError, match="ChannelOp"):
        m.image(torch.zeros(1, 2, *BOX, dtype=F64))
