"""Label maps that lie beside images, as fractions of voxels on the same grid."""

__all__ = ["LabelFractions", "label_map_of", "stem_of"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from medsci.data.reading import UnreadableError, centred, read_array, resampled
from medsci.errors import UsageError

_ENDINGS = (".nii.gz", ".nii")


@final
@dataclass(frozen=True)
class LabelFractions:
    """How a label map becomes channels: the fraction of each voxel that has each value.

    Attributes:
        values: of the map, one channel each; other values are nothing.
        voxel_size_mm: resample as the image is; None keeps the voxels.
        size: crop or pad with nothing, as the image is; None keeps it.

    Raises:
        UsageError: no value came, or one twice.
    """

    values: tuple[int, ...]
    voxel_size_mm: Sequence[float | int] | None = None
    size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise UsageError(f"label values {self.values} came; give one or more, each once")

    def settings(self) -> dict[str, object]:
        """Return what decides the numbers, for the name of a cache entry."""
        return {
            "kind": "label fractions",
            "values": list(self.values),
            "voxel_size_mm": None if self.voxel_size_mm is None else list(self.voxel_size_mm),
            "size": None if self.size is None else list(self.size),
        }

    def read(self, path: Path) -> np.ndarray:
        """Return the fractions as float32 (value, i, j, k), in [0, 1].

        Raises:
            UnreadableError: the file cannot be used, or holds none of the values.
        """
        labels, voxel_size_mm = read_array(path)
        masks = [(labels == value).astype(np.float32) for value in self.values]
        if not any(mask.any() for mask in masks):
            raise UnreadableError(f"it holds none of the values {self.values}")
        if self.voxel_size_mm is not None:
            masks = [resampled(mask, voxel_size_mm, self.voxel_size_mm) for mask in masks]
        stacked = np.stack(masks).clip(0.0, 1.0)
        return stacked if self.size is None else centred(stacked, self.size)


def label_map_of(image: Path, *, suffix: str) -> Path:
    """Return the label map beside an image: `NAME_T1w.nii.gz` -> `NAME` + suffix + `.nii.gz`.

    The last part of the name, after its last underscore, gives way to the suffix; where there is
    no such file, the suffix follows the whole name.
    """
    stem = stem_of(image)
    ending = image.name.removeprefix(stem)
    names = [stem.rpartition("_")[0] + suffix, stem + suffix]
    found = [
        path
        for name in names
        for end in dict.fromkeys((ending, *_ENDINGS))
        if (path := image.with_name(name + end)) != image and path.is_file()
    ]
    return found[0] if found else image.with_name(stem + suffix + ending)


def stem_of(image: Path) -> str:
    """Return the name of a NIfTI file without its ending."""
    ending = next((end for end in _ENDINGS if image.name.lower().endswith(end)), "")
    return image.name[: len(image.name) - len(ending)]
