"""The linear operator and its algebra.

An operator is a pair of maps: `forward` (A) and `adjoint` (A^H), exact transposes of each other
under `<u, v> = sum(conj(u) * v)`. From the pair follow the normal operator A^H A, products, sums,
multiples and the norm. Data terms, CG and proximal steps are written against this file only.

Every operator is differentiable; with torch's convention for complex tensors the gradient of
`Re <A x, y>` with respect to x is `A^H y`.
"""

__all__ = ["AdjointOp", "ComposedOp", "IdentityOp", "LinearOp", "ScaledOp", "SumOp"]

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn


class LinearOp(nn.Module, ABC):
    """Map x to A x, and y to A^H y.

    Sub-classes write `forward` and `adjoint`, and `normal` where a faster exact form is known.
    `matched` is False for an operator whose `adjoint` is only an approximation of A^H; solvers
    that need the exact adjoint refuse those.
    """

    matched: bool = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y."""

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x."""
        return self.adjoint(self.forward(x))

    @property
    def H(self) -> "LinearOp":  # noqa: N802  (the letter of the equation)
        """The adjoint as an operator of its own."""
        return AdjointOp(self)

    def __matmul__(self, other: "LinearOp") -> "LinearOp":
        """Return the product: `(A @ B)(x) = A(B(x))`."""
        return ComposedOp(self, other)

    def __add__(self, other: "LinearOp") -> "LinearOp":
        """Return the sum: `(A + B)(x) = A(x) + B(x)`."""
        return SumOp(self, other)

    def __mul__(self, factor: int | float | complex) -> "LinearOp":
        """Return the multiple: `(c * A)(x) = c * A(x)`."""
        return ScaledOp(self, factor)

    __rmul__ = __mul__

    @torch.no_grad()
    def norm(self, like: Tensor, *, n_iter: int = 100, seed: int = 0) -> float:
        """Estimate the largest singular value by power iteration on the normal operator.

        The estimate approaches the norm from below; its relative error falls at least as
        `(s_2 / s_1)^(4 n_iter)`, s the two largest distinct singular values.

        Args:
            like: Any element of the operator's domain; only shape, dtype and device are used.
            n_iter: Applications of the normal operator.
            seed: Seed of the start vector; equal seeds give equal results.

        Returns:
            The norm; 0 for the zero operator.
        """
        generator = torch.Generator().manual_seed(seed)
        start_dtype = torch.complex128 if like.is_complex() else torch.float64
        x = torch.randn(like.shape, dtype=start_dtype, generator=generator)
        x = x.to(dtype=like.dtype, device=like.device)
        squared = 0.0
        for _ in range(n_iter):
            length = _length(x)
            if length == 0.0:
                return 0.0
            x = self.normal(x / length)
            squared = _length(x)
        return squared**0.5


def _length(x: Tensor) -> float:
    """Return the Euclidean length of all entries together, accumulated in float64."""
    real = torch.view_as_real(x) if x.is_complex() else x
    return float(torch.linalg.vector_norm(real, dtype=torch.float64))


@final
class IdentityOp(LinearOp):
    """Return the input: `A x = x`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return y."""
        return y

    def normal(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


@final
class AdjointOp(LinearOp):
    """Swap the two directions of an operator: `A.H`."""

    def __init__(self, op: LinearOp) -> None:
        super().__init__()
        self.op = op
        self.matched = op.matched

    def forward(self, x: Tensor) -> Tensor:
        """Return A^H x."""
        return self.op.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A y."""
        return self.op(y)

    @property
    def H(self) -> LinearOp:  # noqa: N802
        """The operator itself: `A.H.H is A`."""
        return self.op


@final
class ComposedOp(LinearOp):
    """Apply `inner`, then `outer`: `A B x`; its adjoint is `B^H A^H`."""

    def __init__(self, outer: LinearOp, inner: LinearOp) -> None:
        super().__init__()
        self.outer = outer
        self.inner = inner
        self.matched = outer.matched and inner.matched

    def forward(self, x: Tensor) -> Tensor:
        """Return A B x."""
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return B^H A^H y."""
        return self.inner.adjoint(self.outer.adjoint(y))

    def normal(self, x: Tensor) -> Tensor:
        """Return B^H (A^H A) B x, with the outer operator's own normal form."""
        return self.inner.adjoint(self.outer.normal(self.inner(x)))


@final
class SumOp(LinearOp):
    """Add two operators with the same domain and range."""

    def __init__(self, first: LinearOp, second: LinearOp) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.matched = first.matched and second.matched

    def forward(self, x: Tensor) -> Tensor:
        """Return A x + B x."""
        return self.first(x) + self.second(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y + B^H y."""
        return self.first.adjoint(y) + self.second.adjoint(y)


@final
class ScaledOp(LinearOp):
    """Multiply an operator by a number; the adjoint carries its complex conjugate.

    Args:
        op: The operator.
        factor: A real or complex number. A complex one needs a complex range.
    """

    def __init__(self, op: LinearOp, factor: int | float | complex) -> None:
        super().__init__()
        self.op = op
        self.factor = factor
        self.matched = op.matched

    def forward(self, x: Tensor) -> Tensor:
        """Return c A x."""
        return self.factor * self.op(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return conj(c) A^H y."""
        return self.factor.conjugate() * self.op.adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """Return |c|^2 A^H A x."""
        return abs(self.factor) ** 2 * self.op.normal(x)
