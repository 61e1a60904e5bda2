"""From the sections about the loss to a regression."""

__all__ = [
    "build_dropout",
    "build_metric",
    "build_regression",
    "build_time_law",
    "build_weight",
    "perceptual_terms",
]

import math
from typing import Any

import torch

from medsci.core.learn import (
    KNN,
    AsPredicted,
    Assignment,
    ConditionAware,
    ConditionDropout,
    Coupling,
    Independent,
    LogitNormal,
    Metric,
    MinSnr,
    On,
    Perceptual,
    PseudoHuber,
    PseudoHuberNorm,
    Regression,
    Sigmoid,
    SquaredError,
    Sum,
    TimeLaw,
    TimePower,
    Uniform,
    UShape,
    Weight,
)
from medsci.training.recipe import PriorRecipe
from medsci.training.recipe.law import (
    AssignmentConfig,
    CouplingConfig,
    KnnConfig,
    LogitNormalConfig,
    MetricConfig,
    MinSnrConfig,
    OnTargetConfig,
    PerceptualConfig,
    PseudoHuberConfig,
    PseudoHuberNormConfig,
    SigmoidConfig,
    TimeLawConfig,
    TransportConfig,
    UShapeConfig,
    WeightConfig,
)


def build_time_law(law: TimeLawConfig, *, sigma_data: float) -> TimeLaw:
    """Return the law of times that `law` describes."""
    known: dict[str, Any] = {"on": law.axis, "sigma_data": sigma_data, "margin": law.margin}
    match law:
        case LogitNormalConfig():
            return LogitNormal(mean=law.mean, sd=law.sd, **known)
        case UShapeConfig():
            return UShape(a=law.a, **known)
    return Uniform(**known)


def build_metric(metric: MetricConfig) -> Metric:
    """Return the metric that `metric` describes."""
    match metric:
        case PseudoHuberConfig():
            return PseudoHuber(width=metric.width)
        case PseudoHuberNormConfig():
            return PseudoHuberNorm(metric.factor, width=metric.scale)
    return SquaredError()


def build_weight(weight: WeightConfig) -> Weight:
    """Return the weight of the noise levels that `weight` describes."""
    match weight:
        case MinSnrConfig():
            return MinSnr(gamma=weight.gamma)
        case SigmoidConfig():
            return Sigmoid(bias=weight.bias)
        case OnTargetConfig():
            return On(weight.target)
    return AsPredicted()


def _build_coupling(coupling: CouplingConfig, *, label: bool) -> Coupling:
    """Return the coupling over the whole batch, whatever processes share it."""
    from medsci.training.gathered import Gathered

    match coupling:
        case AssignmentConfig():
            from scipy.optimize import linear_sum_assignment

            plain = Assignment(coupling.cost, chunk=coupling.chunk, solver=linear_sum_assignment)
            return Gathered(ConditionAware(math.inf, plain) if label else plain)
        case TransportConfig():
            from medsci.training.transport import Transport

            options: dict[str, Any] = {"within": "label" if label else None}
            if coupling.regularisation is not None:
                options["reg"] = coupling.regularisation
            return Gathered(Transport(coupling.method, **options))
        case KnnConfig():
            return KNN(coupling.k)
    return Independent()


def perceptual_terms(config: PerceptualConfig | None) -> dict[str, Any]:
    """Return the second term of a regression: a distance of features of x0, weighted by 1 / t."""
    if config is None:
        return {}
    from medsci.models.store import load_denoiser
    from medsci.nets.features import DenoiserFeatures

    distance = Perceptual(DenoiserFeatures(load_denoiser(config.model)).maps)
    return {"x0_metric": Sum(((config.weight, distance),)), "x0_weight": TimePower(-1.0)}


def build_dropout(recipe: PriorRecipe) -> ConditionDropout | None:
    """Return how conditions are hidden, or None where they never are.

    The label goes with `label_dropout`; covariates and image each go with `condition_dropout`,
    and each covariate by itself with half of it.
    """
    p = recipe.condition_dropout
    null: dict[str, Any] = {}
    alone: dict[str, float] = {}
    if recipe.label_dropout:
        null["label"] = torch.tensor([recipe.network.n_labels])
    if p and getattr(recipe.network, "n_covariates", 0):
        null["covariates"], alone["covariates"] = math.nan, p
    if p and getattr(recipe.network, "condition_channels", 0):
        null["image"], alone["image"] = math.nan, p
    if not null:
        return None
    entries = {"covariates": 0.5 * p} if "covariates" in null else {}
    return ConditionDropout(recipe.label_dropout, null, alone=alone, entries=entries)


def build_regression(recipe: PriorRecipe) -> Regression:
    """Return the loss of a prior."""
    n_labels = recipe.network.n_labels
    extra = perceptual_terms(recipe.perceptual)
    dropout = build_dropout(recipe)
    if dropout is not None:
        extra["dropout"] = dropout
    return Regression(
        time_law=build_time_law(recipe.time_law, sigma_data=recipe.sigma_data),
        metric=build_metric(recipe.metric),
        coupling=_build_coupling(recipe.coupling, label=bool(n_labels)),
        weight=build_weight(recipe.weight),
        **extra,
    )
