"""Numbers that say how good an image, its uncertainty or a set of images is."""

__all__ = [
    "Comparison",
    "Evaluation",
    "FeatureStatistics",
    "FrechetReport",
    "calibrated_coverage",
    "coverage",
    "energy_distance",
    "feature_energy",
    "feature_frechet",
    "frechet_distance",
    "head_mask",
    "histogram_wasserstein",
    "holm",
    "kid",
    "mae",
    "mean_pair_similarity",
    "nearest_neighbour_ratio",
    "nrmse",
    "permutation_p",
    "psnr",
    "region_volumes",
    "ssim",
    "uncertainty_correlation",
    "wasserstein_over_sd",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.metrics.distribution import Comparison, feature_energy, kid
    from medsci.metrics.evaluation import Evaluation
    from medsci.metrics.frechet import (
        FeatureStatistics,
        FrechetReport,
        feature_frechet,
        frechet_distance,
    )
    from medsci.metrics.image import mae, nrmse, psnr, ssim
    from medsci.metrics.mask import head_mask
    from medsci.metrics.ms_ssim import mean_pair_similarity
    from medsci.metrics.permutation import holm, permutation_p
    from medsci.metrics.sets import (
        energy_distance,
        histogram_wasserstein,
        nearest_neighbour_ratio,
        wasserstein_over_sd,
    )
    from medsci.metrics.uncertainty import calibrated_coverage, coverage, uncertainty_correlation
    from medsci.metrics.volumes import region_volumes

_HOMES = {
    "Comparison": "distribution",
    "Evaluation": "evaluation",
    "FeatureStatistics": "frechet",
    "FrechetReport": "frechet",
    "calibrated_coverage": "uncertainty",
    "coverage": "uncertainty",
    "energy_distance": "sets",
    "feature_energy": "distribution",
    "feature_frechet": "frechet",
    "frechet_distance": "frechet",
    "head_mask": "mask",
    "histogram_wasserstein": "sets",
    "holm": "permutation",
    "kid": "distribution",
    "mae": "image",
    "mean_pair_similarity": "ms_ssim",
    "nearest_neighbour_ratio": "sets",
    "nrmse": "image",
    "permutation_p": "permutation",
    "psnr": "image",
    "region_volumes": "volumes",
    "ssim": "image",
    "uncertainty_correlation": "uncertainty",
    "wasserstein_over_sd": "sets",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
