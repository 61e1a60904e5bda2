"""The settings of RED-Diff."""

__all__ = ["TV_SMOOTH", "RedDiffSettings"]

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

from medsci.inverse.solvers.red_diff_weights import Order, Spacing, Weight

FEW_STEPS = 50  # below, only a strong prior gets hold of the image in time
TV_SMOOTH = 1e-3  # change between slices at which total variation turns from squared to absolute


@final
@dataclass(frozen=True)
class RedDiffSettings:
    """How RED-Diff walks, for an operator of norm one and images of range about one.

    Attributes:
        n_steps: network calls per slice, times `n_avg`, and twice that with `antithetic`. 100 or
            200 are best; the tail of a longer walk has little prior and fits noise.
        lr: length of an Adam step, in units of the image; 0.05 to 0.2 for 100 steps, 0.02 for 1000.
        lam: weight of the prior, lambda. None is 0.02, or 0.05 below 50 steps, where Adam has no
            time to let a weak prior act; 1 for the weight `map`. (0.25, as published for data
            weighed by n / m, costs 1 to 4 dB at r_data = 1 and 10 to 50 steps.)
        weight: h(r); see `noise_weight`.
        order: `descending` from noise to data; the others are for comparison.
        spacing: of the noise levels; see `times_of_walk`.
        sigma_max: highest noise level `sigma / alpha`, cut to the path of the prior.
        sigma_min: lowest noise level.
        optimiser: `adam` with the moments of the source, or `gradient` for plain descent.
        betas: decay of the two moments of Adam.
        r_data: weight of the data; `n/m` is the number of unknowns over that of data.
        inner: optimiser steps per network call, each with a fresh data gradient.
        n_avg: noise levels and noises averaged per step.
        antithetic: average every noise with its negative; exact for affine denoisers.
        average: share of the steps, at the end, over which the image is averaged; 0 returns the
            last one.
        tv_z: weight of the total variation between slices, smoothed at `TV_SMOOTH`.
        share_noise: `z` gives all slices of a step the same noise.
        init: where to start if no `start` is given: the backprojection `A^H y`, or zeros.
        tau: misfit at which the data are fitted well enough, in units of that of the truth; needs
            the noise of the data. None fits on.
        at_tau: what to do there. `hold` leaves the data term out of every step that starts at or
            below tau, and walks on: the misfit ends at about tau, for small steps (lr about 0.02).
            `stop` ends the walk after three such steps in a row; the levels to come are lost,
            which cost 3 dB where that happened half-way.
        stop_after: part of the walk that is walked before `stop` may end it.
    """

    n_steps: int = 100
    lr: float = 0.1
    lam: float | None = None
    weight: Weight = "linear"
    order: Order = "descending"
    spacing: Spacing = "ddpm"
    sigma_max: float = 157.0
    sigma_min: float = 0.01
    optimiser: Literal["adam", "gradient"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    r_data: float | Literal["n/m"] = 1.0
    inner: int = 1
    n_avg: int = 1
    antithetic: bool = False
    average: float = 0.0
    tv_z: float = 0.0
    share_noise: Literal["no", "z"] = "no"
    init: Literal["backprojection", "zeros"] = "backprojection"
    tau: float | None = None
    at_tau: Literal["hold", "stop"] = "hold"
    stop_after: float = 0.9

    def __post_init__(self) -> None:
        _check(self)

    @property
    def weight_of_prior(self) -> float:
        """Lambda, by the rule where none is given."""
        if self.lam is not None:
            return self.lam
        if self.weight == "map":
            return 1.0
        return 0.02 if self.n_steps >= FEW_STEPS else 0.05


def _check(s: RedDiffSettings) -> None:
    """Reject settings that cannot be meant."""
    shares = (s.average, s.stop_after)
    n_over_m = s.r_data == "n/m"
    rules: tuple[tuple[bool, str, str], ...] = (
        (min(s.n_steps, s.inner, s.n_avg) >= 1, "n_steps inner n_avg", "at least 1 of each"),
        (0.0 < s.lr < math.inf, "lr", "a positive step length, about 0.1"),
        (s.lam is None or 0.0 <= s.lam < math.inf, "lam", "a weight >= 0, or None for the rule"),
        (
            0.0 < s.sigma_min <= s.sigma_max < math.inf,
            "sigma_min sigma_max",
            "0 < sigma_min <= sigma_max < inf",
        ),
        (all(0.0 <= beta < 1.0 for beta in s.betas), "betas", "two numbers in [0, 1)"),
        (n_over_m or _positive(s.r_data), "r_data", "a positive weight, or 'n/m'"),
        (all(0.0 <= share <= 1.0 for share in shares), "average stop_after", "shares in [0, 1]"),
        (0.0 <= s.tv_z < math.inf, "tv_z", "a weight >= 0"),
        (s.tau is None or s.tau > 0.0, "tau", "a positive multiple of the noise, or None"),
        *((getattr(s, n) in allowed, n, f"one of {allowed}") for n, allowed in _CHOICES.items()),
    )
    for holds, names, wanted in rules:
        if not holds:
            came = ", ".join(f"{name}={getattr(s, name)!r}" for name in names.split())
            raise ValueError(f"{came} came; give {wanted}")


def _positive(value: float | str) -> bool:
    return not isinstance(value, str) and 0.0 < value < math.inf


_CHOICES = {
    "weight": get_args(Weight),
    "order": get_args(Order),
    "spacing": get_args(Spacing),
    "optimiser": ("adam", "gradient"),
    "share_noise": ("no", "z"),
    "init": ("backprojection", "zeros"),
    "at_tau": ("hold", "stop"),
}
