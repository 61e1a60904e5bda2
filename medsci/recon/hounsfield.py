"""Hounsfield units, attenuation, and the units of a prior.

    mu = mu_w (1 + HU / 1000),    x = (HU - lo) / (hi - lo) = (mu - mu_lo) / (mu_hi - mu_lo)

with mu in 1/mm. Line integrals follow: with A the projector and 1 the image of ones,

    A x = (A mu - mu_lo A 1) / (mu_hi - mu_lo),

exactly. With lo = -1000, air, the term in A 1 vanishes. Pixels outside the image count as 0 in
whatever unit the image has, so with another lo a prior image is `lo` out there.
"""

__all__ = [
    "AIR_HU",
    "MU_WATER_PER_MM",
    "HuWindow",
    "UnitsWarning",
    "hu_to_mu",
    "known_mu_water",
    "mu_to_hu",
]

import math
import warnings
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError

MU_WATER_PER_MM = 0.0192
AIR_HU = -1000.0

Values = TypeVar("Values", float, Tensor, np.ndarray)


class UnitsWarning(UserWarning):
    """Values are not what their unit suggests, or a unit had to be assumed; says which."""


def hu_to_mu(hu: Values, *, mu_water: float = MU_WATER_PER_MM) -> Values:
    """Return attenuation in 1/mm."""
    return (hu * 0.001 + 1.0) * mu_water


def mu_to_hu(mu: Values, *, mu_water: float = MU_WATER_PER_MM) -> Values:
    """Return Hounsfield units."""
    return (mu * (1.0 / mu_water) - 1.0) * 1000.0


def known_mu_water(mu_water: float | None) -> float:
    """Return the attenuation of water in 1/mm, or the usual 0.0192 with a warning.

    Raises:
        InvalidInputError: it is not a positive number.

    Warns:
        UnitsWarning: it is not known. A wrong value scales `HU + 1000` by a factor.
    """
    if mu_water is None:
        warnings.warn(
            f"the attenuation of water is not known; {MU_WATER_PER_MM} per mm (about 70 keV) was "
            "taken, and Hounsfield units are as good as that guess; give mu_water",
            UnitsWarning,
            stacklevel=2,
        )
        return MU_WATER_PER_MM
    if not (math.isfinite(mu_water) and mu_water > 0.0):
        raise InvalidInputError(
            f"mu_water={mu_water} came; give the attenuation of water in 1/mm, about 0.02"
        )
    return float(mu_water)


@final
@dataclass(frozen=True)
class HuWindow:
    """The Hounsfield units that 0 and 1 of a prior stand for.

    Attributes:
        lo: what 0 means.
        hi: what 1 means.
        mu_water: attenuation of water in 1/mm.

    Raises:
        UsageError: the window is empty or not finite.
    """

    lo: float = AIR_HU
    hi: float = 2000.0
    mu_water: float = MU_WATER_PER_MM

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(
                f"a window of {self.lo} to {self.hi} HU came; give two numbers, the lower first"
            )
        if not (math.isfinite(self.mu_water) and self.mu_water > 0.0):
            raise UsageError(f"mu_water={self.mu_water} came; give a positive number per mm")

    @property
    def mu_lo(self) -> float:
        """Attenuation at 0, in 1/mm."""
        return hu_to_mu(float(self.lo), mu_water=self.mu_water)

    @property
    def mu_span(self) -> float:
        """Attenuation at 1 minus that at 0, in 1/mm."""
        return self.mu_water * (self.hi - self.lo) / 1000.0

    def to_prior(self, hu: Values) -> Values:
        """Return the units of the prior."""
        return (hu - self.lo) * (1.0 / (self.hi - self.lo))

    def to_hu(self, x: Values) -> Values:
        """Return Hounsfield units."""
        return x * (self.hi - self.lo) + self.lo

    def sinogram_to_prior(self, y: Values, ones: Values) -> Values:
        """Return the sinogram of the prior's image.

        Args:
            y: line integrals of attenuation.
            ones: `A 1`, the sinogram of the image of ones, for the same rays.
        """
        return (y - ones * self.mu_lo) * (1.0 / self.mu_span)
