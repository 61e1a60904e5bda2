"""Sampling in one call: draw the prior, plan, walk."""

__all__ = ["sample"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.solve.plan import AbstractSolver, DenoiseFn
from medsci.core.solve.rng import Rng
from medsci.core.steer.hook import Hook


def sample(  # noqa: PLR0913 - the front door; all options are keywords
    denoiser: DenoiseFn,
    shape: Sequence[int],
    *,
    solver: AbstractSolver,
    grid: np.ndarray,
    path: Path | None = None,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    x: Shaped[Tensor, " b *d"] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Shaped[Tensor, " b *d"]:
    """Draw samples: noise at `grid[0]`, then the solver's walk to `grid[-1]`.

    Args:
        denoiser: `denoiser(x, t, **cond) -> x0`.
        shape: of the batch, samples first.
        solver: makes the plan, for instance `Multistep()` or `Ancestral()`.
        grid: decreasing times; see `medsci.core.solve.grid`.
        path: the path of the states; `denoiser.path` if left out.
        seed: of the run. Equal (seed, id) give the equal sample in any batch.
        ids: one integer per sample; 0, 1, 2 ... if left out.
        cond: keyword arguments of every denoiser call.
        hooks: edit the state at every step.
        x: the state at `grid[0]`, if it is not to be drawn; it is moved to `dtype` and `device`.
        dtype: of the state, real or complex.
        device: of the state.

    Raises:
        ValueError: no path is known, or `x` or `ids` do not fit the shape.
    """
    path = getattr(denoiser, "path", None) if path is None else path
    if path is None:
        raise ValueError("this denoiser has no path of its own; pass path=")
    rng = Rng(seed, range(shape[0]) if ids is None else ids)
    plan = solver.plan(path, grid)
    if x is None:
        noise = rng.normal(shape, step=-1, dtype=dtype, device=device)
        x = noise.mul_(float(path.sigma(plan.steps[0].t)))
    elif tuple(x.shape) != tuple(shape):
        raise ValueError(f"x has shape {tuple(x.shape)} but {tuple(shape)} was asked for")
    if len(rng.ids) != shape[0]:
        raise ValueError(f"{len(rng.ids)} ids came for {shape[0]} samples; give one per sample")
    x = x.to(device=device, dtype=dtype)
    return plan.run(denoiser, x, rng=rng, hooks=hooks, cond=cond)
