"""What a stored model says about itself: `config.json`. No torch here, so that listings are quick.

The path configurations describe the paths of `medsci.core` as data; `build_path` makes the path.
"""

__all__ = [
    "AdapterUse",
    "CovariateConfig",
    "ModelConfig",
    "Orientation",
    "PathConfig",
    "PredictionName",
    "RectifiedConfig",
    "SamplerHint",
    "TabulatedConfig",
    "TeacherConfig",
    "TimeCodeName",
    "VarianceExplodingConfig",
    "VpCosineConfig",
    "VpLinearConfig",
    "build_path",
]

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medsci.nets.config import NetworkConfig

if TYPE_CHECKING:
    from medsci.core.process.path import Path

PredictionName = Literal["x0", "eps", "v", "flow", "score", "edm"]
TimeCodeName = Literal[
    "angle", "time", "unit_time", "sigma_hat", "log_sigma_hat", "row", "nearest_row"
]
Orientation = Literal["RAS", "LPS"]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VpLinearConfig(_Frozen):
    """Variance preserving with a linear rate."""

    kind: Literal["vp_linear"] = "vp_linear"
    beta_min: PositiveFloat = 0.1
    beta_max: PositiveFloat = 20.0


class VpCosineConfig(_Frozen):
    """Trigonometric path; the offset of Nichol and Dhariwal is 0.008."""

    kind: Literal["vp_cosine"] = "vp_cosine"
    offset: NonNegativeFloat = 0.0


class VarianceExplodingConfig(_Frozen):
    """Variance exploding."""

    kind: Literal["ve"] = "ve"
    sigma_max: PositiveFloat = 80.0
    sigma_min: NonNegativeFloat = 0.0
    rho: PositiveFloat = 7.0


class RectifiedConfig(_Frozen):
    """Straight path of rectified flow."""

    kind: Literal["rectified"] = "rectified"


class TabulatedConfig(_Frozen):
    """The discrete schedule of published weights, `n_rows` training steps.

    Time codes `row` and `nearest_row` tell the network the index of the step.
    """

    kind: Literal["tabulated"] = "tabulated"
    schedule: Literal["linear", "scaled_linear", "sigmoid", "cosine"] = "linear"
    n_rows: Annotated[int, Field(ge=2)] = 1000
    beta_start: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-4
    beta_end: Annotated[float, Field(gt=0.0, lt=1.0)] = 2e-2


PathConfig = Annotated[
    VpLinearConfig | VpCosineConfig | VarianceExplodingConfig | RectifiedConfig | TabulatedConfig,
    Field(discriminator="kind"),
]


def build_path(config: PathConfig) -> "Path":
    """Return the path that `config` describes."""
    from medsci.core.process.path import Path

    match config:
        case VpLinearConfig():
            return Path.vp_linear(config.beta_min, config.beta_max)
        case VpCosineConfig():
            return Path.vp_cosine(config.offset)
        case VarianceExplodingConfig():
            return Path.ve(config.sigma_max, config.sigma_min, config.rho)
        case RectifiedConfig():
            return Path.rectified()
        case TabulatedConfig():
            from medsci.core.denoise.schedules import alphas_bar_of

            return Path.tabulated(
                alphas_bar_of(
                    config.schedule,
                    config.n_rows,
                    beta_start=config.beta_start,
                    beta_end=config.beta_end,
                )
            )
    raise TypeError(f"{type(config).__name__} describes no path")


class TeacherConfig(_Frozen):
    """The model that a student was distilled from."""

    name: str
    sha256: str = ""


class AdapterUse(_Frozen):
    """A low-rank adapter that was merged into the weights, and how strongly."""

    name: str
    sha256: str = ""
    weight: float = 1.0


class SamplerHint(_Frozen):
    """How a few-step student must be sampled: so many evaluations by this solver.

    `solver` is the name of one of `medsci.core.solve`, such as `multistep` or `staircase`.
    """

    steps: PositiveInt
    solver: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = "auto"


