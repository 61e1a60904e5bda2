"""What a simulation and a reconstruction may be told, without importing torch."""

__all__ = ["MapsMethod", "ReconSettings", "SimulateSettings"]

from dataclasses import dataclass
from typing import Literal, final

from medsci.errors import UsageError
from medsci.inverse.methods import method_of

MapsMethod = Literal["espirit", "low_res", "file"]


@final
@dataclass(frozen=True)
class SimulateSettings:
    """A retrospective multi-coil Cartesian acquisition.

    Attributes:
        acceleration: R; `round(n_phase / R)` phase-encoding lines are kept.
        n_coils: receive coils.
        noise: standard deviation of the complex noise of each coil, as a fraction of the 99th
            percentile of the image.
        center_fraction: share of fully sampled lines around the centre of k-space.
        mask: `random` or `equispaced` lines outside the centre.
        slices: first and last-but-one slice of the slab; all if None.
        slice_axis: voxel axis of the volume along which slices are counted.
        phase_axis: voxel axis that is undersampled; the shorter in-plane axis if None.
        seed: the only randomness: mask, coil positions, phase and noise.
    """

    acceleration: float = 4.0
    n_coils: int = 8
    noise: float = 0.01
    center_fraction: float = 0.08
    mask: Literal["random", "equispaced"] = "random"
    slices: tuple[int, int] | None = None
    slice_axis: int = 2
    phase_axis: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_coils < 1:
            raise UsageError(f"n_coils={self.n_coils} came; give at least one coil")
        if self.noise < 0.0:
            raise UsageError(f"noise={self.noise} came; give a fraction that is not negative")
        if self.slice_axis not in (0, 1, 2):
            raise UsageError(f"slice_axis={self.slice_axis} came; choose 0, 1 or 2")
        if self.phase_axis not in (None, 0, 1, 2) or self.phase_axis == self.slice_axis:
            raise UsageError(
                f"phase_axis={self.phase_axis} came with slice_axis={self.slice_axis}; "
                "choose one of the two other axes"
            )


@final
@dataclass(frozen=True)
class ReconSettings:
    """A reconstruction by posterior sampling.

    Attributes:
        n_samples: volumes drawn; the result is their mean, their spread the uncertainty.
        solver: a name of `medsci.inverse.METHODS`.
        n_steps: network calls per slice and sample; the tuned default if None.
        n_cg: conjugate-gradient steps per network call; by acceleration if None.
        options: further settings of the solver, name and text; see `settings_of`.
        seed: of the samples.
        chunk: slices per network call; changes memory and speed only.
        maps: `espirit` or `low_res` estimate coil maps from the calibration lines, `file` takes
            those stored beside the data.
        device: where to compute.
        precision: number format of the network: `auto`, `float32` or `bfloat16`.
    """

    n_samples: int = 3
    solver: str = "dds3d"
    n_steps: int | None = None
    n_cg: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    chunk: int | None = None
    maps: MapsMethod = "espirit"
    device: str = "cpu"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("n_samples", "n_steps", "n_cg", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} came; give at least 1")
        if self.n_steps is not None and self.n_steps < 3:
            raise UsageError(f"n_steps={self.n_steps} came; the noise grid needs at least 3")
        if not method_of(self.solver).samples and self.n_samples > 1:
            raise UsageError(
                f"n_samples={self.n_samples} came with {self.solver}, which seeks one image and "
                "draws no samples of the posterior; ask for one, or take another solver"
            )
        if self.maps not in ("espirit", "low_res", "file"):
            raise UsageError(f"maps={self.maps!r} came; choose espirit, low_res or file")
