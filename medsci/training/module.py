"""The Lightning module: a denoiser, its moving average, an objective."""

__all__ = ["N_LEVELS", "DenoiserModule"]

import copy
import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from medsci.core.denoise import Denoiser
from medsci.core.learn import Regression
from medsci.core.rng import Rng
from medsci.data.source import SliceSource
from medsci.training.build import build_denoiser, build_objective
from medsci.training.ema import Ema
from medsci.training.recipe import OptimiserConfig, TrainRecipe
from medsci.training.stream import SampleNumbers, SliceStream, train_loader, validation_loader

N_LEVELS = 5
_VALIDATION_SEED = 0x7E57


@final
class DenoiserModule(LightningModule):
    """Train a denoiser so that step `k` depends on the recipe, the weights and `k` alone.

    Noise and times come from `(seed, sample number)`, never from a generator with a state, so a
    run resumed from a checkpoint repeats the uninterrupted one bit for bit on a CPU.

    Attributes:
        denoiser: the one that is trained.
        average: its moving average, used for validation and stored at the end.
        window: loss and noise level of the samples since the last log line.
    """

    def __init__(
        self, recipe: TrainRecipe, *, train_source: SliceSource, validation_source: SliceSource
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.denoiser: Denoiser = build_denoiser(recipe)
        self.average: Denoiser = copy.deepcopy(self.denoiser)
        self.average.requires_grad_(requires_grad=False)
        self.objective: Regression = build_objective(recipe)
        self.ema = Ema(recipe.trainer.ema_decay)
        self.train_stream = SliceStream(train_source, seed=recipe.seed)
        self.validation_stream = SliceStream(validation_source, seed=_VALIDATION_SEED)
        self.window: list[tuple[float, int]] = []

    def train_dataloader(self) -> DataLoader[tuple[int, Tensor]]:
        """Return the batches from the current step on."""
        trainer = self.recipe.trainer
        numbers = SampleNumbers(
            lambda: self.global_step,
            max_steps=trainer.max_steps,
            batch_size=trainer.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return train_loader(self.train_stream, numbers, workers=trainer.workers)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        numbers, x0 = batch
        rng = Rng(self.recipe.seed, ids=numbers.tolist())
        loss, seen = self.objective(self.denoiser, x0, rng=rng, step=0)
        levels = self._level(seen["t"])
        self.window += zip(seen["loss"].tolist(), levels.tolist(), strict=True)
        return loss

    def _level(self, t: Tensor) -> Tensor:
        """Return the fifth of the angle `atan2(sigma, sigma_data alpha)` each time falls into."""
        alpha, sigma = self.denoiser.coefficients(t)
        angle = torch.atan2(torch.as_tensor(sigma), self.recipe.sigma_data * torch.as_tensor(alpha))
        return (angle / (0.5 * math.pi) * N_LEVELS).long().clamp(0, N_LEVELS - 1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the moving average."""
        self.ema.update(self.average.net, self.denoiser.net, update=self.global_step - 1)

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Return the average's loss at the centre of every noise level.

        Slices and noise are the same at every call.
        """
        path = self.average.path
        centres = np.tan((np.arange(N_LEVELS) + 0.5) / N_LEVELS * (0.5 * math.pi))
        ends = np.array([path.angle(1e-3), path.angle(1.0 - 1e-3)], dtype=np.float64)
        times = path.time_at_angle(np.arctan(self.recipe.sigma_data * centres).clip(*ends))
        trainer = self.recipe.trainer
        loader = validation_loader(
            self.validation_stream, n_samples=trainer.val_samples, batch_size=trainer.batch_size
        )
        sums = torch.zeros(N_LEVELS, dtype=torch.float64)
        for numbers, slices in loader:
            rng = Rng(_VALIDATION_SEED, ids=numbers.tolist())
            x0 = slices.to(self.device)
            for level, time in enumerate(times):
                t = torch.full((len(x0),), float(time), dtype=torch.float64, device=x0.device)
                losses = self.objective.at(self.average, x0, t, rng=rng, step=level)
                sums[level] += losses.double().sum().cpu()
        return (sums / trainer.val_samples).tolist()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW with warm-up and cosine."""
        config = self.recipe.optimiser
        optimiser = AdamW(
            self.denoiser.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        steps = self.recipe.trainer.max_steps
        schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(config, step, steps))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe and the half-filled log line."""
        checkpoint["medsci"] = {
            "recipe": self.recipe.model_dump_json(),
            "window": [list(entry) for entry in self.window],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the half-filled log line up again."""
        self.window = [(float(a), int(b)) for a, b in checkpoint["medsci"]["window"]]


def learning_rate_factor(config: OptimiserConfig, step: int, max_steps: int) -> float:
    """Return the fraction of the peak learning rate used for the update after `step` updates."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.final_fraction + (1.0 - config.final_fraction) * cosine
