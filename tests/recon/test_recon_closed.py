"""Solvers on the benchmark without training: their order, and priors that must fail.

`bench/recon_closed.py` has every solver, kind of problem and seed; this is one small volume of it.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from medsci.core import Rng
from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
from medsci.inverse.solvers.mbir import MbirSettings, mbir
from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.recon.baselines import l1_wavelet, total_variation, zero_filled

N = 8
FILE = Path(__file__).parents[2] / "bench" / "recon_closed_problem.py"


@cache
def bench():
    """Import the problem from where the benchmark has it."""
    spec = importlib.util.spec_from_file_location("recon_closed_problem", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def case(kind, seed=1):
    return bench().problem(kind, seed, n_slices=N)


SOLVERS = {
    "mbir": (mbir, MbirSettings(n_steps=100)),
    "dds3d": (dds3d, Dds3dSettings(n_steps=30, sigma_max=50.0)),
    "red_diff": (red_diff, RedDiffSettings(n_steps=60)),
}


@cache
def score(kind, name, prior="right"):
    found = case(kind)
    priors = {
        "right": lambda: found.prior,
        "constant": lambda: bench().constant_prior(kind),
        "wrong": lambda: bench().wrong_prior(kind),
    }
    solver, settings = SOLVERS[name]
    rng = Rng(1, range(N))
    return found.psnr(solver(found.measured, priors[prior](), rng=rng, settings=settings).image)


@cache
def classical(kind):
    """Return the best total variation and the best of the other classical methods."""
    found = case(kind)
    y, op = found.raw.y, found.raw.op
    tv = max(
        found.psnr(total_variation(y, op, weight=w, dims=3, n_iter=60)) for w in (0.001, 0.002)
    )
    if found.beam is not None:
        grid = bench().GRID
        images = [filtered_backprojection(y, found.beam, grid=grid, window="hann")]
    else:
        images = [zero_filled(y, op), l1_wavelet(y, op, wavelet="db4", n_iter=30)]
    return tv, max(map(found.psnr, images))


@cache
def exact(kind):
    return case(kind).psnr(case(kind).posterior_mean())


@pytest.mark.parametrize("name", SOLVERS)
def test_sparse_view_ct_in_order(name):
    tv, hann = classical("ct8")
    found = score("ct8", name)
    assert found >= tv + 1.0
    assert found >= hann + 5.0
    assert found >= exact("ct8") - 1.7


def test_mri_in_order():
    tv, wavelet = classical("mri")
    found = score("mri", "red_diff")
    assert found >= tv + 1.2
    assert found >= wavelet + 4.0


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prior", ["constant", "wrong"])
def test_a_prior_that_knows_nothing_or_others_fails(name, prior):
    tv, _ = classical("ct8")
    assert score("ct8", name, prior) < tv - 1.0
    assert score("ct8", name, prior) < score("ct8", name) - 3.0


def test_the_problem_is_the_one_that_is_described():
    found = case("ct8")
    b = bench()
    assert found.truth.shape == (N, 64, 64)
    assert found.raw.y.shape == (N, 8, 91)
    texture = found.truth - found.prior.means[found.component, 0]
    assert float(texture.std()) == pytest.approx(0.06, rel=0.1)
    across = [
        float((u * v).mean() / v.square().mean())
        for u, v in zip(texture[1:], texture, strict=False)
    ]
    assert np.mean(across) == pytest.approx(0.95, abs=0.05)
    residual = found.raw.op(found.truth) - found.raw.y
    assert float(residual.std()) == pytest.approx(found.raw.noise, rel=0.05)
    assert found.raw.noise == pytest.approx(0.01 * float(found.raw.op(found.truth).max()), rel=1e-4)
    assert b.phantoms().shape == (12, 64, 64)
    assert np.array_equal(b.phantoms(), b.phantoms())
    mri = case("mri")
    assert int(mri.raw.op.mask.sum()) == 8
    assert bool(mri.raw.op.mask[30:34].all())
    assert mri.raw.count == 2 * 4 * 64 * 8 * N


def test_posterior_mean_is_reached_by_no_solver_slice_by_slice():
    """Slices on their own cannot beat the mean given each slice; its misfit stays below one."""
    found = case("ct8")
    alone = RedDiffSettings(n_steps=60)
    image = red_diff(found.measured, found.prior, rng=Rng(1, range(N)), settings=alone).image
    assert exact("ct8") > found.psnr(image)
    assert 0.6 < found.raw.misfit(found.posterior_mean()) < 1.0
    assert found.raw.misfit(found.truth) == pytest.approx(1.0, abs=0.05)


def test_both_ways_to_the_posterior_mean_agree():
    found = case("ct8")
    assert torch.allclose(found.posterior_mean(), found._mean_of_component(), atol=2e-3)
