"""Random patches of one's own NIfTI volumes."""

__all__ = ["NiftiPatches", "PatchLaw"]

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

from medsci.core.rng import mix64
from medsci.data.augment import CHANNELS, Augmentation, as_channels, with_conditions
from medsci.data.listing import Files, list_cases
from medsci.data.prepared import PreparedCases
from medsci.data.reading import Preparation, UnreadableError, oriented
from medsci.data.wording import check_choice, check_fraction, check_size
from medsci.errors import UsageError

_AXES = ("axial", "coronal", "sagittal")
_TRIES = 1024
_FOREGROUND = 0.1


@final
@dataclass(frozen=True)
class PatchLaw:
    """Where patches come from.

    Attributes:
        foreground: fraction of patches centred, as far as the border allows, on a voxel drawn
            uniformly from those whose magnitude is above a tenth of the scale; the others lie
            anywhere, uniformly.
        per_volume: items per volume, so that an epoch sees each so many times.
        mirror: swap left and right in half of the draws.
    """

    foreground: float | int = 0.0
    per_volume: int = 1
    mirror: bool = True

    def __post_init__(self) -> None:
        check_fraction(self.foreground, name="foreground")
        if self.per_volume < 1:
            raise UsageError(f"per_volume is {self.per_volume}; give 1 or more patches")


@final
class NiftiPatches:
    """Patches of NIfTI volumes, RAS+, at a place the seed draws.

    Volumes that cannot be read, or are smaller than the patch, are skipped, reported in the log
    and kept in `skipped`.

    Args:
        files: a folder (searched in depth), a glob pattern, a file, several of these, a CSV or
            TSV table, or what `list_cases` returned.
        size: (i, j, k) of a 3D patch, or rows and columns of a 2D patch.
        axis: `axial`, `coronal` or `sagittal`, the direction a 2D patch is perpendicular to;
            a 3D patch ignores it.
        channels: `magnitude` returns one channel; `complex` multiplies by a random smooth
            residual phase and returns real and imaginary part.
        law: where patches come from, and how many make an epoch.
        voxel_size_mm: resample first; None keeps the voxels.
        intensity: see `Preparation`; with `percentile` the seed also draws a gain from 0.8 to
            1.25.
        dtype: `float32`, or `float16` to keep the arrays in half the space.
        cache_dir: folder of the prepared volumes, for a quick second start and bounded memory.

    Raises:
        InvalidInputError: no file was found, or none could be read and holds a patch.
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        files: Files,
        *,
        size: tuple[int, ...],
        axis: str = "axial",
        channels: str = "magnitude",
        law: PatchLaw = PatchLaw(),
        voxel_size_mm: Sequence[float | int] | None = None,
        intensity: str | Sequence[float | int] = "percentile",
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_size(size, n_axes=(2, 3), name="size")
        check_choice(axis, _AXES, name="axis")
        check_choice(channels, CHANNELS, name="channels")
        self.size, self.axis, self.channels, self.law = size, axis, channels, law
        self.preparation = Preparation(voxel_size_mm, None, intensity)
        cases = list_cases(files)
        self._prepared = PreparedCases(
            cases,
            self.preparation.read,
            settings={"kind": "volumes", **self.preparation.settings()},
            accept=self._accept,
            dtype=dtype,
            cache_dir=cache_dir,
        )
        self.vocabulary: Mapping[str, tuple[str, ...]] = cases.vocabulary
        self.skipped: list[tuple[Path, str]] = self._prepared.skipped
        if len(self._prepared) == 0:
            raise self._prepared.nothing("gave a patch", "check the files, or make size smaller")

    @property
    def n_items(self) -> int:
        """Return the number of volumes times `law.per_volume`."""
        return len(self._prepared) * self.law.per_volume

    def _turned(self, volume: np.ndarray) -> np.ndarray:
        return oriented(volume, self.axis) if len(self.size) == 2 else volume

    def _accept(self, shape: tuple[int, ...]) -> None:
        have = self._turned(np.broadcast_to(np.float32(0.0), shape)).shape[-len(self.size) :]
        if any(h < w for h, w in zip(have, self.size, strict=True)):
            raise UnreadableError(f"its extent {have} is smaller than the patch size {self.size}")

    def draw(self, item: int, seed: int) -> Tensor | dict[str, Tensor]:
        """Return one patch (c, i, j, k) or (c, rows, columns).

        A dict with `x0` and the conditions comes where the listing has conditions.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng(mix64(seed, item))
        case = item // self.law.per_volume
        volume = self._turned(self._prepared.load(case))
        flat = len(self.size) == 2
        extent = (1, *self.size) if flat else self.size
        start = self._start(volume, extent, generator)
        keep = tuple(slice(s, s + n) for s, n in zip(start, extent, strict=True))
        patch = np.array(volume[keep], dtype=np.float32)
        if self.law.mirror and generator.random() < 0.5 and not (flat and self.axis == "sagittal"):
            patch = patch[..., ::-1] if flat else patch[::-1]
        patch = patch * Augmentation().factor(generator, intensity=self.preparation.intensity)
        patch = patch[0] if flat else patch
        x0 = as_channels(patch, channels=self.channels, generator=generator)
        return with_conditions(x0, self._prepared.cases[case])

    def _start(
        self, volume: np.ndarray, extent: Sequence[int], generator: np.random.Generator
    ) -> list[int]:
        last = [n - e for n, e in zip(volume.shape, extent, strict=True)]
        if generator.random() < self.law.foreground:
            centre = _foreground_voxel(volume, generator)
            if centre is not None:
                return [
                    int(np.clip(c - e // 2, 0, m))
                    for c, e, m in zip(centre, extent, last, strict=True)
                ]
        return [int(generator.integers(0, m + 1)) for m in last]


def _foreground_voxel(volume: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
    """Draw a voxel uniformly from the foreground; None if there is none.

    The first of many uniform voxels that is foreground is uniform over the foreground, and found
    without reading the volume; only a foreground too rare for that is searched in full.
    """
    places = np.stack([generator.integers(0, n, size=_TRIES) for n in volume.shape])
    hits = np.flatnonzero(np.abs(volume[tuple(places)]) > _FOREGROUND)
    if hits.size:
        return places[:, hits[0]]
    found = np.argwhere(np.abs(volume) > _FOREGROUND)
    return found[generator.integers(0, len(found))] if len(found) else None
