"""Stored models: found by name, verified by hash, rebuilt without pickle."""

__all__ = [
    "ModelConfig",
    "ModelInfo",
    "build_path",
    "find_model",
    "list_models",
    "load_denoiser",
    "save_denoiser",
    "search_folders",
    "untrained_like",
    "verify_model",
    "write_card",
]

from typing import Any

_HOMES = {
    "ModelConfig": "config",
    "build_path": "config",
    "write_card": "card",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'store')}"), name)
