"""How to prepare a head, checked; loads nothing heavy."""

__all__ = ["SPACING_MM", "PrepSettings"]

import math
from dataclasses import dataclass
from typing import Literal, final

from medsci.errors import UsageError

SPACING_MM = (0.05, 20.0)
"""Smallest and largest voxel of any image of a head."""


@final
@dataclass(frozen=True)
class PrepSettings:
    """How to prepare; the defaults are the published model's.

    Attributes:
        fov_mm: extent of the window along the axes of `orientation`.
        spacing_mm: `rule` (step 2), `keep` (no resampling), or the side of cubic voxels in mm.
        percentiles: of the whole volume, that become 0 and 1.
        orientation: where the axes of the result run to.
        dtype: `uint16` stores `round(65535 x)`, `float32` x itself in [0, 1].

    Raises:
        UsageError: a value that makes no sense.
    """

    fov_mm: tuple[float | int, float | int, float | int] = (192, 224, 192)
    spacing_mm: float | int | Literal["rule", "keep"] = "rule"
    percentiles: tuple[float | int, float | int] = (0.1, 99.9)
    orientation: Literal["LPS", "RAS"] = "LPS"
    dtype: Literal["uint16", "float32"] = "uint16"

    def __post_init__(self) -> None:
        if len(self.fov_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in self.fov_mm):
            raise UsageError(f"the field of view is {self.fov_mm}; give three positive sizes in mm")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise UsageError(f"the percentiles are {low} and {high}; give 0 <= low < high <= 100")
        if isinstance(self.spacing_mm, str):
            if self.spacing_mm not in ("rule", "keep"):
                raise UsageError(f"the spacing is {self.spacing_mm!r}; give rule, keep or mm")
        elif not SPACING_MM[0] <= self.spacing_mm <= SPACING_MM[1]:
            raise UsageError(
                f"the spacing is {self.spacing_mm} mm; give {SPACING_MM[0]} to {SPACING_MM[1]:g}"
            )
        for name, value, known in (
            ("orientation", self.orientation, ("LPS", "RAS")),
            ("dtype", self.dtype, ("uint16", "float32")),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; give {' or '.join(known)}")
