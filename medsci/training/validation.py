"""Validation: the same samples, noise and levels at every call."""

__all__ = ["Validator"]

import math
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.learn import Objective, Regression
from medsci.core.rng import Rng
from medsci.data.source import Source
from medsci.training.recipe import TrainRecipe
from medsci.training.stream import SampleStream, split_batch, validation_loader
from medsci.training.window import N_LEVELS, LossWindow, level_of

_VALIDATION_SEED = 0x7E57
_STEP = 0


@final
class Validator:
    """Measure a denoiser by noise level.

    A regression is judged by its squared error with independent noise (or the noise of a pair),
    unweighted, at the centre of every level, whatever metric, weight, law of times or coupling it
    is trained with: runs that differ in those can be compared. Other objectives are judged by
    themselves.
    """

    def __init__(self, source: Source, *, recipe: TrainRecipe) -> None:
        self.stream = SampleStream(source, seed=_VALIDATION_SEED)
        self.n_samples = recipe.trainer.val_samples
        self.batch_size = min(recipe.trainer.batch_size, self.n_samples)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, objective: Objective) -> list[float]:
        """Return the mean loss of each level, NaN where it has no sample."""
        if isinstance(objective, Regression):
            return self._of_regression(denoiser)
        window = LossWindow()
        for rng, x0, noise, cond in self._batches(denoiser):
            _, seen = objective(denoiser, x0, rng=rng, step=_STEP, noise=noise, cond=cond)
            alpha, sigma = (torch.as_tensor(c) for c in denoiser.coefficients(seen["t"]))
            angle = torch.atan2(sigma, denoiser.sigma_data * alpha)
            window.add(seen["loss"], level_of(angle))
        return window.means(None)[1]

    def _batches(
        self, denoiser: Denoiser
    ) -> Iterator[tuple[Rng, Tensor, Tensor | None, dict[str, Tensor] | None]]:
        like = next(denoiser.parameters())
        loader = validation_loader(
            self.stream, n_samples=self.n_samples, batch_size=self.batch_size
        )
        for batch in loader:
            moved = {
                name: rows.to(like.device, like.dtype if rows.is_floating_point() else rows.dtype)
                for name, rows in batch.items()
            }
            numbers, x0, noise, cond = split_batch(moved)
            yield Rng(_VALIDATION_SEED, ids=numbers.tolist()), x0, noise, cond

    def _of_regression(self, denoiser: Denoiser) -> list[float]:
        plain, times = Regression(), _level_times(denoiser)
        sums = torch.zeros(N_LEVELS, dtype=torch.float64)
        for rng, x0, noise, cond in self._batches(denoiser):
            for level, time in enumerate(times):
                t = torch.full((len(x0),), time, dtype=torch.float64, device=x0.device)
                known: dict[str, Any] = {"noise": noise, "cond": cond}
                losses = plain.at(denoiser, x0, t, rng=rng, step=level, **known)
                sums[level] += losses.double().sum().cpu()
        return (sums / self.n_samples).tolist()


def _level_times(denoiser: Denoiser) -> list[float]:
    """Return the time at the centre of every level."""
    path = denoiser.path
    centres = np.tan((np.arange(N_LEVELS) + 0.5) / N_LEVELS * (0.5 * math.pi))
    ends = np.array([path.angle(1e-3), path.angle(1.0 - 1e-3)], dtype=np.float64)
    times = path.time_at_angle(np.arctan(denoiser.sigma_data * centres).clip(*ends))
    return [float(time) for time in times]
