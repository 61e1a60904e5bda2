"""Differences, and the shrinkage that goes with them."""

import math

import numpy as np
import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random

from medsci.operators import DifferenceOp, soft_threshold


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_contract(dim, periodic, dtype):
    op = DifferenceOp(dim, periodic=periodic)
    shape = [4, 5, 6]
    x = random(*shape, dtype=dtype)
    if not periodic:
        shape[dim] -= 1
    y = random(*shape, dtype=dtype, seed=1)
    tol = 1e-12 if dtype == torch.complex128 else 1e-5
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)
    assert_norm(op, x[:2, :3, :2].contiguous(), tol=1e-5)


@pytest.mark.parametrize("periodic", [False, True])
def test_eigenvalues(periodic):
    n = 12
    op = DifferenceOp(0, periodic=periodic)
    eye = torch.eye(n, dtype=torch.float64)
    values = torch.linalg.eigvalsh(torch.stack([op.normal(e) for e in eye]))
    angle = torch.arange(n, dtype=torch.float64) * math.pi / n
    angle = angle if periodic else angle / 2  # the cosine transform of an open chain
    expected = (4 * angle.sin() ** 2).sort().values
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)


def test_open_ends_are_not_pulled_together():
    x = torch.tensor([0.0, 0.0, 5.0])
    assert DifferenceOp(0)(x).tolist() == [0.0, 5.0]
    assert DifferenceOp(0, periodic=True)(x).tolist() == [0.0, 5.0, -5.0]


def test_a_single_slice_has_no_difference():
    op = DifferenceOp(0)
    x = random(1, 3)
    assert op(x).shape == (0, 3)
    assert torch.equal(op.normal(x), torch.zeros_like(x))


def test_soft_threshold_closed_forms():
    v = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64)
    assert soft_threshold(v, 1.0).tolist() == [-2.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    z = torch.tensor([3 + 4j, 0.3 + 0.4j, 0j, -1j], dtype=torch.complex128)
    expected = torch.tensor([2.4 + 3.2j, 0, 0, 0], dtype=torch.complex128)
    torch.testing.assert_close(soft_threshold(z, 1.0), expected)
    torch.testing.assert_close(soft_threshold(v.to(torch.complex128), 0.7).real,
                               soft_threshold(v, 0.7))  # fmt: skip


def test_soft_threshold_solves_its_problem():
    rng = np.random.default_rng(0)
    v = complex(*rng.normal(size=2))
    grid = np.linspace(-2, 2, 801)
    x = grid[:, None] + 1j * grid
    objective = 0.6 * np.abs(x) + 0.5 * np.abs(x - v) ** 2
    best = x.flat[objective.argmin()]
    found = complex(soft_threshold(torch.tensor(v, dtype=torch.complex128), 0.6))
    assert abs(found - best) < 0.005


def test_soft_threshold_at_zero_is_finite_with_its_gradient():
    for threshold in (0.0, 0.5):
        v = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
        out = soft_threshold(v, threshold)
        assert torch.equal(out, torch.zeros_like(out))
        (gradient,) = torch.autograd.grad(out.abs().square().sum(), v)
        assert torch.isfinite(torch.view_as_real(gradient)).all()
    v = random(20)
    assert torch.equal(soft_threshold(v, 0.0), v)


def test_soft_threshold_takes_a_tensor():
    v = torch.tensor([[3.0, 3.0], [3.0, 3.0]])
    out = soft_threshold(v, torch.tensor([[1.0], [2.0]]))
    assert out.tolist() == [[2.0, 2.0], [1.0, 1.0]]
