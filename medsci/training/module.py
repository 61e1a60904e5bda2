"""The Lightning module: a denoiser, its moving average, an objective."""

__all__ = ["DenoiserModule", "learning_rate_factor", "networks_in"]

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from medsci.core.denoise import Denoiser
from medsci.core.rng import Rng
from medsci.data.source import Source
from medsci.training.assembly import Parts, build_parts, check_fit
from medsci.training.ema import Ema
from medsci.training.recipe import TrainRecipe
from medsci.training.recipe.trainer import OptimiserConfig
from medsci.training.stream import Batch, SampleNumbers, SampleStream, split_batch, train_loader
from medsci.training.validation import Validator
from medsci.training.window import LossWindow, level_of


@final
class DenoiserModule(LightningModule):
    """Train a denoiser so that step `k` depends on the recipe, the weights and `k` alone.

    Noise and times come from `(seed, sample number)`, never from a generator with a state. So a run
    resumed from a checkpoint repeats the uninterrupted one bit for bit on a CPU, and several
    processes see what one would see.

    Attributes:
        denoiser: the one that is trained.
        average: its moving average, used for validation and stored at the end.
        window: losses by noise level since the last log line.
    """

    def __init__(
        self, recipe: TrainRecipe, *, train_source: Source, validation_source: Source
    ) -> None:
        super().__init__()
        self.recipe = recipe
        shape = check_fit(recipe, {"train": train_source, "validation": validation_source})
        parts: Parts = build_parts(recipe)
        self.denoiser: Denoiser = parts.denoiser
        self.average: Denoiser = copy.deepcopy(self.denoiser)
        self.average.requires_grad_(requires_grad=False)
        self.discriminator: nn.Module | None = parts.discriminator
        self.objective = parts.objective(self.average)
        self.sampler = dataclasses.replace(parts.sampler, shape=shape)
        self.ema = Ema(recipe.trainer.ema_decay)
        self.train_stream = SampleStream(train_source, seed=recipe.seed)
        self.validator = Validator(validation_source, recipe=recipe)
        self.window = LossWindow()
        self.unsharded: list[Denoiser] = []  # a list, so that it is no part of the state

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches from the current step on."""
        config = self.recipe.trainer
        numbers = SampleNumbers(
            lambda: self.global_step,
            max_steps=config.max_steps,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return train_loader(self.train_stream, numbers, workers=config.workers)

    def on_fit_start(self) -> None:
        """Move the frozen networks that the objective holds to where the model is."""
        for network in networks_in(self.objective):  # teachers, targets, feature extractors
            network.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        numbers, x0, noise, cond = split_batch(batch)
        rng = Rng(self.recipe.seed, ids=numbers.tolist())
        loss, seen = self.objective(
            self.denoiser, x0, rng=rng, step=self.global_step, noise=noise, cond=cond
        )
        angle = self.angle(seen["t"])
        self.window.add(seen["loss"], level_of(angle))
        return loss

    def angle(self, t: Tensor) -> Tensor:
        """Return `atan2(sigma, sigma_data alpha)` of times (b,), from 0 at data to pi / 2."""
        alpha, sigma = (torch.as_tensor(c) for c in self.denoiser.coefficients(t))
        return torch.atan2(sigma, self.denoiser.sigma_data * alpha)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take the step and update the moving average, before any callback looks at it."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update(self.average.net, self.denoiser.net, update=self.global_step)

    def validate(self) -> list[float]:
        """Return the average's loss at every noise level, NaN where there is none."""
        return self.validator(self.average, self.objective)

    def draw_samples(self) -> Tensor:
        """Return samples of the average (n, c, *spatial), the same noise at every call."""
        return self.sampler(self.average, device=self.device)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW with warm-up and cosine; a discriminator has a rate of its own."""
        config = self.recipe.optimiser
        fused = self.recipe.trainer.strategy != "fsdp"
        optimiser = AdamW(
            [{"params": list(group), **options} for group, options in self._groups()],
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=fused,
        )
        steps = self.recipe.trainer.max_steps
        schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(config, step, steps))
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _groups(self) -> Iterator[tuple[Iterator[nn.Parameter], dict[str, Any]]]:
        yield (p for p in self.denoiser.parameters() if p.requires_grad), {}
        if self.discriminator is not None:
            own = self.recipe.discriminator  # type: ignore[attr-defined]
            yield (
                self.discriminator.parameters(),
                {"lr": own.learning_rate, "betas": own.betas, "weight_decay": 0.0},
            )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of each group; sharded gradients as whole ones."""
        largest = self.recipe.optimiser.gradient_clip
        if largest is not None:
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], largest)

    def configure_model(self) -> None:
        """Shard the networks over processes where the strategy is `fsdp`."""
        sharded = self.recipe.trainer.strategy == "fsdp"
        if sharded and self.device_mesh is not None and not self.unsharded:
            from medsci.training.sharding import shard

            self.unsharded = [copy.deepcopy(self.average)]
            for denoiser in (self.denoiser, self.average):
                shard(denoiser.net, self.device_mesh)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe and the half-filled log line."""
        checkpoint["medsci"] = {
            "recipe": self.recipe.model_dump_json(),
            "window": self.window.summed(self.trainer.strategy),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the half-filled log line up again."""
        self.window.restore(checkpoint["medsci"]["window"], first=self.trainer.global_rank == 0)


def networks_in(value: Any) -> Iterator[nn.Module]:
    """Yield the networks that an objective holds, in its parts too."""
    owner = getattr(value, "__self__", None)  # features are often a method of a network
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(owner, nn.Module):
        yield owner
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from networks_in(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from networks_in(part)


def learning_rate_factor(config: OptimiserConfig, step: int, max_steps: int) -> float:
    """Return the fraction of the peak learning rate used for the update after `step` updates."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.final_fraction + (1.0 - config.final_fraction) * cosine
