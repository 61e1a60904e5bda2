"""How to train.

objective     Regression, and what it is made of: coupling, time_law, metric, weight, condition
interpolant   InterpolantRegression, for two-sided paths
reflow        reflow_pairs and OneStep; phased, flow_guided: fewer steps from pairs
consistency   Consistency; velocity_matching, velocity_distill: flow maps from a teacher
mmd_finetune  MmdFinetune: a chain of few steps, trained end to end
bridge_gan    BridgeGan: few large steps against a discriminator
"""

__all__ = [
    "KNN",
    "Annealed",
    "AsPredicted",
    "Assignment",
    "BridgeGan",
    "BridgePairs",
    "Condition",
    "ConditionAware",
    "ConditionDropout",
    "Consistency",
    "CosineAnneal",
    "Coupling",
    "Differences",
    "ExponentialAnneal",
    "FlowGuided",
    "Independent",
    "InterpolantRegression",
    "LinearAnneal",
    "LogitNormal",
    "Mapped",
    "Metric",
    "MinSnr",
    "MmdFinetune",
    "Objective",
    "On",
    "OneStep",
    "Perceptual",
    "Phased",
    "PseudoHuber",
    "PseudoHuberNorm",
    "Regression",
    "Sigmoid",
    "SquaredError",
    "Sum",
    "TimeLaw",
    "TimePower",
    "UShape",
    "Uniform",
    "VelocityDistill",
    "VelocityMatching",
    "Weight",
    "assign",
    "invert_pairs",
    "leg",
    "reflow_pairs",
    "x0_of_leg",
]

from medsci.core.learn.anneal import Annealed, CosineAnneal, ExponentialAnneal, LinearAnneal
from medsci.core.learn.assignment import assign
from medsci.core.learn.bridge_gan import BridgeGan, BridgePairs
from medsci.core.learn.condition import ConditionDropout
from medsci.core.learn.consistency import Consistency
from medsci.core.learn.coupling import (
    KNN,
    Assignment,
    Condition,
    ConditionAware,
    Coupling,
    Independent,
)
from medsci.core.learn.flow_guided import FlowGuided
from medsci.core.learn.interpolant import InterpolantRegression
from medsci.core.learn.metric import (
    Differences,
    Mapped,
    Metric,
    Perceptual,
    PseudoHuber,
    PseudoHuberNorm,
    SquaredError,
    Sum,
)
from medsci.core.learn.mmd_finetune import MmdFinetune
from medsci.core.learn.objective import Objective, Regression
from medsci.core.learn.phased import Phased, leg, x0_of_leg
from medsci.core.learn.reflow import OneStep, invert_pairs, reflow_pairs
from medsci.core.learn.time_law import LogitNormal, TimeLaw, Uniform, UShape
from medsci.core.learn.velocity_distill import VelocityDistill
from medsci.core.learn.velocity_matching import VelocityMatching
from medsci.core.learn.weight import AsPredicted, MinSnr, On, Sigmoid, TimePower, Weight
