"""Velocity distillation: move what the student generates to where the teacher has its data.

The student draws in one step, `x = f(z, 1) = z - u(z, 1)`, and its draw is noised anew, with fresh
noise n, to `x_t = (1 - t) x + t n`, whose velocity is `v_fake = n - x`. With the velocity fields of
the teacher, `v_tgt(x_t, t)`, and of the student's own draws, `v_pred(x_t, t)`, the gradient is

    2 E[(v_pred - v_tgt) . d v_fake / d theta] = -2 E[(v_pred - v_tgt) . d x / d theta]

per entry, and nothing is differentiated but x. On the rectified path the score is
`-(x_t + (1 - t) v) / t`, so for the true `v_pred` of the draws this is the gradient of
`KL(p_draws,t | p_teacher,t)` at every t, times the positive weight `2 t / (1 - t)^2`.
"""

__all__ = ["VelocityDistill"]

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
from medsci.core.learn.coupling import Condition
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.learn.time_law import LogitNormal, TimeLaw
from medsci.core.process.path import expand
from medsci.core.rng import Rng

_TAG_NOISE = 0x2A
_TAG_AGAIN = 0x2D


@final
@dataclass(frozen=True, eq=False)
class VelocityDistill:
    """Match the law of the student's one-step draws to the teacher's.

    The value of the loss is `metric(v_pred, v_tgt)`; its gradient is the one above (for the squared
    error; other metrics weigh the difference).

    Without `fake`, `v_pred = u + t du/dt` of the student, along the teacher's velocity: no second
    network is needed. This is `v_tgt + J (v_own - v_tgt)`, with J the derivative of the student's
    map `f(., t)` and `v_own` the velocity along which f is constant. It is right while the student
    is the flow map of some law, of its own draws, and blind where it is not: a student that is
    exact at every t < 1 and wrong at t = 1 gets no gradient. Use it after, or together with,
    `VelocityMatching`, which ties the times together.

    The clean samples give shape, number format and conditions, and nothing else.

    Args:
        teacher: denoiser of the data, on any path; `Guided(...)` for guidance.
        fake: denoiser of the student's draws, on any path, trained on them by the caller; None for
            the student itself.
        derivative: as in `VelocityMatching`; not used with `fake`.
        dt: half the width of the difference, in time.
        time_law: of the noise put on the draws.
        metric: between `v_pred` and `v_tgt`.

    Source: the gradient is that of Yin et al. 2024, arXiv:2311.18828, in velocities.
    """

    teacher: DenoiseFn
    _: KW_ONLY
    fake: DenoiseFn | None = None
    derivative: Derivative = "jvp"
    dt: float = 0.01
    time_law: TimeLaw = field(default_factory=lambda: LogitNormal(1.0, 1.0, on="time"))
    metric: Metric = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        check_derivative(self.derivative, self.dt)

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
        """Return the mean loss and `{"loss": (b,), "t": (b,)}` without gradients.

        `noise` is what the student starts from.
        """
        check_student(denoiser)
        known = dict(cond or {})
        t = self.time_law(denoiser.path, rng, step=step).to(x0.device)
        z, again = (
            rng.normal(x0.shape, step=step, tag=tag, dtype=x0.dtype, device=x0.device)
            for tag in (_TAG_NOISE, _TAG_AGAIN)
        )
        z = z if noise is None else noise
        draw: Tensor = denoiser(z, 1.0, **known)
        gap = self._gap(denoiser, denoiser.path.perturb(draw.detach(), t, again), t, cond=known)
        v_fake = again - draw
        losses = self.metric(v_fake, (v_fake - gap).detach())
        return losses.mean(), {"loss": losses.detach(), "t": t}

    @torch.no_grad()
    def _gap(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, *, cond: Condition) -> Tensor:
        """Return `v_pred - v_tgt`."""
        v = velocity(self.teacher, x_t, t, cond=cond)
        if self.fake is not None:
            return velocity(self.fake, x_t, t, cond=cond) - v
        slope = total_derivative(denoiser, x_t, t, v=v, cond=cond, rule=self.derivative, dt=self.dt)
        return velocity(denoiser, x_t, t, cond=cond) + expand(t, x_t) * slope - v
