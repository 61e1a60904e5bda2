"""The training recipe: one frozen model that says everything about a run.

Choices are closed sets told apart by `kind`; a recipe never names code to import. Reading a file,
merging `--set key=value` and wording the errors is `medsci.training.reading`.
"""

__all__ = [
    "CardConfig",
    "DataConfig",
    "LogitNormalConfig",
    "NiftiSlicesConfig",
    "OptimiserConfig",
    "PseudoHuberConfig",
    "SimulatedHeadsConfig",
    "SquaredErrorConfig",
    "TrainRecipe",
    "TrainerConfig",
    "UniformConfig",
]

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medsci.models.config import (
    ModelConfig,
    PathConfig,
    PredictionName,
    TimeCodeName,
    VpCosineConfig,
)
from medsci.nets.config import NetworkConfig, UNet2dConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SimulatedHeadsConfig(_Frozen):
    """Heads simulated from the ICBM 2009a maps inside nilearn; see `medsci.data.heads`."""

    kind: Literal["simulated_heads"] = "simulated_heads"
    n_heads: PositiveInt = 48
    n_validation_heads: PositiveInt = 2
    size: tuple[PositiveInt, PositiveInt] = (224, 192)
    slices: tuple[NonNegativeInt, PositiveInt] = (40, 150)
    cache_dir: Path | None = None


class NiftiSlicesConfig(_Frozen):
    """Slices of one's own NIfTI volumes; see `medsci.data.nifti_slices`."""

    kind: Literal["nifti_slices"] = "nifti_slices"
    train: str | tuple[str, ...]
    validation: str | tuple[str, ...]
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    size: tuple[PositiveInt, PositiveInt] = (224, 192)
    channels: Literal["complex", "magnitude"] = "complex"
    min_signal: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


DataConfig = Annotated[SimulatedHeadsConfig | NiftiSlicesConfig, Field(discriminator="kind")]


class UniformConfig(_Frozen):
    """Uniform on the angle `atan2(sigma, sigma_data alpha)` or on the time."""

    kind: Literal["uniform"] = "uniform"
    axis: Literal["angle", "time"] = "angle"
    margin: Annotated[float, Field(ge=0.0, lt=0.5)] = 1e-3


class LogitNormalConfig(_Frozen):
    """Logit-normal on the angle or on the time."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    sd: PositiveFloat = 1.0
    axis: Literal["angle", "time"] = "angle"
    margin: Annotated[float, Field(ge=0.0, lt=0.5)] = 1e-3


class SquaredErrorConfig(_Frozen):
    """Mean squared error."""

    kind: Literal["squared_error"] = "squared_error"


class PseudoHuberConfig(_Frozen):
    """Squared near zero, absolute far away."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    width: PositiveFloat = 0.1


TimeLawConfig = Annotated[UniformConfig | LogitNormalConfig, Field(discriminator="kind")]
MetricConfig = Annotated[SquaredErrorConfig | PseudoHuberConfig, Field(discriminator="kind")]


class OptimiserConfig(_Frozen):
    """AdamW with linear warm-up and a cosine down to `final_fraction` at `trainer.max_steps`."""

    learning_rate: PositiveFloat = 5e-4
    warmup_steps: NonNegativeInt = 200
    final_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = (0.9, 0.99)
    gradient_clip: PositiveFloat | None = 1.0


class TrainerConfig(_Frozen):
    """How long, how wide, and what is written when.

    `max_minutes` stops early and saves; the schedule stays bound to `max_steps`, so that a run
    resumed after it ends up where an uninterrupted one would. `threads` is the number of CPU
    threads of the training process, all cores if absent.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt = 4
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    max_minutes: PositiveFloat | None = None
    log_every_steps: PositiveInt = 50
    val_every_steps: PositiveInt = 500
    val_samples: PositiveInt = 16
    checkpoint_every_steps: PositiveInt = 500
    workers: NonNegativeInt = 0
    threads: PositiveInt | None = None


class CardConfig(_Frozen):
    """What the model card and the stored configuration say in words."""

    title: str = ""
    licence: str = "Apache-2.0"
    data: str = ""
    intended_use: str = ""
    limits: str = ""
    image_channels: tuple[str, ...] = ("real", "imaginary")
    intensity: str = "99th percentile of the magnitude is 1"
    voxel_size_mm: tuple[PositiveFloat, ...] = ()


class TrainRecipe(_Frozen):
    """Everything that defines a training run; two runs of one recipe give the same weights."""

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    seed: NonNegativeInt = 0
    data: DataConfig
    network: NetworkConfig = UNet2dConfig()
    path: PathConfig = VpCosineConfig()
    prediction: PredictionName = "v"
    sigma_data: PositiveFloat = 0.5
    time_code: TimeCodeName = "angle"
    unit_input: bool = True
    time_law: TimeLawConfig = UniformConfig()
    metric: MetricConfig = SquaredErrorConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    trainer: TrainerConfig
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _channels_agree(self) -> "TrainRecipe":
        wanted = 1 if getattr(self.data, "channels", "complex") == "magnitude" else 2
        if (self.network.in_channels, self.network.out_channels) != (wanted, wanted):
            raise ValueError(
                f"the data have {wanted} channels, the network takes {self.network.in_channels} "
                f"and returns {self.network.out_channels}; set network.in_channels and "
                f"network.out_channels to {wanted}"
            )
        if len(self.card.image_channels) != wanted:
            raise ValueError(
                f"card.image_channels names {len(self.card.image_channels)} channels, "
                f"the data have {wanted}"
            )
        return self

    def stored_config(self) -> ModelConfig:
        """Return the configuration that goes beside the weights."""
        return ModelConfig(
            name=self.name,
            network=self.network,
            path=self.path,
            prediction=self.prediction,
            sigma_data=self.sigma_data,
            time_code=self.time_code,
            unit_input=self.unit_input,
            image_channels=self.card.image_channels,
            intensity=self.card.intensity,
            training_size=self.data.size,
            voxel_size_mm=self.card.voxel_size_mm,
            licence=self.card.licence,
            data=self.card.data,
        )
