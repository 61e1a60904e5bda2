"""How a trained model is made into one that needs few steps: the objectives of distillation."""

__all__ = ["LoraConfig", "ObjectiveConfig", "StudentConfig", "needs_pairs"]

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medsci.models.config import PathConfig
from medsci.nets.config import NetworkConfig
from medsci.training.recipe.base import Frozen
from medsci.training.recipe.law import (
    AsPredictedConfig,
    MetricConfig,
    PerceptualConfig,
    SquaredErrorConfig,
    TimeLawConfig,
    UniformConfig,
    WeightConfig,
)


class ReflowConfig(Frozen):
    """Regression on pairs (needs `data: pairs`).

    On the teacher's own path this is rectified diffusion; `path: {kind: rectified}` is reflow. A
    model whose prediction and time code look at the noise level alone (edm, with angle or
    log_sigma_hat) may change its path and keep its weights. `anneal_steps` goes from independent
    noise to the pairs, for students that start from random weights.
    """

    kind: Literal["reflow"] = "reflow"
    path: PathConfig | None = None
    time_law: TimeLawConfig = UniformConfig()
    metric: MetricConfig = SquaredErrorConfig()
    weight: WeightConfig = AsPredictedConfig()
    perceptual: PerceptualConfig | None = None
    anneal_steps: Annotated[int, Field(ge=0)] = 0


class OneStepConfig(Frozen):
    """From the noise of a pair to its sample at once (needs `data: pairs`)."""

    kind: Literal["one_step"] = "one_step"
    metric: MetricConfig = SquaredErrorConfig()


class PhasedConfig(Frozen):
    """Rectified diffusion in phases: straight within each, multi-step targets of the teacher."""

    kind: Literal["phased"] = "phased"
    phases: PositiveInt = 4
    ladder: PositiveInt = 10
    on: Literal["rung", "chord"] = "rung"
    metric: MetricConfig = SquaredErrorConfig()


class FlowGuidedConfig(Frozen):
    """SlimFlow: one step on pairs, guided by the teacher's two steps on fresh noise."""

    kind: Literal["flow_guided"] = "flow_guided"
    first_leg: Literal["student", "teacher"] = "student"
    weight: NonNegativeFloat = 1.0
    metric: MetricConfig = SquaredErrorConfig()


class ConsistencyConfig(Frozen):
    """Latent-consistency style distillation: neighbours on the teacher's path end alike.

    `guidance` is the range of scales by which a teacher with labels is guided; 1 is none.
    """

    kind: Literal["consistency"] = "consistency"
    rungs: Annotated[int, Field(ge=2)] = 50
    skip: PositiveInt = 1
    width: PositiveFloat = 0.03
    ema_target: bool = True
    guidance: tuple[NonNegativeFloat, NonNegativeFloat] | None = None


class VelocityMatchingConfig(Frozen):
    """MDT-dist: the average velocity by its differential identity."""

    kind: Literal["velocity_matching"] = "velocity_matching"
    derivative: Literal["jvp", "difference"] = "difference"
    normaliser: PositiveFloat | None = None
    time_law: TimeLawConfig = UniformConfig(axis="time")


class VelocityDistillConfig(Frozen):
    """MDT-dist: match the teacher's velocity on the student's own samples."""

    kind: Literal["velocity_distill"] = "velocity_distill"


class MmdConfig(Frozen):
    """Fine-tune a chain of few steps end to end by the maximum mean discrepancy of features."""

    kind: Literal["mmd"] = "mmd"
    steps: PositiveInt = 4
    degree: PositiveInt = 3
    features: str = "brain-t1-2d"


ObjectiveConfig = Annotated[
    ReflowConfig
    | OneStepConfig
    | PhasedConfig
    | FlowGuidedConfig
    | ConsistencyConfig
    | VelocityMatchingConfig
    | VelocityDistillConfig
    | MmdConfig,
    Field(discriminator="kind"),
]


def needs_pairs(objective: object) -> bool:
    """Return whether the data must come with the noise they are paired with."""
    return isinstance(objective, ReflowConfig | OneStepConfig | FlowGuidedConfig)


class LoraConfig(Frozen):
    """Low-rank adapters on the frozen teacher; the adapter is stored beside the merged model."""

    rank: PositiveInt = 16
    alpha: PositiveFloat | None = None


class StudentConfig(Frozen):
    """What is trained: the teacher's own network unless another is given.

    `start: random` draws fresh weights, which a network of another shape needs anyway.
    """

    network: NetworkConfig | None = None
    start: Literal["teacher", "random"] = "teacher"
    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _start_is_possible(self) -> "StudentConfig":
        if self.network is not None and self.start == "teacher":
            raise ValueError(
                "student.start: another network cannot start from the teacher's weights; "
                "set it to random, or leave student.network out"
            )
        if self.lora is not None and self.start == "random":
            raise ValueError(
                "student.lora: adapters need the teacher's weights; leave lora or start out"
            )
        return self
