"""Conjugate gradients against dense solves, and where textbook code breaks."""

import itertools
import math

import numpy as np
import pytest
import torch
from contracts.operators import random

from medsci.errors import UsageError
from medsci.operators import conjugate_gradient

N = 200


def spd(condition, *, n=N, dtype=torch.complex128, seed=0):
    """Return a Hermitian positive definite matrix of known condition number."""
    q, _ = torch.linalg.qr(random(n, n, dtype=dtype, seed=seed))
    values = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    return (q * values) @ q.mH


def a_norm(matrix, error):
    return float(torch.vdot(error, matrix @ error).real) ** 0.5


def aliased_conjugate_gradient(normal, b, *, n_iter):
    """The bug this guards against: p and r share storage, and r is updated in place."""
    x, r = torch.zeros_like(b), b.clone()
    p = r
    rr = torch.vdot(r, r).real
    for _ in range(n_iter):
        hp = normal(p)
        alpha = rr / torch.vdot(p, hp).real
        x = x + alpha * p
        r -= alpha * hp
        rr, previous = torch.vdot(r, r).real, rr
        p = r + (rr / previous) * p
    return x


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_solves_a_dense_system(dtype):
    h, b = spd(100.0, dtype=dtype), random(N, dtype=dtype, seed=1)
    x = conjugate_gradient(lambda v: h @ v, b, n_iter=N, tol=1e-14)
    expected = torch.from_numpy(np.linalg.solve(h.numpy(), b.numpy()))
    assert (x - expected).norm() <= 1e-10 * expected.norm()


def krylov_errors(solve):
    """Return the A-norm error after 1, 2, ... iterations, over the best in the Krylov space."""
    h, b = spd(10.0), random(N, seed=1)
    exact = torch.linalg.solve(h, b)
    basis, ratios = b[:, None] / b.norm(), []
    for k in range(1, 11):
        small = basis.mH @ h @ basis
        best = basis @ torch.linalg.solve(small, basis.mH @ b)
        ratios.append(a_norm(h, solve(h, b, k) - exact) / a_norm(h, best - exact))
        basis, _ = torch.linalg.qr(torch.cat((basis, h @ basis[:, -1:]), dim=1))
    return ratios


def test_every_iterate_is_the_best_of_its_krylov_space():
    ratios = krylov_errors(
        lambda h, b, k: conjugate_gradient(lambda v: h @ v, b, n_iter=k, tol=0.0)
    )
    assert ratios == pytest.approx([1.0] * 10, abs=1e-8)


def test_control_aliased_directions_are_caught():
    ratios = krylov_errors(lambda h, b, k: aliased_conjugate_gradient(lambda v: h @ v, b, n_iter=k))
    assert ratios[0] == pytest.approx(1.0, abs=1e-8)
    assert min(ratios[1:]) > 1.05


def test_error_falls_monotonically():
    h, b = spd(1e4), random(N, seed=1)
    exact = torch.linalg.solve(h, b)
    errors = [
        a_norm(h, conjugate_gradient(lambda v: h @ v, b, n_iter=k, tol=0.0) - exact)
        for k in range(0, 120, 10)
    ]
    assert all(b < a for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_stays_finite_on_a_projector(dtype):
    q, _ = torch.linalg.qr(random(60, 20, seed=3))
    projector = (q @ q.mH).to(dtype)
    b = random(60, seed=4).to(dtype)  # partly outside the range: no solution exists
    for rhs in (b, projector @ b):
        x = conjugate_gradient(lambda v: projector @ v, rhs, n_iter=1000, tol=0.0)
        assert torch.isfinite(torch.view_as_real(x)).all()
    tol = 1e-5 if dtype == torch.complex64 else 1e-12
    assert (x - projector @ b).norm() <= tol * (projector @ b).norm()


def test_tolerance_is_relative():
    h, b = spd(100.0), random(N, seed=1)
    solutions = [
        conjugate_gradient(lambda v: h @ v, scale * b, n_iter=N, tol=1e-3) / scale
        for scale in (1.0, 1e-20, 1e20)
    ]
    residual = (b - h @ solutions[0]).norm() / b.norm()
    assert 1e-5 < residual <= 1e-3
    for other in solutions[1:]:
        torch.testing.assert_close(other, solutions[0])


def test_start_at_the_solution_stays_there_and_is_not_changed():
    h, b = spd(100.0), random(N, seed=1)
    exact = torch.linalg.solve(h, b)
    kept_b, kept_x0 = b.clone(), exact.clone()
    x = conjugate_gradient(lambda v: h @ v, b, x0=exact, n_iter=20)
    torch.testing.assert_close(x, exact)
    assert torch.equal(b, kept_b)
    assert torch.equal(exact, kept_x0)


def test_zero_right_side_and_no_iteration():
    h, zero = spd(100.0), torch.zeros(N, dtype=torch.complex128)
    assert torch.equal(conjugate_gradient(lambda v: h @ v, zero, n_iter=10), zero)
    b = random(N)
    assert torch.equal(conjugate_gradient(lambda v: h @ v, b, n_iter=0), zero)
    one = torch.tensor(3.0, dtype=torch.float64)
    assert float(conjugate_gradient(lambda v: 2 * v, one, n_iter=3)) == pytest.approx(1.5)


def batch_of_systems():
    h = torch.stack([spd(c, n=30, seed=s) for s, c in enumerate((2.0, 50.0, 1e3, 10.0))])
    b = random(4, 30, seed=9).to(torch.complex64)
    h = h.to(torch.complex64)

    def solve(part, **options):
        def normal(v):
            return torch.stack([m @ u for m, u in zip(h[part], v, strict=True)])

        return conjugate_gradient(normal, b[part], n_iter=12, **options)

    return solve


def test_batched_items_do_not_see_each_other():
    solve = batch_of_systems()
    together = solve(slice(0, 4), batched=True)
    for i in range(4):
        assert torch.equal(together[i : i + 1], solve(slice(i, i + 1), batched=True))


def test_control_without_batched_they_do():
    solve = batch_of_systems()
    assert not torch.allclose(solve(slice(0, 4))[:1], solve(slice(0, 1)), rtol=1e-3)


def test_batched_zero_item_stays_zero():
    b = random(3, 10)
    b[1] = 0
    x = conjugate_gradient(lambda v: 2 * v, b, n_iter=5, batched=True)
    torch.testing.assert_close(x, b / 2)


def test_refuses_to_lose_a_gradient():
    b = random(4).requires_grad_()
    with pytest.raises(UsageError, match="detach b"):
        conjugate_gradient(lambda v: v, b, n_iter=1)
