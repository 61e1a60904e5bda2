"""How long, how wide, on what machines, and what is written on the way."""

__all__ = ["CardConfig", "OptimiserConfig", "SamplesConfig", "TrainerConfig"]

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medsci.models.config import CovariateConfig, Orientation
from medsci.training.recipe.base import Frozen, Seed


class OptimiserConfig(Frozen):
    """AdamW with linear warm-up and a cosine down to `final_fraction` at `trainer.max_steps`."""

    learning_rate: PositiveFloat = 5e-4
    warmup_steps: NonNegativeInt = 200
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.99)
    gradient_clip: PositiveFloat | None = 1.0


class TrainerConfig(Frozen):
    """How long, how wide, and what is written when.

    `batch_size` counts the samples of one optimiser step over all processes and accumulated parts,
    so that the same recipe gives the same steps on one device and on many. `max_minutes` stops
    early and saves; the schedule stays bound to `max_steps`, so that a run resumed after it ends
    up where an uninterrupted one would. `threads` is the number of CPU threads of each process.

    `checkpoint_activations` computes the inside of residual blocks a second time on the way back:
    the same gradients in about a third of the memory and a third more time.

    `devices` and `nodes` are taken from torchrun or SLURM where one of them started the process.
    `strategy` is how processes share the work: `ddp` copies the model, `fsdp` shards weights,
    averages and optimiser states.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt = 4
    accumulate: PositiveInt = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    devices: PositiveInt | Literal["auto", "all"] = "auto"
    nodes: PositiveInt | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    max_minutes: PositiveFloat | None = None
    log_every_steps: PositiveInt = 50
    val_every_steps: PositiveInt = 500
    val_samples: PositiveInt = 16
    checkpoint_every_steps: PositiveInt = 500
    tensorboard: bool = True
    workers: NonNegativeInt = 0
    threads: PositiveInt | None = None
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _parts_divide(self) -> "TrainerConfig":
        devices = self.devices if isinstance(self.devices, int) else 1
        nodes = self.nodes if isinstance(self.nodes, int) else 1
        parts = self.accumulate * devices * nodes
        if self.batch_size % parts:
            raise ValueError(
                f"trainer.batch_size: {self.batch_size} samples cannot be divided among "
                f"{devices * nodes} processes times {self.accumulate} accumulated parts; "
                f"give a multiple of {parts}"
            )
        return self


class SamplesConfig(Frozen):
    """Samples drawn from the average while training, as a picture in `samples/` and TensorBoard.

    `size` is the training size if left out; `labels` are dealt out in turn.
    """

    every_steps: PositiveInt | None = None
    count: PositiveInt = 8
    steps: PositiveInt = 20
    seed: Seed = 0


class CardConfig(Frozen):
    """What the model card and the stored configuration say in words.

    `orientation` is where the axes of volumes point to; `value_range` is set where all data lie
    between two numbers; `covariates` describes the numbers that the network is conditioned on,
    and need not be given for simulated head volumes, which know theirs.
    """

    title: str = ""
    licence: str = "Apache-2.0"
    data: str = ""
    intended_use: str = ""
    limits: str = ""
    image_channels: tuple[str, ...] = ("real", "imaginary")
    intensity: str = "99th percentile of the magnitude is 1"
    window_hu: tuple[float, float] | None = None
    voxel_size_mm: tuple[PositiveFloat, ...] = ()
    orientation: Orientation = "RAS"
    value_range: tuple[float, float] | None = None
    covariates: tuple[CovariateConfig, ...] = ()
