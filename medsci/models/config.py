"""What a stored model says about itself: `config.json`. No torch here, so that listings are quick.

The path configurations describe the paths of `medsci.core` as data; `build_path` makes the path.
"""

__all__ = [
    "ModelConfig",
    "PathConfig",
    "PredictionName",
    "RectifiedConfig",
    "TimeCodeName",
    "VarianceExplodingConfig",
    "VpCosineConfig",
    "VpLinearConfig",
    "build_path",
]

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medsci.nets.config import NetworkConfig

if TYPE_CHECKING:
    from medsci.core.process.path import Path

PredictionName = Literal["v", "x0", "eps", "flow", "edm"]
TimeCodeName = Literal["angle", "time", "log_sigma_hat"]


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


PathConfig = Annotated[
    VpLinearConfig | VpCosineConfig | VarianceExplodingConfig | RectifiedConfig,
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
    raise TypeError(f"{type(config).__name__} describes no path")


class ModelConfig(_Frozen):
    """Everything needed to rebuild a denoiser, and what a user must know before using it.

    `sha256` and `n_parameters` are filled in when the weights are written. `intensity` says in
    words how images have to be scaled; `image_channels` names the channels in their order.
    Weights in float16 change the output by a thousandth of its own error, measured on a trained
    2D prior for sigma_hat from 0.05 to 3; in bfloat16 it would be seven times that, and bfloat16
    arithmetic, whatever the weights, costs ten to twenty times that.
    """

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    network: NetworkConfig
    path: PathConfig
    prediction: PredictionName = "v"
    sigma_data: PositiveFloat = 1.0
    time_code: TimeCodeName = "angle"
    unit_input: bool = True
    image_channels: tuple[str, ...] = ("real", "imaginary")
    intensity: str = "99th percentile of the magnitude over the head is 1"
    training_size: tuple[PositiveInt, ...] = ()
    voxel_size_mm: tuple[PositiveFloat, ...] = ()
    licence: str = "Apache-2.0"
    data: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    weights_dtype: Literal["float16", "float32"] = "float16"
    sha256: str = ""
    n_parameters: int = 0
