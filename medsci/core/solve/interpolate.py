"""Fixed-step walks along a two-sided interpolant, in either direction, with any amount of noise.

The probability flow and, for every `eps(t) >= 0`, two stochastic equations share all marginals:

    dx = b dt                                           either way
    dx = (b + eps score) dt + sqrt(2 eps) dw            t rising, from x0 to x1
    dx = (b - eps score) dt + sqrt(2 eps) dw            t falling, from x1 to x0

Noise forgives: an error of b is damped by the score at rate eps, and the Kullback-Leibler
divergence at the end is at most `int E|error|^2 / (4 eps) dt`; the flow has no such bound.

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797.
"""

__all__ = ["Field", "Rule", "interpolate", "sde_drift"]

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.rng import Rng

Field = Callable[[Tensor, float], Tensor]
Rule = Literal["heun", "euler"]


def sde_drift(b: Field, score: Field, *, eps: Callable[[float], float], forward: float) -> Field:
    """Return `b + forward eps score`: the drift for rising (+1) or falling (-1) time."""

    def drift(x: Tensor, t: float) -> Tensor:
        weight = forward * eps(t)
        return b(x, t) + weight * score(x, t) if weight else b(x, t)

    return drift


@torch.no_grad()
def interpolate(
    b: Field,
    x: Shaped[Tensor, " b *d"],
    *,
    grid: np.ndarray,
    score: Field | None = None,
    eps: float | Callable[[float], float] = 0.0,
    rng: Rng | None = None,
    rule: Rule = "heun",
) -> Shaped[Tensor, " b *d"]:
    """Carry states from `grid[0]` to `grid[-1]`.

    Args:
        b: drift of the probability flow, `b(x, t)` with a float t.
        x: states at `grid[0]`.
        grid: times in [0, 1], rising or falling strictly.
        score: `grad ln p_t`, needed where `eps` is not zero. A score learnt as `-eta / g` is not
            defined at the ends: start and stop inside, or let `eps` vanish there.
        eps: a number, or a function of t; 0 is the flow.
        rng: one stream per sample, needed if `eps` is not zero.
        rule: `heun` has order 2, weakly so with noise, at two evaluations per step; `euler` has
            order 1 at one.

    Raises:
        ValueError: the grid turns back, or noise is asked for without `score` and `rng`.
    """
    times, forward = _one_way(grid)
    if rule not in ("heun", "euler"):
        raise ValueError(f"rule {rule!r} came; choose heun or euler")
    heat = eps if callable(eps) else lambda t: eps
    noisy = callable(eps) or eps != 0.0
    if noisy and (score is None or rng is None):
        raise ValueError("eps > 0 came; pass score= and rng=Rng(seed, ids) as well")
    drift = b
    if noisy and score is not None:
        drift = sde_drift(b, score, eps=heat, forward=forward)
    for i, (t, s) in enumerate(pairwise(times)):
        h, here = s - t, drift(x, t)
        rough = x + h * here
        spread = abs(h) * (2.0 * heat(t) if rule == "euler" else heat(t) + heat(s))
        noise: Tensor | None = None
        if spread > 0.0 and rng is not None:
            noise = rng.normal(x.shape, step=i, dtype=x.dtype, device=x.device).mul_(spread**0.5)
            rough = rough + noise
        if rule == "heun":
            rough = x + (0.5 * h) * (here + drift(rough, s))
            rough = rough if noise is None else rough + noise
        x = rough
    return x


def _one_way(grid: np.ndarray) -> tuple[list[float], float]:
    """Return the times, checked, and +1 if they rise or -1 if they fall."""
    times = np.asarray(grid, dtype=np.float64)
    slopes = np.diff(times)
    inside = times.ndim == 1 and len(times) > 1 and times.min() >= 0.0 and times.max() <= 1.0
    if not inside or not (np.all(slopes > 0.0) or np.all(slopes < 0.0)):
        raise ValueError(f"a grid of shape {times.shape} came; give times in [0, 1], one way only")
    return times.tolist(), float(np.sign(slopes[0]))
