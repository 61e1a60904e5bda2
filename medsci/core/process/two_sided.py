"""Two-sided stochastic interpolants: a bridge between two laws, neither of which need be Gaussian.

    x_t = a(t) x0 + b(t) x1 + g(t) z,      g(0) = g(1) = 0,  z standard normal

`x0` are data at `t = 0` and `x1` is the other side at `t = 1`: other data, a degraded image, or
noise. Four conditional means given `x_t` describe the bridge, and any two of them, one with the
noise in it, give all:

    b = E[a' x0 + b' x1 + g' z]            drift of the probability flow
    v = E[a' x0 + b' x1]                   the part of it without the noise
    eta = E[z]                             the noise
    score = grad ln p_t = -eta / g         and  b = v - g g' score = v + g' eta

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv:2303.08797.
"""

__all__ = ["Gamma", "InterpolantTarget", "Means", "TwoSided"]

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final, get_args

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.path import Time, _namespace, expand

Means = Literal["linear", "trig", "encoding", "mirror"]
Gamma = Literal["sqrt", "quadratic", "sin2", "none"]
InterpolantTarget = Literal["b", "v", "eta", "score"]


@final
@dataclass(frozen=True)
class TwoSided:
    """A choice of `(a, b, g)`.

        means      a                           b
        linear     1 - t                       t
        trig       cos(pi t / 2)               sin(pi t / 2)
        encoding   cos(pi t)^2 for t < 1/2     cos(pi t)^2 for t > 1/2: through pure noise
        mirror     1                           0: from a sample back to itself

        gamma      g
        sqrt       sqrt(scale t (1 - t))       a Brownian bridge; g' is infinite at both ends
        quadratic  scale t (1 - t)
        sin2       scale sin(pi t)^2
        none       0                           flow matching between two laws

    All methods take a float, a float64 array or a tensor.

    Args:
        means: how the two sides are mixed.
        gamma: how noise comes and goes.
        scale: strength of the noise, positive.
    """

    means: Means = "linear"
    gamma: Gamma = "sqrt"
    _: KW_ONLY
    scale: float = 1.0

    def __post_init__(self) -> None:
        for value, choices in ((self.means, get_args(Means)), (self.gamma, get_args(Gamma))):
            if value not in choices:
                raise ValueError(f"{value!r} came; choose one of {', '.join(choices)}")
        if not self.scale > 0.0:
            raise ValueError(f"scale={self.scale} came; give a positive one, or gamma='none'")

    def weights(self, t: Time) -> tuple[Time, Time, Time]:
        """Return `(a, b, g)` at `t`."""
        xp = _namespace(t)
        if self.means == "linear":
            return 1.0 - t, 1.0 * t, self._noise(t)
        if self.means == "trig":
            half = 0.5 * math.pi
            return xp.sin(half * (1.0 - t)), xp.sin(half * t), self._noise(t)
        if self.means == "mirror":
            return 1.0 + 0.0 * t, 0.0 * t, self._noise(t)
        square = xp.cos(math.pi * t) ** 2
        return (t < 0.5) * square, (t > 0.5) * square, self._noise(t)

    def rates(self, t: Time) -> tuple[Time, Time, Time]:
        """Return the derivatives `(a', b', g')` at `t`; `g'` of `sqrt` is infinite at the ends."""
        xp, zero = _namespace(t), 0.0 * t
        if self.means == "linear":
            return zero - 1.0, zero + 1.0, self._noise_rate(t)
        if self.means == "trig":
            half = 0.5 * math.pi
            fall = -half * xp.cos(half * (1.0 - t))
            return fall, half * xp.cos(half * t), self._noise_rate(t)
        if self.means == "mirror":
            return zero, zero, self._noise_rate(t)
        slope = -math.pi * xp.sin(2.0 * math.pi * t)
        return (t < 0.5) * slope, (t > 0.5) * slope, self._noise_rate(t)

    def heat(self, t: Time) -> Time:
        """Return `g g'`, half the rate of the noise variance, finite everywhere."""
        if self.gamma == "sqrt":
            return 0.5 * self.scale * (1.0 - 2.0 * t)
        return 0.0 * t if self.gamma == "none" else self._noise(t) * self._noise_rate(t)

    def _noise(self, t: Time) -> Time:
        xp = _namespace(t)
        if self.gamma == "sqrt":
            return xp.sqrt(self.scale * t * (1.0 - t))
        if self.gamma == "quadratic":
            return self.scale * t * (1.0 - t)
        return self.scale * xp.sin(math.pi * t) ** 2 if self.gamma == "sin2" else 0.0 * t

    def _noise_rate(self, t: Time) -> Time:
        if self.gamma == "sqrt":
            with np.errstate(divide="ignore"):
                return self.heat(t) / self._noise(t)
        if self.gamma == "quadratic":
            return self.scale * (1.0 - 2.0 * t)
        turn = 2.0 * math.pi
        rate = 0.5 * self.scale * turn * _namespace(t).sin(turn * t)
        return rate if self.gamma == "sin2" else 0.0 * t

    def perturb(
        self,
        x0: Shaped[Tensor, " b *d"],
        x1: Shaped[Tensor, " b *d"],
        *,
        t: float | Tensor,
        z: Shaped[Tensor, " b *d"],
    ) -> Shaped[Tensor, " b *d"]:
        """Return `a x0 + b x1 + g z`; a tensor `t` holds one time per sample."""
        a, b, g = (expand(c, x0) for c in self.weights(t))
        return a * x0 + b * x1 + g * z

    def target(
        self,
        name: InterpolantTarget,
        x0: Shaped[Tensor, " b *d"],
        *,
        x1: Shaped[Tensor, " b *d"],
        z: Shaped[Tensor, " b *d"],
        t: float | Tensor,
    ) -> Shaped[Tensor, " b *d"]:
        """Return what is regressed: its mean given `x_t` is `b`, `v`, `eta` or `score`.

        Raises:
            ValueError: the name is none of these, or the noise is asked of a bridge without any.
        """
        if name not in get_args(InterpolantTarget):
            raise ValueError(f"target {name!r} came; choose b, v, eta or score")
        if name in ("eta", "score") and self.gamma == "none":
            raise ValueError(f"{name} was asked of {self!r}, which has no noise; choose b or v")
        if name == "eta":
            return z
        if name == "score":
            return -z / expand(self.weights(t)[2], x0)
        a, b, g = (expand(c, x0) for c in self.rates(t))
        v = a * x0 + b * x1
        return v if name == "v" or self.gamma == "none" else v + g * z

    def b_from_v(self, v: Tensor, score: Tensor, *, t: float | Tensor) -> Tensor:
        """Return `b = v - g g' score`."""
        return v - expand(self.heat(t), v) * score

    def v_from_b(self, b: Tensor, score: Tensor, *, t: float | Tensor) -> Tensor:
        """Return `v = b + g g' score`."""
        return b + expand(self.heat(t), b) * score

    def score_from_eta(self, eta: Tensor, *, t: float | Tensor) -> Tensor:
        """Return `score = -eta / g`, for `t` strictly between the ends."""
        return -eta / expand(self.weights(t)[2], eta)

    def eta_from_score(self, score: Tensor, *, t: float | Tensor) -> Tensor:
        """Return `eta = -g score`."""
        return -expand(self.weights(t)[2], score) * score
