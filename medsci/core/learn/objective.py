"""Objectives: process + coupling + time law + metric give a loss."""

__all__ = ["Objective", "Regression"]

from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.learn.coupling import Condition, Coupling, Independent
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.learn.time_law import TimeLaw, Uniform
from medsci.core.process.path import expand
from medsci.core.rng import Rng

_TAG_NOISE = 0x2A


@runtime_checkable
class Objective(Protocol):
    """Anything that turns a batch into a loss."""

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss and what to log about each sample.

        Args:
            denoiser: what is trained.
            x0: clean samples.
            rng: streams of the samples.
            step: of the training, so that every step draws anew.
            cond: keyword arguments of the network, one row per sample in every entry.
        """
        ...


@final
@dataclass(frozen=True)
class Regression:
    """Regress the network's target on noisy samples.

    Draw `t` and `z`, form `x_t = alpha x0 + sigma z`, and compare the network output with
    `p x0 + q z`, where `(p, q)` is the denoiser's row. All predictions of the table in
    `medsci.core.process.pred` have the same minimiser, the conditional mean of x0; they differ in
    the weight they put on each noise level.

    Source: Ho et al. 2020, eq. 14, arXiv:2006.11239; Salimans and Ho 2022, arXiv:2202.00512.
    """

    time_law: TimeLaw = field(default_factory=Uniform)
    metric: Metric = field(default_factory=SquaredError)
    coupling: Coupling = field(default_factory=Independent)

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and `{"loss": (b,), "t": (b,)}` without gradients."""
        t = self.time_law(denoiser.path, rng, step=step).to(x0.device)
        losses = self.at(denoiser, x0, t, rng=rng, step=step, cond=cond)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    def at(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        t: Tensor,
        *,
        rng: Rng,
        step: int,
        cond: Condition | None = None,
    ) -> Tensor:
        """Return the loss of each sample at given times, for validation on a fixed grid."""
        z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        x0, z = self.coupling(x0, z, rng=rng, cond=cond)
        p, q = (expand(c, x0) for c in denoiser.row(t))
        known = dict(cond or {})
        x_t = denoiser.path.perturb(x0, t, z, mu=known.get("mu"))
        return self.metric(denoiser.predict(x_t, t, **known), p * x0 + q * z)
