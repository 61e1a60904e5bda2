"""Masking keeps what is known and forgets the rest."""

import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random

from medsci.errors import InvalidInputError
from medsci.operators.mask import MaskOp

MASK = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("mask", [MASK, MASK[:1], torch.stack([MASK, ~MASK])])
def test_contract(dtype, mask):
    op = MaskOp(mask)
    x, y = random(2, 3, 4, dtype=dtype), random(2, 3, 4, dtype=dtype, seed=1)
    tol = 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-6
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)
    assert_norm(op, x)


def test_is_a_projector():
    x = random(3, 4)
    op = MaskOp(MASK)
    assert torch.equal(op(op(x)), op(x))
    assert torch.equal(op(x)[MASK], x[MASK])
    assert not op(x)[~MASK].any()
    assert not torch.equal(MaskOp(~MASK)(x), op(x)), "what is known and what is not are different"


def test_double_backward():
    x = random(3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: MaskOp(MASK)(v).square(), x)


def test_refuses_a_mask_of_another_size():
    for shape in ((3, 5), (4,), (1, 4)):
        with pytest.raises(InvalidInputError, match="ends in the sizes of the mask"):
            MaskOp(MASK)(torch.zeros(shape))


def test_refuses_an_empty_mask():
    with pytest.raises(InvalidInputError, match="keeps no pixel"):
        MaskOp(torch.zeros(3, 4, dtype=torch.bool))
