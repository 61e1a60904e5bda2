"""CT and MRI reconstruction: simulation, coils, baselines, posterior sampling."""

__all__ = [
    "Encoding",
    "Posterior",
    "ReconSettings",
    "SimulateSettings",
    "birdcage_maps",
    "cartesian_mask",
    "encode",
    "estimate_maps",
    "l1_wavelet",
    "low_resolution_phase",
    "posterior",
    "reconstruct",
    "sense_cg",
    "simulate_kspace",
    "total_variation",
    "zero_filled",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.recon.baselines import l1_wavelet, sense_cg, total_variation, zero_filled
    from medsci.recon.coils import birdcage_maps, estimate_maps, low_resolution_phase
    from medsci.recon.encoding import Encoding, encode
    from medsci.recon.masks import cartesian_mask
    from medsci.recon.sampling import Posterior, posterior, reconstruct
    from medsci.recon.settings import ReconSettings, SimulateSettings
    from medsci.recon.simulate import simulate_kspace

_HOMES = {
    "Encoding": "encoding",
    "Posterior": "sampling",
    "ReconSettings": "settings",
    "SimulateSettings": "settings",
    "birdcage_maps": "coils",
    "cartesian_mask": "masks",
    "encode": "encoding",
    "estimate_maps": "coils",
    "l1_wavelet": "baselines",
    "low_resolution_phase": "coils",
    "posterior": "sampling",
    "reconstruct": "sampling",
    "sense_cg": "baselines",
    "simulate_kspace": "simulate",
    "total_variation": "baselines",
    "zero_filled": "baselines",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"medsci.recon.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
