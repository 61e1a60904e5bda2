"""Diagnoses: numbers that say whether a solver does what its name claims."""

__all__ = ["convergence_order", "local_orders", "relative_error"]

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from torch import Tensor


def local_orders(errors: Sequence[float], steps: Sequence[int]) -> np.ndarray:
    """Return the order between every two neighbouring runs, `-d ln(error) / d ln(steps)`.

    Raises:
        ValueError: fewer than two runs, or errors that are not positive and finite.
    """
    e, n = np.asarray(errors, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if e.shape != n.shape or e.ndim != 1 or len(e) < 2:
        raise ValueError(
            f"{e.shape} errors and {n.shape} step counts came; give equal rows of >= 2"
        )
    if not (np.all(np.isfinite(e)) and np.all(e > 0.0)):
        raise ValueError(f"errors {e.tolist()} came; an order needs positive finite errors")
    return -np.diff(np.log(e)) / np.diff(np.log(n))


def convergence_order(errors: Sequence[float], steps: Sequence[int], *, last: int = 3) -> float:
    """Return the slope of log-error over log-step, fitted through the last few runs.

    Args:
        errors: of the runs, coarse to fine, well above round-off.
        steps: number of steps of every run.
        last: how many of the finest runs to fit.

    Raises:
        ValueError: fewer than two runs, or errors that are not positive and finite.
    """
    local_orders(errors, steps)  # the checks
    e, n = np.log(np.asarray(errors)[-last:]), np.log(np.asarray(steps)[-last:])
    return float(-np.polyfit(n, e, 1)[0])


def relative_error(
    x: Shaped[Tensor, " b *d"], reference: Shaped[Tensor, " b *d"]
) -> Shaped[Tensor, " b"]:
    """Return `|x - reference| / |reference|` of every sample."""
    gap = (x - reference).flatten(1).abs().square().sum(1).sqrt()
    return gap / reference.flatten(1).abs().square().sum(1).sqrt()
