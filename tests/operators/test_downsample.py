"""Large voxels are means of small ones, thick slices are profiles, and centres stay in place."""

import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.downsample import DownsampleOp, SliceProfileOp

F64 = torch.float64
DTYPES = [torch.float32, F64, torch.complex64, torch.complex128]
CASES = [
    ((2, 3), (-2, -1), (2, 4, 6), (2, 2, 2)),
    ((3, 2), (-1, -2), (2, 4, 6), (2, 2, 2)),
    ((2,), (-3,), (4, 3, 5), (2, 3, 5)),
    ((2, 3, 2), (-3, -2, -1), (4, 3, 6), (2, 1, 3)),
    ((1, 1), (-2, -1), (2, 3, 4), (2, 3, 4)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("factors", "dims", "fine", "coarse"), CASES)
def test_contract_of_blocks(dtype, factors, dims, fine, coarse):
    op = DownsampleOp(factors, dims)
    x, y = random(*fine, dtype=dtype), random(*coarse, dtype=dtype, seed=1)
    tol = 1e-12 if dtype in (F64, torch.complex128) else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)
    assert_norm(op, x, tol=1e-5)
    assert op.norm(x) == pytest.approx(op.block**-0.5, rel=1e-5)
    torch.testing.assert_close(op.from_blocks(op.blocks(x)), x)


def test_blocks_by_hand():
    x = random(1, 4, 6, dtype=F64)
    y = DownsampleOp((2, 3))(x)
    for i in range(2):
        for j in range(2):
            block = x[0, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            assert float(y[0, i, j]) == pytest.approx(float(block.mean()), abs=1e-14)
    torch.testing.assert_close(y, torch.nn.functional.avg_pool2d(x, (2, 3)))
    assert (y - x[:, ::2, ::3]).abs().max() > 0.1, "a mean is no sample"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_ramp_keeps_its_place(factor):
    # position of the centre of every coarse pixel in fine indices: the value of a ramp
    ramp = torch.arange(12, dtype=F64)
    centres = torch.arange(12 // factor, dtype=F64) * factor + (factor - 1) / 2
    torch.testing.assert_close(DownsampleOp((factor,), (-1,))(ramp), centres)
    thick = SliceProfileOp.box(12, factor, dtype=F64)(ramp)
    torch.testing.assert_close(thick, centres)
    soft = SliceProfileOp.gaussian(12, factor, fwhm=1.0, dtype=F64)(ramp)
    torch.testing.assert_close(soft[1:-1], centres[1:-1], atol=1e-6, rtol=0)
    assert (DownsampleOp((factor,), (-1,))(ramp) - ramp[::factor]).abs().max() >= 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("kind", ["box", "thick", "gaussian"])
def test_contract_of_profiles(dtype, dim, kind):
    double = dtype in (F64, torch.complex128)
    real = F64 if double else torch.float32
    build = {
        "box": lambda: SliceProfileOp.box(6, 2, dim=dim, dtype=real),
        "thick": lambda: SliceProfileOp.box(6, 2, thickness=3.5, dim=dim, dtype=real),
        "gaussian": lambda: SliceProfileOp.gaussian(6, 2, fwhm=2.5, dim=dim, dtype=real),
    }
    op = build[kind]()
    fine, coarse = [6, 6, 6], [6, 6, 6]
    coarse[dim] = 3
    x, y = random(*fine, dtype=dtype), random(*coarse, dtype=dtype, seed=1)
    tol = 1e-12 if double else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)


def test_slices_that_touch_are_blocks():
    x = random(6, 3, 4, dtype=F64)
    profile = SliceProfileOp.box(6, 3, dtype=F64)
    torch.testing.assert_close(profile(x), DownsampleOp((3,), (-3,))(x))
    thicker = SliceProfileOp.box(6, 3, thickness=4.0, dtype=F64)
    assert (thicker(x) - profile(x)).abs().max() > 0.05


def test_profiles_by_hand():
    box = SliceProfileOp.box(9, 3, thickness=4.0, dtype=F64).weights
    torch.testing.assert_close(box[1, 2:7], torch.tensor([0.5, 1, 1, 1, 0.5], dtype=F64) / 4)
    gauss = SliceProfileOp.gaussian(9, 9, fwhm=4.0, dtype=F64).weights[0]
    expected = torch.exp(torch.tensor(-4.0 * 0.6931471805599453 / 4.0**2 * 2.0**2, dtype=F64))
    assert float(gauss[6] / gauss[4]) == pytest.approx(float(expected), abs=0.01)  # half at 2
    assert float(gauss[6] / gauss[4]) == pytest.approx(0.5, abs=0.02)
    for weights in (box, gauss[None]):
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights), dtype=F64))


def test_double_backward():
    x = random(4, 4, dtype=F64).requires_grad_()
    for op in (DownsampleOp((2, 2)), SliceProfileOp.gaussian(4, 2, fwhm=2.0, dtype=F64)):
        assert torch.autograd.gradgradcheck(lambda v, op=op: op(v).square(), x)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DownsampleOp((0, 2)), "whole numbers from 1"),
        (lambda: DownsampleOp((2, 2), (-1, -1)), "different negative"),
        (lambda: DownsampleOp((2,), (1,)), "different negative"),
        (lambda: SliceProfileOp.box(7, 2), "divides them"),
        (lambda: SliceProfileOp.box(6, 0), "divides them"),
        (lambda: SliceProfileOp.box(6, 2, thickness=-1.0), "positive number"),
        (lambda: SliceProfileOp.gaussian(6, 2, fwhm=0.0), "positive number"),
        (lambda: SliceProfileOp(torch.zeros(1, 3)), "wider profile"),
    ],
)
def test_says_what_is_wrong(build, words):
    with pytest.raises(UsageError, match=words):
        build()


def test_refuses_other_sizes():
    with pytest.raises(InvalidInputError, match="multiple of 2"):
        DownsampleOp((2, 2))(torch.zeros(4, 5))
    with pytest.raises(InvalidInputError, match="6 thin slices"):
        SliceProfileOp.box(6, 2)(torch.zeros(5, 2))
