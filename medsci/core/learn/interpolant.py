"""The objective of two-sided interpolants: regress the drift, the velocity, the noise or the score.

With the target T of `TwoSided.target`, the loss is `|f|^2 / 2 - T f`, the squared error without
`|T|^2 / 2`: the target of `b` has infinite variance where `g' -> inf`, and this form does not see
it. Every draw of z is used with both signs, which removes what is odd in z: the two network outputs
differ by as little as the two states do, and the singular factor cancels.

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797.
"""

__all__ = ["InterpolantRegression"]

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.process.two_sided import InterpolantTarget, TwoSided
from medsci.core.rng import Rng

_TAG_NOISE = 0x2B
_TAG_TIME = 0x72


@final
@dataclass(frozen=True)
class InterpolantRegression:
    """Regress one of the four conditional means of a two-sided interpolant.

    Args:
        interpolant: the bridge.
        pred: what the network `net(x_t, t, **cond)` outputs.
        antithetic: use every z with both signs; `b` and `score` need it near the ends.
        margin: times are uniform in `[margin, 1 - margin)`.
    """

    interpolant: TwoSided
    pred: InterpolantTarget = "b"
    _: KW_ONLY
    antithetic: bool = True
    margin: float = 1e-3

    def __post_init__(self) -> None:
        if not 0.0 <= self.margin < 0.5:
            raise ValueError(f"margin={self.margin} came; give one in [0, 0.5)")

    def __call__(
        self,
        net: Callable[..., Tensor],
        x0: Shaped[Tensor, " b *d"],
        *,
        x1: Shaped[Tensor, " b *d"],
        rng: Rng,
        step: int,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the mean loss and `{"loss": (b,), "t": (b,)}` without gradients.

        Row by row, `x0` and `x1` are the pairs of the coupling. The loss has no lower bound at
        zero: at its minimum it is minus half the mean square of the conditional mean.
        """
        u = rng.uniform(step=step, tag=_TAG_TIME).to(x0.device)
        t = self.margin + (1.0 - 2.0 * self.margin) * u
        losses = self.at(net, x0, x1=x1, t=t, rng=rng, step=step, cond=cond)
        return losses.mean(), {"loss": losses.detach(), "t": t}

    def at(
        self,
        net: Callable[..., Tensor],
        x0: Shaped[Tensor, " b *d"],
        *,
        x1: Shaped[Tensor, " b *d"],
        t: Float[Tensor, " b"],
        rng: Rng,
        step: int,
        cond: Mapping[str, Any] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the loss of each sample at given times, averaged over its entries."""
        z = rng.normal(x0.shape, step=step, tag=_TAG_NOISE, dtype=x0.dtype, device=x0.device)
        losses = self._one(net, x0, x1=x1, z=z, t=t, cond=cond)
        if not self.antithetic:
            return losses
        return 0.5 * (losses + self._one(net, x0, x1=x1, z=-z, t=t, cond=cond))

    def _one(
        self,
        net: Callable[..., Tensor],
        x0: Tensor,
        *,
        x1: Tensor,
        z: Tensor,
        t: Tensor,
        cond: Mapping[str, Any] | None,
    ) -> Tensor:
        x_t = self.interpolant.perturb(x0, x1, t=t, z=z)
        target = self.interpolant.target(self.pred, x0, x1=x1, z=z, t=t)
        f = net(x_t, t, **(cond or {}))
        product = (f.conj() * (0.5 * f - target)).real if f.is_complex() else f * (0.5 * f - target)
        return product.flatten(1).mean(1)
