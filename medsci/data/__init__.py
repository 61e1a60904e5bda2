"""Data: what installed packages carry, what is shipped here, and what is simulated."""

__all__ = [
    "DataEntry",
    "NiftiSlices",
    "SimulatedHeads",
    "SliceSource",
    "check_data",
    "list_data",
    "simulated_head_volume",
    "smooth_phase",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.data.heads import SimulatedHeads, simulated_head_volume
    from medsci.data.nifti_slices import NiftiSlices
    from medsci.data.phase import smooth_phase
    from medsci.data.registry import DataEntry, check_data, list_data
    from medsci.data.source import SliceSource

_HOMES = {
    "DataEntry": "registry",
    "NiftiSlices": "nifti_slices",
    "SimulatedHeads": "heads",
    "SliceSource": "source",
    "check_data": "registry",
    "list_data": "registry",
    "simulated_head_volume": "heads",
    "smooth_phase": "phase",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"medsci.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
