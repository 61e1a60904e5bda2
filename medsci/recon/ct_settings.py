"""What a CT simulation may be told, without importing torch."""

__all__ = ["SimulateCtSettings"]

import math
from dataclasses import dataclass
from typing import Literal, final

from medsci.errors import UsageError


@final
@dataclass(frozen=True)
class SimulateCtSettings:
    """A scan of a volume in Hounsfield units.

    Attributes:
        n_views: views, equally spaced from `start_deg` on; sparse if few.
        start_deg: angle of the first view.
        span_deg: angle that the views cover, the end left out; 180 for parallel rays and 360 for a
            fan if None. Less is a limited angle.
        geometry: `parallel`, `fan` (flat detector) or `fan-curved`.
        n_bins: detector bins; as many as see the whole image if None.
        bin_mm: distance of bins on the detector; the smaller pixel side, magnified onto the
            detector, if None.
        source_mm, detector_mm: distances from the rotation centre, for a fan.
        photons: photons per ray without an object; None adds no noise.
        mu_water: attenuation of water in 1/mm.
        oversampling: pixels and bins of the simulation per pixel and bin of the file, along each
            axis; 1 simulates with the very operator that will reconstruct.
        slices: first and last-but-one slice of the slab; all if None.
        slice_axis: voxel axis of the volume along which slices are counted.
        seed: of the noise, the only randomness.

    Raises:
        UsageError: a value out of range; says which.
    """

    n_views: int = 60
    start_deg: float = 0.0
    span_deg: float | None = None
    geometry: Literal["parallel", "fan", "fan-curved"] = "parallel"
    n_bins: int | None = None
    bin_mm: float | None = None
    source_mm: float = 595.0
    detector_mm: float = 490.6
    photons: float | None = 1e5
    mu_water: float = 0.0192
    oversampling: int = 2
    slices: tuple[int, int] | None = None
    slice_axis: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_views", "n_bins", "oversampling"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} came; give at least 1")
        for name in ("bin_mm", "source_mm", "photons", "mu_water"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise UsageError(f"{name}={value} came; give a positive number")
        if not (math.isfinite(self.detector_mm) and self.detector_mm >= 0.0):
            raise UsageError(f"detector_mm={self.detector_mm} came; give 0 or more")
        if not math.isfinite(self.start_deg):
            raise UsageError(f"start_deg={self.start_deg} came; give an angle in degrees")
        if self.span_deg is not None and not 0.0 < self.span_deg <= 360.0:
            raise UsageError(
                f"span_deg={self.span_deg} came; give more than 0, at most 360 degrees"
            )
        if self.geometry not in ("parallel", "fan", "fan-curved"):
            raise UsageError(f"geometry={self.geometry!r} came; choose parallel, fan or fan-curved")
        if self.slice_axis not in (0, 1, 2):
            raise UsageError(f"slice_axis={self.slice_axis} came; choose 0, 1 or 2")

    @property
    def span(self) -> float:
        """Angle that the views cover, in degrees."""
        if self.span_deg is not None:
            return float(self.span_deg)
        return 180.0 if self.geometry == "parallel" else 360.0
