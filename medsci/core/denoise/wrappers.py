"""Wrappers: denoisers made of denoisers. Each takes `(x, t, **cond)` and returns x0, as they do.

    Guided       classifier-free guidance, with an interval of noise levels
    Shift        the denoiser of the centred state `x - shift(t) mu`
    Slicewise    chunks of the batch, to bound memory

A condition that is a tensor with one entry per sample in front is cut along with the batch.
"""

__all__ = [
    "DenoiseFn",
    "Guided",
    "Shift",
    "Slicewise",
    "State",
    "mean_of",
    "path_of",
    "pick",
    "sd_of",
]

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from medsci.core.process.path import Path, expand
from medsci.core.process.shifted import Centred

State = Shaped[Tensor, " b *d"]
DenoiseFn = Callable[..., Tensor]


@final
class Guided(nn.Module):
    """Classifier-free guidance inside an interval of noise levels.

        x0 = u + scale (c - u),     c = denoise(x, t, **cond),  u = denoise(x, t, **cond | null)

    Noise, velocity and every other prediction are affine in x0 with the same state, so guiding any
    of them is the same. Outside the interval, and for `scale = 1`, only `c` is evaluated; for
    `scale = 0` inside it, only `u`.

    Args:
        denoiser: takes the conditions by keyword and has a `path`.
        scale: 1 is no guidance, more follows the condition beyond its own law.
        null: the conditions that mean "none", by name; the others are shared by both calls. A
            tensor with one sample in front serves all.
        interval: `(low, high)`; guidance is on where `low < level <= high`.
        unit: what the interval is given in. `sigma_hat = sigma / alpha` or
            `log_snr = ln(alpha / sigma)` (then on where `low <= level < high`).
        batched: evaluate both in one call of twice the batch, instead of two calls.

    Source: Ho and Salimans 2022, eq. 6, arXiv:2207.12598; interval after Kynkaanniemi et al. 2024,
    arXiv:2404.07724.
    """

    def __init__(
        self,
        denoiser: DenoiseFn,
        *,
        scale: float,
        null: Mapping[str, Any],
        interval: tuple[float, float] | None = None,
        unit: Literal["sigma_hat", "log_snr"] = "sigma_hat",
        batched: bool = True,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = path_of(denoiser)
        self.sigma_data = sd_of(denoiser)
        self.scale = float(scale)
        self.null = dict(null)
        if not self.null:
            raise ValueError("null came empty; name the conditions that stand for 'none'")
        self.times = _times(self.path, interval, unit)
        self.batched = batched

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return the guided x0."""
        low, high = self.times
        if isinstance(t, Tensor):
            c, u = self._both(x, t, cond)
            inside = ((t > low) & (t <= high)).to(x.real.dtype)
            return u + expand(1.0 + (self.scale - 1.0) * inside, x) * (c - u)
        if self.scale == 1.0 or not low < t <= high:
            return self.denoiser(x, t, **cond)
        if self.scale == 0.0:
            return self.denoiser(x, t, **{**cond, **self.null})
        c, u = self._both(x, t, cond)
        return torch.lerp(u, c, self.scale)

    def _both(self, x: Tensor, t: float | Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        none = {**cond, **self.null}
        if not self.batched:
            return self.denoiser(x, t, **cond), self.denoiser(x, t, **none)
        n = x.shape[0]
        joined = {name: _join(name, cond.get(name), value, n) for name, value in none.items()}
        twice = torch.cat([t, t]) if isinstance(t, Tensor) else t
        c, u = self.denoiser(torch.cat([x, x]), twice, **joined).split(n)
        return c, u


@final
class Shift(nn.Module):
    """The denoiser of the centred state: `denoise(y + shift(t) mu, t)`, with `y = x - shift(t) mu`.

    Its path is `Centred(path)`, which has no conditional mean, so every solver can walk it. The
    walk starts from noise alone: `sample(Shift(denoiser, mu), ...)` ends at data, because the shift
    is zero there.

    Args:
        denoiser: of a path with a conditional mean.
        mu: the mean, of the shape of one sample or of the batch. If it is left out it is the
            condition `mu` of every call, and the denoiser gets it as well.

    Source: the mean-reverting path of Luo et al. 2023, arXiv:2301.11699, seen from its mean.
    """

    mu: Tensor | None

    def __init__(self, denoiser: DenoiseFn, mu: Tensor | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.shifted = path_of(denoiser)
        self.path = Centred(self.shifted)
        self.sigma_data = sd_of(denoiser)
        self.register_buffer("mu", mu, persistent=False)

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return x0 for a centred state."""
        shift = expand(self.shifted.shift(t), x)
        return self.denoiser(x + shift * mean_of(self.mu, cond), t, **cond)


@final
class Slicewise(nn.Module):
    """Evaluate a denoiser on chunks of the leading dimension, to bound memory.

    The samples of a batch are independent, so the chunk changes memory and speed only.
    """

    def __init__(self, denoiser: DenoiseFn, *, chunk: int) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk={chunk} came; give the number of samples per network call")
        self.denoiser = denoiser
        self.path = path_of(denoiser)
        self.sigma_data = sd_of(denoiser)
        self.chunk = chunk

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return x0 of the whole batch."""
        n = x.shape[0]
        if n <= self.chunk:
            return self.denoiser(x, t, **cond)
        parts = [slice(i, i + self.chunk) for i in range(0, n, self.chunk)]
        times = [t[part] if isinstance(t, Tensor) else t for part in parts]
        return torch.cat(
            [
                self.denoiser(x[part], time, **pick(cond, part, n))
                for part, time in zip(parts, times, strict=True)
            ]
        )


def pick(cond: Mapping[str, Any], part: slice, n: int) -> dict[str, Any]:
    """Return the conditions of some samples: tensors with `n` entries in front are cut."""
    return {
        name: value[part]
        if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == n
        else value
        for name, value in cond.items()
    }


def path_of(denoiser: DenoiseFn) -> Path:
    """Return the path of a denoiser.

    Raises:
        ValueError: it has none.
    """
    path = getattr(denoiser, "path", None)
    if not isinstance(path, Path):
        raise ValueError(
            f"{type(denoiser).__name__} has no path; wrap it with from_callable(fn, path=...)"
        )
    return path


def sd_of(denoiser: DenoiseFn) -> float:
    """Return the standard deviation of the data a denoiser was made for, 1 if it says none."""
    return float(getattr(denoiser, "sigma_data", 1.0))


def mean_of(mu: Tensor | None, cond: Mapping[str, Any], *, needed: bool = True) -> Any:
    """Return the conditional mean of the wrapper, else that of the call, else zero.

    Raises:
        ValueError: it is needed and none came.
    """
    found = cond.get("mu") if mu is None else mu
    if found is None and needed:
        raise ValueError("this path has a conditional mean; give the wrapper mu=, or the condition")
    return 0.0 if found is None else found


def _join(name: str, given: Any, none: Any, n: int) -> Any:
    """Return one condition for the doubled batch: the given ones first, then those of `null`."""
    if given is none and not (isinstance(given, Tensor) and given.ndim and given.shape[0] == n):
        return given  # the same for all
    if not (isinstance(given, Tensor) and isinstance(none, Tensor)):
        raise ValueError(
            f"condition {name!r} came as {type(given).__name__} with {type(none).__name__} in null;"
            " one batch needs tensors in both, so give them or use batched=False"
        )
    return torch.cat([value.expand(n, *value.shape[1:]) for value in (given, none)])


def _times(
    path: Path, interval: tuple[float, float] | None, unit: Literal["sigma_hat", "log_snr"]
) -> tuple[float, float]:
    """Return the interval as times; an end beyond the path is one that no time reaches."""
    if unit not in ("sigma_hat", "log_snr"):
        raise ValueError(f"unit {unit!r} came; choose sigma_hat or log_snr")
    if interval is None:
        return -1.0, 2.0
    low, high = interval
    if not low < high or (unit == "sigma_hat" and low < 0.0):
        raise ValueError(f"interval={interval} came in {unit}; give (low, high) with low < high")
    if unit == "log_snr":
        low, high = math.exp(-high), math.exp(-low)
    first, last = (float(path.angle(t)) for t in (0.0, 1.0))

    def time(level: float) -> float:
        angle = math.atan(level)
        if angle < first:
            return -1.0
        return 2.0 if angle > last else float(path.time_at_sigma_hat(level))

    return time(low), time(high)
