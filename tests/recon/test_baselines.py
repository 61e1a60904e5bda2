"""Classical reconstructions: closed forms, optimality, and that each does what it is for."""

import itertools

import numpy as np
import pytest
import pywt
import torch
from contracts.operators import random
from scipy import ndimage

from medsci.operators import CartesianMriOp, DifferenceOp, soft_threshold
from medsci.recon.baselines import l1_wavelet, sense_cg, total_variation, zero_filled
from medsci.recon.coils import birdcage_maps
from medsci.recon.masks import cartesian_mask
from medsci.recon.proximal import TotalVariationProx, WaveletProx, fista

N_COILS = 6
METHODS = {"sense": sense_cg, "l1_wavelet": l1_wavelet, "tv": total_variation}


def phantom(shape=(2, 32, 38)):
    """Return a piecewise constant complex image with a smooth phase."""
    _, r, p = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = 1.0 * (r**2 + p**2 < 0.8) - 0.5 * (r**2 + 4 * p**2 < 0.3)
    image += 0.4 * (np.abs(r - 0.4) + np.abs(p) < 0.25)
    return torch.from_numpy(ndimage.gaussian_filter(image, (0, 0.4, 0.4)) * np.exp(1j * r)).to(
        torch.complex64
    )


def acquire(acceleration=3.0, *, noise=0.01, n_coils=N_COILS):
    x = phantom()
    maps = birdcage_maps(x.shape, n_coils, seed=1)
    mask = cartesian_mask(x.shape[-1], acceleration=acceleration, center_fraction=0.1, seed=4)
    op = CartesianMriOp(maps, mask)
    n = op.sample_op(random(*maps.shape, dtype=torch.complex64))
    return x, op, op(x) + noise * n


def identity(shape, dtype=torch.complex128):
    """Return an operator whose normal operator is the identity: one coil, all samples."""
    maps = torch.ones(shape[0], 1, *shape[1:], dtype=dtype)
    return CartesianMriOp(maps, torch.ones(shape[-1], dtype=torch.bool))


def error(estimate, truth):
    return float((estimate - truth).norm() / truth.norm())


def test_zero_filled_is_the_adjoint():
    _, op, y = acquire()
    assert torch.equal(zero_filled(y, op), op.adjoint(y))


def test_sense_is_exact_on_full_noiseless_data():
    x, op, y = acquire(1.0, noise=0.0)
    assert error(sense_cg(y, op, ridge=0.0), x) < 1e-5
    assert error(sense_cg(y, op, ridge=0.5), x / 1.5) < 1e-5  # closed form: (1 + ridge)^-1


def test_sense_solves_its_normal_equations():
    _, op, y = acquire()
    x = sense_cg(y, op, n_iter=200, ridge=0.01)
    residual = op.normal(x) + 0.01 * x - op.adjoint(y)
    assert residual.norm() < 1e-5 * op.adjoint(y).norm()


@pytest.mark.parametrize("wavelet", ["haar", "db4"])
def test_wavelet_denoising_is_soft_thresholding(wavelet):
    shape = (2, 64, 72)  # long enough for three levels of db4
    op, image = identity(shape), random(*shape)
    y = op(image)
    weight = 0.2
    result = l1_wavelet(y, op, weight=weight, n_iter=3, wavelet=wavelet, level=3, seed=None)
    threshold = weight * float(image.abs().max())
    for s in range(2):
        coefficients = pywt.wavedec2(image[s].numpy(), wavelet, mode="periodization", level=3)
        shrunk = [coefficients[0]]
        for details in coefficients[1:]:
            shrunk.append(tuple(d * np.maximum(1 - threshold / np.abs(d), 0) for d in details))
        expected = pywt.waverec2(shrunk, wavelet, mode="periodization")
        np.testing.assert_allclose(result[s].numpy(), expected, atol=1e-12)


def test_wavelet_shifts_come_back_and_keep_constants():
    prox = WaveletProx(0.0, wavelet="db4", level=2, seed=3)
    v, state = random(1, 16, 24), None
    for _ in range(3):
        out, state = prox(v, state)
        torch.testing.assert_close(out, v)
    flat = torch.full((1, 16, 24), 2 - 1j, dtype=torch.complex128)
    out, _ = WaveletProx(10.0, wavelet="db4", level=2, seed=3)(flat, None)
    torch.testing.assert_close(out, flat)  # the coarse approximation is not penalised


def test_shifts_undo_the_grid_of_the_wavelets():
    x, op, y = acquire()
    plain, shifted = (l1_wavelet(y, op, weight=0.01, n_iter=60, seed=s) for s in (None, 0))
    assert error(shifted, x) < 0.9 * error(plain, x)


def dual_projected_gradient(v, weight, *, n_iter=4000):
    """Solve TV denoising of a 2-D numpy image in float64, from its definition and slowly."""
    z = np.zeros((2, *v.shape), dtype=v.dtype)

    def divergence(z):
        out = np.zeros_like(v)
        out[:-1] += z[0, :-1]
        out[1:] -= z[0, :-1]
        out[:, :-1] += z[1, :, :-1]
        out[:, 1:] -= z[1, :, :-1]
        return out

    for _ in range(n_iter):
        x = v + divergence(z)
        z[0, :-1] += (x[1:] - x[:-1]) / 8
        z[1, :, :-1] += (x[:, 1:] - x[:, :-1]) / 8
        z *= weight / np.maximum(np.sqrt((np.abs(z) ** 2).sum(0)), weight)
    return v + divergence(z)


