"""Numbers that say how good an image and its uncertainty are; NumPy inside, tensors welcome."""

__all__ = [
    "calibrated_coverage",
    "coverage",
    "head_mask",
    "mae",
    "nrmse",
    "psnr",
    "ssim",
    "uncertainty_correlation",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.metrics.image import mae, nrmse, psnr, ssim
    from medsci.metrics.mask import head_mask
    from medsci.metrics.uncertainty import (
        calibrated_coverage,
        coverage,
        uncertainty_correlation,
    )

_HOME = {
    "calibrated_coverage": "uncertainty",
    "coverage": "uncertainty",
    "head_mask": "mask",
    "mae": "image",
    "nrmse": "image",
    "psnr": "image",
    "ssim": "image",
    "uncertainty_correlation": "uncertainty",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
