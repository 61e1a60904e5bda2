"""Volumes of brain regions from a label map of fluid, grey and white matter."""

__all__ = ["REGIONS", "region_volumes"]

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

REGIONS = ("brain", "fluid", "grey", "white", "ventricles")

_FLUID, _GREY, _WHITE = 1, 2, 3
_DEEP = 0.42  # share of the greatest depth; sulci and the fissure end above it


def region_volumes(
    labels: Integer[np.ndarray, "..."], voxel_mm: float | int | Sequence[float | int]
) -> dict[str, float]:
    """Measure regions of a label map.

    The brain is all of fluid, grey and white matter. Ventricles are the fluid deep inside it: of
    the fluid further from the surface than 0.42 of the greatest depth the largest connected part,
    grown through the fluid within one such depth in twelve; below the ventricles' level a trace of
    deep cisterns may join.

    Args:
        labels: 0 other, 1 fluid, 2 grey matter, 3 white matter.
        voxel_mm: side of a voxel, or one per axis.

    Returns:
        millilitres by the names of `REGIONS`.

    Raises:
        ValueError: the labels are not a volume, or a side is not positive.
    """
    spacing = np.broadcast_to(np.asarray(voxel_mm, dtype=np.float64), (3,))
    if labels.ndim != 3 or not (spacing > 0.0).all():
        raise ValueError(
            f"labels of {labels.ndim} dimensions with voxels of {spacing.tolist()} mm came; give a "
            "volume and positive sides"
        )
    millilitre = float(spacing.prod()) / 1000.0
    brain = (labels >= _FLUID) & (labels <= _WHITE)
    volumes = {
        "brain": brain,
        "fluid": labels == _FLUID,
        "grey": labels == _GREY,
        "white": labels == _WHITE,
        "ventricles": _ventricles(labels == _FLUID, brain, spacing),
    }
    return {name: millilitre * float(np.count_nonzero(volumes[name])) for name in REGIONS}


def _ventricles(fluid: np.ndarray, brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the fluid deep inside the brain as a mask."""
    if not brain.any():
        return brain
    framed = np.pad(ndimage.binary_fill_holes(brain), 1)  # the edge of the volume is a surface
    depth = ndimage.distance_transform_edt(framed, sampling=spacing)[1:-1, 1:-1, 1:-1]
    cells = np.ones((3, 3, 3), dtype=bool)
    deepest = float(depth.max())
    parts, count = ndimage.label(fluid & (depth > _DEEP * deepest), structure=cells)
    if count == 0:
        return np.zeros_like(fluid)
    core = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    near = ndimage.distance_transform_edt(~core, sampling=spacing) <= deepest / 12.0
    return ndimage.binary_propagation(core, structure=cells, mask=fluid & near)
