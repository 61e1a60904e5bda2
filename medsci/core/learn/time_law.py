"""Time laws: at which noise levels a denoiser is trained.

A law draws `u` in (0, 1) and reads it as a time `t` or, with `on="angle"`, as a fraction of the
angle `atan2(sigma, sigma_data alpha)` that the path covers. On the angle, two paths with equal
signal-to-noise are trained alike, and half of a uniform law lies where the noise is weaker than
the data.
"""

__all__ = ["LogitNormal", "TimeLaw", "UShape", "Uniform"]

import math
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.rng import Rng

_TAG_TIME = 0x71
Axis = Literal["angle", "time"]


@runtime_checkable
class TimeLaw(Protocol):
    """Anything that draws one time per sample."""

    def __call__(self, path: Path, rng: Rng, *, step: int) -> Float[Tensor, " b"]:
        """Return float64 times in (0, 1), one per sample id of `rng`."""
        ...


def _times(u: Tensor, path: Path, *, on: Axis, sigma_data: float, margin: float) -> Tensor:
    inside = (margin + (1.0 - 2.0 * margin) * u).numpy()
    if on == "time":
        return torch.from_numpy(inside)
    ends = np.array([0.0, 1.0])
    first, last = np.arctan2(path.sigma(ends), sigma_data * path.alpha(ends))
    angle = first + (last - first) * inside
    plain = np.arctan2(sigma_data * np.sin(angle), np.cos(angle))
    return torch.from_numpy(np.atleast_1d(path.time_at_angle(plain)))


@final
@dataclass(frozen=True)
class Uniform:
    """Draw uniformly on the angle or on the time.

    Args:
        on: the axis the law lives on.
        sigma_data: standard deviation of the data, the unit in which the angle weighs noise.
        margin: fraction of the axis left out at either end, where targets are degenerate.
    """

    on: Axis = "angle"
    sigma_data: float = 1.0
    margin: float = 1e-3

    def __call__(self, path: Path, rng: Rng, *, step: int) -> Float[Tensor, " b"]:
        """Return one time per sample."""
        u = rng.uniform(step=step, tag=_TAG_TIME)
        return _times(u, path, on=self.on, sigma_data=self.sigma_data, margin=self.margin)


@final
@dataclass(frozen=True)
class LogitNormal:
    """Draw `u = sigmoid(mean + sd n)` with standard normal `n`: more weight on the middle.

    Source: Esser et al. 2024, sec. 3.1, arXiv:2403.03206.
    """

    mean: float = 0.0
    sd: float = 1.0
    on: Axis = "angle"
    sigma_data: float = 1.0
    margin: float = 1e-3

    def __call__(self, path: Path, rng: Rng, *, step: int) -> Float[Tensor, " b"]:
        """Return one time per sample."""
        u = rng.uniform(step=step, tag=_TAG_TIME).clamp(1e-12, 1.0 - 1e-12)
        normal = math.sqrt(2.0) * torch.erfinv(2.0 * u - 1.0)
        squashed = torch.sigmoid(self.mean + self.sd * normal)
        return _times(squashed, path, on=self.on, sigma_data=self.sigma_data, margin=self.margin)


@final
@dataclass(frozen=True)
class UShape:
    """Draw with the density `e^(a u) + e^(a (1 - u))`, up to a factor: most at both ends.

    The pairs of a reflow cross least in the middle, so the errors of its flow sit at the ends.

    In closed form, `u = 1/2 + asinh((2 r - 1) sinh(a / 2)) / a` for uniform `r`.

    Args:
        a: how deep the middle lies: the ends are `cosh(a / 2)` times as dense, 3.8 for a = 4.
        on: the axis the law lives on.
        sigma_data: standard deviation of the data, the unit in which the angle weighs noise.
        margin: fraction of the axis left out at either end, where targets are degenerate.

    Source: Lee et al. 2024, arXiv:2405.20320. The exponents are meant from the nearer end:
    `e^(a u) + e^(-a u)` on [0, 1] would only rise.
    """

    a: float = 4.0
    on: Axis = "time"
    sigma_data: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        if not 0.0 < self.a <= 1000.0:
            raise ValueError(f"a={self.a} came; give one in (0, 1000], 4 as published")

    def __call__(self, path: Path, rng: Rng, *, step: int) -> Float[Tensor, " b"]:
        """Return one time per sample."""
        r = rng.uniform(step=step, tag=_TAG_TIME)
        u = 0.5 + torch.asinh((2.0 * r - 1.0) * math.sinh(0.5 * self.a)) / self.a
        return _times(u, path, on=self.on, sigma_data=self.sigma_data, margin=self.margin)
