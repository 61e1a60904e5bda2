"""Objectives: process + coupling + time law + metric give a loss."""

__all__ = ["Objective", "Regression"]

from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.learn.condition import ConditionDropout
from medsci.core.learn.coupling import Condition, Coupling, Independent
from medsci.core.learn.metric import Metric, SquaredError
from medsci.core.learn.time_law import TimeLaw, Uniform
from medsci.core.learn.weight import AsPredicted, Weight
from medsci.core.process.path import expand
from medsci.core.process.pred import x0_weights
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
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss and what to log about each sample.

        Args:
            denoiser: what is trained.
            x0: clean samples.
            rng: streams of the samples.
            step: of the training, so that every step draws anew.
            noise: what each sample was paired with beforehand (pairs of a reflow), of unit law and
                the shape of `x0`; without it, independent noise is drawn from `rng`.
            cond: keyword arguments of the network, one row per sample in every entry.
        """
        ...


@final
@dataclass(frozen=True)
class Regression:
    """Regress the network's target on noisy samples.

    Draw `t` and `z`, form `x_t = alpha x0 + sigma z`, and compare the network output `f_hat` with
    `f = p x0 + q z`, where `(p, q)` is the denoiser's row:

        loss = weight(t) metric(f_hat, f) + x0_weight(t) x0_metric(x0_hat, x0)

    All predictions of the table in `medsci.core.process.pred` have the same minimiser of the
    squared error, the conditional mean of x0; they differ in the weight they put on each noise
    level.

    Args:
        time_law: the levels that are trained.
        metric: of the network's output.
        coupling: of noise and samples.
        weight: of the levels.
        x0_metric: a second metric, of the x0 that the same output stands for; none by default.
        x0_weight: its weight; where the output does not determine x0 (`eps` at pure noise) it
            must vanish or the time law must keep away.
        dropout: of conditions, in training; `at` leaves them in place.

    Source: Ho et al. 2020, eq. 14, arXiv:2006.11239; Salimans and Ho 2022, arXiv:2202.00512; two
    metrics after Lee et al. 2024, arXiv:2405.20320.
    """

    time_law: TimeLaw = field(default_factory=Uniform)
    metric: Metric = field(default_factory=SquaredError)
    coupling: Coupling = field(default_factory=Independent)
    _: KW_ONLY
    weight: Weight = field(default_factory=AsPredicted)
    x0_metric: Metric | None = None
    x0_weight: Weight = field(default_factory=AsPredicted)
    dropout: ConditionDropout | None = None

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
        t = self.time_law(denoiser.path, rng, step=step).to(x0.device)
        if self.dropout is not None:
            cond, _ = self.dropout(cond, rng=rng, step=step)
        losses = self.at(denoiser, x0, t, rng=rng, step=step, noise=noise, cond=cond)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    def at(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        t: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: Condition | None = None,
    ) -> Tensor:
        """Return the loss of each sample at given times, for validation on a fixed grid.

        Raises:
            ValueError: the noise has not the shape of the samples.
        """
        if noise is not None and noise.shape != x0.shape:
            raise ValueError(
                f"noise of shape {tuple(noise.shape)} came with samples of {tuple(x0.shape)}; "
                "give one of equal shape, or none"
            )
        z = noise
        if z is None:
            z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        x0, z = self.coupling(x0, z, rng=rng, step=step, cond=cond)
        p, q = (expand(c, x0) for c in denoiser.row(t))
        known = dict(cond or {})
        x_t = denoiser.path.perturb(x0, t, z, mu=known.get("mu"))
        f = denoiser.predict(x_t, t, **known)
        losses = _weighed(self.weight, self.metric(f, p * x0 + q * z), denoiser, t)
        if self.x0_metric is None:
            return losses
        x0_hat = _clean(denoiser, f, x_t, t=t, mu=known.get("mu"))
        return losses + _weighed(self.x0_weight, self.x0_metric(x0_hat, x0), denoiser, t)


def _weighed(weight: Weight, losses: Tensor, denoiser: Denoiser, t: Tensor) -> Tensor:
    if isinstance(weight, AsPredicted):  # keep the bits of the plain loss
        return losses
    return weight(denoiser, t).to(losses) * losses


def _clean(denoiser: Denoiser, f: Tensor, x_t: Tensor, *, t: Tensor, mu: Tensor | None) -> Tensor:
    """Return the x0 that an output stands for, without another call of the network."""
    alpha, sigma = denoiser.coefficients(t)
    weights = x0_weights(denoiser.pred, alpha, sigma, sigma_data=denoiser.sigma_data)
    on_x, on_f = (expand(c, x_t) for c in weights)
    centred = x_t if mu is None else x_t - expand(denoiser.path.shift(t), x_t) * mu
    return on_x * centred + on_f * f
