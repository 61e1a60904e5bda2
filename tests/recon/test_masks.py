"""Undersampling masks: exact counts, a centred centre, and what they refuse."""

import numpy as np
import pytest
import torch

from medsci.errors import UsageError
from medsci.recon.masks import acceleration_of, calibration_lines, cartesian_mask

CASES = [
    (n, r, c) for n in (181, 182, 217, 256) for r, c in ((2.0, 0.15), (4.0, 0.08), (8.0, 0.04))
]


@pytest.mark.parametrize(("n", "acceleration", "fraction"), CASES)
@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_count_and_centre_are_exact(n, acceleration, fraction, kind, seed):
    mask = cartesian_mask(
        n, acceleration=acceleration, center_fraction=fraction, kind=kind, seed=seed
    )
    assert mask.dtype == torch.bool
    assert mask.shape == (n,)
    assert int(mask.sum()) == round(n / acceleration)
    assert acceleration_of(mask) == n / round(n / acceleration)
    width = round(n * fraction)
    first = n // 2 - width // 2
    assert mask[first : first + width].all()
    start, stop = calibration_lines(mask)
    assert start <= first
    assert stop >= first + width
    assert mask[start:stop].all()
    assert not mask[start - 1]
    assert not mask[stop]


def test_control_drawing_with_replacement_loses_lines():
    n, kept, center = 240, 120, 36
    rng = np.random.default_rng(0)
    mask = np.zeros(n, dtype=bool)
    mask[n // 2 - center // 2 :][:center] = True
    mask[rng.choice(n, kept - center, replace=True)] = True
    assert mask.sum() < 0.9 * kept  # the reference code's true rate; ours is exact above


def test_seed_decides():
    options = {"acceleration": 4.0, "center_fraction": 0.08}
    same = [cartesian_mask(181, seed=3, **options) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], cartesian_mask(181, seed=4, **options))


def test_random_lines_are_uniform():
    masks = [
        cartesian_mask(64, acceleration=4.0, center_fraction=0.125, seed=s) for s in range(2000)
    ]
    outside = torch.stack(masks).double().mean(dim=0)
    outside = torch.cat((outside[:28], outside[36:]))
    spread = (outside - 8 / 56).abs().max() / (8 / 56 * 48 / 56 / 2000) ** 0.5
    assert spread < 5


def test_equispaced_lines_are_even():
    mask = cartesian_mask(256, acceleration=8.0, center_fraction=0.04, kind="equispaced", seed=1)
    start, stop = calibration_lines(mask)
    gaps = torch.diff(mask[:start].nonzero().flatten())
    assert int(gaps.max() - gaps.min()) <= 1
    gaps = torch.diff(mask[stop:].nonzero().flatten())
    assert int(gaps.max() - gaps.min()) <= 1


def test_full_and_centre_only():
    assert cartesian_mask(9, acceleration=1.0, center_fraction=0.3).all()
    mask = cartesian_mask(100, acceleration=10.0, center_fraction=0.1)
    assert calibration_lines(mask) == (45, 55)


@pytest.mark.parametrize(("acceleration", "fraction"), [(0.5, 0.1), (8.0, 0.5), (4.0, -0.1)])
def test_says_what_is_wrong(acceleration, fraction):
    with pytest.raises(UsageError, match="at most 1 / acceleration"):
        cartesian_mask(100, acceleration=acceleration, center_fraction=fraction)


def test_no_calibration():
    mask = torch.ones(10, dtype=torch.bool)
    mask[5] = False
    assert calibration_lines(mask) == (5, 5)
    assert calibration_lines(torch.ones(10, dtype=torch.bool)) == (0, 10)
    with pytest.raises(UsageError, match="keeps no line"):
        acceleration_of(torch.zeros(4, dtype=torch.bool))
