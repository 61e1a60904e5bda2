"""Stored models: found by name, verified by hash, rebuilt without pickle."""

__all__ = [
    "AdapterConfig",
    "AdapterUse",
    "Conversion",
    "CovariateConfig",
    "MedforjPrediction",
    "ModelConfig",
    "ModelInfo",
    "SamplerHint",
    "TabulatedConfig",
    "TeacherConfig",
    "build_path",
    "convert_checkpoint",
    "ema_from_checkpoints",
    "export_model",
    "find_model",
    "import_model",
    "install_folder",
    "list_models",
    "load_adapter_state",
    "load_denoiser",
    "load_medforj",
    "save_adapter",
    "save_denoiser",
    "search_folders",
    "untrained_like",
    "verify_model",
    "write_card",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.models.adapter import AdapterConfig, load_adapter_state, save_adapter
    from medsci.models.averaging import ema_from_checkpoints
    from medsci.models.card import write_card
    from medsci.models.config import (
        AdapterUse,
        CovariateConfig,
        ModelConfig,
        SamplerHint,
        TabulatedConfig,
        TeacherConfig,
        build_path,
    )
    from medsci.models.convert import Conversion, convert_checkpoint
    from medsci.models.exporting import export_model
    from medsci.models.importing import import_model
    from medsci.models.medforj import MedforjPrediction, load_medforj
    from medsci.models.store import (
        ModelInfo,
        find_model,
        install_folder,
        list_models,
        load_denoiser,
        save_denoiser,
        search_folders,
        untrained_like,
        verify_model,
    )

_HOMES = {
    "AdapterConfig": "adapter",
    "AdapterUse": "config",
    "Conversion": "convert",
    "CovariateConfig": "config",
    "MedforjPrediction": "medforj",
    "ModelConfig": "config",
    "ModelInfo": "store",
    "SamplerHint": "config",
    "TabulatedConfig": "config",
    "TeacherConfig": "config",
    "build_path": "config",
    "convert_checkpoint": "convert",
    "ema_from_checkpoints": "averaging",
    "export_model": "exporting",
    "find_model": "store",
    "import_model": "importing",
    "install_folder": "store",
    "list_models": "store",
    "load_adapter_state": "adapter",
    "load_denoiser": "store",
    "load_medforj": "medforj",
    "save_adapter": "adapter",
    "save_denoiser": "store",
    "search_folders": "store",
    "untrained_like": "store",
    "verify_model": "store",
    "write_card": "card",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
