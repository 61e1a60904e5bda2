"""Flow-guided distillation: one step on pairs, held to the teacher's two steps on fresh noise.

Pairs are dear, and a small student that sees few of them learns them by heart. Two steps of the
teacher are cheap, can be had of any noise, and are better than one. So the loss of one step on the
pairs gets a second part, on noise that no pair has.

Both legs are first-order steps (`leg`), which on the rectified path are Euler's in the velocity and
on any other path the same steps at equal signal-to-noise. The second ends at clean data, so that it
is the teacher's x0 at the time between.

Source: Zhu et al. 2024 (SlimFlow), sec. 3.2, arXiv:2407.12718.
"""

__all__ = ["FlowGuided"]

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.denoise.wrappers import DenoiseFn, path_of
from medsci.core.learn.coupling import Condition
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.learn.phased import leg
from medsci.core.learn.reflow import OneStep
from medsci.core.process.path import Path
from medsci.core.rng import Rng

_TAG_FRESH = 0x51
_TAG_BETWEEN = 0x52


@final
@dataclass(frozen=True)
class FlowGuided:
    """Distil to one step with pairs and with the teacher's two-step samples of fresh noise.

        metric(D(x, 1), x0) + weight metric(D(x', 1), T(x'_s, s)),     x = sigma(1) z,

    with `x'` of fresh noise and `x'_s` one step from it. The step is the teacher's own (`first_leg
    = "teacher"`), or the student's, without gradients (`"student"`, as in the released code): then
    the second part asks that the teacher, asked half-way, confirms where the student was going.
    With a teacher that is not straight the two have different minimisers, and neither is that of
    the pairs; only with a straight teacher do all three agree.

    Args:
        teacher: `(x_t, t, **cond) -> x0` with the path of the student.
        first_leg: who makes the first step.
        between: range of the time between, as `sigma / (alpha + sigma)`, which is the time of the
            rectified path; uniform in it.
        weight: of the second part.
        metric: of x0.
        t: the time of the noise end, see `OneStep`.
    """

    teacher: DenoiseFn
    first_leg: Literal["student", "teacher"] = "student"
    _: KW_ONLY
    between: tuple[float, float] = (0.2, 0.8)
    weight: float = 1.0
    metric: Metric = field(default_factory=SquaredError)
    t: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.between
        if self.first_leg not in ("student", "teacher"):
            raise ValueError(f"first_leg {self.first_leg!r} came; choose student or teacher")
        if not 0.0 < low <= high < 1.0:
            raise ValueError(f"between={self.between} came; give 0 < low <= high < 1")
        if not self.weight >= 0.0 or not 0.0 < self.t <= 1.0:
            raise ValueError(
                f"weight={self.weight} and t={self.t} came; give a weight of zero or more and a "
                "time in (0, 1]"
            )

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

        Raises:
            ValueError: no noise of pairs came, the path does not reach the times between, or x0
                cannot be read from the prediction at `t`.
        """
        if noise is None:
            raise ValueError("FlowGuided learns pairs; pass the noise of each sample as noise=")
        path, first = denoiser.path, OneStep(self.metric, self.t)
        losses = self.metric(
            first.step(denoiser, first.start(path, noise, cond=cond), cond=cond), x0
        )
        times = torch.full((len(x0),), self.t, dtype=torch.float64, device=x0.device)
        if self.weight > 0.0:
            fresh = rng.normal(
                x0.shape, step=step, tag=_TAG_FRESH, dtype=x0.dtype, device=x0.device
            )
            begin = first.start(path, fresh, cond=cond)
            end = first.step(denoiser, begin, cond=cond)
            s = self._between(path, rng, step=step).to(x0.device)
            losses = losses + self.weight * self.metric(
                end, self.target(begin, s, end=end, cond=cond)
            )
        return losses.mean(), {"loss": losses.detach(), "t": times}

    @torch.no_grad()
    def target(
        self,
        begin: Shaped[Tensor, " b *d"],
        s: Tensor,
        *,
        end: Shaped[Tensor, " b *d"] | None = None,
        cond: Condition | None = None,
    ) -> Shaped[Tensor, " b *d"]:
        """Return where two steps lead from the noise end, by way of the times `s`.

        `end` is the student's x0 at `begin`, which its first leg aims at; the teacher's own if the
        first leg is the teacher's.
        """
        known = dict(cond or {})
        aim = end if self.first_leg == "student" else self.teacher(begin, self.t, **known)
        if aim is None:
            raise ValueError("the first leg is the student's and its x0 did not come; pass end=")
        x_s = leg(path_of(self.teacher), begin, aim, t=self.t, s=s, mu=known.get("mu"))
        return self.teacher(x_s, s, **known)

    def _between(self, path: Path, rng: Rng, *, step: int) -> Tensor:
        """Draw the time between for every sample, uniform in `sigma / (alpha + sigma)`."""
        low, high = self.between
        ratio = low + (high - low) * rng.uniform(step=step, tag=_TAG_BETWEEN).numpy()
        return torch.from_numpy(np.atleast_1d(path.time_at_angle(np.arctan2(ratio, 1.0 - ratio))))
