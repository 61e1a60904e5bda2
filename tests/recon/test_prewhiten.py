"""Whitening makes the covariance the identity and leaves the image alone."""

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace
from medsci.operators import CartesianMriOp, FourierOp
from medsci.recon.baselines import sense_cg
from medsci.recon.birdcage import birdcage_maps
from medsci.recon.prewhitening import edge_noise_covariance, prewhiten, prewhiten_kspace

N_COILS = 4


def white(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.complex64)


def mixing():
    """Coils of very unequal and correlated noise."""
    powers = torch.diag(torch.tensor([1.0, 0.4, 2.0, 0.6], dtype=torch.complex64))
    return powers @ (torch.eye(N_COILS) + 0.25 * white((N_COILS, N_COILS), 7))


def correlated(shape, seed):
    return torch.einsum("dc,sc...->sd...", mixing(), white(shape, seed))


def covariance(data):
    samples = data.transpose(0, 1).flatten(1)
    return samples @ samples.mH / samples.shape[1]


EYE = torch.eye(N_COILS, dtype=torch.complex64)


def test_covariance_becomes_the_identity():
    noise = correlated((3, N_COILS, 64, 64), 1)
    true = mixing() @ mixing().mH
    assert (covariance(prewhiten(noise, covariance(noise))) - EYE).abs().max() < 1e-5
    assert (covariance(prewhiten(noise, true)) - EYE).abs().max() < 0.04
    assert (covariance(noise) - EYE).abs().max() > 1  # control: it was not
    # control: equal powers alone do not make it white
    only_powers = prewhiten(noise, torch.diag(torch.diag(true)))
    assert (covariance(only_powers) - EYE).abs().max() > 0.2


def test_edge_of_k_space_tells_the_noise():
    """With a head-like image in the middle the estimate is that of the noise alone."""
    maps, image = birdcage_maps((2, 64, 48), N_COILS), torch.zeros(2, 64, 48)
    radius = torch.hypot(*torch.meshgrid(
        torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 48), indexing="ij"
    ))  # fmt: skip
    image = torch.exp(-8 * radius**2).expand(2, -1, -1)
    mask = torch.zeros(48, dtype=torch.bool)
    mask[::2], mask[18:30] = True, True
    noise = 0.02 * correlated((2, N_COILS, 64, 48), 3)
    data = (FourierOp()(maps * image[:, None]) + noise) * mask
    found = edge_noise_covariance(data, mask)
    truth = 4e-4 * mixing() @ mixing().mH
    assert torch.linalg.norm(found - truth) < 0.15 * torch.linalg.norm(truth)
    everything = covariance(data[..., mask])
    assert torch.linalg.norm(everything - truth) > 5 * torch.linalg.norm(truth)  # control


def scan(seed, *, noise=0.05):
    maps = birdcage_maps((1, 48, 40), N_COILS)
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((1, 48, 40), generator=generator).to(torch.complex64)
    mask = torch.zeros(40, dtype=torch.bool)
    mask[::2], mask[16:24] = True, True
    data = (FourierOp()(maps * image[:, None]) + noise * correlated(maps.shape, seed)) * mask
    return image, KSpace(data.numpy(), mask.numpy(), affine=np.eye(4), maps=maps.numpy())


def solved(kspace, n_iter=150):
    op = CartesianMriOp(torch.from_numpy(kspace.maps), torch.from_numpy(kspace.mask))
    return sense_cg(torch.from_numpy(kspace.data), op, n_iter=n_iter, ridge=0.0)


def test_maps_go_with_the_data():
    """Without noise SENSE gives the same image before and after; with it, a better one."""
    cov = mixing() @ mixing().mH
    _, clean = scan(1, noise=0.0)
    before, after = solved(clean), solved(prewhiten_kspace(clean, noise_covariance=cov))
    assert (before - after).abs().max() < 0.005
    forgotten = prewhiten_kspace(clean, noise_covariance=cov)
    wrong = KSpace(forgotten.data, clean.mask, affine=np.eye(4), maps=clean.maps)
    assert (solved(wrong) - before).abs().max() > 0.1  # control: maps must follow
    gains = []
    for seed in range(3):
        image, noisy = scan(seed)
        whitened = prewhiten_kspace(noisy, noise_covariance=cov)
        errors = [torch.linalg.norm(solved(k) - image).item() for k in (noisy, whitened)]
        gains.append(errors[1] / errors[0])
    assert max(gains) < 0.6
    assert whitened.attributes["whitened"]


def test_reference_without_maps_is_dropped():
    _, kspace = scan(2)
    reference = np.ones((1, 48, 40), np.float32)
    bare = KSpace(kspace.data, kspace.mask, affine=np.eye(4), reference=reference)
    assert prewhiten_kspace(bare).reference is None
    with_maps = KSpace(
        kspace.data, kspace.mask, affine=np.eye(4), reference=reference, maps=kspace.maps
    )
    assert np.array_equal(prewhiten_kspace(with_maps).reference, reference)


@pytest.mark.parametrize(("matrix", "words"), [
    (torch.eye(3, dtype=torch.complex64), "of 3 coils and the data of 4; give"),
    (EYE + 1j * EYE, "not Hermitian"),
    (torch.ones((4, 4), dtype=torch.complex64), "not positive definite.*; leave"),
    (torch.diag(torch.tensor([1, 0, 1, 0], dtype=torch.complex64)), r"coils \[1, 3\] show no"),
    (EYE * float("nan"), "not Hermitian and finite"),
])  # fmt: skip
def test_covariances_that_are_none(matrix, words):
    with pytest.raises(InvalidInputError, match=words):
        prewhiten(white((1, 4, 8, 8), 0), matrix)


def test_edge_without_samples():
    with pytest.raises(InvalidInputError, match=r"0 samples at the edge.*; give"):
        edge_noise_covariance(torch.zeros(1, 4, 8, 8, dtype=torch.complex64), torch.ones(8) > 0)
