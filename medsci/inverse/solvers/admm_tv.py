"""Data consistency on a volume with total variation along chosen axes: CG inside ADMM.

One sweep moves an image estimate `x0` towards

    argmin_x  1/2 |y - A x|^2 + prox / 2 |x - x0|^2 + sum_a weight_a |D_a x|_1

in scaled ADMM form, with variables `(z_a, u_a)` carried from one sampling step to the next:

    (A^H A + rho sum_a D_a^H D_a + prox) x = A^H y + rho sum_a D_a^H (z_a - u_a) + prox x0
    z_a <- shrink(D_a x + u_a, weight_a / rho),    u_a <- u_a + D_a x - z_a

The system is left to `n_cg` steps of conjugate gradients from x0. With `prox = 0` the estimate
survives through that start and the few steps, as in the published method; the early stop is then
the regulariser. D_a takes forward differences without wrap-around, so that the first and the last
slice never meet; by default it acts across slices only.

Source: Chung et al. 2023, arXiv:2211.10655; Chung et al. 2024, arXiv:2303.05754.
"""

__all__ = ["AdmmTv", "AdmmTvSettings", "rms_change"]

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.inverse.measurement import Measurement
from medsci.operators import conjugate_gradient, soft_threshold


@final
@dataclass(frozen=True)
class AdmmTvSettings:
    """Numbers of one data-consistency sweep, for an operator of unit norm.

    Attributes:
        n_cg: conjugate-gradient steps per sweep.
        rho: ADMM penalty of the differences; 0 switches the total variation off.
        threshold: `weight / rho`, the change between neighbours, in units of the image, below
            which they are pulled together; one number, or one per axis where spacings differ.
        prox: weight that ties the result to the estimate it started from.
        n_sweeps: sweeps per sampling step.
        tol: relative residual at which a CG solve stops early.
        axes: of the image `(n, *space)` along which the total variation acts; 0 is across slices.
    """

    n_cg: int = 5
    rho: float = 0.02
    threshold: float | tuple[float, ...] = 0.02
    prox: float = 0.0
    n_sweeps: int = 1
    tol: float = 1e-6
    axes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.n_cg < 1 or self.n_sweeps < 1:
            raise ValueError(f"n_cg={self.n_cg}, n_sweeps={self.n_sweeps} came; give at least 1")
        numbers = (self.rho, *self.thresholds, self.prox, self.tol)
        if not all(0.0 <= number < math.inf for number in numbers):
            raise ValueError(
                f"rho={self.rho}, threshold={self.threshold}, prox={self.prox}, tol={self.tol} "
                "came; give finite numbers that are not negative"
            )
        if len(set(self.axes)) != len(self.axes) or min(self.axes, default=0) < 0:
            raise ValueError(f"axes={self.axes} came; name each axis once, counted from 0")
        if len(self.thresholds) != len(self.axes):
            raise ValueError(
                f"threshold={self.threshold} came for axes={self.axes}; give one for all or one "
                "for each"
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of every axis."""
        if isinstance(self.threshold, tuple):
            return self.threshold
        return (self.threshold,) * len(self.axes)


@final
class AdmmTv:
    """The sweep for one measurement; holds `(z, u)` for one run and is not shared between runs.

    Args:
        measured: the volume as it was seen, operator of norm near one.
        settings: see `AdmmTvSettings`.

    Raises:
        ValueError: an axis is not one of the image.
    """

    def __init__(self, measured: Measurement, *, settings: AdmmTvSettings) -> None:
        self.op = measured.op
        self.settings = settings
        self.backprojection = measured.backprojection
        shape = self.backprojection.shape
        if max(settings.axes, default=0) >= len(shape):
            raise ValueError(
                f"axes={settings.axes} came for an image of shape {tuple(shape)}; "
                f"name axes below {len(shape)}"
            )
        self._axes = tuple(
            (axis, threshold)
            for axis, threshold in zip(settings.axes, settings.thresholds, strict=True)
            if settings.rho > 0.0 and shape[axis] > 1
        )
        self._split: dict[int, tuple[Tensor, Tensor]] = {}
        self._restart = False

    def sweep(
        self, x0: Shaped[Tensor, " n *space"], *, prox: float | None = None
    ) -> Shaped[Tensor, " n *space"]:
        """Return the estimate made consistent with the data; `x0` itself is not changed.

        Args:
            x0: the estimate, an image like `A^H y`.
            prox: weight that ties the result to x0, in the place of the one in the settings.
        """
        tie = self.settings.prox if prox is None else prox
        if self._restart:
            self._split = {a: (d, torch.zeros_like(d)) for a, d in self._differences(x0)}
            self._restart = False
        x = x0
        for _ in range(self.settings.n_sweeps):
            x = self._solve(x, x0, tie)
            self._shrink(x)
        return x

    def rescale(self, factor: float) -> None:
        """Multiply `(z, u)`, as when the noise of the iterates falls by that factor."""
        for z, u in self._split.values():
            z.mul_(factor)
            u.mul_(factor)

    def restart(self) -> None:
        """Let the next sweep begin with `z = D x0` and `u = 0`."""
        self._split = {}
        self._restart = True

    def _differences(self, x: Tensor) -> list[tuple[int, Tensor]]:
        return [(axis, torch.diff(x, dim=axis)) for axis, _ in self._axes]

    def _solve(self, x: Tensor, x0: Tensor, tie: float) -> Tensor:
        rho = self.settings.rho

        def normal(v: Tensor) -> Tensor:
            out = _own(self.op.normal(v), v)
            if tie > 0.0:
                out.add_(v, alpha=tie)
            for axis, _ in self._axes:
                _add_adjoint(out, torch.diff(v, dim=axis), axis, rho)
            return out

        right = self.backprojection
        if tie > 0.0:
            right = torch.add(right, x0, alpha=tie)
        elif self._split:
            right = right.clone()
        for axis, (z, u) in self._split.items():
            _add_adjoint(right, z - u, axis, rho)
        coupled = any(axis == 0 for axis, _ in self._axes)
        return conjugate_gradient(
            normal, right, x0=x, n_iter=self.settings.n_cg, tol=self.settings.tol,
            batched=not coupled,
        )  # fmt: skip

    def _shrink(self, x: Tensor) -> None:
        for axis, threshold in self._axes:
            v = torch.diff(x, dim=axis)
            if axis in self._split:
                v.add_(self._split.pop(axis)[1])
            z = soft_threshold(v, threshold)
            self._split[axis] = (z, v.sub_(z))


def rms_change(new: Shaped[Tensor, " n *space"], old: Shaped[Tensor, " n *space"]) -> Tensor:
    """Return the root mean square of `new - old`, slice by slice so that no volume is copied."""
    squares = [
        (a - b).abs().square().sum(dtype=torch.float64) for a, b in zip(new, old, strict=True)
    ]
    return (torch.stack(squares).sum() / old.numel()).sqrt()


def _add_adjoint(out: Tensor, step: Tensor, axis: int, weight: float) -> None:
    """Add `weight D^H step` to `out` in place, D the forward difference along an axis."""
    n = step.shape[axis]
    out.narrow(axis, 0, n).sub_(step, alpha=weight)
    out.narrow(axis, 1, n).add_(step, alpha=weight)


def _own(result: Tensor, argument: Tensor) -> Tensor:
    """Return the result, copied if it lives in the memory of the argument."""
    if result.untyped_storage().data_ptr() == argument.untyped_storage().data_ptr():
        return result.clone()
    return result
