"""Pairs of noise and the samples that a flow makes of it, and how to learn from them.

A regression on independent noise and data learns a flow whose trajectories bend, because the chords
between the pairs cross. Walk that flow from fresh noise, keep noise and end as a pair, and train
again on the pairs (`Regression` with `noise=`): the transport costs of the new flow are no higher,
its trajectories are straighter, and one step of it goes further. On other paths than the rectified
one the same pairs make the noise estimate constant along each trajectory, which is what one step
needs (`medsci.core.check.straightness.noise_drift`). `OneStep` learns the step itself.

The noise of a pair has unit law, and the walk of a pair begins where `sample` begins: at `sigma z +
shift mu`, without data. A state `path.perturb(x0, 1, z)` differs from that by `alpha(1) x0`, which
is zero on paths that end at pure noise.

Source: Liu et al. 2022, sec. 2.2, arXiv:2209.03003; pairs on any path after Wang et al. 2024,
arXiv:2410.07303.
"""

__all__ = ["OneStep", "invert_pairs", "reflow_pairs"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.denoise import Denoiser, Shift
from medsci.core.denoise.wrappers import path_of
from medsci.core.learn.coupling import Condition
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.process.path import Path
from medsci.core.process.shifted import Centred
from medsci.core.rng import Rng
from medsci.core.solve import AbstractSolver, auto, sample

DenoiseFn = Callable[..., Tensor]
_TAG_LIFT = 0x4C


def reflow_pairs(
    denoiser: DenoiseFn,
    shape: Sequence[int],
    *,
    rng: Rng,
    steps: int | None = None,
    solver: AbstractSolver | Literal["auto"] = "auto",
    grid: np.ndarray | None = None,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Shaped[Tensor, " b *d"], Shaped[Tensor, " b *d"]]:
    """Draw unit noise `z`, walk the flow to its end `x0`, and return `(x0, z)`.

    The sample is the one that `sample` draws with the seed and the ids of `rng`, bit for bit, so a
    pair does not depend on the batch it was made in. For guided pairs pass `Guided(denoiser, ...)`,
    best with solver and grid, as it has no `sigma_data` to choose them by; the pairs then carry the
    condition, and the student needs no guidance.

    Args:
        denoiser: the teacher, with a `path`.
        shape: of the batch, samples first.
        rng: one stream per sample.
        steps: network evaluations, if no grid is given.
        solver: a deterministic one; `auto` chooses by the number of steps.
        grid: decreasing times that end where the samples should be clean.
        cond: keyword arguments of every call of the denoiser, one row per sample.
        dtype: of the pairs, real or complex.
        device: of the pairs.

    Raises:
        ValueError: the solver adds noise, so that its start does not determine its end; or as
            `sample` does.
    """
    if not isinstance(solver, str):
        path = path_of(denoiser)
        times = auto(path, steps or 2)[1] if grid is None else grid
        plan = solver.plan(Centred(path) if path.shifted else path, times)
        if any(step.z for step in plan.steps):
            raise ValueError(
                f"{type(solver).__name__} adds noise on its way, so noise and sample are no pair; "
                "use a deterministic solver, Multistep() or RungeKutta()"
            )
    x0 = sample(
        denoiser, shape, steps=steps, solver=solver, grid=grid, seed=rng.seed, ids=rng.ids,
        cond=cond, dtype=dtype, device=device,
    )  # fmt: skip
    return x0, rng.normal(shape, step=-1, dtype=dtype, device=device)  # as `sample` draws it


def invert_pairs(
    denoiser: DenoiseFn,
    x0: Shaped[Tensor, " b *d"],
    *,
    rng: Rng,
    solver: AbstractSolver,
    grid: np.ndarray,
    cond: Mapping[str, Any] | None = None,
) -> tuple[Shaped[Tensor, " b *d"], Shaped[Tensor, " b *d"]]:
    """Walk real samples up the flow to their noise, and return `(x0, z)`.

    Where the data fill fewer dimensions than the state, nothing of the noise is in a clean sample,
    and the flow cannot be followed from `t = 0`. So the sample is first given the little noise of
    `grid[0]`, drawn from `rng`; the pair is blurred by as much, and the law of `z` is kept.

    Args:
        denoiser: the teacher, with a `path`.
        x0: real samples.
        rng: one stream per sample, for the first bit of noise.
        solver: a deterministic one.
        grid: increasing times, from a little noise to (nearly) noise alone.
        cond: keyword arguments of every call of the denoiser, one row per sample.

    Raises:
        ValueError: the grid does not increase, or the solver cannot walk it.

    Source: inverted pairs after Lee et al. 2024, sec. 4, arXiv:2405.20320.
    """
    path = path_of(denoiser)
    first, last = float(grid[0]), float(grid[-1])
    if not 0.0 < first < last:
        raise ValueError(
            f"a grid from t={first:g} to t={last:g} came; pairs of real samples need one that "
            "increases from a little noise, such as grid.angle(path, 40, sigma_min=0.02)[::-1]"
        )
    known = dict(cond or {})
    mu = known.get("mu")
    lift = rng.normal(x0.shape, step=-1, tag=_TAG_LIFT, dtype=x0.dtype, device=x0.device)
    walker: Any = denoiser
    if path.shifted:
        if mu is None:
            raise ValueError(f"{path!r} has a conditional mean; pass it as cond={{'mu': ...}}")
        walker = Shift(denoiser)  # states without the mean; the shift ends at zero
    start = float(path.alpha(first)) * x0 + float(path.sigma(first)) * lift
    end = solver.plan(walker.path, grid).run(walker, start, rng=rng, cond=known)
    return x0, end / float(path.sigma(last))


@final
@dataclass(frozen=True)
class OneStep:
    """Learn, at the noise end alone, which sample of a pair a noise belongs to.

    `metric(x0_hat(sigma z + shift mu, t), x0)` at one time, from the state at which `sample`
    begins: after training, `sample(student, grid=np.array([t, 0.0]), solver=Multistep("eps",
    order=1))` is one network call. With the squared error on shuffled or independent pairs the
    answer is the mean of the data.

    Args:
        metric: any; perceptual ones serve images.
        t: the time of the noise end; below 1 for predictions that do not determine x0 at pure
            noise (`eps` on paths with `alpha(1) = 0`).

    Source: Liu et al. 2022, sec. 3.2 (distillation), arXiv:2209.03003; with any metric as Liu et
    al. 2023 (InstaFlow), arXiv:2309.06380.
    """

    metric: Metric = field(default_factory=SquaredError)
    t: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.t <= 1.0:
            raise ValueError(f"t={self.t} came; give the time of the noise end, in (0, 1]")

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
            ValueError: no noise of pairs came, or x0 cannot be read from the prediction at `t`.
        """
        if noise is None:
            raise ValueError("OneStep learns pairs; pass the noise of each sample as noise=")
        start = self.start(denoiser.path, noise, cond=cond)
        losses = self.metric(self.step(denoiser, start, cond=cond), x0)
        times = torch.full((len(x0),), self.t, dtype=torch.float64, device=x0.device)
        return losses.mean(), {"loss": losses.detach(), "t": times}

    def start(
        self, path: Path, z: Shaped[Tensor, " b *d"], *, cond: Condition | None = None
    ) -> Shaped[Tensor, " b *d"]:
        """Return the state at which a walk from unit noise begins, `sigma z + shift mu`."""
        state = float(path.sigma(self.t)) * z
        if not path.shifted:
            return state
        mu = (cond or {}).get("mu")
        if mu is None:
            raise ValueError(f"{path!r} has a conditional mean; pass it as cond={{'mu': ...}}")
        return state + float(path.shift(self.t)) * mu

    def step(
        self, denoiser: Denoiser, start: Shaped[Tensor, " b *d"], *, cond: Condition | None = None
    ) -> Shaped[Tensor, " b *d"]:
        """Return the x0 of a denoiser at the noise end.

        Raises:
            ValueError: its prediction does not determine x0 there.
        """
        if denoiser.pred in ("eps", "score") and float(denoiser.path.alpha(self.t)) == 0.0:
            raise ValueError(
                f"pred={denoiser.pred!r} does not determine x0 at pure noise, t={self.t:g}; give a "
                "t a little below 1, or a student that predicts v, flow or x0"
            )
        return denoiser(start, self.t, **(cond or {}))
