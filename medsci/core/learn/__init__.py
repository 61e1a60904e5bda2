"""How to train: coupling, time law, metric and the objectives made of them."""

__all__ = [
    "KNN",
    "Assignment",
    "Condition",
    "ConditionAware",
    "Coupling",
    "Independent",
    "InterpolantRegression",
    "LogitNormal",
    "Metric",
    "Objective",
    "PseudoHuber",
    "Regression",
    "SquaredError",
    "TimeLaw",
    "Uniform",
    "assign",
]

from medsci.core.learn.assignment import assign
from medsci.core.learn.coupling import (
    KNN,
    Assignment,
    Condition,
    ConditionAware,
    Coupling,
    Independent,
)
from medsci.core.learn.interpolant import InterpolantRegression
from medsci.core.learn.metric import Metric, PseudoHuber, SquaredError
from medsci.core.learn.objective import Objective, Regression
from medsci.core.learn.time_law import LogitNormal, TimeLaw, Uniform
