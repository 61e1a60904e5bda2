"""Numbers that say how good an image, its uncertainty or a set of images is."""

__all__ = [
    "Comparison",
    "FeatureStatistics",
    "FrechetReport",
    "calibrated_coverage",
    "coverage",
    "feature_energy",
    "feature_frechet",
    "frechet_distance",
    "head_mask",
    "kid",
    "mae",
    "nrmse",
    "psnr",
    "ssim",
    "uncertainty_correlation",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.metrics.distribution import Comparison, feature_energy, kid
    from medsci.metrics.frechet import (
        FeatureStatistics,
        FrechetReport,
        feature_frechet,
        frechet_distance,
    )
    from medsci.metrics.image import mae, nrmse, psnr, ssim
    from medsci.metrics.mask import head_mask
    from medsci.metrics.uncertainty import calibrated_coverage, coverage, uncertainty_correlation

_HOMES = {
    "Comparison": "distribution",
    "FeatureStatistics": "frechet",
    "FrechetReport": "frechet",
    "calibrated_coverage": "uncertainty",
    "coverage": "uncertainty",
    "feature_energy": "distribution",
    "feature_frechet": "frechet",
    "frechet_distance": "frechet",
    "head_mask": "mask",
    "kid": "distribution",
    "mae": "image",
    "nrmse": "image",
    "psnr": "image",
    "ssim": "image",
    "uncertainty_correlation": "uncertainty",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
