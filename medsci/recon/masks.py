"""Undersampling masks for Cartesian k-space."""

__all__ = ["acceleration_of", "calibration_lines", "cartesian_mask"]

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from medsci.errors import UsageError


def cartesian_mask(
    n_phase: int,
    *,
    acceleration: float,
    center_fraction: float,
    kind: Literal["random", "equispaced"] = "random",
    seed: int = 0,
) -> Bool[Tensor, " n_phase"]:
    """Draw which phase-encoding lines to acquire.

    The centre block is fully sampled; the other lines are drawn without replacement, so exactly
    `round(n_phase / acceleration)` lines are kept. `random` draws them uniformly. `equispaced`
    spreads them evenly over both sides, from an offset drawn with the seed.

    Args:
        n_phase: Number of lines of the full grid.
        acceleration: Ratio of all lines to acquired lines, the centre block included.
        center_fraction: Width of the centre block as a fraction of n_phase; fastMRI uses 0.08 at
            R = 4 and 0.04 at R = 8.
        kind: How the lines outside the centre are placed.
        seed: Seed of the draw; equal seeds give equal masks.

    Returns:
        True for acquired lines; frequency 0 is index `n_phase // 2` and the centre block lies
        around it, one line longer on the low side if its width is even.

    Raises:
        UsageError: If the acceleration is below 1, or the centre alone exceeds the lines allowed.

    Source: fastMRI, Zbontar et al. 2018, arXiv:1811.08839, section 4.3.
    """
    n_kept = round(n_phase / acceleration) if acceleration >= 1 else 0
    n_center = round(n_phase * center_fraction)
    if n_kept < 1 or not 0 <= n_center <= n_kept:
        raise UsageError(
            f"acceleration {acceleration} keeps {n_kept} of {n_phase} lines and the centre takes "
            f"{n_center} of them; give an acceleration of at least 1 and a centre_fraction of at "
            "most 1 / acceleration"
        )
    mask = np.zeros(n_phase, dtype=bool)
    first = n_phase // 2 - n_center // 2
    mask[first : first + n_center] = True
    outside = np.flatnonzero(~mask)
    n_outside = n_kept - n_center
    rng = np.random.default_rng(seed)
    if kind == "random":
        chosen = rng.choice(outside, size=n_outside, replace=False)
    else:
        step = len(outside) / max(n_outside, 1)
        chosen = outside[np.floor((np.arange(n_outside) + rng.random()) * step).astype(int)]
    mask[chosen] = True
    return torch.from_numpy(mask)


def acceleration_of(mask: Bool[Tensor, " n_phase"]) -> float:
    """Return the true acceleration of a mask: all lines over acquired lines."""
    n_kept = int(mask.sum())
    if n_kept == 0:
        raise UsageError("the mask keeps no line; give one that keeps at least one")
    return mask.numel() / n_kept


def calibration_lines(mask: Bool[Tensor, " n_phase"]) -> tuple[int, int]:
    """Return `start, stop` of the longest fully sampled run of lines around frequency 0.

    The run contains index `n_phase // 2`; it is empty (`start == stop`) if that line is missing.
    """
    center = mask.numel() // 2
    kept = mask.tolist()
    start = stop = center
    while stop < len(kept) and kept[stop]:
        stop += 1
    while stop > center and start > 0 and kept[start - 1]:
        start -= 1
    return start, stop
