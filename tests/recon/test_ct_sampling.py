"""CT by posterior samples: in Hounsfield units, on the grid of the scan, with numbers that hold."""

import dataclasses

import numpy as np
import pytest
import torch
from contracts.ct_scans import affine, body, prior_folder
from numpy.testing import assert_allclose
from torch import Tensor, nn

from medsci.core import Path
from medsci.imaging import ParallelBeam, Volume
from medsci.operators.projector import projector
from medsci.recon import ReconSettings, SimulateCtSettings, posterior_ct, simulate_ct
from medsci.recon.ct_sampling import default_ct_walk, reconstruct_ct
from medsci.recon.hounsfield import hu_to_mu


class White(nn.Module):
    """The exact denoiser of white images of mean 0.5 and standard deviation 0.3."""

    path = Path.vp_cosine()

    def forward(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = alpha * 0.3**2 / (alpha**2 * 0.3**2 + sigma**2)
        return 0.5 + gain * (x - alpha * 0.5)


def settings(**changes):
    return ReconSettings(**{"n_steps": 5, "n_samples": 2} | changes)


@pytest.fixture(scope="module")
def scan():
    volume = Volume(body(), affine(), sform_code=1)
    return simulate_ct(volume, settings=SimulateCtSettings(n_views=24, oversampling=1))


@pytest.fixture(scope="module")
def drawn(scan):
    return posterior_ct(scan, White(), settings=settings())


def test_the_body_comes_back_where_it_lay_in_hounsfield_units(scan, drawn):
    for volume in (drawn.mean, drawn.std, drawn.simple, drawn.reference):
        assert_allclose(volume.affine, affine())
        assert volume.shape == body().shape
        assert volume.array.dtype == np.float32
    soft, air = body() == 40.0, body() == -1000.0
    assert np.median(drawn.mean.array[soft]) == pytest.approx(40.0, abs=40.0)
    assert np.median(drawn.mean.array[air]) == pytest.approx(-1000.0, abs=40.0)

    def error(array):
        return float(np.sqrt(np.mean((array - body()) ** 2)))

    assert error(drawn.mean.array) < 0.75 * error(drawn.simple.array)
    for axis in (0, 1):  # control: flipped, it would not be there
        assert error(np.flip(drawn.mean.array, axis)) > 2 * error(drawn.mean.array)


def test_spread_and_mean_are_of_the_same_samples(scan, drawn):
    first = posterior_ct(scan, White(), settings=settings(n_samples=1))
    assert first.std is None
    one = first.mean.array
    two = 2 * drawn.mean.array - one
    assert_allclose(drawn.std.array, np.abs(one - two) / np.sqrt(2), atol=0.02)
    assert drawn.std.array.mean() > 1.0


@pytest.mark.parametrize("photons", [None, 1e5])
def test_the_misfit_is_that_of_the_written_volume(scan, photons):
    """That of the data as they are in the file."""
    known = dataclasses.replace(scan, photons=photons)
    drawn = posterior_ct(known, White(), settings=settings())
    op = projector(scan.beam, scan.grid)
    mu = hu_to_mu(torch.from_numpy(scan.from_volume_array(drawn.mean.array)))
    y = torch.from_numpy(scan.data)
    left = float((op(mu) - y).norm() / y.norm())
    assert drawn.info["relative_data_misfit"] == pytest.approx(left, rel=1e-3)
    other = posterior_ct(known, White(), settings=settings(n_cg=1))
    assert other.info["relative_data_misfit"] > 1.2 * left, "control: fewer CG steps fit less"
    if photons is None:
        over = float((op(mu) - y).norm()) / drawn.info["noise_of_line_integrals"]
        expected = over / y.numel() ** 0.5
        assert drawn.info["misfit_over_noise"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("window", [(-1000.0, 1000.0), (-1024.0, 2000.0)])
def test_the_window_is_a_choice_of_units(scan, window):
    found = posterior_ct(scan, White(), settings=settings(n_cg=20), window_hu=window)
    assert found.info["window_hu"] == list(window)
    assert np.median(found.mean.array[body() == 40.0]) == pytest.approx(40.0, abs=40.0)


def test_the_window_of_a_stored_prior_is_its_own(scan, tmp_path):
    folder = prior_folder(tmp_path / "tiny", window=(-900.0, 1500.0))
    found = posterior_ct(scan, folder, settings=settings(n_samples=1))
    assert found.info["window_hu"] == [-900.0, 1500.0]
    told = []
    volume = reconstruct_ct(
        scan, folder, settings=settings(n_samples=1), progress=lambda *words: told.append(words)
    )
    assert np.array_equal(volume.array, found.mean.array)
    assert told[0] == (0, 1, "projector")
    assert told[-1][:2] == (5, 5)


@pytest.mark.parametrize(
    ("degrees", "span"),
    [
        (np.arange(24) * 7.5, 180.0),
        (np.arange(24) * 15.0, 360.0),
        (10 + np.arange(30) * 3.0, 90.0),
        ((350 + np.arange(20) * 9.0) % 360, 180.0),
        (np.arange(48) * 15.0, 360.0),
        (np.array([0.0, 90.0]), 180.0),
        (np.array([33.0]), 0.0),
    ],
)
def test_the_span_is_what_the_views_cover(scan, degrees, span):
    beam = ParallelBeam(np.radians(degrees), scan.beam.n_bins, bin_mm=scan.beam.bin_mm)
    data = np.ones((1, len(degrees), scan.beam.n_bins), np.float32)
    slab = dataclasses.replace(scan, data=data, beam=beam, reference=None)
    found = posterior_ct(slab, White(), settings=settings(n_steps=3, n_samples=1))
    assert found.info["span_degrees"] == pytest.approx(span, abs=1e-4)
    assert found.info["n_views"] == len(degrees)


def test_the_tuned_walk():
    few, many = default_ct_walk(8), default_ct_walk(60)
    assert (few.n_steps, few.sigma_max) >= (many.n_steps, many.sigma_max)
    assert few != many
    thick, thin = (default_ct_walk(24, slice_spacing_mm=mm).consistency for mm in (4.0, 1.0))
    assert thick.threshold == pytest.approx(thin.threshold / 4)
    assert default_ct_walk(24, slice_spacing_mm=0.5).consistency.threshold == thin.threshold
    noisy, clean = default_ct_walk(24, noise=0.02), default_ct_walk(24, noise=0.01)
    assert noisy.prox_noise == pytest.approx(4 * clean.prox_noise)
