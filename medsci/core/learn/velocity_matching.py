"""Velocity matching: a flow map learnt from its teacher's velocity and its own derivative.

Where the teacher's flow has carried a sample from the data to `x_t`, the average velocity
`u = (x_t - x_0) / t` obeys

    t u = x_t - x_0,    hence    u = v(x_t, t) - t d/dt u(x_t, t),    d/dt = d_t + v . d_x

A student whose u solves this at all (x, t) jumps from any state to the data: `x0 = x_t - t u`.
"""

__all__ = ["VelocityMatching"]

from dataclasses import KW_ONLY, dataclass, field
from typing import final

import torch
from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.denoise.wrappers import DenoiseFn
from medsci.core.learn._velocity import (
    Derivative,
    check_derivative,
    check_student,
    total_derivative,
    velocity,
)
from medsci.core.learn.coupling import Condition, Coupling, Independent
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.learn.time_law import LogitNormal, TimeLaw
from medsci.core.process.path import expand
from medsci.core.rng import Rng

_TAG_NOISE = 0x2A


@final
@dataclass(frozen=True, eq=False)
class VelocityMatching:
    """Regress the average velocity on `v - t du/dt`, the target held fixed.

    The loss is `metric(u, stop_gradient(v - t du/dt))`. It is no plain least-squares problem, as
    the target moves with u; where u can be exact, the only point without gradient is the flow map
    of the teacher.

    The student lives on the rectified path (ValueError otherwise): on another one u is no
    difference quotient. The teacher may live on any path and is moved by `OnPath`. For guidance
    give `Guided(teacher, ...)` as the teacher.

    Args:
        teacher: denoiser whose flow is followed; it takes one time per sample.
        derivative: `jvp`, exact forward mode, or `difference`, for networks with layers that have
            no forward mode.
        dt: half the width of the difference, in time.
        normaliser: replace the derivative d by `d / (|d| + c)`, with `|d|` its root mean square
            over a sample. Steadier, but then the flow map is no longer the minimiser: the target
            is off by `t d (|d| + c - 1) / (|d| + c)`. With normal data of variance .3, one step
            then draws variance .38 at c = .1 and .08 at c = 1. None is exact.
        time_law: of the states; noise weighs more by default.
        metric: between u and its target.
        coupling: of data and noise.

    Source: the identity is that of Geng et al. 2025, sec. 4, arXiv:2505.13447, for intervals that
    start at the data; the normaliser is that of Lu and Song 2024, arXiv:2410.11081, by root mean
    square so that it does not depend on the number of entries.
    """

    teacher: DenoiseFn
    _: KW_ONLY
    derivative: Derivative = "jvp"
    dt: float = 0.01
    normaliser: float | None = None
    time_law: TimeLaw = field(default_factory=lambda: LogitNormal(1.0, 1.0, on="time"))
    metric: Metric = field(default_factory=SquaredError)
    coupling: Coupling = field(default_factory=Independent)

    def __post_init__(self) -> None:
        check_derivative(self.derivative, self.dt)
        if self.normaliser is not None and not self.normaliser > 0.0:
            raise ValueError(f"normaliser={self.normaliser} came; give a positive one, or None")

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and `{"loss": (b,), "t": (b,)}` without gradients."""
        check_student(denoiser)
        known = dict(cond or {})
        t = self.time_law(denoiser.path, rng, step=step).to(x0.device)
        z = noise
        if z is None:
            z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        x0, z = self.coupling(x0, z, rng=rng, step=step, cond=cond)
        x_t = denoiser.path.perturb(x0, t, z)
        target = self.target(denoiser, x_t, t, cond=known)
        losses = self.metric(velocity(denoiser, x_t, t, cond=known), target)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    @torch.no_grad()
    def target(
        self, denoiser: DenoiseFn, x_t: Tensor, t: Tensor, *, cond: Condition | None = None
    ) -> Tensor:
        """Return `v - t du/dt` at given states, without gradients."""
        known = dict(cond or {})
        v = velocity(self.teacher, x_t, t, cond=known)
        slope = total_derivative(
            denoiser, x_t, t, v=v, cond=known, rule=self.derivative, dt=self.dt
        )
        if self.normaliser is not None:
            size = slope.abs().square().flatten(1).mean(1).sqrt()
            slope = slope / expand(size + self.normaliser, slope)
        return v - expand(t, x_t) * slope
