"""The recipes: one model per task, all of them made of the same parts."""

__all__ = ["TASKS", "DistillRecipe", "GanRecipe", "PriorRecipe", "TrainRecipe"]

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medsci.models.config import (
    PathConfig,
    PredictionName,
    TimeCodeName,
    VpCosineConfig,
    VpLinearConfig,
)
from medsci.nets.config import NetworkConfig, UNet2dConfig
from medsci.training.recipe.base import Frozen, Probability, Seed
from medsci.training.recipe.data import (
    DataConfig,
    PairsConfig,
    channels_of,
    conditions_of,
    label_of,
    rank_of,
)
from medsci.training.recipe.gan import DiscriminatorConfig, ReconstructionConfig
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
    seed: Seed = 0
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
    of samples whose label is hidden, so that the model can be guided. `condition_dropout` does the
    same for covariates and for the condition image, independently, and hides each single covariate
    with half that probability, so that any part of them may be given.
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
    condition_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _network_fits(self) -> "PriorRecipe":
        _check_channels(self.network, self.data)
        _check_rows(self.time_code, self.path)
        if self.label_dropout and not self.network.n_labels:
            raise ValueError("label_dropout: the network has no labels; set network.n_labels")
        _check_labels(self.network, self.data)
        _check_conditions(self.network, self.data)
        if self.condition_dropout and not _takes_conditions(self.network):
            raise ValueError(
                "condition_dropout: the network takes no covariates and no image; set "
                "network.n_covariates or network.condition_channels"
            )
        mixes = self.coupling.kind not in ("independent", "knn")
        if mixes and _takes_conditions(self.network):
            raise ValueError(
                f"coupling.kind: {self.coupling.kind} makes the noise depend on covariates and "
                "image, which sampling cannot repeat; choose independent"
            )
        if getattr(self.network, "latent_dim", 0):
            raise ValueError(
                "network.latent_dim: a prior draws no latent; leave it 0, or task: gan"
            )
        return self


class GanRecipe(TrainRecipe):
    """Train a generator of few large steps against a discriminator (denoising diffusion GAN).

    The walk has `steps` equal steps in time; each draws x0 with a fresh latent of
    `network.latent_dim` entries and goes on from there, so `samples.steps` is not used. `r1` weighs
    the penalty on the discriminator's slope, which is computed at every `r1_every` steps. EMDM uses
    betas of (0.5, 0.9) for the generator too: set `optimiser.betas`.

    Source: Xiao et al. 2022, arXiv:2112.07804; defaults of Zhou et al. 2024, arXiv:2312.02256.
    """

    task: Literal["gan"] = "gan"
    network: NetworkConfig = UNet2dConfig(latent_dim=64)
    path: PathConfig = VpLinearConfig()
    prediction: Literal["x0", "v", "flow", "edm"] = "x0"
    sigma_data: PositiveFloat = 0.5
    time_code: TimeCodeName = "angle"
    unit_input: bool = True
    steps: PositiveInt = 10
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    r1: NonNegativeFloat = 0.02
    r1_every: PositiveInt = 15
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    @property
    def latent_dim(self) -> int:
        """Return the number of entries of the latent."""
        return int(getattr(self.network, "latent_dim", 0))

    @model_validator(mode="after")
    def _network_fits(self) -> "GanRecipe":
        _check_channels(self.network, self.data)
        _check_rows(self.time_code, self.path)
        _check_labels(self.network, self.data)
        _check_conditions(self.network, self.data)
        if not hasattr(self.network, "latent_dim"):
            raise ValueError(
                f"network.kind: {self.network.kind} takes no latent; "
                "choose unet_2d, unet_3d or mlp, and set network.latent_dim"
            )
        if not self.latent_dim:
            raise ValueError(
                "network.latent_dim: the generator of a gan draws with a latent; set it, to 64 say"
            )
        if self.network.in_channels != self.network.out_channels:
            raise ValueError(
                f"network.out_channels: {self.network.out_channels} came with in_channels "
                f"{self.network.in_channels}; a generator returns what it takes"
            )
        return self

    @model_validator(mode="after")
    def _can_be_judged(self) -> "GanRecipe":
        if isinstance(self.data, PairsConfig):
            raise ValueError(
                "data.kind: pairs hold the noise of their samples, a gan draws its own; "
                "give the samples alone, as arrays"
            )
        if self.trainer.strategy == "fsdp":
            raise ValueError(
                "trainer.strategy: fsdp shards the generator and leaves the discriminator out; "
                "choose ddp"
            )
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


TASKS: dict[str, type[TrainRecipe]] = {
    "prior": PriorRecipe,
    "distill": DistillRecipe,
    "gan": GanRecipe,
}
"""Task -> the model of its recipes; a recipe without `task` is one of a prior."""


def _check_channels(network: NetworkConfig, data: DataConfig) -> None:
    wanted = channels_of(data)
    channels: dict[str, Any] = {
        key: getattr(network, key, wanted) for key in ("in_channels", "out_channels")
    }
    for key, have in channels.items():
        if wanted is not None and have != wanted:
            raise ValueError(
                f"network.{key}: the data have {wanted} channels, the network {have}; "
                f"set it to {wanted}"
            )
    rank, known = rank_of(data), network.spatial_dims
    if rank is not None and rank != known:
        raise ValueError(
            f"network.kind: {network.kind} is for {known} dimensions, the data have {rank}"
        )


def _check_rows(time_code: TimeCodeName, path: PathConfig) -> None:
    if time_code in ("row", "nearest_row") and path.kind != "tabulated":
        raise ValueError(
            f"time_code: {time_code} came with the path {path.kind}; rows belong to "
            "the path tabulated, choose angle for others"
        )


def _check_labels(network: NetworkConfig, data: DataConfig) -> None:
    n_labels = network.n_labels
    if label_of(data) is not None and not n_labels:
        raise ValueError("network.n_labels: data.label is set; say how many labels there are")
    if n_labels and label_of(data) is None and not isinstance(data, PairsConfig):
        raise ValueError("data.label: the network has labels; name the column that holds them")


def _takes_conditions(network: NetworkConfig) -> bool:
    return any(getattr(network, key, 0) for key in ("n_covariates", "condition_channels"))


def _check_conditions(network: NetworkConfig, data: DataConfig) -> None:
    for key, wanted in (conditions_of(data) or {}).items():
        have = int(getattr(network, key, 0))
        if have == wanted:
            continue
        if not hasattr(network, key):
            raise ValueError(
                f"network.kind: {network.kind} takes no such conditions as the data have "
                f"({key} {wanted}); choose unet_2d or unet_3d, or data without"
            )
        raise ValueError(
            f"network.{key}: the data have {wanted}, the network takes {have}; set it to {wanted}"
        )
