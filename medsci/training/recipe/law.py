"""What the loss is made of: times, metric, weight, coupling, dropped conditions."""

__all__ = [
    "AsPredictedConfig",
    "AssignmentConfig",
    "CouplingConfig",
    "IndependentConfig",
    "KnnConfig",
    "LogitNormalConfig",
    "MetricConfig",
    "MinSnrConfig",
    "OnTargetConfig",
    "PerceptualConfig",
    "PseudoHuberConfig",
    "PseudoHuberNormConfig",
    "SigmoidConfig",
    "SquaredErrorConfig",
    "TimeLawConfig",
    "TransportConfig",
    "UShapeConfig",
    "UniformConfig",
    "WeightConfig",
]

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medsci.training.recipe.base import Frozen

Axis = Literal["angle", "time"]
Margin = Annotated[float, Field(ge=0.0, lt=0.5)]


class UniformConfig(Frozen):
    """Uniform on the angle `atan2(sigma, sigma_data alpha)` or on the time."""

    kind: Literal["uniform"] = "uniform"
    axis: Axis = "angle"
    margin: Margin = 1e-3


class LogitNormalConfig(Frozen):
    """Logit-normal on the angle or on the time."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    sd: PositiveFloat = 1.0
    axis: Axis = "angle"
    margin: Margin = 1e-3


class UShapeConfig(Frozen):
    """More weight on both ends, `e^(a t) + e^(-a t)` about the middle: for reflow (rf++)."""

    kind: Literal["u_shape"] = "u_shape"
    a: PositiveFloat = 4.0
    axis: Axis = "time"
    margin: Margin = 1e-3


class SquaredErrorConfig(Frozen):
    """Mean squared error."""

    kind: Literal["squared_error"] = "squared_error"


class PseudoHuberConfig(Frozen):
    """Squared near zero, absolute far away, element by element."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    width: PositiveFloat = 0.1


class PseudoHuberNormConfig(Frozen):
    """`sqrt(|d|^2 + c^2) - c` of a whole sample of d values; `c` is `factor` times d or sqrt(d)."""

    kind: Literal["pseudo_huber_norm"] = "pseudo_huber_norm"
    factor: PositiveFloat = 0.00054
    scale: Literal["sqrt", "linear"] = "sqrt"


class PerceptualConfig(Frozen):
    """Distance between feature maps of a trained model's own network, on the clean estimate."""

    kind: Literal["perceptual"] = "perceptual"
    model: str = "brain-t1-2d"
    weight: PositiveFloat = 1.0


class MinSnrConfig(Frozen):
    """`min(SNR, gamma)` on the clean estimate (Min-SNR)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: PositiveFloat = 5.0


class SigmoidConfig(Frozen):
    """Sigmoid of the log-SNR, shifted by `bias`, on the noise estimate."""

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = 0.0


class OnTargetConfig(Frozen):
    """As if the loss were on another target than the network's own."""

    kind: Literal["on"] = "on"
    target: Literal["x0", "eps", "flow", "edm"]


class AsPredictedConfig(Frozen):
    """The loss on what the network predicts, unweighted."""

    kind: Literal["as_predicted"] = "as_predicted"


class IndependentConfig(Frozen):
    """Noise is drawn without looking at the data."""

    kind: Literal["independent"] = "independent"


class AssignmentConfig(Frozen):
    """Noise is permuted within the batch to lie nearer (immiscible diffusion)."""

    kind: Literal["assignment"] = "assignment"
    cost: Literal["l2", "l2_squared"] = "l2"
    chunk: PositiveInt = 256


class KnnConfig(Frozen):
    """The nearest of `k` noises is taken; changes the law of the noise, see its documentation."""

    kind: Literal["knn"] = "knn"
    k: PositiveInt = 4


class TransportConfig(Frozen):
    """Optimal transport between the batch and its noise, by POT."""

    kind: Literal["transport"] = "transport"
    method: Literal["exact", "sinkhorn", "unbalanced", "partial"] = "exact"
    regularisation: PositiveFloat | None = None


TimeLawConfig = Annotated[
    UniformConfig | LogitNormalConfig | UShapeConfig, Field(discriminator="kind")
]
MetricConfig = Annotated[
    SquaredErrorConfig | PseudoHuberConfig | PseudoHuberNormConfig, Field(discriminator="kind")
]
WeightConfig = Annotated[
    AsPredictedConfig | MinSnrConfig | SigmoidConfig | OnTargetConfig, Field(discriminator="kind")
]
CouplingConfig = Annotated[
    IndependentConfig | AssignmentConfig | KnnConfig | TransportConfig, Field(discriminator="kind")
]
