"""The algebra of operators, by the contract every operator must pass."""

import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random
from torch import Tensor

from medsci.operators import DifferenceOp, FourierOp, IdentityOp, LinearOp, SampleOp

MASK = torch.tensor([True, False, True, True, False, True])


class MatrixOp(LinearOp):
    """A dense matrix, with an adjoint that can be spoilt on purpose."""

    def __init__(self, matrix: Tensor, *, adjoint_error: float = 0.0) -> None:
        super().__init__()
        self.matrix = matrix
        self.wrong = matrix.mH * (1 + adjoint_error)
        self.matched = adjoint_error == 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.wrong @ y


A = MatrixOp(random(5, 6, seed=1))
B = MatrixOp(random(6, 4, seed=2))
C = MatrixOp(random(5, 4, seed=3))

ALGEBRA = {
    "product": (A @ B, A.matrix @ B.matrix),
    "sum": (A @ B + C, A.matrix @ B.matrix + C.matrix),
    "multiple": ((2 - 3j) * C, (2 - 3j) * C.matrix),
    "right multiple": (C * 0.5, 0.5 * C.matrix),
    "adjoint": (A.H, A.matrix.mH),
    "adjoint of all": ((1j * (A @ B) + C).H, (1j * A.matrix @ B.matrix + C.matrix).mH),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_algebra_is_matrix_algebra(name):
    op, matrix = ALGEBRA[name]
    x, y = random(matrix.shape[1], seed=4), random(matrix.shape[0], seed=5)
    torch.testing.assert_close(op(x), matrix @ x)
    torch.testing.assert_close(op.adjoint(y), matrix.mH @ y)
    torch.testing.assert_close(op.normal(x), matrix.mH @ (matrix @ x))
    torch.testing.assert_close(op.H(y), matrix.mH @ y)
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y)
    assert_normal(op, x)
    assert_norm(op, x)
    assert op.matched


def test_adjoint_of_adjoint_is_the_operator():
    assert A.H.H is A


@pytest.mark.parametrize("op", [FourierOp((-1,)), IdentityOp(), SampleOp(MASK)])
def test_shortcut_normals(op):
    x = random(3, 6)
    assert_adjoint(op, x, random(3, 6, seed=1))
    assert_gradient(op, x, random(3, 6, seed=1))
    assert_normal(op, x)
    assert_norm(op, x)


def test_composed_normal_uses_the_outer_shortcut():
    class Counting(LinearOp):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            return x

        def adjoint(self, y: Tensor) -> Tensor:
            return y

        def normal(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    outer = Counting()
    (outer @ C).normal(random(4))
    assert outer.calls == 1


def test_contract_rejects_a_wrong_adjoint():
    bad = MatrixOp(A.matrix, adjoint_error=1e-9)
    with pytest.raises(AssertionError, match="differ by"):
        assert_adjoint(bad, random(6, seed=4), random(5, seed=5))
    with pytest.raises(AssertionError):
        assert_gradient(bad, random(6, seed=4), random(5, seed=5))
    assert not (bad @ B).matched
    assert not (bad + A).matched
    assert not (2 * bad).H.matched


def test_contract_rejects_a_half_pixel_shift():
    class Shifted(LinearOp):
        """A circular shift whose 'adjoint' forgets to shift back."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.roll(x, 1, -1)

        def adjoint(self, y: Tensor) -> Tensor:
            return y

    with pytest.raises(AssertionError):
        assert_adjoint(Shifted(), random(9), random(9, seed=1))


def test_norm_of_zero_and_of_a_multiple():
    zero = MatrixOp(torch.zeros(3, 4, dtype=torch.complex128))
    assert zero.norm(random(4)) == 0.0
    d = DifferenceOp(0)
    assert (3 * d).norm(random(8), n_iter=500) == pytest.approx(3 * d.norm(random(8), n_iter=500))


def test_norm_in_single_precision_and_real():
    op = DifferenceOp(0, periodic=True)  # largest eigenvalue of D^T D: 4 at the highest frequency
    like = torch.zeros(16, dtype=torch.float32)
    assert op.norm(like, n_iter=500) == pytest.approx(2.0, rel=1e-5)
