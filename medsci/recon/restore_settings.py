"""What a restoration may be told, without importing torch."""

__all__ = ["Axes", "Boundary", "PriorUnits", "RestoreSettings", "Task"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final, get_args

from medsci.errors import UsageError

Task = Literal["denoise", "inpaint", "superres", "deblur", "bias"]
Axes = Literal["auto", "plane", "i", "j", "k"]
Boundary = Literal["circular", "zero", "reflect"]

DEFAULT_METHOD = {
    "denoise": "mmse",
    "inpaint": "dds3d",
    "superres": "dds3d",
    "deblur": "dds3d",
    "bias": "n4",
}
"""The method of every task where none is named."""


@final
@dataclass(frozen=True)
class PriorUnits:
    """What a restoration needs to know of a prior beside its denoiser.

    Attributes:
        n_channels: 1 for real images, 2 for real and imaginary part.
        window_hu: the Hounsfield units that are 0 and 1; None for a prior of magnitudes, whose 99th
            percentile over the object is 1.
        voxel_size_mm: in-plane pixel size of its training images; empty if it has none.
    """

    n_channels: int = 2
    window_hu: tuple[float, float] | None = None
    voxel_size_mm: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.n_channels not in (1, 2):
            raise UsageError(
                f"the prior has {self.n_channels} image channels; restoration needs one of real "
                "images, or of real and imaginary part"
            )

    @classmethod
    def of(cls, config: Any) -> "PriorUnits":
        """Return the units that a stored model's configuration states."""
        window = getattr(config, "window_hu", None)
        return cls(len(config.image_channels), window, tuple(config.voxel_size_mm))


@final
@dataclass(frozen=True)
class RestoreSettings:
    """One restoration.

    Attributes:
        task: what is wrong with the image.
        method: a solver of `medsci.inverse.methods`; `mmse` (denoise), `spline` (superres), `n4` or
            `prior` (bias). If None the task's own: `mmse`, `n4`, `dds3d`, or `spline` where one
            sample of thinner slices is asked for: a prior of single slices knows nothing across
            them, and was 2 dB worse there.
        n_samples: restorations drawn; the result is their mean, their spread the uncertainty.
        n_steps: network calls per slice and sample; the method's default if None.
        noise: standard deviation of the noise in units of the image; estimated if None.
        factor: of super-resolution: how many new voxels an old one is divided into, per axis.
        axes: of super-resolution: `plane` divides both axes of the prior's slices, a letter one
            voxel axis of the file, `auto` the slice axis where it is the coarsest by half and the
            plane otherwise.
        fwhm_mm: of deblurring: width of the Gaussian point spread within slices.
        boundary: of deblurring: what lies beyond the border.
        thickness_mm: of a prior of volumes: full width of the profile of the slices, where it is
            not their distance.
        centre_mm: of a prior of volumes: world position of the middle of the brain's bounding box;
            found from the outline of the head if None.
        seed: the only randomness.
        chunk: slices per network call; changes memory and speed only.
        device: where to compute.
        precision: number format of the network.
        options: further options of the method, as text.
    """

    task: Task
    method: str | None = None
    n_samples: int = 1
    n_steps: int | None = None
    noise: float | None = None
    factor: int = 2
    axes: Axes = "auto"
    fwhm_mm: float | None = None
    boundary: Boundary = "reflect"
    thickness_mm: float | None = None
    centre_mm: tuple[float, float, float] | None = None
    seed: int = 0
    chunk: int | None = None
    device: str = "cpu"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _choice("task", self.task, get_args(Task))
        _choice("axes", self.axes, get_args(Axes))
        _choice("boundary", self.boundary, get_args(Boundary))
        for name in ("n_samples", "n_steps", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} came; give at least 1")
        if self.noise is not None and not (math.isfinite(self.noise) and self.noise >= 0.0):
            raise UsageError(
                f"noise={self.noise} came; give a standard deviation in units of the image, or "
                "leave it out to have it estimated"
            )
        if self.task == "superres" and self.factor < 2:
            raise UsageError(f"factor={self.factor} came; give a whole number from 2")
        if self.task == "deblur":
            _check_width(self.fwhm_mm)
        if self.thickness_mm is not None:
            _check_positive("thickness_mm", self.thickness_mm)
        if self.centre_mm is not None and not all(map(math.isfinite, self.centre_mm)):
            raise UsageError(f"centre_mm={self.centre_mm} came; give a finite position in mm")
        self._check_method()

    @property
    def chosen(self) -> str:
        """The method in the end."""
        return DEFAULT_METHOD[self.task] if self.method is None else self.method

    @property
    def needs_prior(self) -> bool:
        """Whether a network has to be loaded."""
        return self.chosen not in ("n4", "spline")

    def _check_method(self) -> None:
        own = {"mmse": "denoise", "n4": "bias", "prior": "bias", "spline": "superres"}
        task = own.get(self.chosen)
        if task is not None and task != self.task:
            raise UsageError(f"method {self.chosen} is for the task {task}, not {self.task}")
        if self.task == "bias" and task is None:
            raise UsageError(
                f"method {self.chosen!r} came for the task bias, whose field is unknown; "
                "choose n4 or prior"
            )
        if self.chosen in own and self.options:
            raise UsageError(f"method {self.chosen} takes no further options; leave them out")
        if self.chosen in ("n4", "prior", "spline") and self.n_samples > 1:
            raise UsageError(f"{self.chosen} draws no samples; leave n_samples at 1")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r} came; choose {', '.join(allowed)}")


def _check_width(fwhm_mm: float | None) -> None:
    if fwhm_mm is None:
        raise UsageError(
            "deblurring needs the width of the blur; give its full width at half maximum in mm"
        )
    _check_positive("fwhm_mm", fwhm_mm)


def _check_positive(name: str, width_mm: float) -> None:
    if not (math.isfinite(width_mm) and width_mm > 0.0):
        raise UsageError(f"{name}={width_mm} came; give a positive width in mm")
