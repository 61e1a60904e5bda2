"""Rectified diffusion in phases: exact one-step solutions between a few edges of time.

One step is exact wherever the noise estimate does not change along the trajectory, on any path.
Training on pairs (`Regression` with `noise=`) asks for that from noise to data. Asked for within
phases of time only, it needs no pairs: the teacher walks from a point of its ladder to the end of
the phase, in small steps, and the student's x0 shall be the one whose single step ends there too.

One first-order (DDIM) step from t to s is, with states without their conditional mean,

    x_s = r x_t + g x0,      r = sigma_s / sigma_t,      g = alpha_s - r alpha_t > 0,

so the x0 that leads from `x_t` to a given `x_s` is `(x_s - r x_t) / g`. On the rectified path the
step is Euler's in the velocity.

Source: Wang et al. 2024, sec. 3 and 4, arXiv:2410.07303.
"""

__all__ = ["Phased", "leg", "x0_of_leg"]

from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.denoise.wrappers import DenoiseFn, path_of
from medsci.core.learn.coupling import Condition
from medsci.core.learn.metric import Metric, PseudoHuber
from medsci.core.process.path import Path, expand
from medsci.core.rng import Rng

_TAG_NOISE = 0x2A
_TAG_RUNG = 0x9D
Times = float | Float[Tensor, " b"]


def leg(
    path: Path,
    x: Shaped[Tensor, " b *d"],
    x0: Shaped[Tensor, " b *d"],
    *,
    t: Times,
    s: Times,
    mu: Tensor | None = None,
) -> Shaped[Tensor, " b *d"]:
    """Return the state at `s` of one first-order step from the state `x` at `t`.

    Times are floats or one per sample; `sigma(t)` must be positive. `mu` is needed on paths with a
    conditional mean.
    """
    r, g = (expand(c, x) for c in _weights(path, t, s))
    if mu is None:
        return r * x + g * x0
    return r * (x - expand(path.shift(t), x) * mu) + g * x0 + expand(path.shift(s), x) * mu


def x0_of_leg(
    path: Path,
    x: Shaped[Tensor, " b *d"],
    x_s: Shaped[Tensor, " b *d"],
    *,
    t: Times,
    s: Times,
    mu: Tensor | None = None,
) -> Shaped[Tensor, " b *d"]:
    """Return the x0 with which `leg` goes from `x` at `t` to `x_s` at `s`; needs `s < t`."""
    r, g = (expand(c, x) for c in _weights(path, t, s))
    if mu is None:
        return (x_s - r * x) / g
    there, here = expand(path.shift(s), x) * mu, expand(path.shift(t), x) * mu
    return (x_s - there - r * (x - here)) / g


def _weights(path: Path, t: Times, s: Times) -> tuple[Any, Any]:
    r = path.sigma(s) / path.sigma(t)
    return r, path.alpha(s) - r * path.alpha(t)


