import math

import pytest
import torch

from medsci.core import Rng
from medsci.errors import UsageError
from medsci.recon.ct_noise import (
    add_gaussian_noise,
    add_photon_noise,
    expected_noise,
    measured_noise,
    statistical_weights,
)

PHOTONS = 2e4
LEVELS = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
FLAT = LEVELS[:, None, None].expand(4, 60, 500).contiguous()
RNG = Rng(3, range(4))


@pytest.mark.parametrize("add", [add_photon_noise, add_gaussian_noise])
def test_variance_of_the_logarithm(add):
    noise = add(FLAT, photons=PHOTONS, rng=RNG) - FLAT
    spread = noise.flatten(1).std(dim=1)
    wanted = torch.exp(LEVELS / 2) / math.sqrt(PHOTONS)
    torch.testing.assert_close(spread, wanted, rtol=0.02, atol=0.0)
    torch.testing.assert_close(expected_noise(FLAT, photons=PHOTONS)[:, 0, 0], wanted)
    assert noise.mean().abs().item() < 4 * wanted.max().item() / math.sqrt(noise.numel() / 4)
    # Noise of one size for all rays is another law.
    assert (spread[-1] / spread[0]).item() == pytest.approx(math.exp(2.0), rel=0.03)


def test_counts_are_whole_and_have_a_floor():
    opaque = torch.full((1, 40, 50), 12.0, dtype=torch.float64)
    y = add_photon_noise(opaque, photons=1e4, rng=Rng(0, [0]))
    counts = 1e4 * torch.exp(-y)
    torch.testing.assert_close(counts, counts.round())
    assert torch.isfinite(y).all()
    assert y.max().item() == pytest.approx(math.log(1e4))  # no photon counts as one
    deeper = add_photon_noise(opaque, photons=1e4, rng=Rng(0, [0]), floor=0.5)
    assert deeper.max().item() == pytest.approx(math.log(2e4))


def test_noise_of_a_slice_belongs_to_its_id():
    whole = add_photon_noise(FLAT.float(), photons=PHOTONS, rng=RNG)
    alone = add_photon_noise(FLAT[2:3].float(), photons=PHOTONS, rng=Rng(3, [2]))
    assert torch.equal(whole[2:3], alone)
    assert not torch.equal(whole[2:3], add_photon_noise(FLAT[2:3].float(), photons=PHOTONS,
                                                        rng=Rng(3, [1])))  # fmt: skip
    other = add_photon_noise(FLAT.float(), photons=PHOTONS, rng=Rng(4, range(4)))
    assert not torch.equal(whole, other)
    assert whole.dtype == torch.float32


def test_weights_are_relative_counts():
    smooth = torch.linspace(0, 4, 300, dtype=torch.float64).expand(2, 5, 300).contiguous()
    weights = statistical_weights(smooth, smooth_bins=1)
    torch.testing.assert_close(weights, torch.exp(-smooth) / torch.exp(-smooth).mean())
    assert weights.mean().item() == pytest.approx(1.0)
    huge = statistical_weights(smooth + 900.0, smooth_bins=1)  # exp(-900) is no number
    torch.testing.assert_close(huge, weights)


def test_weighted_noise_is_the_same_for_all_rays():
    noisy = add_photon_noise(FLAT, photons=PHOTONS, rng=RNG)
    raw = (noisy - FLAT).flatten(1).std(1)
    white = (statistical_weights(noisy).sqrt() * (noisy - FLAT)).flatten(1).std(1)
    assert (white.max() / white.min()).item() < 1.03
    assert (raw.max() / raw.min()).item() > 6


def test_a_datum_that_chooses_its_own_weight_is_biased():
    noisy = add_gaussian_noise(FLAT, photons=50.0, rng=RNG)
    variance = expected_noise(FLAT, photons=50.0)[:3, 0, 0].square()
    for smooth_bins in (1, 5):
        weights = statistical_weights(noisy, smooth_bins=smooth_bins)
        bias = (weights * (noisy - FLAT)).mean((1, 2)) / weights.mean((1, 2))
        torch.testing.assert_close(-bias[:3] / variance, torch.full((3,), 1 / smooth_bins).double(),
                                   rtol=0.1, atol=0.1)  # fmt: skip


def test_noise_is_measured_without_knowing_the_photons():
    position = torch.linspace(-1, 1, 400, dtype=torch.float64)
    smooth = 4 * (1 - position**2).sqrt().expand(3, 90, 400)
    known = expected_noise(smooth, photons=PHOTONS).square().mean().sqrt().item()
    noisy = add_photon_noise(smooth.contiguous(), photons=PHOTONS, rng=Rng(5, range(3)))
    assert measured_noise(noisy) == pytest.approx(known, rel=0.03)
    assert measured_noise(smooth.contiguous()) < 0.02 * known
    # One median for all rays misses that noise grows with attenuation.
    assert measured_noise(noisy, n_levels=1) < 0.97 * known
    assert measured_noise(noisy[..., :8]) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: add_photon_noise(FLAT, photons=0.0, rng=RNG), "photons=0.0"),
        (lambda: add_photon_noise(FLAT, photons=1e4, rng=RNG, floor=0.0), "floor=0.0"),
        (lambda: expected_noise(FLAT, photons=-1.0), "photons=-1.0"),
        (lambda: statistical_weights(FLAT, smooth_bins=4), "odd number"),
    ],
)
def test_says_how_to_fix(call, words):
    with pytest.raises(UsageError, match=words):
        call()
