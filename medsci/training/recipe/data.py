"""Where samples come from."""

__all__ = [
    "ArraysConfig",
    "BidsConfig",
    "DataConfig",
    "NiftiPatchesConfig",
    "NiftiSlicesConfig",
    "NiftiVolumesConfig",
    "PairsConfig",
    "SimulatedCtConfig",
    "SimulatedHeadsConfig",
    "channels_of",
    "label_of",
    "rank_of",
]

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medsci.training.recipe.base import Frozen, Probability

ImageChannels = Literal["complex", "magnitude"]
Where = str | tuple[str, ...]
Plane = tuple[PositiveInt, PositiveInt]
Box = tuple[PositiveInt, PositiveInt, PositiveInt]
Millimetres = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class SimulatedHeadsConfig(Frozen):
    """Heads simulated from the ICBM 2009a maps inside nilearn; see `medsci.data.heads`."""

    kind: Literal["simulated_heads"] = "simulated_heads"
    n_heads: PositiveInt = 48
    n_validation_heads: PositiveInt = 2
    size: Plane = (224, 192)
    pixel_mm: Annotated[float, Field(ge=1.0)] = 1.0
    slices: tuple[NonNegativeInt, PositiveInt] = (40, 150)
    cache_dir: Path | None = None


class SimulatedCtConfig(Frozen):
    """Real CT volumes of the registry mixed with simulated heads and trunks.

    `shares` are those of real, head and trunk slices. See `medsci.data.ct_slices`.
    """

    kind: Literal["simulated_ct"] = "simulated_ct"
    volumes: tuple[str, ...] = ()
    shares: tuple[Probability, Probability, Probability] = (0.4, 0.3, 0.3)
    n_heads: PositiveInt = 24
    n_validation_heads: PositiveInt = 2
    size: Plane = (160, 160)
    pixel_mm: tuple[PositiveFloat, PositiveFloat] = (0.85, 2.0)
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    cache_dir: Path | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "SimulatedCtConfig":
        for name in ("pixel_mm", "window_hu"):
            lo, hi = getattr(self, name)
            if lo > hi or (name == "window_hu" and lo == hi):
                raise ValueError(f"data.{name}: ({lo}, {hi}) came; give the smaller one first")
        if sum(self.shares if self.volumes else self.shares[1:]) <= 0.0:
            raise ValueError(f"data.shares: {self.shares} came; nothing would be drawn")
        return self


class BidsConfig(Frozen):
    """Which files of a BIDS tree are meant."""

    suffix: str = "T1w"
    datatype: str | None = None
    sessions: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


class _OwnFiles(Frozen):
    """One's own files: either `files`, split by subject, or `train` and `validation`.

    `files` may be a folder, a glob pattern, a CSV or TSV table with a column `image`, or several of
    these. `label` names a column (or a column of a BIDS tree's participants.tsv) that the network
    is conditioned on.
    """

    files: Where | None = None
    train: Where | None = None
    validation: Where | None = None
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    split_seed: NonNegativeInt = 0
    label: str | None = None

    @model_validator(mode="after")
    def _says_where(self) -> "_OwnFiles":
        apart = self.train is not None and self.validation is not None
        if self.files is None and not apart:
            missing = "validation" if self.train is not None else "train"
            missing = missing if self.train or self.validation else "files"
            raise ValueError(
                f"data.{missing}: missing; give data.files, or data.train and data.validation"
            )
        if self.files is not None and (self.train is not None or self.validation is not None):
            raise ValueError(
                "data.files: came with data.train or data.validation; give one or the other"
            )
        return self


class _OwnImages(_OwnFiles):
    bids: BidsConfig | None = None
    channels: ImageChannels = "magnitude"
    voxel_size_mm: Millimetres | None = None
    intensity: Literal["percentile", "minmax", "zscore"] | tuple[float, float] = "percentile"
    cache_dir: Path | None = None


class NiftiSlicesConfig(_OwnImages):
    """Slices of one's own NIfTI volumes; see `medsci.data.nifti_slices`."""

    kind: Literal["nifti_slices"] = "nifti_slices"
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    size: Plane = (224, 192)
    channels: ImageChannels = "complex"
    min_signal: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


class NiftiVolumesConfig(_OwnImages):
    """Whole volumes; see `medsci.data.nifti_volumes`."""

    kind: Literal["nifti_volumes"] = "nifti_volumes"
    size: Box
    mirror: bool = True
    max_shift: NonNegativeInt = 8
    gain: Annotated[float, Field(ge=1.0)] = 1.25


class NiftiPatchesConfig(_OwnImages):
    """Patches of two or three dimensions; see `medsci.data.nifti_patches`."""

    kind: Literal["nifti_patches"] = "nifti_patches"
    size: Plane | Box
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    foreground: Probability = 0.0
    per_volume: PositiveInt = 1
    mirror: bool = True


class ArraysConfig(_OwnFiles):
    """Samples that are ready, in npy or HDF5 files; see `medsci.data.arrays`."""

    kind: Literal["arrays"] = "arrays"


class PairsConfig(Frozen):
    """Noise and the samples a model makes of it, from `medsci models pairs`.

    The last `validation_fraction` of the file is kept for validation.
    """

    kind: Literal["pairs"] = "pairs"
    file: Path
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05


DataConfig = Annotated[
    SimulatedHeadsConfig
    | SimulatedCtConfig
    | NiftiSlicesConfig
    | NiftiVolumesConfig
    | NiftiPatchesConfig
    | ArraysConfig
    | PairsConfig,
    Field(discriminator="kind"),
]


def channels_of(data: object) -> int | None:
    """Return the number of channels of a sample where the configuration fixes it."""
    if isinstance(data, SimulatedHeadsConfig):
        return 2
    if isinstance(data, SimulatedCtConfig):
        return 1
    channels = getattr(data, "channels", None)
    return {"complex": 2, "magnitude": 1}.get(channels) if isinstance(channels, str) else None


def rank_of(data: object) -> int | None:
    """Return the number of dimensions in space of a sample where the configuration fixes it."""
    size = getattr(data, "size", None)
    return len(size) if isinstance(size, tuple) else None


def label_of(data: object) -> str | None:
    """Return the name of the condition the network is given as its label, if any."""
    return getattr(data, "label", None)
