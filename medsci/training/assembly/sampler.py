"""How a model in training is sampled, for pictures and for its configuration."""

__all__ = ["Sampler"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.solve import sample
from medsci.core.solve.plan import AbstractSolver


@final
@dataclass(frozen=True)
class Sampler:
    """Draw `count` samples in `steps` evaluations.

    Args:
        count: how many; labels, if the network takes any, are dealt out in turn.
        steps: network evaluations, with the solver that is best at that number.
        seed: of the noise.
        n_labels: how many labels the network knows.
        solver: instead of the best one, with `grid`.
        grid: decreasing times.
        shape: of one sample (c, *spatial); set before the first call.
    """

    count: int = 8
    steps: int = 20
    seed: int = 0
    n_labels: int = 0
    solver: AbstractSolver | None = None
    grid: tuple[float, ...] | None = None
    shape: Sequence[int] = ()

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, *, device: torch.device | str) -> Tensor:
        """Return samples (count, c, *spatial)."""
        cond: dict[str, Any] = {}
        if self.n_labels:
            cond["label"] = torch.arange(self.count, device=device) % self.n_labels
        options: dict[str, Any] = {"steps": self.steps}
        if self.solver is not None and self.grid is not None:
            options = {"solver": self.solver, "grid": np.array(self.grid)}
        options["dtype"] = next(denoiser.parameters()).dtype
        shape = (self.count, *self.shape)
        return sample(denoiser, shape, seed=self.seed, cond=cond, device=device, **options)
