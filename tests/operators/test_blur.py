"""Convolution agrees with scipy's, its adjoint is exact, its width is the one asked for."""

import math

import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random
from scipy import ndimage

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.blur import BlurOp, gaussian_kernel

BOUNDARIES = ("circular", "zero", "reflect")
SCIPY_MODE = {"circular": "wrap", "zero": "constant", "reflect": "reflect"}
F64 = torch.float64


def lopsided(*shape: int) -> torch.Tensor:
    """Return a kernel without any symmetry, which a flipped axis would betray."""
    return random(*shape, dtype=F64, seed=7)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_contract(boundary, dtype):
    double = dtype in (F64, torch.complex128)
    kernel = lopsided(3, 4).to(F64 if double else torch.float32)
    op = BlurOp(kernel, (7, 6), boundary=boundary)
    x, y = random(2, 7, 6, dtype=dtype), random(2, 7, 6, dtype=dtype, seed=1)
    tol = 1e-12 if double else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)
    # of one sign, the largest singular value stands alone and power iteration finds it
    assert_norm(BlurOp(kernel.abs(), (7, 6), boundary=boundary), x[:1], tol=1e-4, n_iter=300)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(3, 3), (4, 5), (2, 1)])
def test_agrees_with_scipy(boundary, size):
    kernel, x = lopsided(*size), random(8, 9, dtype=F64)
    ours = BlurOp(kernel, (8, 9), boundary=boundary)(x)
    mode = SCIPY_MODE[boundary]
    expected = ndimage.convolve(x.numpy(), kernel.numpy(), mode=mode)
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-13)
    if min(size) > 1:
        other = ndimage.correlate(x.numpy(), kernel.numpy(), mode=mode)
        assert abs(ours.numpy() - other).max() > 0.1, "correlation must not pass for convolution"


def test_the_borders_differ():
    x = random(6, 6, dtype=F64)
    results = [BlurOp(lopsided(3, 3), (6, 6), boundary=b)(x) for b in BOUNDARIES]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (results[a] - results[b]).abs().max() > 0.1
        torch.testing.assert_close(results[a][1:-1, 1:-1], results[b][1:-1, 1:-1])


def test_a_kernel_wider_than_the_image_is_mirrored_again_and_again():
    kernel, x = lopsided(15), random(4, dtype=F64)
    ours = BlurOp(kernel, (4,), boundary="reflect")(x)
    expected = ndimage.convolve1d(x.numpy(), kernel.numpy(), mode="reflect")
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_double_backward(boundary):
    op = BlurOp(lopsided(3, 3), (4, 4), boundary=boundary)
    x = random(1, 4, 4, dtype=F64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: op(v).square(), x)
    assert torch.autograd.gradgradcheck(lambda v: op.adjoint(v).square(), x)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_a_constant_stays(boundary):
    op = BlurOp.gaussian(4.0, (24, 20), spacing_mm=(1.0, 1.0), boundary=boundary, dtype=F64)
    one = torch.ones(24, 20, dtype=F64)
    torch.testing.assert_close(op(one), one, rtol=0, atol=1e-13)
    faded = BlurOp.gaussian(4.0, (24, 20), spacing_mm=(1.0, 1.0), boundary="zero", dtype=F64)
    assert float(faded(one)[0, 0]) < 0.5


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_width_in_mm(spacing):
    fwhm = 6.0
    kernel = gaussian_kernel(fwhm, spacing)
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-14)
    for axis, step in enumerate(spacing):
        line = kernel.sum(dim=1 - axis)
        offset = (torch.arange(len(line), dtype=F64) - len(line) // 2) * step
        sigma = float((line * offset**2).sum()) ** 0.5
        assert sigma == pytest.approx(fwhm / (2 * math.sqrt(2 * math.log(2))), rel=2e-3)
        assert sigma != pytest.approx(fwhm / 2, rel=0.05), "a width is no standard deviation"


def test_the_norm_is_the_largest_size_of_the_transfer_function():
    op = BlurOp.gaussian(3.0, (16, 16), spacing_mm=(1.0, 1.0), dtype=F64)
    assert op.norm(torch.zeros(16, 16, dtype=F64)) == pytest.approx(1.0, abs=1e-6)
    assert float(op.transfer.abs().max()) == pytest.approx(1.0, abs=1e-12)


def test_no_width_is_no_blur():
    x = random(5, 6, dtype=F64)
    op = BlurOp.gaussian(0.0, (5, 6), spacing_mm=(1.0, 1.0), dtype=F64)
    torch.testing.assert_close(op(x), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BlurOp(torch.ones(3), (4, 4)), "as many axes"),
        (lambda: BlurOp(torch.full((3,), torch.nan), (4,)), "finite"),
        (lambda: BlurOp(torch.ones(5), (4,)), "crop the kernel"),
        (lambda: gaussian_kernel(-1.0, (1.0,)), "not negative"),
        (lambda: gaussian_kernel(math.inf, (1.0,)), "not negative"),
        (lambda: gaussian_kernel(1.0, (0.0,)), "positive voxel sizes"),
    ],
)
def test_says_what_is_wrong(build, words):
    with pytest.raises(UsageError, match=words):
        build()


def test_refuses_another_size():
    op = BlurOp(torch.ones(3), (4,))
    with pytest.raises(InvalidInputError, match="sizes of this image"):
        op(torch.zeros(2, 5))
