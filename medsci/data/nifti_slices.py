"""One's own NIfTI volumes as training slices."""

__all__ = ["NiftiSlices"]

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

from medsci.core.rng import mix64
from medsci.data.augment import CHANNELS, Augmentation, as_channels, shifted, with_conditions
from medsci.data.case import Case
from medsci.data.listing import Files, list_cases
from medsci.data.prepared import PreparedCases
from medsci.data.reading import Preparation, centred, oriented
from medsci.data.wording import check_choice, check_fraction, check_size

_AXES = ("axial", "coronal", "sagittal")
_AUGMENTATION = Augmentation()


@final
class NiftiSlices:
    """Slices of NIfTI volumes.

    Each volume is turned to the closest RAS+ orientation, scaled in intensity, cut into slices
    with rows towards anterior or superior and columns towards right (sagittal: towards anterior),
    and cropped or padded about its centre to `size`. Voxels are resampled only if
    `voxel_size_mm` is given. Slices with little in them are left out. Volumes that cannot be read
    are skipped, reported in the log and kept in `skipped`.

    The slices are kept as float16: 86 kB each at 224 x 192, in memory or in `cache_dir`.

    Args:
        files: a folder (searched in depth), a glob pattern, a file, several of these, a CSV or
            TSV table, or what `list_cases` returned.
        axis: `axial`, `coronal` or `sagittal`, the direction in which the volume is cut.
        size: rows and columns of a slice.
        channels: `complex` multiplies by a random smooth residual phase and returns real and
            imaginary part; `magnitude` returns one channel.
        min_signal: slices whose fraction of pixels above a tenth of the scale is smaller are
            left out.
        voxel_size_mm: resample the volume first.
        intensity: see `Preparation`.
        cache_dir: folder of the prepared slices, for a quick second start and bounded memory.

    Raises:
        InvalidInputError: no file was found, or none could be read.
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        files: Files,
        *,
        axis: str = "axial",
        size: tuple[int, ...] = (224, 192),
        channels: str = "complex",
        min_signal: float | int = 0.05,
        voxel_size_mm: Sequence[float | int] | None = None,
        intensity: str | Sequence[float | int] = "percentile",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice(axis, _AXES, name="axis")
        check_choice(channels, CHANNELS, name="channels")
        check_size(size, n_axes=(2,), name="size")
        check_fraction(min_signal, name="min_signal")
        self.axis, self.size, self.channels, self.min_signal = axis, size, channels, min_signal
        self.preparation = Preparation(voxel_size_mm=voxel_size_mm, intensity=intensity)
        cases = list_cases(files)
        settings = {
            "kind": "slices", "axis": axis, "size": list(size), "min_signal": min_signal,
            **self.preparation.settings(),
        }  # fmt: skip
        prepared = PreparedCases(
            cases, self._stack, settings=settings, dtype="float16", cache_dir=cache_dir
        )
        self.vocabulary: Mapping[str, tuple[str, ...]] = cases.vocabulary
        self.skipped: list[tuple[Path, str]] = prepared.skipped
        self._slices = _Slices(prepared)
        if len(self._slices) == 0:
            raise prepared.nothing("gave a slice", "check the files, or lower min_signal")

    @property
    def n_items(self) -> int:
        """Return the number of slices."""
        return len(self._slices)

    def _stack(self, path: Path) -> np.ndarray:
        stack = centred(oriented(self.preparation.read(path), self.axis), self.size)
        signal = (np.abs(stack) > 0.1).mean(axis=(1, 2))
        return stack[signal >= self.min_signal]

    def draw(self, item: int, seed: int) -> Tensor | dict[str, Tensor]:
        """Return one slice (c, rows, columns), mirrored, shifted and scaled by the seed.

        A dict with `x0` and the conditions comes where the listing has conditions.

        Raises:
            IndexError: there is no such item.
        """
        generator = np.random.default_rng(mix64(seed, item))
        image = self._slices[item].astype(np.float32)
        if self.axis != "sagittal" and generator.random() < 0.5:
            image = image[:, ::-1]
        shift = generator.integers(-8, 9, size=2)
        image = shifted(image, [int(s) for s in shift])
        image = image * _AUGMENTATION.factor(generator, intensity=self.preparation.intensity)
        x0 = as_channels(image, channels=self.channels, generator=generator)
        return with_conditions(x0, self._slices.case(item))


@final
class _Slices:
    """The stacks of all cases, numbered through."""

    def __init__(self, prepared: PreparedCases) -> None:
        self.prepared = prepared
        self._ends = np.cumsum([shape[0] for shape in prepared.shapes], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _case(self, item: int) -> int:
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} came; this source has items 0 to {len(self) - 1}")
        return int(np.searchsorted(self._ends, item, side="right"))

    def case(self, item: int) -> Case:
        return self.prepared.cases[self._case(item)]

    def __getitem__(self, item: int) -> np.ndarray:
        case = self._case(item)
        stack = self.prepared.load(case)
        return stack[item - int(self._ends[case]) + self.prepared.shapes[case][0]]
