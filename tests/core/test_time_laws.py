"""The U-shaped time law has its density, and only that one."""

import math

import numpy as np
import pytest
import torch
from contracts.core import assert_batch_invariant
from scipy import stats
from scipy.integrate import cumulative_trapezoid

from medsci.core.learn.time_law import TimeLaw, UShape
from medsci.core.process.path import Path
from medsci.core.rng import Rng

N = 4000
PATHS = {"rectified": Path.rectified(), "cosine": Path.vp_cosine(), "ve": Path.ve(sigma_max=4.0)}


def fraction(law, path):
    """Return where on its axis the law drew, in [0, 1]."""
    t = law(path, Rng(3, range(N)), step=0).numpy()
    assert t.dtype == np.float64
    if law.on == "time":
        return t
    ends = np.array([0.0, 1.0])
    angle = np.arctan2(path.sigma(t), law.sigma_data * path.alpha(t))
    low, high = np.arctan2(path.sigma(ends), law.sigma_data * path.alpha(ends))
    return (angle - low) / (high - low)


def distribution(density):
    """Return the distribution function of a density on [0, 1], integrated on a fine grid."""
    u = np.linspace(0.0, 1.0, 20001)
    integral = cumulative_trapezoid(density(u), u, initial=0.0)
    return lambda x: np.interp(x, u, integral / integral[-1])


def fits(u, density):
    return stats.kstest(u, distribution(density)).pvalue


@pytest.mark.parametrize("a", [0.5, 2.0, 4.0, 12.0])
@pytest.mark.parametrize("on", ["time", "angle"])
def test_the_draws_have_the_density(a, on):
    def density(b):
        return lambda u: np.exp(b * u) + np.exp(b * (1.0 - u))

    u = fraction(UShape(a, on=on, sigma_data=0.5, margin=0.0), PATHS["cosine"])
    assert fits(u, density(a)) > 1e-3
    assert fits(u, density(1.6 * a + 2.0)) < 1e-4  # controls: another a
    if a >= 2.0:
        assert fits(u, np.ones_like) < 1e-4  # uniform
        assert fits(u, lambda u: np.exp(a * u) + np.exp(-a * u)) < 1e-4  # rising only


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_both_ends_are_dense_and_the_middle_is_not(path):
    u = fraction(UShape(), path)
    counts = np.histogram(u, bins=[0.0, 0.05, 0.475, 0.525, 0.95, 1.0])[0]
    ratio = math.cosh(4.0 * 0.475) / math.cosh(0.0)  # of the densities in the bins' centres
    for end in (0, -1):
        assert counts[end] / counts[2] == pytest.approx(ratio, rel=0.3)


def test_steep_laws_stay_inside_and_the_margin_holds():
    t = UShape(1000.0, margin=0.02)(PATHS["rectified"], Rng(0, range(N)), step=1)
    assert t.isfinite().all()
    assert 0.02 <= float(t.min()) < 0.021
    assert 0.979 < float(t.max()) <= 0.98


def test_a_sample_has_the_same_time_in_any_batch():
    law = UShape()
    assert isinstance(law, TimeLaw)
    assert_batch_invariant(lambda ids: law(PATHS["cosine"], Rng(1, ids), step=2))
    one, two = (law(PATHS["cosine"], Rng(1, range(9)), step=s) for s in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("a", [0.0, -1.0, 1e9])
def test_a_shape_that_is_none_is_refused(a):
    with pytest.raises(ValueError, match=r"\(0, 1000\]"):
        UShape(a)
