"""Miscibility: what couplings gain on M64 and in many dimensions, and which shift the law."""

import warnings

import pytest
import torch
from contracts.core import DOUBLE, draw, mixture64

from medsci.core.check.miscibility import LawShiftWarning, law_shift, miscibility
from medsci.core.learn.coupling import KNN, Assignment, ConditionAware, Independent
from medsci.core.process.path import Path
from medsci.core.rng import Rng

N = 6000
DATA_SD = 0.6  # of the published figures, by their correlations


def m64(n=N):
    """Return samples of M64 at that scale, and noise."""
    oracle = mixture64(Path.ve())
    x0 = oracle.sample(n, 0.0, generator=torch.Generator().manual_seed(5))
    return DATA_SD * x0, draw(n, 64, seed=9)


def coupled(coupling, x0, z, **options):
    return coupling(x0, z, rng=Rng(0, range(len(x0))), **options)[1]


@pytest.mark.parametrize(
    ("k", "first", "last", "correlation"),
    [(4, 0.93, 0.87, 0.13), (16, 0.87, 0.76, 0.22), (64, 0.94, 0.71, 0.30)],
)
def test_the_nearest_of_k_shifts_the_law_and_is_reported(k, first, last, correlation):
    x0, z = m64()
    with pytest.warns(LawShiftWarning, match="shrinks the noise"):
        shift = law_shift(z, coupled(KNN(k), x0, z), x0)
    assert shift.variance[0].item() == pytest.approx(first, abs=0.07)
    assert shift.variance[-1].item() == pytest.approx(last, abs=0.06)
    assert shift.correlation == pytest.approx(correlation, abs=0.025)


def test_permutations_keep_the_law():
    """Control: warnings are errors here, so the absence of one is tested."""
    x0, z = m64(1024)
    for coupling, options in (
        (Independent(), {}),
        (Assignment(), {}),
        (ConditionAware(1.0), {"cond": {"label": torch.arange(1024) % 3}}),
    ):
        shift = law_shift(z, coupled(coupling, x0, z, **options), x0)
        torch.testing.assert_close(shift.variance, torch.ones(64, dtype=DOUBLE))
    assert shift.correlation > 0.05  # nearer pairs all the same


def test_redrawn_noise_of_the_right_law_is_not_reported():
    x0, z = m64()
    shift = law_shift(z, draw(N, 64, seed=77), x0)
    assert abs(shift.correlation) < 0.02
    assert shift.variance.std().item() == pytest.approx(shift.error, rel=0.4)
    few = slice(0, 40)  # 64 directions of 40 samples scatter by a third: no proof of anything
    law_shift(z[few], draw(40, 64, seed=78), x0[few])


@pytest.mark.parametrize(("shrink", "warned"), [(0.99, False), (0.92, True), (1.2, False)])
def test_the_limit_is_five_per_cent_of_the_variance(shrink, warned):
    n = 40000
    x0, z = draw(n, 3, seed=1) * torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE), draw(n, 3, seed=2)
    changed = z.clone()
    changed[:, 1] *= shrink**0.5
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        shift = law_shift(z, changed, x0)
    assert bool(seen) == warned
    assert shift.variance[1].item() == pytest.approx(shrink, rel=1e-3)
    assert shift.variance[[0, 2]].tolist() == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.parametrize(("batch", "gain"), [(64, 0.11), (256, 0.14)])
def test_assignment_brings_pairs_nearer_on_m64(batch, gain):
    x0, z = m64(1024)
    values = [
        miscibility(x0[i : i + batch], coupled(Assignment(), x0[i : i + batch], z[i : i + batch]))
        for i in range(0, 1024, batch)
    ]
    assert 1.0 - sum(values) / len(values) == pytest.approx(gain, abs=0.02)
    assert miscibility(x0, z) == pytest.approx(1.0, abs=0.01)  # control: independent pairs


BATCHES = [(64, 0.015), (256, 0.020), pytest.param(1024, 0.023, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("batch", "gain"), BATCHES)
def test_the_gain_fades_in_many_dimensions(batch, gain):
    """Independent entries in 3072 dimensions, data of sd .5."""
    x0 = 0.5 * draw(batch, 3072, seed=1, dtype=torch.float32)
    z = draw(batch, 3072, seed=2, dtype=torch.float32)
    paired = coupled(Assignment(chunk=1024), x0, z)
    assert 1.0 - miscibility(x0, paired) == pytest.approx(gain, abs=0.0015)
    assert 1.0 - miscibility(x0, z) == pytest.approx(0.0, abs=0.0015)


def test_miscibility_needs_pairs():
    with pytest.raises(Exception, match=r"one for each|parameter 'z'"):
        miscibility(draw(3, 2), draw(4, 2))
