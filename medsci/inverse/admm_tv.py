"""Data consistency on a volume, coupled across slices: CG inside ADMM with a difference along z.

One sweep moves an image estimate `x0` towards

    argmin_x  1/2 |y - A x|^2 + prox / 2 |x - x0|^2 + weight |D_z x|_1

in scaled ADMM form, with state `(z, u)` carried from one sampling step to the next:

    (A^H A + rho D_z^H D_z + prox) x = A^H y + rho D_z^H (z - u) + prox x0    n_cg CG steps from x0
    z <- shrink(D_z x + u, weight / rho),    u <- u + D_z x - z

With `prox = 0` the estimate survives through the warm start and the few CG steps, as in the
published method; the early stop is then the regulariser.

Source: Chung et al. 2023, arXiv:2211.10655; Chung et al. 2024, arXiv:2303.05754.
"""

__all__ = ["AdmmTv", "AdmmTvSettings"]

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex
from torch import Tensor

from medsci.operators import DifferenceOp, LinearOp, conjugate_gradient, soft_threshold


@final
@dataclass(frozen=True)
class AdmmTvSettings:
    """Numbers of one data-consistency sweep, for an operator of unit norm.

    Attributes:
        n_cg: conjugate-gradient steps per sweep.
        rho: ADMM penalty of the slice difference; 0 switches the coupling off.
        threshold: `weight / rho`, the change between slices, in units of the image, below which
            two slices are pulled together.
        prox: weight that ties the result to the estimate it started from.
        n_sweeps: sweeps per sampling step.
        tol: relative residual at which a CG solve stops early.
    """

    n_cg: int = 5
    rho: float = 0.02
    threshold: float = 0.02
    prox: float = 0.0
    n_sweeps: int = 1
    tol: float = 1e-6

    def __post_init__(self) -> None:
        if self.n_cg < 1 or self.n_sweeps < 1:
            raise ValueError(f"n_cg={self.n_cg}, n_sweeps={self.n_sweeps} came; give at least 1")
        if min(self.rho, self.threshold, self.prox) < 0.0:
            raise ValueError(
                f"rho={self.rho}, threshold={self.threshold}, prox={self.prox} came; "
                "give numbers that are not negative"
            )


@final
class AdmmTv:
    """The sweep for one measurement; holds `(z, u)` for one run and is not shared between runs.

    Args:
        op: acts on a whole volume `(n_slices, rows, columns)`; norm near one.
        y: the measurement.
        settings: see `AdmmTvSettings`.
    """

    def __init__(self, op: LinearOp, y: Tensor, *, settings: AdmmTvSettings) -> None:
        self.op = op
        self.settings = settings
        self.backprojection = op.adjoint(y)
        self.difference = DifferenceOp(dim=0)
        self._z: Tensor | None = None
        self._u: Tensor | None = None

    def sweep(
        self, x0: Complex[Tensor, "k r p"], *, prox: float | None = None
    ) -> Complex[Tensor, "k r p"]:
        """Return the estimate made consistent with the data; `x0` itself is not changed."""
        tie = self.settings.prox if prox is None else prox
        coupled = self.settings.rho > 0.0 and x0.shape[0] > 1
        x = x0
        for _ in range(self.settings.n_sweeps):
            x = self._solve(x, x0, tie, coupled)
            if coupled:
                self._shrink(x)
        return x

    def _solve(self, x: Tensor, x0: Tensor, tie: float, coupled: bool) -> Tensor:  # noqa: FBT001
        rho = self.settings.rho

        def normal(v: Tensor) -> Tensor:
            out = self.op.normal(v)
            if tie > 0.0:
                out = out + tie * v
            if coupled:
                out = out + rho * self.difference.adjoint(self.difference(v))
            return out

        rhs = self.backprojection
        if tie > 0.0:
            rhs = rhs + tie * x0
        if coupled and self._z is not None and self._u is not None:
            rhs = rhs + rho * self.difference.adjoint(self._z - self._u)
        return conjugate_gradient(
            normal, rhs, x0=x, n_iter=self.settings.n_cg, tol=self.settings.tol, batched=not coupled
        )

    def _shrink(self, x: Tensor) -> None:
        step = self.difference(x)
        u = torch.zeros_like(step) if self._u is None else self._u
        self._z = soft_threshold(step + u, self.settings.threshold)
        self._u = u + step - self._z
