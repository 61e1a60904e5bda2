"""Simulated coils, and their recovery from the centre of k-space."""

import numpy as np
import pytest
import torch
from contracts.operators import random
from scipy import ndimage

from medsci.errors import InvalidInputError, UsageError
from medsci.operators import CartesianMriOp
from medsci.recon.coils import birdcage_maps, estimate_maps, low_resolution_phase
from medsci.recon.masks import cartesian_mask

SHAPE = (3, 72, 60)
N_COILS = 6


def phantom():
    """Return a positive textured disc and its support."""
    rng = np.random.default_rng(0)
    z, r, p = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    support = r**2 + (p / 0.9) ** 2 < 0.7 - 0.1 * z**2
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    image = support * np.clip(1 + 2 * texture / texture.std() * 0.2, 0.2, None)
    phase = 0.8 * np.sin(2 * r + z) + 0.5 * p**2
    return (
        torch.from_numpy(image).float(),
        torch.from_numpy(phase).float(),
        torch.from_numpy(support),
    )


def acquire(*, noise=0.003, lines=0.2, scale=1.0, with_phase=True):
    image, phase, support = phantom()
    maps = birdcage_maps(SHAPE, N_COILS, seed=1)
    mask = cartesian_mask(SHAPE[-1], acceleration=3.0, center_fraction=lines, seed=2)
    x = torch.polar(image, phase) if with_phase else image.to(torch.complex64)
    op = CartesianMriOp(maps, mask)
    y = op(x) + noise * op.sample_op(random(*maps.shape, dtype=torch.complex64))
    return scale * y, mask, maps, x, support


def subspace_error(maps, truth, support):
    """Return the mean of `1 - |<S, T>|^2` over the support: 0 if equal up to phase."""
    overlap = (maps.conj() * truth).sum(dim=1).abs().square()
    return float((1 - overlap)[support].mean())


@pytest.mark.parametrize(("n_coils", "n_rings"), [(1, 1), (4, 1), (8, 1), (8, 2), (7, 2)])
def test_birdcage_sums_to_one_and_is_smooth(n_coils, n_rings):
    maps = birdcage_maps((5, 40, 32), n_coils, n_rings=n_rings, seed=3)
    assert maps.shape == (5, n_coils, 40, 32)
    assert maps.dtype == torch.complex64
    torch.testing.assert_close(maps.abs().square().sum(dim=1), torch.ones(5, 40, 32))
    for dim, most in ((0, 0.1), (2, 0.25), (3, 0.25)):
        assert torch.diff(maps, dim=dim).abs().max() < most
    assert torch.diff(maps, dim=0).abs().max() > 0


def test_birdcage_coils_look_from_their_own_side():
    maps = birdcage_maps((1, 64, 64), 8)[0].abs()
    rows = torch.arange(64.0) - 31.5
    total = maps.sum(dim=(1, 2))
    centres = torch.stack(
        ((maps * rows).sum(dim=(1, 2)) / total, (maps * rows[:, None]).sum(dim=(1, 2)) / total)
    )
    angles = torch.atan2(centres[1], centres[0])
    steps = torch.diff(torch.cat((angles, angles[:1]))).remainder(2 * torch.pi)
    assert centres.norm(dim=0).min() > 5
    assert float(steps.min()) > 0.4  # an eighth of a turn, less the jitter
    assert float(steps.max()) < 1.2


def test_birdcage_seed_decides():
    assert torch.equal(birdcage_maps((2, 8, 8), 3, seed=1), birdcage_maps((2, 8, 8), 3, seed=1))
    assert not torch.equal(birdcage_maps((2, 8, 8), 3, seed=1), birdcage_maps((2, 8, 8), 3, seed=2))
    with pytest.raises(UsageError, match="1 or 2 rings"):
        birdcage_maps((1, 8, 8), 4, n_rings=3)


