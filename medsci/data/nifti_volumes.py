"""One's own NIfTI volumes as whole training volumes."""

__all__ = ["NiftiVolumes"]

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

from medsci.core.rng import mix64
from medsci.data.augment import CHANNELS, Augmentation, as_channels, shifted, with_conditions
from medsci.data.listing import Files, list_cases
from medsci.data.prepared import PreparedCases
from medsci.data.reading import Preparation
from medsci.data.wording import check_choice
from medsci.errors import InvalidInputError


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
        augmentation: what the seed does; None returns the volume as it is (with `complex`, the
            seed still draws the phase).
        dtype: `float32`, or `float16` to keep the arrays in half the space.
        cache_dir: folder of the prepared volumes, for a quick second start and bounded memory.

    Raises:
        InvalidInputError: no file was found, none could be read, or their extents differ.
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        files: Files,
        *,
        size: tuple[int, ...] | None = None,
        channels: str = "magnitude",
        voxel_size_mm: Sequence[float | int] | None = None,
        intensity: str | Sequence[float | int] = "percentile",
        augmentation: Augmentation | None = Augmentation(),  # noqa: B008 - a frozen value
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice(channels, CHANNELS, name="channels")
        self.channels, self.augmentation = channels, augmentation
        self.preparation = Preparation(voxel_size_mm, size, intensity)
        cases = list_cases(files)
        settings = {"kind": "volumes", **self.preparation.settings()}
        self._prepared = PreparedCases(
            cases, self.preparation.read, settings=settings, dtype=dtype, cache_dir=cache_dir
        )
        self.vocabulary: Mapping[str, tuple[str, ...]] = cases.vocabulary
        self.skipped: list[tuple[Path, str]] = self._prepared.skipped
        if len(self._prepared) == 0:
            raise self._prepared.nothing("gave a volume", "check the files")
        self.size = self._one_size()

    @property
    def n_items(self) -> int:
        """Return the number of volumes."""
        return len(self._prepared)

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
        """Return one volume (c, i, j, k), changed by the seed.

        A dict with `x0` and the conditions comes where the listing has conditions.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng(mix64(seed, item))
        volume = np.array(self._prepared.load(item), dtype=np.float32)
        if self.augmentation is not None:
            if self.augmentation.mirror and generator.random() < 0.5:
                volume = volume[::-1]
            reach = self.augmentation.max_shift
            volume = shifted(volume, generator.integers(-reach, reach + 1, size=3).tolist())
            volume = volume * self.augmentation.factor(
                generator, intensity=self.preparation.intensity
            )
        x0 = as_channels(volume, channels=self.channels, generator=generator)
        return with_conditions(x0, self._prepared.cases[item])
