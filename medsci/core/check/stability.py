"""Stability: which step sizes a linear multistep method can take without blowing up.

For `y' = lambda y` and `q = step * lambda` a method with the polynomials rho and sigma multiplies
its errors by the roots of `rho(z) - q sigma(z)`. It is stable where every root has `|z| <= 1`.

The probability-flow equation in the frame `y = x / alpha` is `dy/dh = (y - x0) / h` with
`h = sigma / alpha`; along a data direction of variance l its slope is `h / (l + h^2)`, so a step
from h down to h' has `q = (h' - h) h / (l + h^2)`, real, negative and worst where `h^2` passes l.

With momentum, `b` is the weight of the newest direction in the moving average, and averaging adds
the factor `z - (1 - b)` to rho: see `medsci.core.solve.momentum`.
"""

__all__ = ["LinearMultistep", "ghvb_interval", "heavy_ball_interval"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from medsci.core.solve.momentum import ghvb_weights

_SLACK = 1e-9  # how far a computed root may lie outside the unit circle and count as on it


@final
@dataclass(frozen=True)
class LinearMultistep:
    """A linear multistep method `sum_j rho_j y_{n+j} = q sum_j sigma_j y_{n+j}`.

    Args:
        rho: coefficients of the states, highest power of z first; the first is not zero.
        sigma: coefficients of the slopes, highest power first; never longer than rho.

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, sec. III.2-3.
    """

    rho: tuple[float, ...]
    sigma: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rho) < 2 or self.rho[0] == 0.0 or not any(self.sigma):
            raise ValueError(
                f"rho={self.rho} and sigma={self.sigma} came; give rho of degree one or more with "
                "a leading coefficient, and a sigma that is not zero"
            )
        if len(self.sigma) > len(self.rho):
            raise ValueError(f"sigma of degree {len(self.sigma) - 1} came; give at most rho's")

    @classmethod
    def adams_bashforth(cls, order: int) -> "LinearMultistep":
        """Build the explicit method that integrates the last `order` slopes."""
        return cls._explicit((1.0, -1.0), _adams_bashforth(order))

    @classmethod
    def heavy_ball(cls, order: int, beta: float) -> "LinearMultistep":
        """Build Adams-Bashforth whose increments pass through `v <- (1 - b) v + b increment`."""
        weights = _adams_bashforth(order)
        return cls._explicit(_averaged(beta), tuple(beta * w for w in weights))

    @classmethod
    def ghvb(cls, order: int, beta: float) -> "LinearMultistep":
        """Build the method that averages directions first and corrects its weights for that."""
        weights = ghvb_weights(order, beta)
        return cls._explicit(_averaged(beta), tuple(beta * w for w in weights))

    @classmethod
    def _explicit(cls, rho: Sequence[float], weights: Sequence[float]) -> "LinearMultistep":
        """Build from `rho(z) = q z^(degree - 1) sum_j w_j z^-j`, both sides times a power of z."""
        degree = max(len(rho) - 1, len(weights))
        rho = (*rho, *(0.0,) * (degree + 1 - len(rho)))
        return cls(tuple(rho), (*weights, *(0.0,) * (degree - len(weights))))

    def roots(self, q: float | complex) -> np.ndarray:
        """Return the factors by which a step of `q` multiplies errors."""
        sigma = np.pad(np.asarray(self.sigma), (len(self.rho) - len(self.sigma), 0))
        return np.roots(np.asarray(self.rho) - q * sigma)

    def locus(self, n: int = 361) -> np.ndarray:
        """Return the boundary locus `rho(z) / sigma(z)` at `n` points of the unit circle.

        The region of stability is bounded by parts of this curve; it is infinite where sigma has a
        root on the circle.
        """
        z = np.exp(1j * np.linspace(0.0, 2.0 * math.pi, n))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.polyval(self.rho, z) / np.polyval(self.sigma, z)

    def is_stable(self, q: float | complex) -> bool:
        """Tell whether no root lies outside the unit circle."""
        return bool(np.all(np.abs(self.roots(q)) <= 1.0 + _SLACK))

    def real_interval(self) -> float:
        """Return the negative `q` at which real stability ends; `-inf` if it never does.

        A root can leave the unit circle only at a real value of `rho / sigma` on it. Between two
        such values nothing changes, so one test in each gap finds the first unstable one. Zero
        means unstable at every negative step.
        """
        ends = [0.0, *self._crossings()]
        middles = [0.5 * (a + b) for a, b in pairwise(ends)]
        middles.append(2.0 * ends[-1] - 1.0)
        unstable = (end for end, q in zip(ends, middles, strict=True) if not self.is_stable(q))
        return next(unstable, -math.inf)

    def _crossings(self) -> list[float]:
        """Return the negative real values of `rho / sigma` on the unit circle, nearest zero first.

        On the circle `1 / z` is the conjugate of z, so they are among the roots of
        `rho(z) sigma(1/z) - rho(1/z) sigma(z)`. A wrong one among them would only add a test.
        """
        sigma = np.pad(np.asarray(self.sigma), (len(self.rho) - len(self.sigma), 0))
        product = np.polymul(self.rho, sigma[::-1])
        roots = np.roots(np.trim_zeros(product - product[::-1], "f"))
        circle = [z / abs(z) for z in roots if abs(abs(z) - 1.0) < 1e-3]
        values = []
        for z in (-1.0, *circle):
            below = np.polyval(sigma, z)
            if abs(below) > 1e-12:
                values.append(float((np.polyval(self.rho, z) / below).real))
        return sorted((q for q in values if q < -1e-6), reverse=True)


def ghvb_interval(order: int, beta: float) -> float:
    """Return the end of the real stability interval of GHVB, `-2 (2 - b) / sigma(-1)`.

    `sigma(-1)` is the alternating sum of `b` times the weights: `-2 (2 - b) / b` for order 1,
    `-(2 - b)` for order 2, `-2 (2 - b) / (4 - b / 3)` for order 3. Own derivation: the root that
    leaves the circle first does so at `z = -1`, where `rho = (z - 1)(z - (1 - b))` is `2 (2 - b)`.
    """
    weights = ghvb_weights(order, beta)
    return -2.0 * (2.0 - beta) / (beta * _alternating(weights))


def heavy_ball_interval(order: int, beta: float) -> float:
    """Return the end of the real stability interval of a heavy ball on Adams-Bashforth.

    `(2 - b) / b` times that of the method itself: `-2 (2 - b) / b` for Euler.
    """
    _averaged(beta)
    return -2.0 * (2.0 - beta) / (beta * _alternating(_adams_bashforth(order)))


def _adams_bashforth(order: int) -> tuple[float, ...]:
    """Return the weights of the last `order` slopes, newest first: GHVB without an average."""
    return ghvb_weights(order, 1.0)


def _alternating(weights: Sequence[float]) -> float:
    """Return `sum_j w_j (-1)^j`, the weights at `z = -1`."""
    return math.fsum(weights[::2]) - math.fsum(weights[1::2])


def _averaged(beta: float) -> tuple[float, ...]:
    """Return `(z - 1)(z - (1 - b))`, for a moving average that gives the newest value weight b."""
    if not 0.0 < beta <= 1.0:
        raise ValueError(f"beta={beta} came; give the weight of the newest direction, in (0, 1]")
    return (1.0, beta - 2.0, 1.0 - beta)
