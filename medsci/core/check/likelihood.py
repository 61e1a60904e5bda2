"""Likelihood: the log-density that a denoiser gives to data, by its probability flow.

The flow carries a state from data to noise, and its divergence tells how densities change on the
way. With `D` the denoiser, `J = div_x D`, `lambda = ln(alpha / sigma)` and n entries,

    d ln p_t(x_t) = -n d ln sigma - alpha J dlambda
                  = -n d ln r - (alpha J - n alpha^2 / r^2) dlambda,     r = hypot(alpha, sigma)

along a trajectory. The second form subtracts what unit normal data would give and is finite from
nearly clean data to pure noise, so

    ln p(x at data) = ln p(x at noise) + n ln(r_noise / r_data) + l,   dl = (alpha J - ...) dlambda

The integral l rides along as one more coordinate of the state. Written as `u = r l` it obeys the
flow of a denoiser, `D_u = alpha u / r^2 + r J - n alpha / r`, so every solver integrates it at its
own order and at no further evaluations: stages, correctors and adaptive steps included. Own
derivation. States are real; float64 is advised.

Source: Chen et al. 2018, arXiv:1806.07366 (change of variables); Grathwohl et al. 2019,
arXiv:1810.01367 (probes held fixed along a trajectory); Song et al. 2021, sec. 4.3,
arXiv:2011.13456.
"""

__all__ = ["bits_per_dim", "gaussian_log_density", "log_likelihood"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.field import random_signs, value_and_divergence
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve.adaptive import Adaptive
from medsci.core.solve.plan import AbstractSolver, DenoiseFn

LogDensity = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True)
class _WithVolume:
    """A denoiser of states with one more coordinate, `u = r l`."""

    denoiser: DenoiseFn
    path: Path
    shape: tuple[int, ...]
    signs: Tensor | None

    def __call__(self, state: Tensor, t: float, **cond: Any) -> Tensor:
        """Return the estimates of the clean sample and of u, side by side."""
        x, u = state[:, :-1], state[:, -1:]
        alpha, r = float(self.path.alpha(t)), _radius(self.path, t)
        x0, trace = value_and_divergence(
            lambda y: self.denoiser(y, t, **cond), x.reshape(-1, *self.shape), probes=self.signs
        )
        volume = (alpha / r**2) * u + r * trace[:, None] - x.shape[1] * alpha / r
        return torch.cat([x0.flatten(1), volume], 1)


def log_likelihood(
    denoiser: DenoiseFn,
    x: Float[Tensor, " b *d"],
    *,
    solver: AbstractSolver | Adaptive,
    grid: np.ndarray,
    path: Path | None = None,
    prior: LogDensity | None = None,
    rng: Rng | None = None,
    probes: int = 1,
    cond: Mapping[str, Any] | None = None,
) -> Float[Tensor, " b"]:
    """Return `ln p_t(x)` of every state, in nats, with `t = grid[0]`.

    Args:
        denoiser: `denoiser(x, t, **cond) -> x0`, real, its samples independent of one another.
        x: states at `grid[0]`, where `sigma > 0`: nearly clean data times alpha.
        solver: deterministic; `RungeKutta("rk4", "angle", "angle")`, say, or `Adaptive()`, which
            uses the ends of the grid only.
        grid: increasing times, from data to noise: turn a sampling grid around with `[::-1]`.
        path: the path of the states; `denoiser.path` if left out.
        prior: log-density of the states at `grid[-1]`; that of `N(0, r^2)` if left out, which is
            right where no data are left, and for data of mean 0 and variance 1.
        rng: one stream per sample for random probes of the divergence, an unbiased estimate at the
            cost of one backward pass each; exact, with one pass per entry of x, if left out.
        probes: per sample.
        cond: keyword arguments of every denoiser call.

    Raises:
        ValueError: no path is known, the grid falls, or the solver adds noise.
    """
    path = getattr(denoiser, "path", None) if path is None else path
    if path is None:
        raise ValueError("this denoiser has no path of its own; pass path=")
    first, last = float(grid[0]), float(grid[-1])
    if first >= last:
        raise ValueError(f"the grid falls from {first} to {last}; walk to the noise: grid[::-1]")
    n = x[0].numel()
    signs = None if rng is None else random_signs(x, rng, probes)
    wrapped = _WithVolume(denoiser, path, tuple(x.shape[1:]), signs)
    start = torch.cat([x.flatten(1), torch.zeros_like(x.flatten(1)[:, :1])], 1)
    if isinstance(solver, Adaptive):
        end = _walk_each(solver, wrapped, start, ends=(first, last), cond=cond)
    else:
        plan = solver.plan(path, grid)
        if any(step.z for step in plan.steps):
            raise ValueError(f"{solver!r} adds noise; a likelihood needs a deterministic solver")
        end = plan.run(wrapped, start, cond=cond)
    r_first, r_last = _radius(path, first), _radius(path, last)
    state = end[:, :-1].reshape(x.shape)
    noise = gaussian_log_density(state, r_last) if prior is None else prior(state)
    return noise + n * math.log(r_last / r_first) + end[:, -1] / r_last


def gaussian_log_density(x: Float[Tensor, " b *d"], sd: float) -> Float[Tensor, " b"]:
    """Return the log-density of `N(0, sd^2 I)`."""
    n = x[0].numel()
    square = x.flatten(1).square().sum(1) / sd**2
    return -0.5 * square - n * (math.log(sd) + 0.5 * math.log(2.0 * math.pi))


def bits_per_dim(
    log_density: Float[Tensor, " b"], n: int, *, bin_width: float
) -> Float[Tensor, " b"]:
    """Return the code length of data with `n` entries, in bits per entry.

    `-log2(p bin_width^n) / n`: the density is taken as constant over a bin.

    Args:
        log_density: in nats.
        n: entries per sample.
        bin_width: of the stored values, in units of the data; 2 / 255 for bytes scaled to [-1, 1].
    """
    if n < 1 or not bin_width > 0.0:
        raise ValueError(f"n={n}, bin_width={bin_width} came; give positive ones")
    return -log_density / (n * math.log(2.0)) - math.log2(bin_width)


def _radius(path: Path, t: float) -> float:
    return math.hypot(float(path.alpha(t)), float(path.sigma(t)))


def _walk_each(
    solver: Adaptive,
    wrapped: _WithVolume,
    start: Tensor,
    *,
    ends: tuple[float, float],
    cond: Mapping[str, Any] | None,
) -> Tensor:
    """Walk with the probes that belong to the samples, one after the other unless together."""
    walk = partial(solver.walk, path=wrapped.path, t=ends[0], s=ends[1], cond=cond)
    if wrapped.signs is None or solver.together:
        return walk(wrapped, start).x
    rows = zip(start.split(1), wrapped.signs.split(1), strict=True)
    return torch.cat([walk(replace(wrapped, signs=own), row).x for row, own in rows])