@final
@dataclass(frozen=True)
class Phased:
    """Make a student first-order within phases, from the teacher's walks of many small steps.

    A sample is put on a random rung of the ladder, the teacher goes down its phase in first-order
    steps from rung to rung, without gradients, and the student's x0 is compared with the one that
    leads to the same end at once. At the minimum, `sample(student, shape, grid=edges,
    solver=Multistep("eps", order=1))` takes one evaluation per phase and ends where the teacher's
    ladder ends; with one phase it is one step.

    So trained, every rung leads to the end of its phase, but the walk there still bends. With `on =
    "chord"` the teacher always starts at the top of the phase, and the student is trained on the
    single step between the two ends: at the minimum the noise estimate does not change along the
    student's own trajectory, and one step or many within a phase are the same.

    The cost per sample is `(ladder + 1) / 2` evaluations of the teacher in the mean, or `ladder`.

    Args:
        teacher: `(x_t, t, **cond) -> x0`, a denoiser with a path or one guided; float or tensor
            times.
        edges: decreasing times, the ends of the phases; the first is the noise end, a little below
            1 for students whose prediction does not determine x0 at pure noise (`eps`).
        ladder: steps of the teacher in each phase, uniform in time.
        on: where the student is trained, `rung` as released, or `chord`.
        metric: of x0; the released code has the pseudo-Huber loss.

    Source: Wang et al. 2024, sec. 4, arXiv:2410.07303. The published ladder spans all of time in
    100 steps.
    """

    teacher: DenoiseFn
    edges: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.0)
    ladder: int = 10
    _: KW_ONLY
    on: Literal["rung", "chord"] = "rung"
    metric: Metric = field(default_factory=lambda: PseudoHuber(1e-3))

    def __post_init__(self) -> None:
        steps = np.diff(self.edges)
        inside = len(self.edges) > 1 and self.edges[0] <= 1.0 and self.edges[-1] >= 0.0
        if not inside or not np.all(steps < 0.0):
            raise ValueError(
                f"edges={self.edges} came; give two or more times in [0, 1] that decrease"
            )
        if self.on not in ("rung", "chord"):
            raise ValueError(f"on={self.on!r} came; choose rung or chord")
        if self.ladder < 1:
            raise ValueError(f"ladder={self.ladder} came; give the teacher's steps in a phase")

    @property
    def rungs(self) -> np.ndarray:
        """Return the times of the ladder, decreasing, the edges among them."""
        parts = [np.linspace(a, b, self.ladder + 1)[:-1] for a, b in pairwise(self.edges)]
        return np.append(np.concatenate(parts), self.edges[-1])

    def __call__(
        self,
        denoiser: DenoiseFn,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and `{"loss": (b,), "t": (b,)}` without gradients."""
        n = self.ladder * (len(self.edges) - 1)
        u = rng.uniform(step=step, tag=_TAG_RUNG).numpy()
        rung = np.minimum((u * n).astype(np.int64), n - 1)
        z = noise
        if z is None:
            z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        known, path = dict(cond or {}), path_of(denoiser)
        start = rung if self.on == "rung" else rung // self.ladder * self.ladder
        t, top = (torch.from_numpy(self.rungs[i]).to(x0.device) for i in (rung, start))
        x_t = path.perturb(x0, top, z, mu=known.get("mu"))
        target = self.target(x_t, start, cond=cond)
        if self.on == "chord":
            x_t = leg(path, x_t, target, t=top, s=t, mu=known.get("mu"))
        losses = self.metric(denoiser(x_t, t, **known), target)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    @torch.no_grad()
    def target(
        self, x_t: Shaped[Tensor, " b *d"], rung: np.ndarray, *, cond: Condition | None = None
    ) -> Shaped[Tensor, " b *d"]:
        """Return the x0 that leads each state at once to the teacher's end of its phase.

        Args:
            x_t: states at the times `rungs[rung]`.
            rung: one per sample, from 0 at the noise end; all but the last.
            cond: keyword arguments of the teacher, one row per sample.
        """
        path, times = path_of(self.teacher), self.rungs
        x, at = x_t.clone(), rung.copy()
        end = (rung // self.ladder + 1) * self.ladder
        mu = (cond or {}).get("mu")
        while True:
            rows = np.flatnonzero(at < end)
            if not len(rows):
                break
            some = torch.from_numpy(rows).to(x.device)
            known = _rows(cond, some, len(x))
            t, s = (torch.from_numpy(times[at[rows] + k]).to(x.device) for k in (0, 1))
            here = x[some]
            there = leg(path, here, self.teacher(here, t, **known), t=t, s=s, mu=known.get("mu"))
            x = x.index_copy(0, some, there)
            at[rows] += 1
        t, s = (torch.from_numpy(times[i]).to(x.device) for i in (rung, end))
        return x0_of_leg(path, x_t, x, t=t, s=s, mu=mu)


def _rows(cond: Condition | None, some: Tensor, n: int) -> dict[str, Any]:
    """Return the conditions of some samples: tensors with `n` entries in front are cut."""
    return {
        name: value[some] if isinstance(value, Tensor) and value.ndim and len(value) == n else value
        for name, value in (cond or {}).items()
    }
