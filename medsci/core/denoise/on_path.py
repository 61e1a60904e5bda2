"""A denoiser on another path than its own."""

__all__ = ["OnPath"]

import math
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, nn

from medsci.core.denoise.wrappers import DenoiseFn, State, mean_of, path_of, sd_of
from medsci.core.process.path import Path, expand


@final
class OnPath(nn.Module):
    """A denoiser moved to another path: rescale the state, look up the time of equal angle.

    A look-up takes half a millisecond (bisection to the last bit), so those of float times are
    kept. One time per sample, as in training, is looked up on the device of the times; beyond the
    ends of the denoiser's own path it is their value.

    Args:
        denoiser: has a `path`.
        path: the path of the states to come.
        mu: the conditional mean, if either path has one; if left out, the condition `mu`.

    Source: the VE frame of Karras et al. 2022, sec. 4; exact for every affine Gaussian path.
    """

    mu: Tensor | None

    def __init__(self, denoiser: DenoiseFn, path: Path, *, mu: Tensor | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.own = path_of(denoiser)
        self.path = path
        self.sigma_data = sd_of(denoiser)
        self.register_buffer("mu", mu, persistent=False)

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return x0 for a state `x` of the new path at its time `t`.

        Raises:
            ValueError: the noise level of `t` is not on the denoiser's own path.
        """
        if isinstance(t, Tensor):
            own_time, ratio, offset = _moved_batch(self.own, self.path, t)
            moved = expand(ratio, x) * x + expand(offset, x) * mean_of(self.mu, cond, needed=False)
            return self.denoiser(moved, own_time.to(t.dtype), **cond)
        time, scale, add = _moved(self.own, self.path, t)
        state = x if scale == 1.0 else x * scale
        if add != 0.0:
            state = state + add * mean_of(self.mu, cond)
        return self.denoiser(state, time, **cond)


@lru_cache(maxsize=4096)
def _moved(own: Path, new: Path, t: float) -> tuple[float, float, float]:
    """Return (own time, scale of x, weight of mu) that make a state of `new` one of `own`."""
    time = t if own == new else float(own.time_at_angle(new.angle(t)))
    norm = math.hypot(float(new.alpha(t)), float(new.sigma(t)))
    ratio = math.hypot(float(own.alpha(time)), float(own.sigma(time))) / norm
    return time, ratio, float(own.shift(time)) - ratio * float(new.shift(t))


@torch.no_grad()
def _moved_batch(own: Path, new: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same for one time per sample, without reading one."""
    wide = t.to(torch.float64)
    angle = new.angle(wide)
    low, high = torch.zeros_like(wide), torch.ones_like(wide)
    for _ in range(64):
        middle = 0.5 * (low + high)
        below = own.angle(middle) < angle
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    norm = torch.hypot(new.alpha(wide), new.sigma(wide))
    ratio = torch.hypot(own.alpha(high), own.sigma(high)) / norm
    return high, ratio, own.shift(high) - ratio * new.shift(wide)
