"""Shrinkage, the proximal map of the l1 norm."""

__all__ = ["soft_threshold"]

import torch
from torch import Tensor


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """Shorten every entry by the threshold, keeping its sign or phase.

    `S(v) = v max(1 - threshold / |v|, 0)`, and 0 at v = 0: the minimiser of
    `threshold |x| + |x - v|^2 / 2`. Real and complex entries follow the same formula.

    Args:
        v: Real or complex values.
        threshold: Non-negative; a number, or a tensor that broadcasts against v.

    Returns:
        A tensor like v.

    Source: Daubechies et al. 2004, doi:10.1002/cpa.20042.
    """
    magnitude = v.abs()
    smallest = torch.finfo(magnitude.dtype).tiny
    return v * ((magnitude - threshold).clamp_min(0) / magnitude.clamp_min(smallest))
