"""Fine-tune a few-step sampler as a whole: match the features of its samples to those of data.

    L = MMD^2( phi(x^K(z)), phi(x0) ),     x^K = the K-step walk of the plan from noise z

The gradient runs through every step of the walk. Each network call is checkpointed, so memory holds
K states and the graph of one call instead of K graphs, for one more forward pass.

The loss is a statistic of the batch, not a mean of terms of its samples: two half batches do not
make a whole one. Where `torch.distributed` runs, the features of all processes are therefore
gathered, and every process computes the loss of the global batch. A process only reaches its own
samples, so its gradient is its share `g_r` of `g = sum_r g_r`; a data-parallel trainer averages
over the `W` processes, which would give `g / W`. The gradient (not the value) is multiplied by `W`
to make up for it.

Source: Aiello, Valsesia and Magli 2023, arXiv:2301.07969; the estimator is Gretton et al. 2012,
lemma 6, JMLR 13:723.
"""

__all__ = ["MmdFinetune"]

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional

from medsci.core.check.distribution import Kernel, Polynomial, mmd
from medsci.core.denoise import Denoiser
from medsci.core.learn.coupling import Condition
from medsci.core.rng import Rng, mix64
from medsci.core.solve.ancestral import Ancestral
from medsci.core.solve.plan import AbstractSolver, GradMode

Features = Callable[[Tensor], Tensor]
_TAG_START, _TAG_WALK = 0x33D, 0x33E


def _pixels(x: Tensor) -> Tensor:
    """Return the entries of a sample as its features, complex ones as pairs."""
    return (torch.view_as_real(x) if x.is_complex() else x).flatten(1)


def _cubic() -> Kernel:
    return Polynomial(degree=3, offset=1.0)


@final
@dataclass(frozen=True, eq=False)
class MmdFinetune:
    """Unbiased MMD^2 between features of K-step samples and of the batch, an `Objective`.

    Start from a trained denoiser, take a small learning rate (5e-6 for images) and as large a batch
    as fits. The loss is unbiased, hence may be negative. It knows as much of the laws as its kernel
    on its features: the cubic kernel compares moments up to the third, so keep an eye on a distance
    that was not optimised.

    Args:
        grid: decreasing times of the walk, from (almost) pure noise to data.
        solver: makes the plan; DDIM if left out. A plan that adds noise draws it anew every step.
        features: maps samples (b, ...) to rows (b, d); differentiable, its weights frozen. Without
            it, the entries of the sample.
        kernel: of pairs of rows, `(n, d), (m, d) -> (n, m)`; `(<x, y> / d + 1)^3` if left out.
            A width fitted to the samples would move with them: give it as a number.
        grad: `checkpoint`, or `full` to trade memory for the time of one forward pass.

    Source: Aiello et al. 2023, arXiv:2301.07969.
    """

    grid: np.ndarray
    solver: AbstractSolver = field(default_factory=lambda: Ancestral(eta=0.0))
    features: Features = _pixels
    kernel: Kernel = field(default_factory=_cubic)
    grad: GradMode = "checkpoint"

    def __post_init__(self) -> None:
        if self.grad not in ("checkpoint", "full"):
            raise ValueError(f"grad={self.grad!r} came; fine-tuning needs checkpoint or full")

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
        """Return MMD^2 of the (global) batch, and what to log.

        `noise`, if it came, is where the walks start; the pairing itself has no meaning here. The
        dict says `loss`, MMD^2 repeated for each sample since it has no terms of its own, and `t`,
        the first time of the walk.

        Raises:
            ValueError: fewer than two samples in the global batch, features that are not one row
                per sample, or a path with a conditional mean, which plans do not take.
        """
        fake = self._rows(self.samples(denoiser, x0, rng=rng, step=step, noise=noise, cond=cond))
        with torch.no_grad():
            real = _gather(self._rows(x0))[0]
        everyone, processes = _gather(fake)
        if len(everyone) < 2:
            raise ValueError(
                "MMD^2 without bias needs pairs and one sample came; use a batch of two or more"
            )
        value = mmd(everyone, real, kernel=self.kernel)
        loss = value if processes == 1 else value.detach() + processes * (value - value.detach())
        shown = value.detach().to(x0.real.dtype).expand(len(x0))
        return loss, {"loss": shown, "t": torch.full_like(shown, float(self.grid[0]))}

    def samples(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> Tensor:
        """Return one differentiable sample of the walk per row of `x0`, which gives the shape."""
        path = denoiser.path
        if noise is None:
            noise = rng.normal(
                x0.shape, step=step, tag=_TAG_START, dtype=x0.dtype, device=x0.device
            )
        own = Rng(mix64(rng.seed, step, _TAG_WALK), rng.ids)  # a plan numbers its noise from zero
        x = float(path.sigma(float(self.grid[0]))) * noise
        plan = self.solver.plan(path, self.grid)
        return plan.run(denoiser, x, rng=own, cond=cond, grad=self.grad)

    def _rows(self, x: Tensor) -> Tensor:
        rows = self.features(x)
        if rows.ndim != 2 or len(rows) != len(x):
            raise ValueError(
                f"features have shape {tuple(rows.shape)} for {len(x)} samples; "
                "return one row of numbers per sample"
            )
        return rows.double()  # a cubic kernel of float32 rows loses the small difference


def _gather(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, own ones with their graph, and how many processes run.

    Processes may hold different numbers of rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows, 1
    processes, own = distributed.get_world_size(), distributed.get_rank()
    if processes == 1:
        return rows, 1
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(processes)]
    distributed.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = functional.pad(rows.detach(), (0, 0, 0, max(sizes) - len(rows))).contiguous()
    parts = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(parts, padded)
    kept = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    kept[own] = rows
    return torch.cat(kept), processes
