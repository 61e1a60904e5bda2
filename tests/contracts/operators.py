"""Property checks that every linear operator must pass."""

import torch
from torch import Tensor

from medsci.operators import LinearOp

__all__ = ["assert_adjoint", "assert_gradient", "assert_norm", "assert_normal", "ramp", "random"]


def random(*shape: int, dtype: torch.dtype = torch.complex128, seed: int = 0) -> Tensor:
    """Return standard normal numbers, the same for equal seeds."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def ramp(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Return a tensor that grows along its entries, in both parts if complex.

    A ramp sees what white noise averages out: half-pixel shifts, a lost edge, a wrong sign.
    """
    real = torch.linspace(-1.0, 2.0, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    return (real + 0.5j * real.flip(-1)).to(dtype) if dtype.is_complex else real.to(dtype)


def assert_adjoint(op: LinearOp, x: Tensor, y: Tensor, *, tol: float | None = None) -> None:
    """Check `<A x, y> == <x, A^H y>`, shapes first, on x and y and on ramps of their shapes.

    The difference is measured against `|A x| |y|`; the tolerance is 1e-6 in single precision and
    1e-13 in double precision.
    """
    if tol is None:
        tol = 1e-13 if x.dtype in (torch.float64, torch.complex128) else 1e-6
    for u, v in ((x, y), (ramp(*x.shape, dtype=x.dtype), ramp(*y.shape, dtype=y.dtype))):
        forward, backward = op(u), op.adjoint(v)
        assert forward.shape == v.shape, f"A x is {forward.shape} but y is {v.shape}"
        assert backward.shape == u.shape, f"A^H y is {backward.shape} but x is {u.shape}"
        assert forward.dtype == v.dtype
        assert backward.dtype == u.dtype
        left, right = _inner(forward, v), _inner(u, backward)
        scale = float(_inner(forward, forward).abs() * _inner(v, v).abs()) ** 0.5
        assert scale > 0, "the check sees nothing: A x or y is zero"
        mismatch = float((left - right).abs()) / scale
        assert mismatch < tol, f"<A x, y> and <x, A^H y> differ by {mismatch:.2e} of |A x| |y|"


def assert_gradient(op: LinearOp, x: Tensor, y: Tensor, *, tol: float = 1e-12) -> None:
    """Check that the gradient of `Re <y, A x>` with respect to x is `A^H y`, and twice so."""
    u = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_inner(y, op(u)).real, u)
    expected = op.adjoint(y)
    assert (gradient - expected).norm() <= tol * expected.norm()
    w = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_inner(x, op.adjoint(w)).real, w)
    expected = op(x)
    assert (gradient - expected).norm() <= tol * expected.norm()


def assert_normal(op: LinearOp, x: Tensor, *, tol: float = 1e-12) -> None:
    """Check `normal` against adjoint after forward, its gradient, and that it is linear."""
    expected = op.adjoint(op(x))
    kept = x.clone()
    result = op.normal(x)
    assert torch.equal(x, kept), "normal changed its argument"
    assert result.shape == x.shape
    assert (result - expected).norm() <= tol * expected.norm()
    u = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(0.5 * _inner(u, op.normal(u)).real, u)
    assert (gradient - expected).norm() <= tol * expected.norm()


def assert_norm(op: LinearOp, like: Tensor, *, tol: float = 1e-6, n_iter: int = 2000) -> None:
    """Check the norm by power iteration against the largest singular value of the dense matrix."""
    n = like.numel()
    basis = torch.eye(n, dtype=like.dtype).reshape(n, *like.shape)
    matrix = torch.stack([op(e).flatten() for e in basis], dim=1)
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    estimate = op.norm(like, n_iter=n_iter)
    assert abs(estimate - largest) <= tol * largest
    assert op.norm(like, n_iter=5) == op.norm(like, n_iter=5)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return `sum(conj(a) b)` in double precision."""
    dtype = torch.complex128 if a.is_complex() else torch.float64
    return torch.vdot(a.flatten().to(dtype), b.flatten().to(dtype))