class CovariateConfig(_Frozen):
    """One number that a model is conditioned on.

    The network gets `(value - mean) / std`; `low` and `high` are the range of values, in `unit`,
    that training has seen. `correlation` is its row of the correlation matrix of all covariates,
    where it is known: with it, what a user does not ask for can be drawn from the population.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    unit: str = ""
    mean: float
    std: PositiveFloat
    low: float
    high: float
    correlation: tuple[Annotated[float, Field(ge=-1.0, le=1.0)], ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> "CovariateConfig":
        if self.low > self.high:
            raise ValueError(
                f"covariate {self.name}: low {self.low} is above high {self.high}; "
                "give the smaller one first"
            )
        return self


class ModelConfig(_Frozen):
    """Everything needed to rebuild a denoiser, and what a user must know before using it.

    `sha256` and `n_parameters` are filled in when the weights are written. `intensity` says in
    words how images have to be scaled, and for CT `window_hu` which Hounsfield units are 0 and 1;
    `image_channels` names the channels in their order. `orientation` says where the axes of a
    volume point to (RAS: to the right, to anterior, to superior), and `value_range` between which
    numbers all data lie, in units of the model, where that is so.
    Weights in float16 change the output by a thousandth of its own error, measured on a trained
    2D prior for sigma_hat from 0.05 to 3; in bfloat16 it would be seven times that, and bfloat16
    arithmetic, whatever the weights, costs ten to twenty times that.

    `task` says in a word what the model is for; `labels` names the network's labels in their order;
    `covariates` are the numbers that the network takes as condition, in their order; `spectrum` is
    what the choice of a grid needs to know of the data; `sampler` is set for models that only few
    steps of one solver give good samples of.
    """

    format_version: Literal[1] = 1
    name: _Name
    task: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")] = "prior"
    network: NetworkConfig
    path: PathConfig
    prediction: PredictionName = "v"
    sigma_data: PositiveFloat = 1.0
    time_code: TimeCodeName = "angle"
    unit_input: bool = True
    image_channels: tuple[str, ...] = ("real", "imaginary")
    labels: tuple[str, ...] = ()
    covariates: tuple[CovariateConfig, ...] = ()
    orientation: Orientation = "RAS"
    value_range: tuple[float, float] | None = None
    intensity: str = "99th percentile of the magnitude over the head is 1"
    window_hu: tuple[float, float] | None = None
    training_size: tuple[PositiveInt, ...] = ()
    voxel_size_mm: tuple[PositiveFloat, ...] = ()
    licence: str = "Apache-2.0"
    data: str = ""
    objective: str = "regression"
    teacher: TeacherConfig | None = None
    adapters: tuple[AdapterUse, ...] = ()
    spectrum: Literal["long", "short"] = "long"
    sampler: SamplerHint | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    weights_dtype: Literal["float16", "float32"] = "float16"
    sha256: str = ""
    n_parameters: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        if self.labels and len(self.labels) != self.network.n_labels:
            raise ValueError(
                f"labels names {len(self.labels)} and the network has {self.network.n_labels}; "
                "name every label of the network, or none"
            )
        takes = int(getattr(self.network, "n_covariates", 0))
        if self.covariates and len(self.covariates) != takes:
            raise ValueError(
                f"covariates describes {len(self.covariates)} and the network takes {takes}; "
                "describe every covariate of the network, or none"
            )
        if any(
            len(one.correlation) not in (0, len(self.covariates)) for one in self.covariates
        ) or (len({len(one.correlation) for one in self.covariates}) > 1):
            raise ValueError(
                "covariates.correlation is not a square matrix; give every covariate one number "
                "per covariate, or none any"
            )
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(
                f"value_range is {self.value_range}; give (low, high) with low below high"
            )
        if self.time_code in ("row", "nearest_row") and self.path.kind != "tabulated":
            raise ValueError(
                f"time_code {self.time_code} came with the path {self.path.kind}; "
                "rows belong to the path tabulated"
            )
        return self
