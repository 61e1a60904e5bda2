"""Fourier, sampling, coils and their product."""

import numpy as np
import pytest
import torch
from contracts.operators import (
    assert_adjoint,
    assert_gradient,
    assert_norm,
    assert_normal,
    ramp,
    random,
)

from medsci.errors import InvalidInputError
from medsci.operators import CartesianMriOp, CoilOp, FourierOp, LineNormalOp, SampleOp

SHAPES = [(2, 3, 6, 8), (1, 5, 7, 9), (2, 1, 5, 2), (1, 2, 4, 1), (2, 4, 10, 34), (1, 6, 9, 19)]


def random_mask(n, *, seed=0, keep=0.4):
    mask = torch.from_numpy(np.random.default_rng(seed).random(n) < keep)
    mask[n // 2] = True
    return mask


def unit_maps(shape, *, dtype=torch.complex128):
    maps = random(*shape, dtype=torch.complex128, seed=3)
    return (maps / maps.abs().square().sum(1, keepdim=True).sqrt()).to(dtype)


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (2, 9, 4)])
def test_fourier_is_unitary_and_centred(shape):
    op = FourierOp()
    x, y = random(*shape), random(*shape, seed=1)
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y)
    assert_normal(op, x)
    torch.testing.assert_close(op.adjoint(op(x)), x)
    torch.testing.assert_close(op(x).norm(), x.norm())
    constant = op(torch.ones(shape, dtype=torch.complex128))
    peak = constant[..., shape[-2] // 2, shape[-1] // 2]
    torch.testing.assert_close(peak, torch.full_like(peak, (shape[-2] * shape[-1]) ** 0.5))
    assert (constant.abs() > 1e-12).sum() == peak.numel()
    point = torch.zeros(shape, dtype=torch.complex128)
    point[..., shape[-2] // 2, shape[-1] // 2] = 1  # centred on input too: no phase ramp
    torch.testing.assert_close(op(point).imag, torch.zeros(shape, dtype=torch.float64))


def test_fourier_matches_the_defining_sum():
    n = 7
    r = torch.arange(n, dtype=torch.float64) - n // 2
    matrix = torch.exp(-2j * torch.pi * r[:, None] * r / n) / n**0.5
    x = random(n)
    torch.testing.assert_close(FourierOp((-1,))(x), matrix @ x)


@pytest.mark.parametrize("mask_shape", [(8,), (6, 8), (6, 1)])
def test_sample_contract(mask_shape):
    mask = random_mask(int(np.prod(mask_shape))).reshape(mask_shape)
    op = SampleOp(mask)
    x = random(2, 6, 8)
    assert_adjoint(op, x, random(2, 6, 8, seed=1))
    assert_normal(op, x)
    assert (op(x) == 0).sum() == (~mask).sum() * (96 // mask.numel())


def test_sample_says_how_to_fix():
    with pytest.raises(InvalidInputError, match="zero-pad"):
        SampleOp(random_mask(8))(random(2, 6, 7))
    with pytest.raises(InvalidInputError, match="zero-pad"):
        SampleOp(random_mask(8).reshape(1, 8))(random(8))


def test_coil_contract_and_messages():
    op = CoilOp(unit_maps((2, 3, 4, 5)))
    x, y = random(2, 4, 5), random(2, 3, 4, 5, seed=1)
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y)
    assert_normal(op, x)
    torch.testing.assert_close(op.normal(x), x)  # maps of unit sum of squares
    with pytest.raises(InvalidInputError, match="give an image of"):
        op(random(2, 4, 4))
    with pytest.raises(InvalidInputError, match="give both the same size"):
        op.adjoint(random(2, 2, 4, 5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_mri_contract(shape, dtype):
    op = CartesianMriOp(unit_maps(shape, dtype=dtype), random_mask(shape[-1]))
    x = random(shape[0], *shape[2:], dtype=dtype)
    y = random(*shape, dtype=dtype, seed=1)
    tol = 1e-12 if dtype == torch.complex128 else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)


def test_mri_is_the_product_of_its_factors():
    maps, mask = unit_maps((2, 3, 6, 8)), random_mask(8)
    op, product = CartesianMriOp(maps, mask), SampleOp(mask) @ FourierOp() @ CoilOp(maps)
    x, y = random(2, 6, 8), random(2, 3, 6, 8, seed=1)
    torch.testing.assert_close(op(x), product(x))
    torch.testing.assert_close(op.adjoint(y), product.adjoint(y))
    torch.testing.assert_close(op.normal(x), product.normal(x))
    assert op.image_shape == (2, 6, 8)


def test_mri_norm():
    op = CartesianMriOp(unit_maps((2, 2, 3, 4)), random_mask(4))
    assert_norm(op, random(2, 3, 4), tol=1e-5)
    assert op.norm(random(2, 3, 4), n_iter=500) <= 1 + 1e-12


def test_mri_with_a_two_dimensional_mask():
    op = CartesianMriOp(unit_maps((2, 3, 6, 8)), random_mask(48).reshape(6, 8))
    x = random(2, 6, 8)
    assert_adjoint(op, x, random(2, 3, 6, 8, seed=1))
    assert_normal(op, x)


@pytest.mark.parametrize("method", ["fft", "cosine"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.1])
def test_fast_normals_are_exact(method, shape, keep):
    maps, mask = unit_maps(shape), random_mask(shape[-1], keep=keep, seed=shape[-1])
    product = SampleOp(mask) @ FourierOp() @ CoilOp(maps)
    op = LineNormalOp(maps, mask, method=method)
    assert op.method == method
    for x in (random(shape[0], *shape[2:]), ramp(shape[0], *shape[2:])):
        torch.testing.assert_close(op(x), product.normal(x), rtol=1e-12, atol=1e-12)
    assert_adjoint(op, random(shape[0], *shape[2:]), random(shape[0], *shape[2:], seed=1))


def test_control_a_mask_that_is_not_rolled_is_wrong():
    maps, mask = unit_maps((1, 2, 4, 9)), random_mask(9)
    product = SampleOp(mask) @ FourierOp() @ CoilOp(maps)
    shifted = LineNormalOp(maps, torch.roll(mask, 1))
    x = random(1, 4, 9)
    assert (shifted(x) - product.normal(x)).norm() > 0.1 * x.norm()


@pytest.mark.parametrize("method", ["fft", "cosine"])
def test_fast_normal_single_precision_at_full_size(method):
    maps = unit_maps((1, 4, 32, 181), dtype=torch.complex64)
    mask = random_mask(181, keep=0.25)
    x = random(1, 32, 181, dtype=torch.complex64)
    exact = CartesianMriOp(maps.to(torch.complex128), mask).normal(x.to(torch.complex128))
    result = LineNormalOp(maps, mask, method=method)(x)
    assert result.dtype == torch.complex64
    assert (result - exact).norm() <= 1e-6 * exact.norm()


def test_method_follows_the_length():
    assert LineNormalOp(unit_maps((1, 1, 2, 181)), random_mask(181)).method == "cosine"
    assert LineNormalOp(unit_maps((1, 1, 2, 160)), random_mask(160)).method == "fft"


@pytest.mark.parametrize("n_phase", [16, 19])
def test_slices_are_the_operator_of_a_part_and_share_memory(n_phase):
    maps, mask = unit_maps((4, 3, 6, n_phase), dtype=torch.complex64), random_mask(n_phase)
    op = CartesianMriOp(maps, mask)
    part = op.slices(1, 3)
    x = random(4, 6, n_phase, dtype=torch.complex64)
    assert part.image_shape == (2, 6, n_phase)
    assert torch.equal(part(x[1:3]), op(x)[1:3])
    assert torch.equal(part.normal(x[1:3]), op.normal(x)[1:3])
    assert part.maps.data_ptr() == op.maps[1:].data_ptr()


def test_normal_takes_strided_input():
    op = CartesianMriOp(unit_maps((2, 3, 6, 19)), random_mask(19))
    x = random(2, 19, 6).mT
    torch.testing.assert_close(op.normal(x), op.normal(x.contiguous()))


def test_maps_can_be_learnt():
    maps = unit_maps((1, 2, 4, 19)).requires_grad_()
    op = CartesianMriOp(maps, random_mask(19))
    (gradient,) = torch.autograd.grad(op.normal(random(1, 4, 19)).abs().square().sum(), maps)
    assert gradient.abs().sum() > 0


def test_messages():
    with pytest.raises(InvalidInputError, match="the mask needs n_phase values"):
        CartesianMriOp(unit_maps((1, 2, 4, 8)), random_mask(7))
    op = CartesianMriOp(unit_maps((1, 2, 4, 8)), random_mask(8))
    for call in (op, op.normal):
        with pytest.raises(InvalidInputError, match=r"\(1, 4, 8\)"):
            call(random(1, 4, 9))
    with pytest.raises(InvalidInputError, match="zero-pad"):
        op.adjoint(random(1, 2, 4, 9))
