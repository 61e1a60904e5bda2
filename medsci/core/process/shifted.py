"""Paths with a conditional mean: the noise ends around a given image `mu`, not around zero.

Residual diffusion and mean-reverting diffusion are the linear path `x_t = alpha x0 + shift mu +
sigma z` with `shift = 1 - alpha`. Subtract `shift mu` from the state and an ordinary path is left,
`Centred(path)`: on it every solver applies, with the denoiser `Shift(denoiser)` of
`medsci.core.denoise.wrappers`.
"""

__all__ = ["Centred", "FromResidual", "MeanReverting", "Residual", "Shifted"]

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, final

from torch import Tensor

from medsci.core.process.path import Path, Time, _namespace

Rate = Literal["constant", "linear", "cosine"]


@final
@dataclass(frozen=True)
class Residual(Path):
    """Residual diffusion, `x_t = x0 + A (mu - x0) + B z`: alpha = 1 - A, shift = A, sigma = B.

        A = 1 - (1 - t)^(1 + decrease)          its rate falls as (1 - t)^decrease
        B^2 = sum_scale t^(1 + increase)        its rate grows as t^increase

    Args:
        sum_scale: variance of the noise at `t = 1`; 0.01 for restoration, 1 for generation.
        decrease: 1 is the linearly falling residual rate of the source, 0 a constant one.
        increase: 1 is the linearly growing noise rate of the source, 0 a constant one.

    Source: Liu et al. 2024, arXiv:2308.13712; their tables are sums over T steps, which
    these powers are the limit of.
    """

    sum_scale: float = 0.01
    _: KW_ONLY
    decrease: float = 1.0
    increase: float = 1.0

    def __post_init__(self) -> None:
        if not (self.sum_scale > 0.0 and self.decrease >= 0.0 and self.increase >= 0.0):
            raise ValueError(f"{self!r} came; give sum_scale > 0, decrease >= 0 and increase >= 0")

    def alpha(self, t: Time) -> Time:
        """Return `1 - A`, zero at `t = 1`."""
        return (1.0 - t) ** (1.0 + self.decrease)

    def shift(self, t: Time) -> Time:
        """Return `A`, one at `t = 1`."""
        return 1.0 - self.alpha(t)

    def sigma(self, t: Time) -> Time:
        """Return `B`."""
        return math.sqrt(self.sum_scale) * t ** (0.5 + 0.5 * self.increase)


@final
@dataclass(frozen=True)
class MeanReverting(Path):
    """Mean-reverting diffusion: `dx = theta (mu - x) dt + sqrt(2 theta) level dw`.

        alpha = exp(-int theta), shift = 1 - alpha, sigma = level sqrt(1 - alpha^2)

    Args:
        level: standard deviation of the noise around mu, in units of the data.
        remaining: alpha at `t = 1`, the share of the data that is left, in (0, 1).
        rate: theta is `constant`, grows as `linear` in t, or follows `1 - abar(t)` of the `cosine`
            schedule, as in the source.

    Source: Luo et al. 2023, arXiv:2301.11699.
    """

    level: float = 50.0 / 255.0
    remaining: float = 0.005
    rate: Rate = "cosine"

    def __post_init__(self) -> None:
        if not (self.level > 0.0 and 0.0 < self.remaining < 1.0):
            raise ValueError(f"{self!r} came; give level > 0 and remaining in (0, 1)")
        if self.rate not in ("constant", "linear", "cosine"):
            raise ValueError(f"rate {self.rate!r} came; choose constant, linear or cosine")

    def _log_alpha(self, t: Time) -> Time:
        total = math.log(self.remaining)
        if self.rate == "constant":
            return total * t
        if self.rate == "linear":
            return total * t * t
        return (total / float(_cosine_area(1.0))) * _cosine_area(t)

    def alpha(self, t: Time) -> Time:
        """Return `exp(-int theta)`."""
        return _namespace(t).exp(self._log_alpha(t))

    def shift(self, t: Time) -> Time:
        """Return `1 - alpha`, without cancellation near `t = 0`."""
        return -_namespace(t).expm1(self._log_alpha(t))

    def sigma(self, t: Time) -> Time:
        """Return `level sqrt(1 - alpha^2)`, without cancellation near `t = 0`."""
        xp = _namespace(t)
        return self.level * xp.sqrt(-xp.expm1(2.0 * self._log_alpha(t)))


def _cosine_area(t: Time) -> Time:
    """Return `int_0^t 1 - abar`, up to a factor, for the cosine schedule of offset 0.008."""
    xp, turn = _namespace(t), math.pi / 1.008
    start = 0.008 * turn  # 1 - abar is cos(start) - cos(turn t + start), up to a factor
    area = t * math.cos(start) - (xp.sin(turn * t + start) - math.sin(start)) / turn
    return abs(area)  # of round-off below t = 1e-14, where the area is 0.04 t^2


@final
@dataclass(frozen=True)
class Shifted(Path):
    """Any path, made to end around a conditional mean: `shift = 1 - alpha`."""

    path: Path

    def alpha(self, t: Time) -> Time:
        """Return the weight of the data on the path."""
        return self.path.alpha(t)

    def shift(self, t: Time) -> Time:
        """Return `1 - alpha`."""
        return 1.0 - self.path.alpha(t)

    def sigma(self, t: Time) -> Time:
        """Return the noise of the path."""
        return self.path.sigma(t)

    def angle(self, t: Time) -> Time:
        """Return the angle of the path."""
        return self.path.angle(t)


@final
@dataclass(frozen=True)
class Centred(Path):
    """The same path without its conditional mean: the path of the states `y = x - shift mu`.

    Where `shift = 1 - alpha`, the states `x - mu` of the data `x0 - mu` follow it as well.
    """

    path: Path

    def alpha(self, t: Time) -> Time:
        """Return the weight of the data on the path."""
        return self.path.alpha(t)

    def sigma(self, t: Time) -> Time:
        """Return the noise of the path."""
        return self.path.sigma(t)

    def angle(self, t: Time) -> Time:
        """Return the angle of the path."""
        return self.path.angle(t)


@final
@dataclass(frozen=True)
class FromResidual:
    """A network of the residual `mu - x0`, as a denoiser: `x0 = mu - net(x, t, mu=mu)`.

    This is no row of the 2x2 map of predictions, because the residual holds mu besides x0 and z.
    Nothing is clamped: residuals of data in [-1, 1] reach 2.

    Args:
        net: takes the state, the time and `mu`.
        path: the path of the states, for the solver; the residual does not depend on it.

    Source: the head that Liu et al. 2024, arXiv:2308.13712, call SM-Res.
    """

    net: Callable[..., Tensor]
    path: Path

    def __call__(self, x: Tensor, t: float | Tensor, *, mu: Tensor, **cond: Any) -> Tensor:
        """Return x0."""
        return mu - self.net(x, t, mu=mu, **cond)
