"""Multi-scale similarity: another implementation, laws, and diversity."""

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError
from medsci.metrics.ms_ssim import mean_pair_similarity, ms_ssim, n_scales_of, random_pairs


def smooth(*shape, seed=0, sd=1.5):
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sd)
    return (field - field.min()) / np.ptp(field)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((48, 56, 48), 3),
        ((24, 24, 24), 2),
        ((21, 40, 40), 1),
        ((176, 192, 180), 5),
        ((10, 50, 50), 0),
    ],
)
def test_scales_adapt_to_the_grid(shape, scales):
    assert n_scales_of(shape) == scales


@pytest.mark.parametrize("shape", [(48, 56, 48), (25, 23, 24), (112, 104)])
def test_agrees_with_monai_where_that_one_can(shape):
    """MONAI is given our weights: those of the first scales, divided by their sum."""
    from monai.metrics.regression import MultiScaleSSIMMetric

    a, b = smooth(*shape, seed=1), 0.6 * smooth(*shape, seed=1) + 0.4 * smooth(*shape, seed=2)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][: n_scales_of(shape)])
    other = MultiScaleSSIMMetric(
        len(shape), data_range=1.0, weights=(weights / weights.sum()).tolist()
    )
    pair = [torch.from_numpy(x).float()[None, None] for x in (a, b)]
    found = ms_ssim(a, b, data_range=1.0)
    assert found == pytest.approx(other(*pair).item(), abs=2e-5)
    assert found < 0.97
    assert abs(ms_ssim(a, b, data_range=1.0, n_scales=1) - found) > 1e-3, "scales matter"


def test_laws():
    a, b = smooth(24, 26, 30, seed=1), smooth(24, 26, 30, seed=2)
    assert ms_ssim(a, a, data_range=1.0) == pytest.approx(1.0, abs=1e-12)
    both = [ms_ssim(x, y, data_range=1.0) for x, y in ((a, b), (b, a))]
    assert both[0] == pytest.approx(both[1], abs=1e-12)
    assert ms_ssim(9 * a, 9 * b, data_range=9.0) == pytest.approx(both[0], abs=1e-12)
    assert ms_ssim(a, 1 - a, data_range=1.0) == 0.0
    mixed = [ms_ssim(a, (1 - w) * a + w * b, data_range=1.0) for w in (0.1, 0.3, 0.6, 1.0)]
    assert all(np.diff(mixed) < 0)


def test_pairs_are_different_and_all_come():
    every = random_pairs(7, n_pairs=99, seed=0)
    assert sorted(every) == [(i, j) for i in range(7) for j in range(i + 1, 7)]
    some = random_pairs(1000, n_pairs=50, seed=3)
    assert len(set(some)) == 50
    assert all(0 <= i < j < 1000 for i, j in some)
    assert some == random_pairs(1000, n_pairs=50, seed=3) != random_pairs(1000, n_pairs=50, seed=4)


def test_a_collapsed_set_is_alike():
    varied = [smooth(24, 24, 24, seed=k) for k in range(8)]
    collapsed = [0.9 * varied[0] + 0.1 * v for v in varied]
    diverse, alike = (mean_pair_similarity(s, data_range=1.0) for s in (varied, collapsed))
    assert diverse < 0.6
    assert alike > 0.95
    again = mean_pair_similarity(
        [smooth(24, 24, 24, seed=50 + k) for k in range(8)], data_range=1.0
    )
    assert again == pytest.approx(diverse, abs=0.1)


def test_what_is_refused():
    a = smooth(24, 24, 24)
    with pytest.raises(InvalidInputError, match="2 fit"):
        ms_ssim(a, a, data_range=1.0, n_scales=3)
    with pytest.raises(InvalidInputError, match="11 voxels"):
        ms_ssim(a[:9], a[:9], data_range=1.0)
    with pytest.raises(InvalidInputError, match="positive peak"):
        ms_ssim(a, a, data_range=0.0)
    with pytest.raises(InvalidInputError, match="pair needs two"):
        mean_pair_similarity([a], data_range=1.0)
