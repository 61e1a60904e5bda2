"""Residual diffusion with two heads: residual and noise removed each at its own pace.

The state `x = x0 + A (mu - x0) + B z` has two levels, (A, B). Given estimates of the residual
`r = mu - x0` and the noise z, one step takes it from (A, B) to (A', B') by

    x <- x - (A - A') r - (B - sqrt(B'^2 - tau^2)) z + tau noise
    tau^2 = eta (B^2 - B'^2) B'^2 / B^2

Any staircase from (1, B_max) down to (0, 0) may be walked. In `y = (x - A mu) / (1 - A)` all of
them follow one equation, `dy = z dh` with `h = B / (1 - A)`, so with exact heads the order in which
residual and noise are removed changes the error of the steps only, and nothing at all if the
estimates are constant. The exception is the corner (1, 0): with all noise gone first, the state is
mu, has forgotten the noise, and every sample ends at the mean of the data given mu.

Source: Liu et al. 2024, arXiv:2308.13712.
"""

__all__ = ["Heads", "Order", "stairs", "staircase"]

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve.grid import check_grid

Heads = Callable[..., tuple[Tensor, Tensor]]
Order = Literal["together", "residual_first", "noise_first"]


def stairs(path: Path, grid: np.ndarray, *, order: Order = "together") -> np.ndarray:
    """Return the rows (A, B) of a path's shift and sigma on a grid, shape (n + 1, 2).

    Args:
        path: with a conditional mean, for instance `Residual()`.
        grid: decreasing times.
        order: remove both `together`, n steps, or all of one first, 2 n steps.
    """
    times = check_grid(grid)
    a, b = path.shift(times), path.sigma(times)
    if order == "together":
        return np.stack([a, b], axis=1)
    first, last = np.full_like(a[1:], a[-1]), np.full_like(b[1:], b[-1])
    if order == "residual_first":
        down = np.concatenate([a, first]), np.concatenate([np.full_like(b, b[0]), b[1:]])
    elif order == "noise_first":
        down = np.concatenate([np.full_like(a, a[0]), a[1:]]), np.concatenate([b, last])
    else:
        raise ValueError(f"order {order!r} came; choose together, residual_first or noise_first")
    return np.stack(down, axis=1)


@torch.no_grad()
def staircase(
    heads: Heads,
    x: Shaped[Tensor, " b *d"],
    *,
    levels: np.ndarray,
    eta: float = 0.0,
    rng: Rng | None = None,
    cond: Mapping[str, Any] | None = None,
) -> Shaped[Tensor, " b *d"]:
    """Walk a state down a staircase of (residual, noise) levels.

    Args:
        heads: `heads(x, a, b, **cond) -> (residual, noise)`, with the levels as floats.
        x: the state at the first level.
        levels: rows (A, B), neither of which grows; see `stairs`.
        eta: share of fresh noise in [0, 1].
        rng: one stream per sample, needed if `eta > 0`.
        cond: keyword arguments of `heads`.

    Raises:
        ValueError: the levels grow or are negative, or noise is needed without `rng`.
    """
    rows = np.asarray(levels, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 2 or np.any(np.diff(rows, axis=0) > 0.0):
        raise ValueError(f"levels of shape {rows.shape} came; give rows (A, B) that never grow")
    if np.any(rows < 0.0) or not 0.0 <= eta <= 1.0:
        raise ValueError(f"smallest level {rows.min()} and eta={eta} came; give >= 0, eta in [0,1]")
    if eta > 0.0 and rng is None:
        raise ValueError("eta > 0 adds noise; pass rng=Rng(seed, ids)")
    for i, ((a, b), (a_next, b_next)) in enumerate(pairwise(rows.tolist())):
        residual, noise = heads(x, a, b, **(cond or {}))
        spread = eta * (b**2 - b_next**2) * (b_next / b) ** 2 if b > 0.0 else 0.0
        kept = math.sqrt(b_next**2 - spread)
        if a != a_next:
            x = x - (a - a_next) * residual
        if b != kept:
            x = x - (b - kept) * noise
        if spread > 0.0 and rng is not None:
            fresh = rng.normal(x.shape, step=i, dtype=x.dtype, device=x.device)
            x = x + math.sqrt(spread) * fresh
    return x
