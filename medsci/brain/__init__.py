"""Three-dimensional T1-weighted heads: prepare scans, generate volumes, judge them."""

__all__ = [
    "BrainMask",
    "EvaluateSettings",
    "Frame",
    "GenerateSettings",
    "Generated",
    "Place",
    "PrepSettings",
    "Prepared",
    "Sample",
    "evaluate",
    "find_brain",
    "generate",
    "label_map",
    "prepare",
    "regions",
    "undo",
    "walk_of",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.brain.evaluating import EvaluateSettings, evaluate
    from medsci.brain.frame import Frame, Place
    from medsci.brain.generation import Generated, GenerateSettings, generate, label_map, regions
    from medsci.brain.masking import BrainMask, find_brain
    from medsci.brain.prep import Prepared, prepare, undo
    from medsci.brain.prep_settings import PrepSettings
    from medsci.brain.samples import Sample
    from medsci.brain.walk import walk_of

_HOMES = {
    "BrainMask": "masking",
    "EvaluateSettings": "evaluating",
    "Frame": "frame",
    "GenerateSettings": "generation",
    "Generated": "generation",
    "Place": "frame",
    "PrepSettings": "prep_settings",
    "Prepared": "prep",
    "Sample": "samples",
    "evaluate": "evaluating",
    "find_brain": "masking",
    "generate": "generation",
    "label_map": "generation",
    "prepare": "prep",
    "regions": "generation",
    "undo": "prep",
    "walk_of": "walk",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
