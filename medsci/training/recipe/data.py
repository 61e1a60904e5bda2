"""Where samples come from."""

__all__ = [
    "ArraysConfig",
    "BidsConfig",
    "DataConfig",
    "LabelMapsConfig",
    "NiftiPatchesConfig",
    "NiftiSlicesConfig",
    "NiftiVolumesConfig",
    "PairsConfig",
    "SimulatedCtConfig",
    "SimulatedHeadVolumesConfig",
    "SimulatedHeadsConfig",
    "channels_of",
    "conditions_of",
    "label_of",
    "rank_of",
]

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medsci.models.config import CovariateConfig
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


class SimulatedHeadVolumesConfig(Frozen):
    """Whole simulated heads with their tissue fractions; see `medsci.data.head_volumes`.

    The channels are `t1`, `fluid`, `grey` and `white`. `covariates` gives the network the four
    volumes of the brain, `low_resolution_mm` the T1 channel at that voxel size as a condition
    image on the grid of the sample: a whole multiple of `voxel_mm`.
    """

    kind: Literal["simulated_head_volumes"] = "simulated_head_volumes"
    n_heads: PositiveInt = 64
    n_validation_heads: PositiveInt = 8
    size: Box = (48, 56, 48)
    voxel_mm: PositiveFloat = 4.0
    covariates: bool = True
    low_resolution_mm: PositiveFloat | None = None
    cache_dir: Path | None = None

    @property
    def low_resolution_factor(self) -> int | None:
        """Return how many voxels of the sample make one of the condition image."""
        coarse = self.low_resolution_mm
        return None if coarse is None else round(coarse / self.voxel_mm)

    @model_validator(mode="after")
    def _is_coarser(self) -> "SimulatedHeadVolumesConfig":
        coarse, factor = self.low_resolution_mm, self.low_resolution_factor
        if coarse is None or factor is None:
            return self
        if factor < 2 or abs(coarse - factor * self.voxel_mm) > 1e-6 * coarse:
            raise ValueError(
                f"data.low_resolution_mm: {coarse} came with voxels of {self.voxel_mm} mm; "
                f"give a multiple, such as {2 * self.voxel_mm}"
            )
        return self


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


class LabelMapsConfig(Frozen):
    """Label maps beside the images, as `NAME_dseg.nii.gz` beside `NAME_T1w.nii.gz`."""

    suffix: Annotated[str, Field(min_length=1)] = "_dseg"
    values: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2, 3)


class NiftiVolumesConfig(_OwnImages):
    """Whole volumes; see `medsci.data.nifti_volumes`.

    `value_range` stretches `minmax` or a window, [-1, 1] for instance. `labels` adds a channel per
    value of the label maps, 2 p - 1 for the fraction p of a voxel. `covariates` are columns of the
    table that the network is conditioned on, standardised as they say; `tissue_covariates` are the
    four of simulated head volumes instead, counted in label maps of fluid, grey and white matter.
    Of a folder, files named as masks and label maps are (`*_mask`, `*_dseg`) are left out.
    """

    kind: Literal["nifti_volumes"] = "nifti_volumes"
    size: Box
    mirror: bool = True
    max_shift: NonNegativeInt = 8
    max_rotation_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    gain: Annotated[float, Field(ge=1.0)] = 1.25
    value_range: tuple[float, float] | None = None
    labels: LabelMapsConfig | None = None
    covariates: tuple[CovariateConfig, ...] = ()
    tissue_covariates: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> "NiftiVolumesConfig":
        if self.tissue_covariates and (
            self.labels is None or len(self.labels.values) != 3 or self.voxel_size_mm is None
        ):
            raise ValueError(
                "data.tissue_covariates: volumes of tissues need data.voxel_size_mm and "
                "data.labels with the values of fluid, grey and white matter"
            )
        if self.tissue_covariates and self.covariates:
            raise ValueError(
                "data.covariates: came with data.tissue_covariates; give one or the other"
            )
        if self.labels is not None and self.channels != "magnitude":
            raise ValueError("data.labels: label maps go with channels magnitude; set it so")
        if self.value_range is None:
            return self
        if self.value_range[0] >= self.value_range[1]:
            raise ValueError(
                f"data.value_range: {self.value_range} came; give the smaller one first"
            )
        if self.intensity in ("percentile", "zscore") or self.channels != "magnitude":
            raise ValueError(
                "data.value_range: it needs intensity minmax or a window, and channels magnitude"
            )
        return self


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
    | SimulatedHeadVolumesConfig
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
    if isinstance(data, SimulatedHeadVolumesConfig):
        return 4
    if isinstance(data, SimulatedCtConfig):
        return 1
    if isinstance(data, NiftiVolumesConfig) and data.labels is not None:
        return 1 + len(data.labels.values)
    channels = getattr(data, "channels", None)
    return {"complex": 2, "magnitude": 1}.get(channels) if isinstance(channels, str) else None


def rank_of(data: object) -> int | None:
    """Return the number of dimensions in space of a sample where the configuration fixes it."""
    size = getattr(data, "size", None)
    return len(size) if isinstance(size, tuple) else None


def label_of(data: object) -> str | None:
    """Return the name of the condition the network is given as its label, if any."""
    return getattr(data, "label", None)


def conditions_of(data: object) -> dict[str, int] | None:
    """Return how many covariates and how many channels of a condition image samples come with.

    None where only the files know.
    """
    if isinstance(data, SimulatedHeadVolumesConfig):
        return {
            "n_covariates": 4 if data.covariates else 0,
            "condition_channels": 0 if data.low_resolution_mm is None else 1,
        }
    if isinstance(data, ArraysConfig):
        return None
    named = getattr(data, "covariates", ())
    counted = 4 if getattr(data, "tissue_covariates", False) else 0
    return {"n_covariates": len(named) + counted, "condition_channels": 0}
