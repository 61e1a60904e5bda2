"""What is kept of a volume when thousands are compared: a small copy and a few numbers."""

__all__ = ["N_BINS", "Describer", "Portrait", "features_words", "sharpness", "small_shape"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from medsci.brain.frame import Frame
from medsci.brain.samples import Sample, placed, require_image
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.metrics import head_mask
from medsci.metrics.volumes import region_volumes

if TYPE_CHECKING:
    from medsci.nets.features import RandomFeatures

N_BINS = 256
_SMALL = 48  # voxels along the longest axis of a small copy, at least
_FEWEST = 11
_WINDOW = (0.1, 99.9)  # percentiles scaled to 0 and 1
_WIDTHS = (16, 32, 32, 32)
_N_SLICES = 16
_MOST_LABELS = 300
_TISSUES = ("fluid", "grey", "white")


def features_words(shape: tuple[int, int, int]) -> str:
    """Say what the features of volumes on this grid are."""
    widths = _widths(shape)
    return (
        f"mean and standard deviation of {sum(widths)} channels of a pyramid of fixed random 3 x 3 "
        f"convolutions at {len(widths)} scales, averaged over {_N_SLICES} slices in each of the "
        "three planes (2.5D), each divided by its standard deviation over the real volumes"
    )


def small_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the grid of the small copies: whole blocks of voxels averaged, some 48 per axis."""
    i, j, k = (n // f for n, f in zip(shape, _factors(shape), strict=True))
    return i, j, k


@final
@dataclass(frozen=True, eq=False)
class Portrait:
    """What is kept of one volume.

    Attributes:
        small: scaled to [0, 1] on the small grid.
        features: a row of numbers.
        sharpness: see `sharpness`.
        counts: histogram of the scaled values over [0, 1].
        window: stored values that were scaled to 0 and 1.
        volumes_ml: volume of the head, as found in the intensities, and of every label.
    """

    small: Float32[np.ndarray, "i j k"]
    features: Float64[np.ndarray, " d"]
    sharpness: float
    counts: Int64[np.ndarray, " bins"]
    window: tuple[float, float]
    volumes_ml: Mapping[str, float]


@final
@dataclass(frozen=True)
class Describer:
    """Draws the portrait of one volume after the other, all by one rule.

    Args:
        frame: the common grid.
        with_labels: measure labels; otherwise the head in the intensities.
        seed: of the random filters.
    """

    frame: Frame
    with_labels: bool
    seed: int = 0

    def scaled(self, sample: Sample) -> tuple[Volume, tuple[float, float]]:
        """Read a volume; return it on the common grid, scaled to [0, 1], and its window.

        Raises:
            InvalidInputError: it is not one finite 3D image with contrast.
        """
        volume = sample.load()
        require_image(volume, name=sample.name)
        values = placed(volume, self.frame)
        low, high = (float(p) for p in np.percentile(values, _WINDOW))
        if not high > low:
            raise InvalidInputError(
                f"{sample.name} is {low:g} in all but at most 0.2 % of its voxels; leave it out"
            )
        scaled = np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float32)
        code = 1 if volume.has_orientation else 0
        return replace(self.frame.volume(scaled), sform_code=code, qform_code=code), (low, high)

    def portrait(self, sample: Sample) -> Portrait:
        """Read and describe one volume.

        Raises:
            InvalidInputError: image or label map are not what they should be.
        """
        volume, window = self.scaled(sample)
        scaled = volume.array
        small = _averaged(scaled)
        counts, _ = np.histogram(scaled, bins=N_BINS, range=(0.0, 1.0))
        volumes = {"head": self._head_ml(small)}
        if self.with_labels and sample.load_labels is not None:
            volumes |= _label_ml(sample, sample.load_labels())
        return Portrait(
            small=small,
            features=self._features(scaled),
            sharpness=sharpness(scaled),
            counts=counts.astype(np.int64),
            window=window,
            volumes_ml=volumes,
        )

    def _head_ml(self, small: np.ndarray) -> float:
        factors = zip(self.frame.voxel_mm, _factors(self.frame.shape), strict=True)
        spacing = tuple(size * factor for size, factor in factors)
        try:
            mask = head_mask(small, spacing_mm=spacing)
        except InvalidInputError:  # a volume without a head has one of 0 ml
            return 0.0
        return float(mask.sum() * np.prod(spacing) / 1000.0)

    def _features(self, scaled: np.ndarray) -> np.ndarray:
        import torch

        rows = []
        for axis, n in enumerate(scaled.shape):
            count = min(_N_SLICES, n)
            chosen = ((np.arange(count) + 0.5) * n / count).astype(int)
            slices = np.ascontiguousarray(np.moveaxis(scaled, axis, 0)[chosen])
            with torch.no_grad():
                rows.append(self._filters(torch.from_numpy(slices)[:, None]).double().mean(0))
        return np.asarray(torch.stack(rows).mean(0).numpy(), dtype=np.float64)

    @cached_property
    def _filters(self) -> "RandomFeatures":
        from medsci.nets.features import RandomFeatures

        return RandomFeatures(widths=_widths(self.frame.shape), spatial_dims=2, seed=self.seed)


def sharpness(values: Float32[np.ndarray, "i j k"]) -> float:
    """Return mean |Laplacian| over mean |gradient|, per voxel: low if blurred, high if noisy.

    It does not change with brightness and contrast.
    """
    from scipy import ndimage

    steps = np.gradient(values)
    slope = np.sqrt(sum(np.square(step) for step in steps)).mean()
    return float(np.abs(ndimage.laplace(values, mode="nearest")).mean() / slope)


def _label_ml(sample: Sample, labels: Volume) -> dict[str, float]:
    """Return the volume of every label but 0, measured on the label map's own grid."""
    name, known = sample.name, sample.label_names
    values: Any = labels.array[..., 0] if labels.array.shape[3:] == (1,) else labels.array
    if values.ndim != 3 or values.dtype.kind not in "fiub" or labels.n_nonfinite:
        raise InvalidInputError(
            f"the label map of {name} ({labels!r}) is not one finite 3D map; give whole numbers"
        )
    found, counts = np.unique(values, return_counts=True)
    if np.any(found != np.rint(found)) or len(found) > _MOST_LABELS:
        raise InvalidInputError(
            f"the label map of {name} holds {len(found)} different values, among them "
            f"{float(found[np.argmax(found != np.rint(found))]):g}; give at most {_MOST_LABELS} "
            "whole numbers, or pass --labels none"
        )
    voxel_ml = abs(float(np.linalg.det(labels.affine[:3, :3]))) / 1000.0
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    volumes = {
        known.get(int(label), f"label {int(label)}"): count * voxel_ml
        for label, count in pairs
        if label != 0
    }
    return volumes | _brain_ml(values, labels.spacing_mm, {n: i for i, n in known.items()})


def _brain_ml(
    values: Any, spacing_mm: tuple[float, float, float], index: Mapping[str, int]
) -> dict[str, float]:
    """Return brain and ventricles, where labels are known to be fluid, grey and white matter."""
    if not set(_TISSUES) <= set(index):
        return {}
    tissues = np.zeros(values.shape, dtype=np.uint8)
    for number, name in enumerate(_TISSUES, start=1):
        tissues[values == index[name]] = number
    found = region_volumes(tissues, spacing_mm)
    return {name: found[name] for name in ("brain", "ventricles")}


def _widths(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the channels of every scale; the image halves at each, so few voxels carry few."""
    return _WIDTHS[: max(1, min(shape).bit_length() - 1)]


def _factors(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    wanted = max(1, max(shape) // _SMALL)
    i, j, k = (max(1, min(wanted, n // _FEWEST)) for n in shape)
    return i, j, k


def _averaged(values: np.ndarray) -> np.ndarray:
    """Average blocks of voxels; what does not fill a block is cut off at both ends."""
    for axis, factor in enumerate(_factors((values.shape[0], values.shape[1], values.shape[2]))):
        n = values.shape[axis] // factor
        start = (values.shape[axis] - n * factor) // 2
        cut = np.take(values, np.arange(start, start + n * factor), axis=axis)
        shape = (*cut.shape[:axis], n, factor, *cut.shape[axis + 1 :])
        values = cut.reshape(shape).mean(axis + 1)
    return np.ascontiguousarray(values, dtype=np.float32)