@pytest.mark.parametrize(("method", "most"), [("espirit", 4e-4), ("low_res", 2e-2)])
@pytest.mark.parametrize("lines", [0.134, 0.25])
def test_maps_are_recovered_up_to_phase(method, most, lines):
    y, mask, truth, _, support = acquire(lines=lines)
    maps = estimate_maps(y, mask, method=method)
    assert maps.shape == truth.shape
    torch.testing.assert_close(maps.abs().square().sum(dim=1), torch.ones(SHAPE))
    assert subspace_error(maps, truth, support) < most
    shuffled = truth[:, torch.randperm(N_COILS, generator=torch.Generator().manual_seed(0))]
    assert subspace_error(maps, shuffled, support) > 0.1  # control
    shuffled_data = y[:, [1, 0, 2, 3, 4, 5]]
    assert subspace_error(estimate_maps(shuffled_data, mask, method=method), truth, support) > 0.05


@pytest.mark.parametrize("noise", [0.003, 0.02])
def test_espirit_has_less_error_than_its_start(noise):
    y, mask, truth, _, support = acquire(noise=noise, lines=0.15)
    espirit = subspace_error(estimate_maps(y, mask), truth, support)
    assert espirit < 0.5 * subspace_error(estimate_maps(y, mask, method="low_res"), truth, support)


def test_maps_are_smooth_and_their_phase_does_not_depend_on_slices():
    y, mask, truth, _, support = acquire()
    maps = estimate_maps(y, mask)
    inside = support[:, 1:] & support[:, :-1]
    jump = torch.diff(maps, dim=2).abs().amax(dim=1)[inside].max()
    assert jump < 3 * torch.diff(truth, dim=2).abs().max()
    across = torch.diff(maps, dim=0).abs().amax(dim=1)[support[1:] & support[:-1]]
    assert across.mean() < 0.1


def test_units_do_not_matter():
    y, mask, _, _, support = acquire()
    difference = (estimate_maps(1e-6 * y, mask) - estimate_maps(y, mask)).abs().amax(dim=1)
    assert difference[support].max() < 1e-3


def test_crop_removes_air_and_keeps_the_object():
    y, mask, _, _, support = acquire(lines=0.25)
    kept = estimate_maps(y, mask, crop=0.9).abs().square().sum(dim=1) > 0.5
    assert kept[support].float().mean() > 0.98
    air = ~torch.from_numpy(ndimage.binary_dilation(support.numpy(), iterations=6))
    assert kept[air].float().mean() < 0.3


def test_empty_slice_and_single_coil_give_finite_maps():
    y, mask, *_ = acquire()
    y[1] = 0
    assert torch.isfinite(torch.view_as_real(estimate_maps(y, mask))).all()
    single = estimate_maps(y[:, :1], mask)
    torch.testing.assert_close(single, torch.ones_like(single), rtol=0, atol=1e-4)


def test_phase_moves_into_the_maps():
    y, mask, truth, x, support = acquire()
    maps = estimate_maps(y, mask)
    phase = low_resolution_phase(y, maps, mask)
    assert phase.shape == SHAPE
    adapted = maps * torch.polar(torch.ones_like(phase), phase)[:, None]
    seen = (adapted.conj() * truth).sum(dim=1) * x  # the image through the adapted maps
    before = (maps.conj() * truth).sum(dim=1) * x

    def imaginary(z):
        return float(z.imag[support].square().sum() / z[support].abs().square().sum())

    assert imaginary(seen) < 0.003
    assert float((seen.real[support] > 0).float().mean()) > 0.999
    assert imaginary(before) > 0.05  # control


def test_no_phase_stays_no_phase():
    y, mask, truth, _, support = acquire(with_phase=False, noise=0.0)
    phase = low_resolution_phase(y, truth, mask)
    assert phase[support].abs().mean() < 0.01


def test_too_few_lines():
    y, mask, *_ = acquire()
    mask = mask.clone()
    center = SHAPE[-1] // 2
    mask[center + 1] = mask[center - 2] = False
    with pytest.raises(InvalidInputError, match="samples 2 adjacent lines"):
        estimate_maps(y, mask)
    assert torch.isfinite(torch.view_as_real(estimate_maps(y, mask, method="low_res"))).all()
    mask[center] = False
    with pytest.raises(InvalidInputError, match="give maps"):
        estimate_maps(y, mask, method="low_res")
