"""The shared diffusion and flow cores: tensors in, tensors out; no files, no domains.

    process   what noise does          Path, Linear, predictions
    denoiser  how to undo it           Denoiser: any network as (x_t, t) -> x0
    solve     how to walk back         grid, Multistep, Ancestral, Plan, sample
    steer     hooks on the walk        Clip, DataConsistency, Trace
    learn     how to train             Regression, time laws, metrics, couplings
    check     how to know              closed-form oracles, order of convergence

`t = 0` is data and `t = 1` is noise, for diffusion and flow alike; every denoiser returns x0.
"""

__all__ = [
    "Ancestral",
    "Clip",
    "DataConsistency",
    "Denoiser",
    "Hook",
    "Linear",
    "Multistep",
    "Path",
    "Plan",
    "Rng",
    "Slicewise",
    "StepState",
    "Trace",
    "convert",
    "grid",
    "mix64",
    "sample",
]

from medsci.core.denoiser import Denoiser, Slicewise
from medsci.core.process import Linear, Path, convert
from medsci.core.solve import Ancestral, Multistep, Plan, Rng, grid, sample
from medsci.core.solve.rng import mix64
from medsci.core.steer import Clip, DataConsistency, Hook, StepState, Trace
