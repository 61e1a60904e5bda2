"""Consistency: a student that is constant along the paths of the flow, and x at the data.

A function with `f(x_t, t) = f(x_s, s)` wherever the flow carries `x_t` to `x_s`, and `f(x, 0) = x`,
is the flow map to the data. The boundary holds by construction for every prediction but `x0`: the
weight of the network is zero where the noise is. (For `edm` on the VE path the weight of the state
is `d^2 / (sigma_hat^2 + d^2)`, which is `c_skip` of latent consistency models at sigma_hat = 10 t,
d = .5; the weight of the network is d times their `c_out`.)
"""

__all__ = ["Consistency"]

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medsci.core.denoise import Denoiser, OnPath
from medsci.core.denoise.wrappers import DenoiseFn, path_of
from medsci.core.learn.coupling import Condition, Coupling, Independent
from medsci.core.learn.metric import Metric, PseudoHuber
from medsci.core.process.path import Path, expand
from medsci.core.rng import Rng
from medsci.core.solve.grid import check_grid, uniform

_TAG_NOISE = 0x2A
_TAG_RUNG = 0x73
_TAG_SCALE = 0x74


@final
@dataclass(frozen=True, eq=False)
class Consistency:
    """Match the student at one rung of a grid to the target `skip` rungs nearer to the data.

    Draw a rung t, noise the data to `x_t`, let the teacher take one DDIM step from t to the rung s
    that is `skip` further, or to the data if there are fewer left, and compare

        f(x_t, t)    with    stop_gradient(f_target(x_s, s))

    where `x_s = a x_t + (alpha_s - a alpha_t) D`, `a = sigma_s / sigma_t`, D the teacher's x0. At
    the data the target is x_s itself. The student that reaches zero loss composes the teacher's
    steps of `skip` rungs; its error is that of DDIM with as many steps.

    Without a teacher D is the clean sample, so that both states share their noise: consistency
    training. The mean over the noise is the teacher's step for the squared error only, and then to
    first order in the step.

    Args:
        teacher: denoiser on any path, or None.
        target: the student's moving average, or None for the student as it is.
        grid: decreasing times that end without noise, `uniform(1000)` if left out. A student that
            predicts `eps` or `score` needs some signal at the first.
        skip: rungs between the two states.
        guidance: `(low, high)`, the range of the teacher's guidance scale, drawn per sample; 1 is
            none (published weights w are `scale - 1`). The student is not told and learns the
            average.
        null: the conditions that mean "none", by name, needed with guidance; a tensor with one
            sample in front serves all.
        metric: between the two, pseudo-Huber of width .001 by default. Ours carries the width as a
            factor, so its gradients are .001 times those of `sqrt(d^2 + c^2) - c`.
        coupling: of data and noise.

    Source: Song et al. 2023, algorithms 2 and 3, arXiv:2303.01469; skipping and guidance after Luo
    et al. 2023, algorithm 1, arXiv:2310.04378.
    """

    teacher: DenoiseFn | None
    target: DenoiseFn | None = None
    _: KW_ONLY
    grid: np.ndarray = field(default_factory=lambda: uniform(1000))
    skip: int = 20
    guidance: tuple[float, float] | None = None
    null: Mapping[str, Any] | None = None
    metric: Metric = field(default_factory=lambda: PseudoHuber(0.001))
    coupling: Coupling = field(default_factory=Independent)

    def __post_init__(self) -> None:
        rungs = len(check_grid(self.grid)) - 1
        if not 1 <= self.skip <= rungs:
            raise ValueError(
                f"skip={self.skip} came with a grid of {rungs} steps; give 1 to {rungs}"
            )
        if self.guidance is None:
            return
        low, high = self.guidance
        if not low <= high:
            raise ValueError(f"guidance={self.guidance} came; give (low, high) with low <= high")
        if self.teacher is None or not self.null:
            raise ValueError(
                "guidance came without a teacher or without null conditions; give both, null as "
                "{'name': what stands for none}"
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
            ValueError: the student's path still has noise at the end of the grid.
        """
        path, known = denoiser.path, dict(cond or {})
        t, s = (times.to(x0.device) for times in self._rungs(path, rng, step))
        z = noise
        if z is None:
            z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        x0, z = self.coupling(x0, z, rng=rng, step=step, cond=cond)
        x_t = path.perturb(x0, t, z, mu=known.get("mu"))
        with torch.no_grad():
            clean = x0
            if self.teacher is not None:
                teacher, scale = _on(path, self.teacher), self._scale(rng, step)
                clean = self._clean(teacher, x_t, t, scale=scale, cond=known)
            x_s = _ddim(path, x_t, clean, t=t, s=s, mu=known.get("mu"))
            reached = _on(path, self.target or denoiser)(x_s, s, **known)
            at_data = (path.sigma(s) == 0.0).reshape(-1, *(1,) * (x_s.ndim - 1))
            goal = torch.where(at_data, x_s, reached)
        losses = self.metric(denoiser(x_t, t, **known), goal)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    def _rungs(self, path: Path, rng: Rng, step: int) -> tuple[Tensor, Tensor]:
        """Draw two float64 times per sample, more noise first."""
        times = check_grid(self.grid)
        if float(path.sigma(times[-1])) != 0.0:
            raise ValueError(
                f"the grid ends at t={times[-1]}, where {path!r} still has noise, so nothing ties "
                "the student to the data; end it at t=0, on a path without noise there"
            )
        n = len(times) - 1
        upper = (rng.uniform(step=step, tag=_TAG_RUNG) * n).long()  # counted from the noise
        ladder = torch.from_numpy(times)
        return ladder[upper], ladder[(upper + self.skip).clamp_max(n)]

    def _scale(self, rng: Rng, step: int) -> Tensor | None:
        """Draw the guidance scale of each sample."""
        if self.guidance is None:
            return None
        low, high = self.guidance
        return low + (high - low) * rng.uniform(step=step, tag=_TAG_SCALE)

    def _clean(
        self, teacher: DenoiseFn, x: Tensor, t: Tensor, *, scale: Tensor | None, cond: Condition
    ) -> Tensor:
        """Return the x0 of the teacher, guided by one scale per sample."""
        with_cond: Tensor = teacher(x, t, **cond)
        if scale is None:
            return with_cond
        null = {name: _rows(value, len(x)) for name, value in (self.null or {}).items()}
        without: Tensor = teacher(x, t, **{**cond, **null})
        return without + expand(scale.to(x.device), x) * (with_cond - without)


def _ddim(path: Path, x: Tensor, x0: Tensor, *, t: Tensor, s: Tensor, mu: Tensor | None) -> Tensor:
    """Return the state at s on the line through `x` and `x0` in the frame of the data."""
    a = path.sigma(s) / path.sigma(t)
    moved = expand(a, x) * x + expand(path.alpha(s) - a * path.alpha(t), x) * x0
    return moved if mu is None else moved + expand(path.shift(s) - a * path.shift(t), x) * mu


def _on(path: Path, denoiser: DenoiseFn) -> DenoiseFn:
    return denoiser if path_of(denoiser) == path else OnPath(denoiser, path)


def _rows(value: Any, n: int) -> Any:
    """Return a condition with one row per sample, if it is a tensor with one in front."""
    alone = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 1
    return value.expand(n, *value.shape[1:]) if alone else value
