"""Paths: how much data and how much noise a state holds at time `t`.

Every path has the form `x_t = alpha(t) x0 + shift(t) mu + sigma(t) z`, with `t = 0` at the data and
`t = 1` at the noise, for diffusion and flow alike. Four functions of `t` are derived from it:

    sigma_hat = sigma / alpha                 the noise level of Karras et al. 2022
    log_snr   = ln(alpha / sigma)             half the log signal-to-noise ratio, "lambda"
    angle     = atan2(sigma, alpha)           finite at both ends, in [0, pi / 2]
    ratio     = sigma / (alpha + sigma)       the time of the rectified flow with equal SNR

Two paths with equal angle differ by a scale only, so solvers and denoisers carry over from one to
the other. Coefficients accept a float, a float64 array (host side) or a tensor (training).
"""

__all__ = ["Path", "Rectified", "Tabulated", "VarianceExploding", "VpCosine", "VpLinear"]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor

Time = TypeVar("Time", float, np.ndarray, Tensor, float | Tensor)


def _namespace(t: Any) -> ModuleType:
    return torch if isinstance(t, Tensor) else np


class Path(ABC):
    """Coefficients of `x_t = alpha x0 + shift mu + sigma z`; build one by a constructor below.

    Paths are values: hashable, comparable, without state. `angle` must grow strictly with `t`.
    """

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """Return the weight of the data at `t`."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """Return the standard deviation of the noise at `t`."""

    def shift(self, t: Time) -> Time:
        """Return the weight of the conditional mean `mu` at `t`; zero unless a path has one."""
        return 0.0 * t

    @property
    def shifted(self) -> bool:
        """Whether a conditional mean takes part, so that states need `mu`."""
        return bool(np.any(self.shift(np.linspace(0.0, 1.0, 5)) != 0.0))

    def angle(self, t: Time) -> Time:
        """Return `atan2(sigma, alpha)`, in `[0, pi / 2]` and finite at both ends."""
        arctan2: Any = torch.atan2 if isinstance(t, Tensor) else np.arctan2
        return arctan2(self.sigma(t), self.alpha(t))

    def log_snr(self, t: Time) -> Time:
        """Return `ln(alpha / sigma)`; infinite where either is zero."""
        xp = _namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def time_at_angle(self, angle: float | np.ndarray) -> np.ndarray:
        """Return the `t` at which the path has this angle, by bisection to the last float64 bit.

        Raises:
            ValueError: the path never reaches that angle.
        """
        wanted = np.asarray(angle, dtype=np.float64)
        ends = self.angle(np.array([0.0, 1.0]))
        slack = 1e-12
        if np.any(wanted < ends[0] - slack) or np.any(wanted > ends[1] + slack):
            raise ValueError(
                f"angles {wanted.min():.6g} to {wanted.max():.6g} were asked for, but {self!r} "
                f"covers {ends[0]:.6g} to {ends[1]:.6g}; choose sigma_min and sigma_max inside"
            )
        low, high = np.zeros_like(wanted), np.ones_like(wanted)
        for _ in range(110):
            middle = 0.5 * (low + high)
            below = self.angle(middle) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.where(wanted >= ends[1], 1.0, np.where(wanted <= ends[0], 0.0, high))

    def time_at_sigma_hat(self, sigma_hat: float | np.ndarray) -> np.ndarray:
        """Return the `t` at which `sigma / alpha` has this value."""
        return self.time_at_angle(np.arctan(np.asarray(sigma_hat, dtype=np.float64)))

    def time_at_log_snr(self, log_snr: float | np.ndarray) -> np.ndarray:
        """Return the `t` at which `ln(alpha / sigma)` has this value."""
        return self.time_at_sigma_hat(np.exp(-np.asarray(log_snr, dtype=np.float64)))

    def perturb(
        self, x0: Tensor, t: float | Tensor, z: Tensor, *, mu: Tensor | None = None
    ) -> Tensor:
        """Return `alpha x0 + shift mu + sigma z`; a tensor `t` holds one time per sample."""
        x_t = expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * z
        if mu is not None:
            return x_t + expand(self.shift(t), x0) * mu
        if self.shifted:
            raise ValueError(f"{self!r} has a conditional mean; pass mu=, one per sample")
        return x_t

    @staticmethod
    def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> "VpLinear":
        """Build the variance-preserving path with a linear rate (DDPM, Song et al. 2021)."""
        return VpLinear(beta_min, beta_max)

    @staticmethod
    def vp_cosine(offset: float = 0.0) -> "VpCosine":
        """Build the trigonometric path; `offset = 0.008` is Nichol and Dhariwal's."""
        return VpCosine(offset)

    @staticmethod
    def ve(
        sigma_max: float = 80.0, sigma_min: float = 0.0, rho: float = 7.0
    ) -> "VarianceExploding":
        """Build the variance-exploding path; `rho = inf` is the geometric law of Song et al."""
        return VarianceExploding(sigma_max, sigma_min, rho)

    @staticmethod
    def rectified() -> "Rectified":
        """Build the straight path of rectified flow and flow matching."""
        return Rectified()

    @staticmethod
    def tabulated(alphas_bar: Sequence[float] | np.ndarray) -> "Tabulated":
        """Build a path through a discrete schedule, for published 1000-step checkpoints."""
        return Tabulated(tuple(float(a) for a in alphas_bar))


