"""The least-squares data term of the gradient methods, and the scale its weights refer to."""

__all__ = ["LeastSquares", "OperatorScaleWarning", "warn_unless_unit_norm"]

import warnings
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.inverse.measurement import Measurement

N_POWER = 5  # enough to tell 1 from 20; the estimate comes from below
TOLERATED = (0.5, 1.5)


@final
class OperatorScaleWarning(UserWarning):
    """The operator is so large or small that weights and step sizes lose their meaning."""


def warn_unless_unit_norm(measured: Measurement) -> float:
    """Estimate the norm of the operator by five power iterations, and warn if it is far from one.

    Against raw projectors, whose squared norm is 500 to 50 000, a prior of the usual weight cannot
    be seen; below one it sees nothing else.

    Returns:
        The estimate, from below.
    """
    norm = measured.op.norm(measured.backprojection, n_iter=N_POWER)
    if not TOLERATED[0] <= norm <= TOLERATED[1]:
        warnings.warn(
            f"the operator has a norm of about {norm:.3g}, but step sizes and weights are meant "
            "for a norm of 1; solve measured.normalised()[0] instead",
            OperatorScaleWarning,
            stacklevel=3,
        )
    return norm


@final
class LeastSquares:
    """`|A x - y|^2 / 2` on states: its gradient and the misfit, for one A and one A^H.

    The gradient is formed from the residual rather than from `A^H A x - A^H y`, which cancels.
    """

    def __init__(self, measured: Measurement) -> None:
        self.measured = measured
        known = measured.noise > 0.0
        self.scale = measured.noise * measured.count**0.5 if known else _length(measured.y)

    def __call__(self, state: Float[Tensor, " n *d"]) -> tuple[Float[Tensor, " n *d"], float]:
        """Return the gradient, and the misfit as `Measurement.misfit` has it."""
        op = self.measured.op
        residual = op(self.measured.image(state)) - self.measured.y
        left = _length(residual)
        misfit = left / self.scale if self.scale > 0.0 else left
        return self.measured.state(op.adjoint(residual)), misfit


def _length(x: Tensor) -> float:
    real = torch.view_as_real(x) if x.is_complex() else x
    return float(torch.linalg.vector_norm(real, dtype=torch.float64))
