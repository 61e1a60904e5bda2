"""Volumes to be compared, read one at a time, and the common grid they are put on."""

__all__ = ["Sample", "common_frame", "placed", "require_image"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from jaxtyping import Float32, Shaped

from medsci.brain.frame import Frame
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_to

_SAME_MM = 1e-3
_FEWEST = 11  # voxels along every axis: one window of the similarity


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """One volume that can be read when it is needed, and its label map where there is one.

    Attributes:
        name: what it is called in a report.
        shape: of its array.
        affine: voxel index to world mm, RAS+.
        load: reads it.
        load_labels: reads its label map, on any grid; None if it has none.
        label_names: name of the region by label; a label without one is called by its number.
    """

    name: str
    shape: tuple[int, ...]
    affine: Shaped[np.ndarray, "4 4"]
    load: Callable[[], Volume]
    load_labels: Callable[[], Volume] | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)

    @staticmethod
    def of(volume: Volume, *, name: str, labels: Volume | None = None) -> "Sample":
        """Wrap a volume, and its label map, that are in memory."""
        reader = None if labels is None else lambda: labels
        return Sample(name, volume.shape, volume.affine, lambda: volume, reader)


def require_image(volume: Volume, *, name: str) -> None:
    """Refuse what cannot be one image with contrast.

    Raises:
        InvalidInputError: not 3D, complex, not finite, or constant.
    """
    if volume.array.ndim != 3:
        raise InvalidInputError(
            f"{name} has shape {volume.shape}; give one 3D volume per file, split a series first"
        )
    if volume.array.dtype.kind not in "fiub":
        raise InvalidInputError(f"{name} holds {volume.array.dtype}; give real intensities")
    if volume.n_nonfinite:
        raise InvalidInputError(
            f"{name} holds {volume.n_nonfinite} values that are NaN or infinite; "
            "find the step that made them, or leave the file out"
        )
    if volume.array.min() == volume.array.max():
        raise InvalidInputError(
            f"{name} is constant ({float(volume.array.flat[0]):g} everywhere); leave it out"
        )


def common_frame(samples: Sequence[Sample]) -> tuple[Frame, int]:
    """Return the grid that all volumes are compared on, and how many of them do not lie on it.

    Axes run to the patient's right, front and top. Voxels are as large as the largest of any
    volume along each axis, the field of view is the smallest. Boxes share their centre: what the
    world calls its origin differs from scanner to scanner.

    Raises:
        InvalidInputError: a volume is not 3D, or so little is common that nothing can be compared.
    """
    for sample in samples:
        if len(sample.shape) != 3:
            raise InvalidInputError(
                f"{sample.name} has shape {sample.shape}; give one 3D volume per file, split a "
                "series first"
            )
    boxes = [_box(sample) for sample in samples]
    voxel = np.max([size for size, _, _ in boxes], axis=0)
    extent = np.min([span for _, span, _ in boxes], axis=0)
    shape = np.floor(extent / voxel + 1e-3).astype(int)
    if shape.min() < _FEWEST:
        coarse = samples[int(np.argmax([size.max() for size, _, _ in boxes]))]
        raise InvalidInputError(
            f"the volumes have {' x '.join(map(str, shape.tolist()))} voxels in common and "
            f"{_FEWEST} along every axis are needed; look at {coarse.name} "
            f"{coarse.shape}, the one with the largest voxels, and at the smallest field of view"
        )
    x, y, z = (float(size) for size in voxel)
    i, j, k = (int(n) for n in shape)
    frame = Frame((i, j, k), (x, y, z))
    off = sum(not _lies_on(frame, *box) for box in boxes)
    return frame, off


def placed(volume: Volume, frame: Frame) -> Float32[np.ndarray, "i j k"]:
    """Return the values on the common grid, box centre on box centre; copied where they lie on it.

    Outside the volume's own box its lowest value is taken.
    """
    affine = volume.affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(volume.shape[:3]) - 1.0) / 2.0)
    target = frame.volume(np.zeros(frame.shape, np.float32))
    lowest = float(volume.array.min())
    return np.asarray(
        resample_to(replace(volume, affine=affine), target, outside=lowest).array, dtype=np.float32
    )


def _box(sample: Sample) -> tuple[np.ndarray, np.ndarray, bool]:
    return _box_of(sample.shape, sample.affine)


def _box_of(shape: Sequence[int], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return voxel size and extent along the world axes, and whether voxel axes are those."""
    import nibabel as nib

    steps = np.asarray(affine[:3, :3], dtype=np.float64)
    nearest = nib.orientations.io_orientation(affine)[:, 0].astype(int)  # world axis of voxel axes
    size, span = np.zeros(3), np.zeros(3)
    lengths = np.linalg.norm(steps, axis=0)
    for voxel_axis, world_axis in enumerate(nearest):
        size[world_axis] = lengths[voxel_axis]
        span[world_axis] = lengths[voxel_axis] * shape[voxel_axis]
    off_axis = np.abs(steps)
    off_axis[nearest, np.arange(3)] = 0.0
    corner = (off_axis @ np.array(shape[:3], dtype=np.float64)).max()
    return size, span, bool(corner < _SAME_MM)


def _lies_on(frame: Frame, size: np.ndarray, span: np.ndarray, aligned: bool) -> bool:  # noqa: FBT001
    own = np.array(frame.voxel_mm)
    same_extent = np.allclose(span, own * np.array(frame.shape), atol=_SAME_MM, rtol=0.0)
    drift = np.abs(size - own) * max(frame.shape)
    return aligned and same_extent and math.isclose(drift.max(), 0.0, abs_tol=_SAME_MM)
