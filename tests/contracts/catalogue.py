"""One of each: every solver, hook and wrapper, for the properties that all of them must have.

A new one is one line here. `test_no_sync` fails when an exported one is missing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.denoise.tiled import Tiled
from medsci.core.denoise.wrappers import Guided, Shift, Slicewise
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep
from medsci.core.solve.cycle import Cycle
from medsci.core.solve.momentum import Momentum
from medsci.core.solve.plan import AbstractSolver
from medsci.core.solve.runge_kutta import RungeKutta
from medsci.core.solve.stochastic import Sde
from medsci.core.steer import Clip, DataConsistency, Hook, Trace
from medsci.core.steer.dps import Dps, PiGdm
from medsci.core.steer.experimental import EvoDiff, Tangential
from medsci.core.steer.hallucination import Hallucination
from medsci.core.steer.replace import Renoised, Replace
from medsci.core.steer.self_conditioned import SelfConditioned
from medsci.core.steer.skip_gradient import SkipGradient

PATH = Path.vp_cosine()


class Elementwise(nn.Module):
    """A network without state, of any rank, that uses its time code and its conditions."""

    def forward(self, x: Tensor, code: Tensor, label: Tensor | None = None) -> Tensor:
        """Return a bounded bend of the state."""
        shape = (-1, *(1,) * (x.ndim - 1))
        out = torch.tanh(x) * torch.cos(1e-3 * code).reshape(shape)
        return out if label is None else out + label.reshape(len(x), -1).mean(1).reshape(shape)


def denoiser() -> Denoiser:
    """Return a denoiser of the path, for any shape."""
    return Denoiser(Elementwise(), path=PATH)


def with_mean() -> Denoiser:
    """Return a denoiser of a path with a conditional mean."""
    from medsci.core.process.shifted import Residual

    return Denoiser(Elementwise(), path=Residual(0.5), pred="x0")


SOLVERS: dict[str, AbstractSolver] = {
    "DDIM": Multistep("x0", order=1),
    "x0 2": Multistep("x0", order=2),
    "x0 3": Multistep("x0", order=3),
    "eps 3": Multistep("eps", order=3),
    "x0 2 corrector": Multistep("x0", order=2, corrector=True),
    "v 2": Multistep("v", "ratio", order=2),
    "angle 3 corrector": Multistep("angle", "ratio", order=3, corrector=True),
    "PNDM": Multistep("eps", "index", order=4, warmup=True),
    "GHVB": Multistep("eps", order=3, momentum=Momentum(0.5)),
    "Heun": RungeKutta("heun"),
    "RK4": RungeKutta("rk4", "angle"),
    "Ancestral": Ancestral(0.7),
    "Sde": Sde(1.0, order=2),
    "Cycle": Cycle(Multistep(), high=0.7, low=0.3, n=2),
}

# Solvers that read a value to decide where to go next; their documentation says so.
DECIDING = {"Adaptive": "accepts or rejects every step by its error"}

HOOKS: dict[str, Callable[[Tensor], Hook]] = {
    "Clip": lambda x: Clip(-1.0, 1.0),
    "DataConsistency": lambda x: DataConsistency(lambda x0, state: 0.5 * (x0 + state.x)),
    "Dps": lambda x: Dps(lambda x0: x0.square().flatten(1).sum(1), 0.1),
    "EvoDiff": lambda x: EvoDiff(PATH),
    "Hallucination": lambda x: Hallucination(3),
    "PiGdm": lambda x: PiGdm(PATH, lambda x0, state: -x0),
    "Replace": lambda x: Replace(
        torch.zeros(x.shape, dtype=torch.bool, device=x.device),
        Renoised(PATH, torch.zeros_like(x)),
    ),
    "SelfConditioned": lambda x: SelfConditioned("label"),
    "SkipGradient": lambda x: SkipGradient(lambda x0: x0.square().flatten(1).sum(1), 0.1),
    "Tangential": lambda x: Tangential(PATH, 0.5),
    "Trace": lambda x: Trace("x0", at="denoised"),
}

# Hooks that differentiate the network.
THROUGH_THE_NETWORK = {"Dps", "PiGdm"}

# Hooks that cannot do without a value on the host, and why.
READING: dict[str, str] = {}

WRAPPERS: dict[str, Callable[[Tensor], nn.Module]] = {
    "Denoiser": lambda x: denoiser(),
    "Guided": lambda x: Guided(
        denoiser(), scale=2.0, null={"label": torch.zeros(1, device=x.device)}, interval=(0.2, 5.0)
    ),
    "OnPath": lambda x: Denoiser(Elementwise(), path=Path.rectified()).on_path(PATH),
    "Shift": lambda x: Shift(with_mean(), torch.zeros_like(x)),
    "Slicewise": lambda x: Slicewise(denoiser(), chunk=2),
    "Tiled": lambda x: Tiled(denoiser(), tile=(4, 4), overlap=2),
}
