import warnings

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators.projector import projector
from medsci.recon.hounsfield import (
    MU_WATER_PER_MM,
    HuWindow,
    UnitsWarning,
    hu_to_mu,
    known_mu_water,
    mu_to_hu,
)

GRID = ImageGrid(20, 24, 1.5, 1.2)
ANGLES = np.linspace(0.0, np.pi, 9, endpoint=False)
BEAMS = [
    ParallelBeam(ANGLES, 40, 1.1),
    FanBeam(2 * ANGLES, 50, 1.6, source_mm=90.0, detector_mm=50.0),
]


def test_water_is_zero_and_air_is_minus_a_thousand():
    assert hu_to_mu(0.0) == MU_WATER_PER_MM == 0.0192
    assert hu_to_mu(-1000.0) == 0.0
    assert mu_to_hu(0.0, mu_water=0.03) == -1000.0
    assert hu_to_mu(1000.0, mu_water=0.02) == pytest.approx(0.04)
    hounsfield = torch.linspace(-1000, 3000, 50, dtype=torch.float64)
    torch.testing.assert_close(mu_to_hu(hu_to_mu(hounsfield)), hounsfield)
    np.testing.assert_allclose(mu_to_hu(hu_to_mu(hounsfield.numpy())), hounsfield.numpy())


@pytest.mark.parametrize("beam", BEAMS, ids=["parallel", "fan"])
@pytest.mark.parametrize("limits", [(-1000.0, 2000.0), (-1024.0, 1000.0), (-200.0, 300.0)])
def test_the_sinogram_follows_the_image_exactly(beam, limits):
    op = projector(beam, GRID, dtype=torch.float64)
    window = HuWindow(*limits, mu_water=0.021)
    generator = torch.Generator().manual_seed(0)
    shape = (2, *GRID.shape)
    hounsfield = 4000 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1000
    y = op(hu_to_mu(hounsfield, mu_water=window.mu_water))
    ones = op(torch.ones(1, *GRID.shape, dtype=torch.float64))
    wanted = op(window.to_prior(hounsfield))
    mapped = window.sinogram_to_prior(y, ones.expand_as(y))
    assert ((mapped - wanted).norm() / wanted.norm()).item() < 1e-13
    # Dividing alone, as if the window began at air, is wrong for every other window.
    only_scaled = ((y / window.mu_span - wanted).norm() / wanted.norm()).item()
    assert (only_scaled > 0.01) == (limits[0] != -1000.0)


def test_prior_units_and_back():
    window = HuWindow(-1000.0, 1500.0)
    assert window.to_prior(-1000.0) == 0.0
    assert window.to_prior(1500.0) == pytest.approx(1.0)
    assert window.to_hu(0.4) == pytest.approx(0.0)
    assert window.mu_lo == 0.0
    assert window.mu_span == pytest.approx(2.5 * 0.0192)
    x = torch.linspace(-0.2, 1.3, 20, dtype=torch.float64)
    torch.testing.assert_close(window.to_prior(window.to_hu(x)), x)


def test_unknown_water_is_said():
    with pytest.warns(UnitsWarning, match=r"0\.0192 per mm"):
        assert known_mu_water(None) == 0.0192
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert known_mu_water(0.0201) == 0.0201
    for bad in (0.0, -0.02, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match=r"about 0\.02"):
            known_mu_water(bad)


def test_windows_that_are_none():
    for limits in ((0.0, 0.0), (100.0, -100.0), (float("nan"), 1.0), (-1000.0, float("inf"))):
        with pytest.raises(UsageError, match="the lower first"):
            HuWindow(*limits)
    with pytest.raises(UsageError, match="mu_water"):
        HuWindow(mu_water=0.0)
