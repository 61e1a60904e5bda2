"""The shared diffusion and flow cores: tensors in, tensors out; no files, no domains.

    process   what noise does          Path, Linear, Bernoulli, Joint, noise laws, charts
    denoise   how to undo it           Denoiser: any network as (x_t, t) -> x0; Guided, importers
    solve     how to walk back         sample, grid, Multistep, RungeKutta, Sde, Plan
    steer     hooks on the walk        guidance, data consistency, replacement, search, Trace
    learn     how to train             Regression, time laws, metrics, couplings
    check     how to know              closed-form oracles, order of convergence, likelihood, laws

Here are the names that a script needs; the rooms have the rest. `t = 0` is data and `t = 1` is
noise, for diffusion and flow alike; every denoiser returns x0.
"""

__all__ = [
    "Adaptive",
    "Ancestral",
    "Clip",
    "Cycle",
    "DataConsistency",
    "Denoiser",
    "Guided",
    "Hook",
    "Linear",
    "Momentum",
    "Multistep",
    "Path",
    "Plan",
    "Rng",
    "RungeKutta",
    "Sde",
    "Shift",
    "Slicewise",
    "StepState",
    "Tiled",
    "Trace",
    "convert",
    "from_callable",
    "from_diffusers",
    "from_edm",
    "from_monai",
    "grid",
    "mix64",
    "sample",
]

from medsci.core.denoise import (
    Denoiser,
    Guided,
    Shift,
    Slicewise,
    Tiled,
    from_callable,
    from_diffusers,
    from_edm,
    from_monai,
)
from medsci.core.process import Linear, Path, convert
from medsci.core.rng import mix64
from medsci.core.solve import (
    Adaptive,
    Ancestral,
    Cycle,
    Momentum,
    Multistep,
    Plan,
    Rng,
    RungeKutta,
    Sde,
    grid,
    sample,
)
from medsci.core.steer import Clip, DataConsistency, Hook, StepState, Trace
