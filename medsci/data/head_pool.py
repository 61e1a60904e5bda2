"""A pool of labelled heads as volumes of tissue fractions, made once and read at every draw.

A labelled head (1 mm) is cut to a box about its brain and averaged over the voxels to come: what
is kept is the share of each label in a voxel and the mean template intensity, all on one grid. So
a draw can move and paint a whole head on a coarse grid at the cost of a few look-ups per voxel.
"""

__all__ = ["MARGIN_MM", "N_MAPS", "PooledHead", "look_up", "pool_head", "tissue_maps"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsci.data.head_template import AIR, FLUID, WHITE
from medsci.data.whole_head import WHOLE_LABELS, simulate_whole_head

N_MAPS = len(WHOLE_LABELS)  # no map of air, one of the template
# how far the box reaches beyond the field of view, for the shifts and turns of a draw
MARGIN_MM = 10
_VERSION = 1  # raise when heads of a seed change, so that older pools are not read


@final
@dataclass(frozen=True, eq=False)
class PooledHead:
    """One head as shares of its labels.

    Attributes:
        maps: uint8 (i, j, k, 16), 255 = all of the voxel: the share of each label but air, in the
            order of `WHOLE_LABELS`, then the template intensity; the rest is 0. What belongs to a
            voxel lies together, so that a look-up touches one line of memory.
        spacing_mm: distance of the grid points. The points are as far apart as, or closer than,
            the voxels over which the maps are means. The centre of the array is the centre of the
            brain's bounding box.
    """

    maps: np.ndarray
    spacing_mm: float


def _box(volume: np.ndarray, centre: np.ndarray, extent: Sequence[int]) -> np.ndarray:
    """Cut a box of the given extent about a voxel; air comes in where it reaches beyond."""
    start = [int(c) - (n - 1) // 2 for c, n in zip(centre, extent, strict=True)]
    out = np.zeros(extent, dtype=volume.dtype)
    source, target = [], []
    for low, n, have in zip(start, extent, volume.shape, strict=True):
        first, last = max(low, 0), min(low + n, have)
        source.append(slice(first, last))
        target.append(slice(first - low, last - low))
    out[tuple(target)] = volume[tuple(source)]
    return out


def _averaged(volume: np.ndarray, *, spacing: int, width: int) -> np.ndarray:
    """Average blocks of `spacing` voxels, then `width` neighbouring blocks along every axis."""
    total = np.zeros([n // spacing for n in volume.shape], dtype=np.uint32)
    for i, j, k in np.ndindex(spacing, spacing, spacing):
        total += volume[i::spacing, j::spacing, k::spacing]
    mean = total.astype(np.float32) / spacing**3
    for axis in range(3):
        count = mean.shape[axis] - width + 1
        parts = [mean.take(range(a, a + count), axis=axis) for a in range(width)]
        mean = np.mean(parts, axis=0)
    return mean


def tissue_maps(
    labels: np.ndarray, t1: np.ndarray, *, field_mm: Sequence[int], voxel_mm: float
) -> PooledHead:
    """Average a labelled head (1 mm) over voxels of `voxel_mm`, on a grid about twice as fine.

    Args:
        labels: uint8 (i, j, k), indices into `WHOLE_LABELS`.
        t1: uint8, template intensity on the same grid, 0 outside the brain.
        field_mm: field of view to come; the box is larger by `MARGIN_MM` on each side.
        voxel_mm: side of the voxels to come, 1 or more.
    """
    brain = (labels >= FLUID) & (labels <= WHITE)
    seen = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    centre = np.array([(line[0] + line[-1]) // 2 for line in seen])
    spacing = max(1, int(voxel_mm // 2))
    width = max(1, round(voxel_mm / spacing))
    extent = [
        spacing * (2 * round((field + 2 * MARGIN_MM) / (2 * spacing)) + width - 1)
        for field in field_mm
    ]
    labels, t1 = _box(labels, centre, extent), _box(t1, centre, extent)
    template = np.round(_averaged(t1, spacing=spacing, width=width)).astype(np.uint8)
    maps = np.zeros((*template.shape, 16), dtype=np.uint8)
    maps[..., N_MAPS - 1] = template
    for label in range(AIR + 1, len(WHOLE_LABELS)):
        share = _averaged(labels == label, spacing=spacing, width=width)
        maps[..., label - 1] = np.round(255.0 * share)
    return PooledHead(maps, float(spacing))


def look_up(
    head: PooledHead, points_mm: Float[np.ndarray, "points 3"]
) -> Float[Tensor, "maps points"]:
    """Interpolate the maps linearly at points given from the centre of the box, as shares of 1.

    Outside the box the nearest voxel counts.
    """
    shape = np.array(head.maps.shape[:3])
    at = points_mm / head.spacing_mm + 0.5 * (shape - 1.0)
    at = np.clip(at, 0.0, shape - 1.001).astype(np.float32)
    first = at.astype(np.int64)
    share = torch.from_numpy((at - first).astype(np.float32)).unbind(1)
    steps = np.array([shape[1] * shape[2], shape[2], 1])
    base = first @ steps
    cells = head.maps.reshape(-1, 16).view(np.uint64)  # two words a voxel are quick to gather
    out = torch.zeros(len(at), 16)
    for corner in np.ndindex(2, 2, 2):
        weight = torch.ones(len(at))
        for axis, upper in enumerate(corner):
            weight = weight * (share[axis] if upper else 1.0 - share[axis])
        rows = np.take(cells, base + int(steps @ corner), axis=0).view(np.uint8)
        out.addcmul_(torch.from_numpy(rows).float(), weight[:, None])
    return out[:, :N_MAPS].T.contiguous().div_(255.0)


def pool_head(
    seed: int,
    *,
    field_mm: Sequence[int],
    voxel_mm: float,
    cache_dir: Path | None = None,
) -> PooledHead:
    """Make one head, or read it where it was made before.

    Args:
        seed: which head.
        field_mm: field of view (i, j, k).
        voxel_mm: side of the voxels to come.
        cache_dir: folder of the pool; nothing is kept if None.
    """
    name = f"head{_VERSION}_{seed}_{'x'.join(map(str, field_mm))}_{voxel_mm:g}mm.npy"
    file = None if cache_dir is None else cache_dir / name
    if file is not None and file.is_file():
        maps = np.load(file, mmap_mode="r", allow_pickle=False)
        return PooledHead(maps, float(max(1, int(voxel_mm // 2))))
    labels, t1 = simulate_whole_head(seed)
    head = tissue_maps(labels, t1, field_mm=field_mm, voxel_mm=voxel_mm)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        np.save(partial, head.maps, allow_pickle=False)
        partial.replace(file)
    return head
