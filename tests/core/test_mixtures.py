"""The mixtures that the other tests use: what they are."""

import math

import pytest
import torch
from contracts.core import DOUBLE, mixture2, mixture64

from medsci.core.process import Path
from medsci.core.solve import Rng


def test_the_image_like_mixture_answers_within_memory_and_reason():
    oracle = mixture64(Path.ve())
    x = oracle.sample(32, 0.5, generator=torch.Generator().manual_seed(0)).reshape(32, 1, 8, 8)
    jacobian = oracle.jacobian(x, 0.5)
    assert jacobian.shape == (32, 64, 64)
    spectrum = torch.linalg.eigvalsh(jacobian)
    assert spectrum.min() > 0.0, "a covariance is positive"
    assert oracle.posterior_sample(x, 0.5, rng=Rng(0, range(32))).shape == x.shape


def test_mixture2_is_the_grid_of_unit_variance():
    oracle = mixture2(Path.ve())
    mean, total = oracle.moments(0.0)
    torch.testing.assert_close(mean, torch.zeros(2, dtype=DOUBLE))
    torch.testing.assert_close(total, torch.eye(2, dtype=DOUBLE))
    gap = torch.cdist(oracle.means, oracle.means).fill_diagonal_(9.0).min()
    assert gap.item() / math.sqrt(oracle.variances[0, 0].item()) == pytest.approx(20.0)
