"""The recipes: one model per task, all of them made of the same parts."""

__all__ = ["TASKS", "DistillRecipe", "PriorRecipe", "TrainRecipe"]

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from medsci.models.config import PathConfig, PredictionName, TimeCodeName, VpCosineConfig
from medsci.nets.config import NetworkConfig, UNet2dConfig
from medsci.training.recipe.base import Frozen, Probability
from medsci.training.recipe.data import DataConfig, PairsConfig, channels_of, label_of, rank_of
from medsci.training.recipe.law import (
    AsPredictedConfig,
    CouplingConfig,
    IndependentConfig,
    MetricConfig,
    PerceptualConfig,
    SquaredErrorConfig,
    TimeLawConfig,
    UniformConfig,
    WeightConfig,
)
from medsci.training.recipe.objective import (
    ObjectiveConfig,
    StudentConfig,
    needs_pairs,
)
from medsci.training.recipe.trainer import (
    CardConfig,
    OptimiserConfig,
    SamplesConfig,
    TrainerConfig,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class TrainRecipe(Frozen):
    """What every recipe has; two runs of one recipe give the same weights."""

    format_version: Literal[1] = 1
    name: Name
    seed: NonNegativeInt = 0
    data: DataConfig
    optimiser: OptimiserConfig = OptimiserConfig()
    trainer: TrainerConfig
    samples: SamplesConfig = SamplesConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _card_names_the_channels(self) -> "TrainRecipe":
        wanted = channels_of(self.data)
        if wanted is not None and len(self.card.image_channels) != wanted:
            raise ValueError(
                f"card.image_channels: {len(self.card.image_channels)} channels are named, "
                f"the data have {wanted}; name each of them"
            )
        return self


class PriorRecipe(TrainRecipe):
    """Train a denoiser of images, with or without labels, from data.

    `init` names a stored model of the same network to start from. `label_dropout` is the fraction
    of samples whose label is hidden, so that the model can be guided.
    """

    task: Literal["prior"] = "prior"
    network: NetworkConfig = UNet2dConfig()
    path: PathConfig = VpCosineConfig()
    prediction: PredictionName = "v"
    sigma_data: PositiveFloat = 0.5
    time_code: TimeCodeName = "angle"
    unit_input: bool = True
    init: str | None = None
    time_law: TimeLawConfig = UniformConfig()
    metric: MetricConfig = SquaredErrorConfig()
    weight: WeightConfig = AsPredictedConfig()
    perceptual: PerceptualConfig | None = None
    coupling: CouplingConfig = IndependentConfig()
    label_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _channels_agree(self) -> "PriorRecipe":
        wanted = channels_of(self.data)
        channels: dict[str, Any] = {
            key: getattr(self.network, key, wanted) for key in ("in_channels", "out_channels")
        }
        for key, have in channels.items():
            if wanted is not None and have != wanted:
                raise ValueError(
                    f"network.{key}: the data have {wanted} channels, the network {have}; "
                    f"set it to {wanted}"
                )
        rank, known = rank_of(self.data), self.network.spatial_dims
        if rank is not None and rank != known:
            raise ValueError(
                f"network.kind: {self.network.kind} is for {known} dimensions, the data have {rank}"
            )
        return self

    @model_validator(mode="after")
    def _labels_agree(self) -> "PriorRecipe":
        n_labels = self.network.n_labels
        if self.label_dropout and not n_labels:
            raise ValueError("label_dropout: the network has no labels; set network.n_labels")
        if label_of(self.data) is not None and not n_labels:
            raise ValueError("network.n_labels: data.label is set; say how many labels there are")
        if n_labels and label_of(self.data) is None and not isinstance(self.data, PairsConfig):
            raise ValueError("data.label: the network has labels; name the column that holds them")
        return self


class DistillRecipe(TrainRecipe):
    """Make a stored model into one that needs few steps.

    Path, prediction and scale are the teacher's. `data` are pairs of the teacher's own making, or
    what it was trained on, as the objective needs.
    """

    task: Literal["distill"] = "distill"
    teacher: str
    objective: ObjectiveConfig
    student: StudentConfig = StudentConfig()

    @model_validator(mode="after")
    def _objective_has_its_data(self) -> "DistillRecipe":
        kind = self.objective.kind
        if needs_pairs(self.objective) and not isinstance(self.data, PairsConfig):
            raise ValueError(
                f"data.kind: the objective {kind} needs pairs; make them with "
                "'medsci models pairs' and set data.kind to pairs"
            )
        return self


TASKS: dict[str, type[TrainRecipe]] = {"prior": PriorRecipe, "distill": DistillRecipe}
"""Task -> the model of its recipes; a recipe without `task` is one of a prior."""
