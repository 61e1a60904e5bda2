"""The shipped prior on two slices of a head it has never seen, and the control that fails."""

from pathlib import Path

import pytest

from medsci.imaging import read_nifti
from medsci.metrics import head_mask, psnr
from medsci.models import load_denoiser, untrained_like
from medsci.recon import (
    ReconSettings,
    SimulateSettings,
    encode,
    l1_wavelet,
    reconstruct,
    simulate_kspace,
)

SAMPLE = Path(__file__).parents[2] / "sample_data" / "colin27_t1.nii.gz"
SETTINGS = ReconSettings(n_samples=1, n_steps=15)


@pytest.fixture(scope="module")
def case():
    head = read_nifti(SAMPLE)
    scan = SimulateSettings(acceleration=8.0, center_fraction=0.04, slices=(88, 90), seed=0)
    kspace = simulate_kspace(head, settings=scan)
    return kspace, head_mask(kspace.reference)


@pytest.fixture(scope="module")
def prior():
    return load_denoiser("brain-t1-2d", precision="auto")


def score(case, denoiser) -> float:
    kspace, mask = case
    volume = reconstruct(kspace, denoiser, settings=SETTINGS)
    return psnr(kspace.from_volume_array(volume.array), kspace.reference, mask=mask)


def test_beats_the_wavelet_baseline_and_an_untrained_network_does_not(case, prior) -> None:
    kspace, mask = case
    encoding = encode(kspace)
    sparse = (l1_wavelet(encoding.y, encoding.op).abs() * encoding.scale).numpy()
    trained = score(case, prior)
    assert trained > psnr(sparse, kspace.reference, mask=mask) + 1.5
    assert score(case, untrained_like(prior, seed=0)) < trained - 5.0
