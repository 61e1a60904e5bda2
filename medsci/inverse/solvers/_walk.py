"""What the solvers that walk down a noise grid share: times, first state, coupling, record.

Levels are `sigma / alpha` everywhere, so a number means the same on every path.
"""

__all__ = ["Record", "checked_levels", "first_state", "finished", "is_separable", "times_of"]

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from medsci.core import Hook, Path, Rng, StepState
from medsci.core.solve import grid as grids
from medsci.inverse.measurement import Measurement, Progress, Solution


def checked_levels(n_steps: int, sigma_max: float, *, sigma_min: float, rho_grid: float) -> None:
    """Check the numbers of a grid.

    Raises:
        ValueError: there is no such grid.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} came; give at least 1")
    if not (0.0 < sigma_min < sigma_max < math.inf and rho_grid > 0.0):
        raise ValueError(
            f"sigma_max={sigma_max}, sigma_min={sigma_min}, rho_grid={rho_grid} came; "
            "give finite sigma_max > sigma_min > 0 and rho_grid > 0"
        )


def times_of(
    path: Path, n_steps: int, *, sigma_max: float, sigma_min: float, rho_grid: float
) -> np.ndarray:
    """Return `n_steps + 1` times, ending at t = 0; levels beyond the ends of the path are cut."""
    ends = [(float(path.sigma(t)), float(path.alpha(t))) for t in (0.0, 1.0)]
    low, high = (sigma / alpha if alpha > 0.0 else math.inf for sigma, alpha in ends)
    clean = low == 0.0
    return grids.karras(
        path,
        n_steps,
        sigma_max=min(sigma_max, high),
        sigma_min=max(sigma_min, low) if clean else low,
        rho=rho_grid,
        final_zero=clean,
    )


def first_state(measured: Measurement, path: Path, t: float, *, rng: Rng) -> Tensor:
    """Return noise at the level of `t`, in the type and on the device of the data's state."""
    like = measured.rhs
    noise = rng.normal(like.shape, step=-1, dtype=like.dtype, device=like.device)
    return float(path.sigma(t)) * noise


@torch.no_grad()
def is_separable(measured: Measurement) -> bool:
    """Tell whether `A^H A` keeps the slices apart, by applying it to one slice of noise.

    Conjugate gradients then take step sizes of their own in every slice, so that a slice does not
    depend on which others are solved with it; a coupled volume is one system.
    """
    like = measured.rhs
    n = like.shape[0]
    probe = torch.zeros_like(like)
    row = Rng(0, [0]).normal((1, *like.shape[1:]), step=0, dtype=like.dtype, device=like.device)
    probe[n // 2] = row[0]
    out = measured.normal(probe).abs().reshape(n, -1).amax(dim=1)
    kept = out[n // 2].clone()
    out[n // 2] = 0.0
    return bool(out.max() <= 1e-12 * kept)


@final
class Record(Hook):
    """Report progress, and keep the data misfit of x0 as it is when this hook is reached.

    Put it last. See `Measurement.misfit`.
    """

    def __init__(self, measured: Measurement, progress: Progress | None) -> None:
        self.measured = measured
        self.progress = progress
        self.misfit: list[float] = []

    def denoised(self, state: StepState) -> None:
        """Take the misfit."""
        self.take(state.x0)

    def after(self, state: StepState) -> None:
        """Report."""
        self.report(state.i + 1, state.n)

    def take(self, x0: Tensor) -> None:
        """Append the misfit of a state."""
        self.misfit.append(self.measured.misfit(self.measured.image(x0.detach())))

    def report(self, done: int, total: int) -> None:
        """Call `progress`."""
        if self.progress is not None:
            self.progress(done, total)


def finished(measured: Measurement, state: Tensor, *, n_calls: int, record: Record) -> Solution:
    """Return what a solver that ended at a clean state found."""
    history = {"misfit": tuple(record.misfit)}
    return Solution(image=measured.image(state), n_calls=n_calls, history=history)