def test_tv_denoising_is_the_dual_solution():
    shape = (2, 9, 7)
    op, image = identity(shape), random(*shape)
    weight = 0.15
    result = total_variation(op(image), op, weight=weight, n_iter=500, n_inner=4)
    for s in range(2):
        expected = dual_projected_gradient(image[s].numpy(), weight * float(image.abs().max()))
        assert np.abs(result[s].numpy() - expected).max() < 1e-6
    assert error(result, image) > 0.1  # control: it did something


def test_tv_in_three_dimensions_of_one_line_is_the_one_dimensional_one():
    image = random(6, 1, 1)  # only the slice axis has neighbours
    op = identity((6, 1, 1))
    result = total_variation(op(image), op, weight=0.1, n_iter=150, n_inner=10, dims=3)
    expected = dual_projected_gradient(image[:, :, 0].numpy(), 0.1 * float(image.abs().max()))
    assert np.abs(result[:, :, 0].numpy() - expected).max() < 1e-6
    flat = total_variation(op(image), op, weight=0.1, n_iter=5, dims=2)
    torch.testing.assert_close(flat, image)  # control: in the slice there is nothing to smooth


def test_tv_prox_minimises_its_objective():
    v, weight = random(1, 8, 6), 0.3
    prox = TotalVariationProx(weight, n_dims=2, n_iter=800)
    x, _ = prox(v, None)

    def objective(u):
        down = torch.nn.functional.pad(DifferenceOp(-2)(u), (0, 0, 0, 1))
        right = torch.nn.functional.pad(DifferenceOp(-1)(u), (0, 1))
        length = (down.abs() ** 2 + right.abs() ** 2).sqrt()
        return float(weight * length.sum() + 0.5 * (u - v).abs().square().sum())

    best = objective(x)
    for seed in range(20):
        for size in (1e-2, 1e-4):
            assert objective(x + size * random(1, 8, 6, seed=seed)) > best


def penalty_tv(x):
    d_r, d_p = (torch.diff(x, dim=d, append=x.narrow(d, -1, 1)) for d in (1, 2))
    return float((d_r.abs().square() + d_p.abs().square()).sqrt().sum())


def penalty_wavelet(x):
    total = 0.0
    for image in torch.nn.functional.pad(x, (0, -x.shape[2] % 16, 0, -x.shape[1] % 16)):
        coefficients = pywt.wavedec2(image.numpy(), "haar", mode="periodization", level=4)
        total += sum(float(np.abs(d).sum()) for details in coefficients[1:] for d in details)
    return total


@pytest.mark.parametrize(
    ("method", "penalty", "options"),
    [
        (total_variation, penalty_tv, {"n_inner": 10}),
        (l1_wavelet, penalty_wavelet, {"wavelet": "haar", "seed": None}),
    ],
)
def test_objective_falls_and_settles(method, penalty, options):
    _, op, y = acquire()
    weight = 0.003
    threshold = weight * float(op.adjoint(y).abs().max())

    def objective(n_iter):
        x = method(y, op, weight=weight, n_iter=n_iter, **options)
        return 0.5 * float((op(x) - y).abs().square().sum()) + threshold * penalty(x)

    values = [objective(n) for n in (1, 4, 16, 60, 180)]
    assert all(b < a for a, b in itertools.pairwise(values))
    assert values[-2] - values[-1] < 0.02 * (values[0] - values[-1])


def test_fista_solves_the_lasso():
    matrix = random(12, 20) / 8
    b, weight = matrix.mH @ random(12, seed=1), 0.05

    def prox(v, state):
        return soft_threshold(v, weight), state

    x = fista(lambda u: matrix.mH @ (matrix @ u), b, prox, n_iter=5000)
    gradient = matrix.mH @ (matrix @ x) - b
    active = x.abs() > 1e-8
    assert 0 < int(active.sum()) < 20
    torch.testing.assert_close(gradient[active], -weight * (x / x.abs())[active])
    assert gradient[~active].abs().max() <= weight * (1 + 1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_regularised_beats_zero_filled(name):
    x, op, y = acquire()
    zero, result = error(zero_filled(y, op), x), error(METHODS[name](y, op), x)
    assert result < (0.7 if name == "sense" else 0.45) * zero


@pytest.mark.parametrize("name", METHODS)
def test_units_and_slab_do_not_matter(name):
    _, op, y = acquire()
    method = METHODS[name]
    result = method(y, op)
    scaled = method(1e4 * y, op) / 1e4
    assert (scaled - result).norm() < 2e-4 * result.norm()
    y = y.clone()
    y[1] *= 0.5  # the second slice is dimmer, so that the first sets the scale of both
    both = method(y, op)
    alone = method(y[:1].contiguous(), op.slices(0, 1))
    torch.testing.assert_close(both[:1], alone)