def expand(coefficient: float | Tensor, like: Tensor) -> float | Tensor:
    """Return a per-sample coefficient shaped to broadcast over `like`, floats unchanged."""
    if isinstance(coefficient, Tensor) and coefficient.ndim == 1:
        return coefficient.reshape(-1, *(1,) * (like.ndim - 1)).to(like.real.dtype)
    return coefficient


@final
@dataclass(frozen=True)
class VpLinear(Path):
    """Variance preserving, `ln alpha = -(b1 - b0) t^2 / 4 - b0 t / 2`.

    Source: Song et al. 2021, eq. 33, arXiv:2011.13456.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Time) -> Time:
        return -0.25 * (self.beta_max - self.beta_min) * t * t - 0.5 * self.beta_min * t

    def alpha(self, t: Time) -> Time:
        """Return `exp(ln alpha)`."""
        return _namespace(t).exp(self._log_alpha(t))

    def sigma(self, t: Time) -> Time:
        """Return `sqrt(1 - alpha^2)`, computed without cancellation near `t = 0`."""
        xp = _namespace(t)
        return xp.sqrt(-xp.expm1(2.0 * self._log_alpha(t)))


@final
@dataclass(frozen=True)
class VpCosine(Path):
    """Variance preserving along the unit circle: `alpha = cos`, `sigma = sin` of one angle.

    With an offset `s` the angle runs from `s / (1 + s) pi / 2` to `pi / 2`. Source: Nichol and
    Dhariwal 2021, eq. 17, arXiv:2102.09672, without their division by the value at zero, so that
    `t = 0` keeps a little noise when `s > 0`.
    """

    offset: float = 0.0

    def _angle(self, t: Time) -> Time:
        return (t + self.offset) * (0.5 * math.pi / (1.0 + self.offset))

    def alpha(self, t: Time) -> Time:
        """Return the cosine, exactly zero at `t = 1`."""
        return _namespace(t).sin(0.5 * math.pi - self._angle(t))

    def sigma(self, t: Time) -> Time:
        """Return the sine."""
        return _namespace(t).sin(self._angle(t))


@final
@dataclass(frozen=True)
class VarianceExploding(Path):
    """`alpha = 1` and a noise level that grows as a power of time.

        sigma = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho

    A uniform grid in `t` is then the grid of Karras et al. 2022 (eq. 5, arXiv:2206.00364), and
    `rho = inf` is the geometric law of Song et al. 2021, which needs `sigma_min > 0`.
    """

    sigma_max: float = 80.0
    sigma_min: float = 0.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigma_min < self.sigma_max:
            ends = f"sigma_min={self.sigma_min} and sigma_max={self.sigma_max}"
            raise ValueError(f"{ends} came; choose 0 <= sigma_min < sigma_max")
        if math.isinf(self.rho) and self.sigma_min == 0.0:
            raise ValueError("the geometric law (rho=inf) came with sigma_min=0; give one > 0")

    def alpha(self, t: Time) -> Time:
        """Return one."""
        return 1.0 + 0.0 * t

    def sigma(self, t: Time) -> Time:
        """Return the noise level."""
        if math.isinf(self.rho):
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            return _namespace(t).exp(low + (high - low) * t)
        low, high = self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)
        return (low + (high - low) * t) ** self.rho


@final
@dataclass(frozen=True)
class Rectified(Path):
    """Straight interpolation, `x_t = (1 - t) x0 + t z`; Liu et al. 2022, arXiv:2209.03003."""

    def alpha(self, t: Time) -> Time:
        """Return `1 - t`."""
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        """Return `t`."""
        return 1.0 * t


@final
@dataclass(frozen=True)
class Tabulated(Path):
    """A discrete variance-preserving schedule made continuous.

    Step `i = 0 .. T - 1` of the table sits at `t = (i + 1) / T`; `t = 0` is clean data. In between
    the angle follows a monotone cubic (Fritsch and Carlson 1980), exact at the nodes. The angle,
    unlike the log-SNR, is finite at clean data and at zero terminal SNR.

    Args:
        alphas_bar: cumulative products `alpha^2` of the schedule, falling strictly in [0, 1).
    """

    alphas_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        table = np.array([1.0, *self.alphas_bar])
        if len(table) < 3 or not np.all(np.diff(table) < 0.0) or table[-1] < 0.0:
            ends = self.alphas_bar[:1] + self.alphas_bar[-1:]
            raise ValueError(
                f"alphas_bar must fall strictly inside [0, 1); {len(self.alphas_bar)} values came, "
                f"first and last {ends}; pass cumprod(1 - beta)"
            )

    @cached_property
    def _hash(self) -> int:
        return hash(self.alphas_bar)

    def __hash__(self) -> int:
        """Return the hash of the table, computed once: paths are keys of look-ups in the loop."""
        return self._hash

    @cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        table = np.array([1.0, *self.alphas_bar])
        angles = np.arctan2(np.sqrt(1.0 - table), np.sqrt(table))
        secants = np.diff(angles)
        slopes = np.empty_like(angles)
        total = secants[:-1] + secants[1:]  # zero where neighbours are equal in float64
        slopes[1:-1] = 2.0 * secants[:-1] * secants[1:] / np.where(total > 0.0, total, 1.0)
        slopes[0], slopes[-1] = secants[0], secants[-1]
        return angles, slopes

    def angle(self, t: Time) -> Time:
        """Return the interpolated angle."""
        nodes: Any = self._nodes
        n = len(nodes[0]) - 1
        if isinstance(t, Tensor):
            position: Any = t.to(torch.float64) * n
            cell: Any = position.floor().clamp(0, n - 1).long()
            nodes = [torch.as_tensor(a, device=t.device) for a in nodes]
        else:
            position = np.asarray(t, dtype=np.float64) * n
            cell = np.clip(np.floor(position), 0, n - 1).astype(np.int64)
        value, slope = nodes
        u = position - cell
        rise = value[cell + 1] - value[cell]
        bend = slope[cell] + slope[cell + 1] - 2.0 * rise
        cubic = value[cell] + u * (slope[cell] + u * (rise - slope[cell] - bend + u * bend))
        return cubic.to(t.dtype) if isinstance(t, Tensor) else cubic

    def alpha(self, t: Time) -> Time:
        """Return the cosine of the angle, exactly zero at zero terminal SNR."""
        return _namespace(t).sin(0.5 * math.pi - self.angle(t))

    def sigma(self, t: Time) -> Time:
        """Return the sine of the angle."""
        return _namespace(t).sin(self.angle(t))
