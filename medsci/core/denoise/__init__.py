"""How to undo noise: any network as `(x_t, t, **cond) -> x0`, alone, wrapped or imported.

denoiser    Denoiser: prediction, input scale, time code, number format; OnPath
wrappers    Guided, Shift, Slicewise, Tiled
importers   MONAI, diffusers and EDM networks, any function
"""

__all__ = [
    "DenoiseFn",
    "Denoiser",
    "Guided",
    "OnPath",
    "Shift",
    "Slicewise",
    "Tiled",
    "TimeCode",
    "alphas_bar_of",
    "from_callable",
    "from_diffusers",
    "from_edm",
    "from_monai",
    "load_weights",
    "zero_terminal_snr",
]

from medsci.core.denoise.checkpoint import load_weights
from medsci.core.denoise.denoiser import Denoiser, TimeCode
from medsci.core.denoise.importers import from_callable, from_diffusers, from_edm, from_monai
from medsci.core.denoise.on_path import OnPath
from medsci.core.denoise.schedules import alphas_bar_of, zero_terminal_snr
from medsci.core.denoise.tiled import Tiled
from medsci.core.denoise.wrappers import DenoiseFn, Guided, Shift, Slicewise
