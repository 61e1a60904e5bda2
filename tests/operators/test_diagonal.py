"""Weights multiply; the adjoint conjugates them."""

import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random

from medsci.errors import InvalidInputError
from medsci.operators.diagonal import DiagonalOp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (3, 4, 5)])
def test_contract(dtype, shape):
    op = DiagonalOp(random(*shape, dtype=dtype, seed=3))
    x, y = random(3, 4, 5, dtype=dtype), random(3, 4, 5, dtype=dtype, seed=1)
    tol = 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)
    assert_norm(op, x, tol=1e-3)


def test_the_adjoint_is_not_the_operator_itself():
    weights, x = random(4, 5, seed=3), random(4, 5)
    op = DiagonalOp(weights)
    torch.testing.assert_close(op.adjoint(x), weights.conj() * x)
    assert (op.adjoint(x) - op(x)).abs().max() > 0.1


def test_real_weights_on_complex_images():
    op = DiagonalOp(random(4, 5, dtype=torch.float64))
    assert_adjoint(op, random(4, 5), random(4, 5, seed=1))


def test_double_backward():
    op = DiagonalOp(random(4, dtype=torch.float64))
    x = random(4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: op(v).square(), x)


def test_says_what_is_wrong():
    with pytest.raises(InvalidInputError, match="1 of 2 weights are NaN"):
        DiagonalOp(torch.tensor([1.0, torch.nan]))
    with pytest.raises(InvalidInputError, match="sizes of the weight array"):
        DiagonalOp(torch.ones(4, 5))(torch.zeros(5, 4))
    with pytest.raises(InvalidInputError, match="give a complex image"):
        DiagonalOp(torch.ones(4, dtype=torch.complex64))(torch.zeros(4))
