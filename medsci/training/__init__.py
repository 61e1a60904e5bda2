"""Training: recipes, the Lightning module, moving averages, exact resume."""

__all__ = [
    "DenoiserModule",
    "DistillRecipe",
    "Ema",
    "GanRecipe",
    "PriorRecipe",
    "TrainRecipe",
    "TrainResult",
    "TrainingTerminatedError",
    "export_schema",
    "load_recipe",
    "train",
]

from typing import Any

_HOMES = {
    "DenoiserModule": "module",
    "DistillRecipe": "recipe",
    "Ema": "ema",
    "GanRecipe": "recipe",
    "PriorRecipe": "recipe",
    "TrainRecipe": "recipe",
    "TrainResult": "run",
    "TrainingTerminatedError": "run",
    "export_schema": "reading",
    "load_recipe": "reading",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
