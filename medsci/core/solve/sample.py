"""Sampling in one call: draw the prior, plan, walk."""

__all__ = ["sample"]

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.process.shifted import Centred
from medsci.core.rng import Rng
from medsci.core.solve.auto import Spectrum, auto
from medsci.core.solve.plan import AbstractSolver, DenoiseFn
from medsci.core.steer.hook import Hook

IMAGE_RANK = 4  # batch, channel and at least two dimensions of space
FAINT = 2.0  # of sigma / alpha: below, a state cannot be begun with noise alone


def sample(  # noqa: PLR0913 - the front door; all options are keywords
    denoiser: DenoiseFn,
    shape: Sequence[int],
    *,
    steps: int | None = None,
    solver: AbstractSolver | Literal["auto"] = "auto",
    grid: np.ndarray | None = None,
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

    `sample(denoiser, shape, steps=20)` takes the solver and the grid that are the most accurate at
    20 network evaluations; see `medsci.core.solve.auto`.

    Args:
        denoiser: `denoiser(x, t, **cond) -> x0`.
        shape: of the batch, samples first.
        steps: network evaluations, if no grid is given. The choice counts noise levels in units of
            `denoiser.sigma_data`, the standard deviation of the data, 1 if it has none, and takes
            states of four dimensions or more (batch, channel, two or three of space) for images,
            whose spectrum is long, and others for vectors, whose is short. Where that is wrong,
            pass the two results of `auto(path, steps, spectrum=...)` as solver and grid.
        solver: makes the plan, for instance `Multistep()` or `Ancestral()`; `auto` chooses by the
            number of steps.
        grid: decreasing times; see `medsci.core.solve.grid`. The choice of `auto` if left out.
        path: the path of the states; `denoiser.path` if left out. If it has a conditional mean,
            `cond["mu"]` is needed, and hooks see the centred state `x - shift mu`.
        seed: of the run. Equal (seed, id) give the equal sample in any batch.
        ids: one integer per sample; 0, 1, 2 ... if left out.
        cond: keyword arguments of every denoiser call.
        hooks: edit the state at every step.
        x: the state at `grid[0]`, if it is not to be drawn; it is moved to `dtype` and `device`.
        dtype: of the state, real or complex.
        device: of the state.

    Raises:
        ValueError: no path is known, `x` or `ids` do not fit the shape, it is not said how many
            steps to take, or the grid starts at data and no `x` came.
    """
    path = getattr(denoiser, "path", None) if path is None else path
    if path is None:
        raise ValueError("this denoiser has no path of its own; pass path=")
    rng = Rng(seed, range(shape[0]) if ids is None else ids)
    if len(rng.ids) != shape[0]:
        raise ValueError(f"{len(rng.ids)} ids came for {shape[0]} samples; give one per sample")
    sigma_data = float(getattr(denoiser, "sigma_data", 1.0))
    spectrum: Spectrum = "long" if len(shape) >= IMAGE_RANK else "short"
    choice = partial(auto, path, sigma_data=sigma_data, spectrum=spectrum)
    solver, grid = _choose(choice, steps, solver=solver, grid=grid)
    first, last = float(grid[0]), float(grid[-1])
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"x has shape {tuple(x.shape)} but {tuple(shape)} was asked for")
    x = None if x is None else x.to(device=device, dtype=dtype)
    if x is None:
        _check_start(path, first)
        noise = rng.normal(shape, step=-1, dtype=dtype, device=device)
        x = noise.mul_(float(path.sigma(first)))
    elif path.shifted:
        x = x - float(path.shift(first)) * _mean(path, cond)
    if not path.shifted:
        return solver.plan(path, grid).run(denoiser, x, rng=rng, hooks=hooks, cond=cond)
    mu = _mean(path, cond)

    def centred(y: Tensor, t: float, **known: Any) -> Tensor:
        return denoiser(y + float(path.shift(t)) * mu, t, **known)

    y = solver.plan(Centred(path), grid).run(centred, x, rng=rng, hooks=hooks, cond=cond)
    return y + float(path.shift(last)) * mu


def _check_start(path: Path, t: float) -> None:
    if t < 1.0 and float(path.angle(t)) < np.arctan(FAINT):
        raise ValueError(
            f"the grid starts at t={t:.6g}, where the state still holds data (sigma / alpha is "
            f"below {FAINT:g}), and no x came; pass x=path.perturb(...), or start with more noise"
        )


def _mean(path: Path, cond: Mapping[str, Any] | None) -> Tensor:
    mu = (cond or {}).get("mu")
    if mu is None:
        raise ValueError(f"{path!r} has a conditional mean; pass it as cond={{'mu': ...}}")
    return mu


def _choose(
    choice: Callable[[int], tuple[AbstractSolver, np.ndarray]],
    steps: int | None,
    *,
    solver: AbstractSolver | Literal["auto"],
    grid: np.ndarray | None,
) -> tuple[AbstractSolver, np.ndarray]:
    """Return the solver and the grid, each chosen by the number of steps if it was left out."""
    if grid is None and steps is None:
        raise ValueError("neither steps nor grid came; pass steps=20, or a grid of your own")
    if grid is not None and steps is not None and steps != len(grid) - 1:
        raise ValueError(
            f"steps={steps} and a grid of {len(grid) - 1} steps came; pass one of them"
        )
    if isinstance(solver, str) and solver != "auto":
        raise ValueError(f"solver {solver!r} came; pass a solver, or 'auto'")
    if grid is not None and not isinstance(solver, str):
        return solver, grid
    n = len(grid) - 1 if grid is not None else int(steps or 0)
    chosen, times = choice(n)
    return chosen if isinstance(solver, str) else solver, times if grid is None else grid
