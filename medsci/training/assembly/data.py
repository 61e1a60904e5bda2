"""From the data section of a recipe to a source of samples."""

__all__ = ["source_of"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from medsci.data.source import Source, as_sample
from medsci.errors import InvalidInputError
from medsci.training.assembly.cases import cases_of
from medsci.training.assembly.conditioned import Conditioned, Standardised, TissueVolumes
from medsci.training.recipe.data import (
    ArraysConfig,
    DataConfig,
    NiftiPatchesConfig,
    NiftiSlicesConfig,
    NiftiVolumesConfig,
    PairsConfig,
    SimulatedCtConfig,
    SimulatedHeadsConfig,
    SimulatedHeadVolumesConfig,
    Where,
)

Split = Literal["train", "validation"]
Images = NiftiSlicesConfig | NiftiVolumesConfig | NiftiPatchesConfig


def source_of(data: DataConfig, *, split: Split, seed: int) -> Source:
    """Return the samples of one split of `data`."""
    match data:
        case SimulatedHeadsConfig():
            return _heads(data, split=split, seed=seed)
        case SimulatedHeadVolumesConfig():
            return _head_volumes(data, split=split, seed=seed)
        case SimulatedCtConfig():
            return _ct(data, split=split, seed=seed)
        case PairsConfig():
            return _pairs(data, split=split)
        case ArraysConfig():
            return _arrays(data, split=split)
    cases = cases_of(data, split=split)
    values = {case.conditions[data.label] for case in cases} if data.label else set()
    images = _images(data, cases)
    if isinstance(data, NiftiVolumesConfig) and data.covariates:
        images = Standardised(images, data.covariates)
    if isinstance(data, NiftiVolumesConfig) and data.tissue_covariates and data.voxel_size_mm:
        images = TissueVolumes(images, voxel_ml=math.prod(data.voxel_size_mm) / 1000.0)
    return _labelled(images, data.label, values=values)


def _heads(data: SimulatedHeadsConfig, *, split: Split, seed: int) -> Source:
    from medsci.data.heads import SimulatedHeads

    return SimulatedHeads(
        n_heads=data.n_heads if split == "train" else data.n_validation_heads,
        size=data.size,
        seed=seed,
        split=split,
        slices=data.slices,
        cache_dir=data.cache_dir,
        pixel_mm=data.pixel_mm,
    )


def _head_volumes(data: SimulatedHeadVolumesConfig, *, split: Split, seed: int) -> Source:
    from medsci.data.head_volumes import SimulatedHeadVolumes

    source = SimulatedHeadVolumes(
        n_heads=data.n_heads if split == "train" else data.n_validation_heads,
        size=data.size,
        voxel_mm=data.voxel_mm,
        seed=seed,
        split=split,
        cache_dir=data.cache_dir,
    )
    return Conditioned(source, covariates=data.covariates, coarser=data.low_resolution_factor)


def _ct(data: SimulatedCtConfig, *, split: Split, seed: int) -> Source:
    from medsci.data.ct_slices import SimulatedCt

    return SimulatedCt(
        size=data.size,
        volumes=data.volumes,
        shares=data.shares,
        n_heads=data.n_heads if split == "train" else data.n_validation_heads,
        pixel_mm=data.pixel_mm,
        window_hu=data.window_hu,
        seed=seed,
        split=split,
        cache_dir=data.cache_dir,
    )


def _images(data: Images, cases: Any) -> Source:
    known: dict[str, Any] = {
        "channels": data.channels,
        "voxel_size_mm": data.voxel_size_mm,
        "intensity": data.intensity,
        "cache_dir": data.cache_dir,
    }
    match data:
        case NiftiSlicesConfig():
            from medsci.data.nifti_slices import NiftiSlices

            return NiftiSlices(
                cases, axis=data.axis, size=data.size, min_signal=data.min_signal, **known
            )
        case NiftiVolumesConfig():
            from medsci.data.augment import Augmentation
            from medsci.data.nifti_volumes import NiftiVolumes

            change = Augmentation(
                mirror=data.mirror,
                max_shift=data.max_shift,
                gain=data.gain,
                max_rotation_deg=data.max_rotation_deg,
            )
            maps = None if data.labels is None else (data.labels.suffix, data.labels.values)
            return NiftiVolumes(
                cases,
                size=data.size,
                augmentation=change,
                value_range=data.value_range,
                labels=maps,
                **known,
            )
        case NiftiPatchesConfig():
            from medsci.data.nifti_patches import NiftiPatches, PatchLaw

            law = PatchLaw(data.foreground, per_volume=data.per_volume, mirror=data.mirror)
            return NiftiPatches(cases, size=data.size, axis=data.axis, law=law, **known)


def _arrays(data: ArraysConfig, *, split: Split) -> Source:
    from medsci.data.arrays import ArraySource

    names = (data.label,) if data.label else ()
    share: dict[str, Any] = {}
    if data.files is not None:
        share = {"split": split, "validation_fraction": data.validation_fraction}
    files = data.files or (data.train if split == "train" else data.validation) or ""
    source = ArraySource(files, conditions=names, **share)
    if data.label is None:
        return source
    words = source.vocabulary.get(data.label)
    values = set(range(len(words))) if words else _column(files, data.label)
    return _labelled(source, data.label, values=values)


def _column(files: Where, name: str) -> set[float]:
    from medsci.data.array_file import ArrayFile

    paths = [files] if isinstance(files, str) else files
    columns = [ArrayFile(Path(path).expanduser(), "x0").column(name) for path in paths]
    return {float(value) for column in columns for value in column.reshape(-1)}


def _pairs(data: PairsConfig, *, split: Split) -> Source:
    from medsci.data.pairs import PairFile

    pairs = PairFile(data.file)
    kept = max(1, round(data.validation_fraction * pairs.n_items))
    first = pairs.n_items - kept
    if first < 1:
        raise InvalidInputError(f"{data.file} holds {pairs.n_items} pairs; make more of them")
    return _Part(pairs, 0, first) if split == "train" else _Part(pairs, first, pairs.n_items)


@final
@dataclass(frozen=True)
class _Part:
    """The items `first` to `stop` of another source."""

    source: Source
    first: int
    stop: int

    @property
    def n_items(self) -> int:
        return self.stop - self.first

    def draw(self, item: int, seed: int) -> Tensor | Mapping[str, Tensor]:
        return self.source.draw(self.first + item, seed)


@final
@dataclass(frozen=True)
class _Labelled:
    """A source whose condition `name` is what networks know as `label`; `values` are all of it."""

    source: Source
    name: str
    values: frozenset[float]

    @property
    def n_items(self) -> int:
        return self.source.n_items

    @property
    def skipped(self) -> Any:
        return getattr(self.source, "skipped", ())

    @property
    def labels(self) -> tuple[str, ...]:
        vocabulary: Mapping[str, tuple[str, ...]] = getattr(self.source, "vocabulary", {})
        return tuple(vocabulary.get(self.name, ()))

    @property
    def label_values(self) -> tuple[int, ...]:
        return tuple(sorted(int(value) for value in self.values))

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        drawn = as_sample(self.source.draw(item, seed))
        return drawn | {"label": drawn.pop(self.name).to(torch.int64)}


def _labelled(source: Source, name: str | None, *, values: set[Any]) -> Source:
    if name is None:
        return source
    every = frozenset(float(value) for value in values)
    broken = sorted(value for value in every if value != round(value))
    if broken:
        raise InvalidInputError(
            f"data.label: {name!r} holds {broken[0]}, no label; name a column of words or whole "
            "numbers"
        )
    return _Labelled(source, name, every)
