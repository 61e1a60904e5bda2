"""Diffusion and flow cores for medical imaging and scientific computing.

`import medsci` loads no heavy library: a sub-package is imported when it is first named, so the
command line answers at once.
"""

__all__ = ["__version__"]

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "core", "imaging", "operators", "nets", "metrics", "data",
    "inverse", "training", "models", "report", "recon", "brain", "pde", "pipelines", "cli",
    "errors",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {list(_ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
