"""The Bernoulli process: masks that turn into fair coins.

    q(y_t = 1 | y_0) = gamma_t y_0 + (1 - gamma_t) / 2

Sources: Sohl-Dickstein et al. 2015, arXiv:1503.03585 (binomial diffusion); the bridge that averages
over the clean value is that of Austin et al. 2021, arXiv:2107.03006.
"""

__all__ = ["Bernoulli"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.process.path import Path, expand
from medsci.core.process.process import check_bridge
from medsci.core.rng import Rng

_TAG_COIN = 0xB1


@final
@dataclass(frozen=True)
class Bernoulli:
    """A process on masks of zeros and ones, held as floating-point tensors.

    The estimate `x0` of a bridge is a probability in [0, 1], not a mask: the denoiser of this
    process returns `P(y_0 = 1 | y_t)`.

    Args:
        schedule: `gamma(t)`, falling from 1 at `t = 0`, or a path, of which `gamma = alpha^2`: the
            chain `q(y_t | y_(t-1))` then flips with the rate beta of the Gaussian chain.
    """

    schedule: Path | Callable[[Any], Any]

    def gamma(self, t: float | Tensor) -> float | Tensor:
        """Return the correlation with the clean mask at `t`."""
        if isinstance(self.schedule, Path):
            alpha = self.schedule.alpha(t)
            return alpha * alpha
        return self.schedule(t)

    def prior(
        self,
        shape: Sequence[int],
        rng: Rng,
        *,
        dtype: torch.dtype = torch.float32,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Draw fair coins."""
        return _coins(torch.full(tuple(shape), 0.5, dtype=dtype), rng, step=-1)

    def perturb(
        self,
        x0: Float[Tensor, " b *d"],
        t: float | Tensor,
        rng: Rng,
        *,
        step: int = 0,
        cond: Mapping[str, Any] | None = None,
    ) -> tuple[Float[Tensor, " b *d"], Float[Tensor, " b *d"]]:
        """Draw `y_t` of clean masks; return it with the flips, 1 where it differs from them."""
        gamma = expand(self.gamma(t), x0)
        y_t = _coins(gamma * x0 + 0.5 * (1.0 - gamma), rng, step=step)
        return y_t, (y_t - x0).abs()

    def bridge(
        self,
        x_t: Float[Tensor, " b *d"],
        x0: Float[Tensor, " b *d"],
        *,
        t: float,
        s: float,
        rng: Rng,
        step: int,
        eta: float = 1.0,
        cond: Mapping[str, Any] | None = None,
    ) -> Float[Tensor, " b *d"]:
        """Draw `y_s` given `y_t` and the probability `x0` that the clean value is 1.

        Where the process is clean at `s`, the answer is the probability itself, not a draw of it.

        Raises:
            ValueError: not `0 <= s < t <= 1`, or eta outside [0, 1].
        """
        chance = self.chance(x_t, x0, t=t, s=s, eta=eta)
        return chance if float(self.gamma(s)) >= 1.0 else _coins(chance, rng, step=step)

    def chance(
        self,
        x_t: Float[Tensor, " b *d"],
        x0: Float[Tensor, " b *d"],
        *,
        t: float,
        s: float,
        eta: float = 1.0,
    ) -> Float[Tensor, " b *d"]:
        """Return `P(y_s = 1 | y_t, x0)`: the two exact posteriors, weighted by `x0` and `1 - x0`.

        Putting the probability into the posterior of a clean mask instead is another, wrong
        number, because that posterior is not linear in it.

        Args:
            x_t: the mask at `t`.
            x0: the probability that the clean value is 1.
            t: where the bridge starts.
            s: where it ends, earlier than t.
            eta: 1 is the posterior of the flipping chain. 0 keeps as much of `y_t` as the marginal
                allows, the discrete DDIM (Song et al. 2021, app. A, arXiv:2010.02502). In between
                one of the two is chosen, with probability eta for the first.

        Raises:
            ValueError: bad times or eta, gamma does not fall, or x0 is no probability.
        """
        check_bridge(t, s, eta=eta)
        gamma_t, gamma_s = float(self.gamma(t)), float(self.gamma(s))
        if not 0.0 <= gamma_t < gamma_s <= 1.0:
            raise ValueError(f"gamma goes from {gamma_s} to {gamma_t}; it must fall inside [0, 1]")
        if not bool(((x0 >= 0.0) & (x0 <= 1.0)).all()):
            raise ValueError(
                f"x0 has values from {x0.min():g} to {x0.max():g}; give probabilities, for "
                "instance the sigmoid of the network's logits"
            )
        keep = (1.0 - gamma_s) / (1.0 - gamma_t)
        kept = keep * x_t + (1.0 - keep) * x0  # the marginal at s, for x0 of 0 and of 1
        if eta == 0.0:
            return kept
        drawn = x0 * self._posterior(x_t, 1.0, gamma_t=gamma_t, gamma_s=gamma_s)
        drawn = drawn + (1.0 - x0) * self._posterior(x_t, 0.0, gamma_t=gamma_t, gamma_s=gamma_s)
        return eta * drawn + (1.0 - eta) * kept

    @staticmethod
    def _posterior(x_t: Tensor, y0: float, *, gamma_t: float, gamma_s: float) -> Tensor:
        """Return `P(y_s = 1 | y_t, y_0)` of the chain, by Bayes' rule on its two states."""
        ratio = gamma_t / gamma_s
        up = gamma_s * y0 + 0.5 * (1.0 - gamma_s)
        one = (ratio * x_t + 0.5 * (1.0 - ratio)) * up
        zero = (ratio * (1.0 - x_t) + 0.5 * (1.0 - ratio)) * (1.0 - up)
        return one / (one + zero)


def _coins(chance: Tensor, rng: Rng, *, step: int) -> Tensor:
    """Draw ones with these probabilities: a normal number below the quantile of its chance."""
    normal = rng.normal(
        chance.shape, step=step, tag=_TAG_COIN, dtype=chance.dtype, device=chance.device
    )
    return (normal < torch.special.ndtri(chance)).to(chance.dtype)
