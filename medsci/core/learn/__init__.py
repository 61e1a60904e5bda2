"""How to train: coupling, time law, metric and the objective made of them."""

__all__ = [
    "Coupling",
    "Independent",
    "LogitNormal",
    "Metric",
    "Objective",
    "PseudoHuber",
    "Regression",
    "SquaredError",
    "TimeLaw",
    "Uniform",
]

from medsci.core.learn.coupling import Coupling, Independent
from medsci.core.learn.metric import Metric, PseudoHuber, SquaredError
from medsci.core.learn.objective import Objective, Regression
from medsci.core.learn.time_law import LogitNormal, TimeLaw, Uniform
