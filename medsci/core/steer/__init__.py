"""How to steer a walk: hooks that edit the state at fixed points of every step."""

__all__ = ["Clip", "DataConsistency", "Hook", "StepState", "Trace"]

from medsci.core.steer.clip import Clip
from medsci.core.steer.data_consistency import DataConsistency
from medsci.core.steer.hook import Hook, StepState
from medsci.core.steer.trace import Trace
