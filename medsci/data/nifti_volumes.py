"""One's own NIfTI volumes as whole training volumes."""

__all__ = ["NiftiVolumes"]

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from medsci.core.rng import mix64
from medsci.data.augment import CHANNELS, Augmentation, as_channels, with_conditions
from medsci.data.case import CaseList
from medsci.data.label_maps import LabelFractions, label_map_of, stem_of
from medsci.data.listing import Files, list_cases
from medsci.data.prepared import PreparedCases
from medsci.data.reading import Preparation
from medsci.data.wording import check_choice
from medsci.errors import InvalidInputError, UsageError


@final
class NiftiVolumes:
    """Whole NIfTI volumes, RAS+, all of one extent.

    Volumes that cannot be read are skipped, reported in the log and kept in `skipped`.

    Args:
        files: a folder (searched in depth), a glob pattern, a file, several of these, a CSV or
            TSV table, or what `list_cases` returned.
        size: crop or zero-pad about the centre to this extent (i, j, k); None asks that all
            volumes have the same one.
        channels: `magnitude` returns one channel; `complex` multiplies by a random smooth
            residual phase and returns real and imaginary part.
        voxel_size_mm: resample first; None keeps the voxels.
        intensity: see `Preparation`.
        value_range: `(low, high)` to which `minmax` or a window is stretched, such as (-1, 1),
            after all else, so that background and what is padded become `low`; None keeps [0, 1].
        labels: `(suffix, values)` of the label maps beside the images; see `label_map_of`. The
            fraction p of a voxel that has each value follows the image as a channel, as 2 p - 1.
            Labels are not exchanged where left and right are.
        augmentation: what the seed does; None returns the volume as it is (with `complex`, the
            seed still draws the phase).
        dtype: `float32`, or `float16` to keep the arrays in half the space.
        cache_dir: folder of the prepared volumes, for a quick second start and bounded memory.

    Raises:
        InvalidInputError: no file was found, none could be read, or their extents differ.
        UsageError: an option is wrong.
    """

    def __init__(  # noqa: PLR0913 - one keyword per setting of a preparation
        self,
        files: Files,
        *,
        size: tuple[int, ...] | None = None,
        channels: str = "magnitude",
        voxel_size_mm: Sequence[float | int] | None = None,
        intensity: str | Sequence[float | int] = "percentile",
        value_range: Sequence[float | int] | None = None,
        labels: tuple[str, Sequence[int]] | None = None,
        augmentation: Augmentation | None = Augmentation(),  # noqa: B008 - a frozen value
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice(channels, CHANNELS, name="channels")
        self.channels, self.augmentation = channels, augmentation
        self.preparation = Preparation(voxel_size_mm, size, intensity)
        self.value_range = _checked_range(value_range, intensity=intensity, channels=channels)
        cases = list_cases(files)
        known: dict[str, Any] = {"dtype": dtype, "cache_dir": cache_dir}
        self._labels: tuple[PreparedCases, Mapping[Path, int]] | None = None
        self.skipped: list[tuple[Path, str]] = []
        if labels is not None:
            if channels != "magnitude":
                raise UsageError("labels came with channels complex; use magnitude")
            cases = self._find_labels(cases, labels, known)
        settings = {"kind": "volumes", **self.preparation.settings()}
        self._prepared = PreparedCases(cases, self.preparation.read, settings=settings, **known)
        self.vocabulary: Mapping[str, tuple[str, ...]] = cases.vocabulary
        self.skipped += self._prepared.skipped
        if len(self._prepared) == 0:
            raise self._prepared.nothing("gave a volume", "check the files")
        self.size = self._one_size()

    @property
    def n_items(self) -> int:
        """Return the number of volumes."""
        return len(self._prepared)

    def _find_labels(
        self, cases: CaseList, labels: tuple[str, Sequence[int]], known: Mapping[str, Any]
    ) -> CaseList:
        """Prepare the label maps and return the cases that have one."""
        suffix, values = labels
        images = [c for c in cases if not stem_of(c.path).endswith(suffix)]
        maps = [dataclasses.replace(c, path=label_map_of(c.path, suffix=suffix)) for c in images]
        of_image = {m.path: image for m, image in zip(maps, images, strict=True)}
        fractions = LabelFractions(
            tuple(values), self.preparation.voxel_size_mm, self.preparation.size
        )
        listed = CaseList(tuple(maps), cases.vocabulary)
        prepared = PreparedCases(listed, fractions.read, settings=fractions.settings(), **known)
        self.skipped += prepared.skipped
        if len(prepared) == 0:
            raise prepared.nothing("has a label map", f"put one beside it, named {suffix}")
        kept = [of_image[m.path] for m in prepared.cases]
        self._labels = prepared, {image.path: index for index, image in enumerate(kept)}
        return CaseList(tuple(kept), cases.vocabulary)

    def _load(self, item: int) -> np.ndarray:
        """Return image and label fractions (c, i, j, k)."""
        image = np.array(self._prepared.load(item), dtype=np.float32)[None]
        if self._labels is None:
            return image
        prepared, index = self._labels
        path = self._prepared.cases[item].path
        fractions = np.asarray(prepared.load(index[path]), dtype=np.float32)
        if fractions.shape[1:] != image.shape[1:]:
            raise InvalidInputError(
                f"{path} has extent {image.shape[1:]} and its label map {fractions.shape[1:]}; "
                "give them the same grid"
            )
        return np.concatenate([image, fractions])

    def _one_size(self) -> tuple[int, ...]:
        first = self._prepared.shapes[0]
        for case, shape in zip(self._prepared.cases, self._prepared.shapes, strict=True):
            if shape != first:
                raise InvalidInputError(
                    f"{self._prepared.cases[0].path} has extent {first} and {case.path} {shape}; "
                    "set size (and voxel_size_mm if voxels differ), so that all are alike"
                )
        return first

    def draw(self, item: int, seed: int) -> Tensor | dict[str, Tensor]:
        """Return one volume (c, i, j, k), changed by the seed, label fractions last.

        A dict with `x0` and the conditions comes where the listing has conditions.

        Raises:
            IndexError: there is no such item.
            InvalidInputError: its label map has another extent.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng(mix64(seed, item))
        volume = self._load(item)
        gain = np.float32(1.0)
        if self.augmentation is not None:
            volume = self.augmentation.moved(volume, generator)
            gain = self.augmentation.factor(generator, intensity=self.preparation.intensity)
        x0 = as_channels(volume[0] * gain, channels=self.channels, generator=generator)
        if self.value_range is not None:
            low, high = self.value_range
            x0 = x0.mul_(high - low).add_(low).clamp_(low, high)
        if len(volume) > 1:
            x0 = torch.cat([x0, torch.from_numpy(2.0 * volume[1:] - 1.0)])
        return with_conditions(x0, self._prepared.cases[item])


def _checked_range(
    value_range: Sequence[float | int] | None,
    *,
    intensity: str | Sequence[float | int],
    channels: str,
) -> tuple[float, float] | None:
    if value_range is None:
        return None
    ends = tuple(float(end) for end in value_range)
    if len(ends) != 2 or not np.isfinite(ends).all() or ends[0] >= ends[1]:
        raise UsageError(f"value_range is {ends}; give (low, high) with low below high")
    if intensity in ("percentile", "zscore") or channels != "magnitude":
        raise UsageError(
            f"value_range came with intensity {intensity} and channels {channels}; it needs "
            "minmax or a window, and magnitude"
        )
    return ends[0], ends[1]
