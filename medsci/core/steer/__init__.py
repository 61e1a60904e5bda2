"""How to steer a walk: hooks that edit the state at fixed points of every step, and searches.

guidance       SkipGradient, Dps, PiGdm
consistency    DataConsistency, Proximal, Admm
editing        Replace with a bank; Clip; SelfConditioned
watching       Trace, Hallucination
searching      BestOf, Particles, Rollover: walks of their own over a plan
experimental   Tangential, EvoDiff
"""

__all__ = [
    "Admm",
    "Bank",
    "BestOf",
    "Clip",
    "DataConsistency",
    "Dps",
    "EvoDiff",
    "Hallucination",
    "Hook",
    "LinearSolve",
    "Particles",
    "PiGdm",
    "Proximal",
    "Recorded",
    "Renoised",
    "Replace",
    "Rollover",
    "SearchResult",
    "SelfConditioned",
    "SkipGradient",
    "StepState",
    "Tangential",
    "Trace",
    "WithGradient",
    "filtered",
    "loss_gradient",
    "record_inversion",
    "tweedie_variance",
]

from medsci.core.steer.clip import Clip
from medsci.core.steer.data_consistency import Admm, DataConsistency, LinearSolve, Proximal
from medsci.core.steer.dps import Dps, PiGdm, WithGradient, tweedie_variance
from medsci.core.steer.experimental import EvoDiff, Tangential
from medsci.core.steer.hallucination import Hallucination, filtered
from medsci.core.steer.hook import Hook, StepState
from medsci.core.steer.replace import Bank, Recorded, Renoised, Replace, record_inversion
from medsci.core.steer.rollover import Rollover
from medsci.core.steer.search import BestOf, Particles, SearchResult
from medsci.core.steer.self_conditioned import SelfConditioned
from medsci.core.steer.skip_gradient import SkipGradient, loss_gradient
from medsci.core.steer.trace import Trace
