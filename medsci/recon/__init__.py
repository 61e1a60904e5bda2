"""CT and MRI reconstruction: simulation, coils, baselines, posterior sampling."""

__all__ = [
    "CtEncoding",
    "Encoding",
    "HuWindow",
    "Posterior",
    "PriorUnits",
    "ReconSettings",
    "RestoreSettings",
    "Restored",
    "SimulateCtSettings",
    "SimulateSettings",
    "UnitsWarning",
    "VolumePrior",
    "birdcage_maps",
    "cartesian_mask",
    "correct_bias",
    "edge_noise_covariance",
    "encode",
    "encode_ct",
    "estimate_maps",
    "estimate_noise",
    "fbp_hu",
    "l1_wavelet",
    "least_squares_cg",
    "low_resolution_phase",
    "posterior",
    "posterior_ct",
    "prewhiten",
    "prewhiten_kspace",
    "reconstruct",
    "reconstruct_ct",
    "restore",
    "restore_volume",
    "sense_cg",
    "simulate_ct",
    "simulate_kspace",
    "total_variation",
    "weighted",
    "zero_filled",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.recon.baselines import (
        l1_wavelet,
        least_squares_cg,
        sense_cg,
        total_variation,
        weighted,
        zero_filled,
    )
    from medsci.recon.bias_field import correct_bias
    from medsci.recon.coils import birdcage_maps, estimate_maps, low_resolution_phase
    from medsci.recon.ct_encoding import CtEncoding, encode_ct, fbp_hu
    from medsci.recon.ct_sampling import posterior_ct, reconstruct_ct
    from medsci.recon.ct_settings import SimulateCtSettings
    from medsci.recon.ct_simulation import simulate_ct
    from medsci.recon.drawing import Posterior
    from medsci.recon.encoding import Encoding, encode
    from medsci.recon.hounsfield import HuWindow, UnitsWarning
    from medsci.recon.masks import cartesian_mask
    from medsci.recon.prewhitening import edge_noise_covariance, prewhiten, prewhiten_kspace
    from medsci.recon.restoration import Restored, restore
    from medsci.recon.restore_noise import estimate_noise
    from medsci.recon.restore_settings import PriorUnits, RestoreSettings
    from medsci.recon.sampling import posterior, reconstruct
    from medsci.recon.settings import ReconSettings, SimulateSettings
    from medsci.recon.simulate import simulate_kspace
    from medsci.recon.volume_frame import VolumePrior
    from medsci.recon.volume_restoration import restore_volume

_HOMES = {
    "CtEncoding": "ct_encoding",
    "Encoding": "encoding",
    "HuWindow": "hounsfield",
    "Posterior": "drawing",
    "PriorUnits": "restore_settings",
    "ReconSettings": "settings",
    "RestoreSettings": "restore_settings",
    "Restored": "restoration",
    "SimulateCtSettings": "ct_settings",
    "SimulateSettings": "settings",
    "UnitsWarning": "hounsfield",
    "VolumePrior": "volume_frame",
    "birdcage_maps": "coils",
    "cartesian_mask": "masks",
    "correct_bias": "bias_field",
    "edge_noise_covariance": "prewhitening",
    "encode": "encoding",
    "encode_ct": "ct_encoding",
    "estimate_maps": "coils",
    "estimate_noise": "restore_noise",
    "fbp_hu": "ct_encoding",
    "l1_wavelet": "baselines",
    "least_squares_cg": "baselines",
    "low_resolution_phase": "coils",
    "posterior": "sampling",
    "posterior_ct": "ct_sampling",
    "prewhiten": "prewhitening",
    "prewhiten_kspace": "prewhitening",
    "reconstruct": "sampling",
    "reconstruct_ct": "ct_sampling",
    "restore": "restoration",
    "restore_volume": "volume_restoration",
    "sense_cg": "baselines",
    "simulate_ct": "ct_simulation",
    "simulate_kspace": "simulate",
    "total_variation": "baselines",
    "weighted": "baselines",
    "zero_filled": "baselines",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"medsci.recon.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
