"""Inverse problems: any linear operator, any prior.

    Measurement     data, operator and noise, in the units of a prior
    solve           by the name of a method; METHODS says what each is for
    dds3d, mbir     volumes, with a coupling between slices
    red_diff        one image by optimisation; flow_chef, diff_pir, pi_gdm, dps, ddrm draw samples
    pnp             the prior as a plain denoiser
    tune            options by truth or by held-out data

Names are imported when they are first used.
"""

__all__ = [
    "METHODS",
    "AdmmTv",
    "AdmmTvSettings",
    "DdrmSettings",
    "Dds3dSettings",
    "DiffPirSettings",
    "DpsSettings",
    "FlowChefSettings",
    "LogUniform",
    "MbirSettings",
    "Measurement",
    "OperatorScaleWarning",
    "PiGdmSettings",
    "PnpSettings",
    "Prior",
    "RedDiffSettings",
    "Solution",
    "data_judge",
    "ddrm",
    "dds3d",
    "diff_pir",
    "dps",
    "flow_chef",
    "held_out",
    "mbir",
    "pi_gdm",
    "pnp",
    "red_diff",
    "settings_of",
    "solve",
    "tune",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.inverse.measurement import Measurement, Prior, Solution
    from medsci.inverse.methods import METHODS, settings_of, solve
    from medsci.inverse.solvers.admm_tv import AdmmTv, AdmmTvSettings
    from medsci.inverse.solvers.data_term import OperatorScaleWarning
    from medsci.inverse.solvers.ddrm import DdrmSettings, ddrm
    from medsci.inverse.solvers.dds3d import Dds3dSettings, dds3d
    from medsci.inverse.solvers.diff_pir import DiffPirSettings, diff_pir
    from medsci.inverse.solvers.dps import DpsSettings, dps
    from medsci.inverse.solvers.flow_chef import FlowChefSettings, flow_chef
    from medsci.inverse.solvers.mbir import MbirSettings, mbir
    from medsci.inverse.solvers.pi_gdm import PiGdmSettings, pi_gdm
    from medsci.inverse.solvers.pnp import PnpSettings, pnp
    from medsci.inverse.solvers.red_diff import RedDiffSettings, red_diff
    from medsci.inverse.tuning import LogUniform, data_judge, held_out, tune

_HOMES = {
    "METHODS": "methods",
    "AdmmTv": "solvers.admm_tv",
    "AdmmTvSettings": "solvers.admm_tv",
    "DdrmSettings": "solvers.ddrm",
    "Dds3dSettings": "solvers.dds3d",
    "DiffPirSettings": "solvers.diff_pir",
    "DpsSettings": "solvers.dps",
    "FlowChefSettings": "solvers.flow_chef",
    "LogUniform": "tuning",
    "MbirSettings": "solvers.mbir",
    "Measurement": "measurement",
    "OperatorScaleWarning": "solvers.data_term",
    "PiGdmSettings": "solvers.pi_gdm",
    "PnpSettings": "solvers.pnp",
    "Prior": "measurement",
    "RedDiffSettings": "solvers.red_diff",
    "Solution": "measurement",
    "data_judge": "tuning",
    "ddrm": "solvers.ddrm",
    "dds3d": "solvers.dds3d",
    "diff_pir": "solvers.diff_pir",
    "dps": "solvers.dps",
    "flow_chef": "solvers.flow_chef",
    "held_out": "tuning",
    "mbir": "solvers.mbir",
    "pi_gdm": "solvers.pi_gdm",
    "pnp": "solvers.pnp",
    "red_diff": "solvers.red_diff",
    "settings_of": "methods",
    "solve": "methods",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
