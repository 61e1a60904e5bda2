"""Tiles: a denoiser of a small field of view, made to see a large one."""

__all__ = ["Tiled"]

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from medsci.core.denoise.wrappers import DenoiseFn, State, path_of, sd_of

Axis = tuple[tuple[slice, np.ndarray], ...]  # tiles of one axis, with their weights


@final
class Tiled(nn.Module):
    """Evaluate a denoiser on overlapping tiles and blend them.

        x0 = sum_k w_k denoise(x on tile k),     sum_k w_k = 1 in every voxel

    The weights rise over the overlap as a squared sine and are products over the axes, normalised
    on each axis, so that they sum to one for any sizes. For a denoiser that works voxel by voxel
    the tiling changes nothing; for others the overlap should cover their field of view.

    A tensor condition with one entry per sample in front is cut along; where it ends in the spatial
    shape of the state, it is tiled as well. The network is not told where a tile lies.

    Args:
        denoiser: has a `path`.
        tile: size of a tile in voxels, along the last axes of the state; an axis shorter than its
            tile is taken whole.
        overlap: voxels that neighbours share, at least; one number for all axes or one each.
        chunk: tiles in one network call, over all samples.

    Source: own; overlapped tiles of the denoiser at every step after Bar-Tal et al. 2023,
    arXiv:2302.08113.
    """

    def __init__(
        self,
        denoiser: DenoiseFn,
        *,
        tile: Sequence[int],
        overlap: int | Sequence[int],
        chunk: int = 4,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.path = path_of(denoiser)
        self.sigma_data = sd_of(denoiser)
        self.tile = tuple(tile)
        shared = (overlap,) * len(self.tile) if isinstance(overlap, int) else tuple(overlap)
        if not self.tile or len(shared) != len(self.tile):
            raise ValueError(f"tile={tile} and overlap={overlap} came; give one of each per axis")
        if any(not 0 <= o < size for o, size in zip(shared, self.tile, strict=True)):
            raise ValueError(f"tile={tile} and overlap={overlap} came; give 0 <= overlap < tile")
        if chunk < 1:
            raise ValueError(f"chunk={chunk} came; give the number of tiles per network call")
        self.overlap = shared
        self.chunk = chunk

    def forward(self, x: State, t: float | Tensor, **cond: Any) -> State:
        """Return the blended x0.

        Raises:
            ValueError: the state has fewer axes than the tiles.
        """
        if x.ndim <= len(self.tile):
            raise ValueError(
                f"a state of shape {tuple(x.shape)} came for tiles of shape {self.tile}; samples "
                "go in front and the tiled axes last"
            )
        n, space = x.shape[0], tuple(x.shape[-len(self.tile) :])
        axes = [_axis(*sizes) for sizes in zip(space, self.tile, self.overlap, strict=True)]
        weights = [_to(axis, x, len(axes) - 1 - place) for place, axis in enumerate(axes)]
        jobs = list(itertools.product(range(n), *(range(len(axis)) for axis in axes)))
        out = torch.zeros_like(x)
        for first in range(0, len(jobs), self.chunk):
            group = jobs[first : first + self.chunk]
            places = [_place(axes, job) for job in group]
            parts = torch.stack([x[place] for place in places])
            times = torch.stack([t[job[0]] for job in group]) if isinstance(t, Tensor) else t
            conds = {k: _cut(v, places, n=n, space=space) for k, v in cond.items()}
            x0 = self.denoiser(parts, times, **conds)
            for job, place, part in zip(group, places, x0.unbind(), strict=True):
                weight = math.prod(w[i] for w, i in zip(weights, job[1:], strict=True))
                out[place].add_(part * weight)
        return out


def _place(axes: Sequence[Axis], job: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the index of a tile of a sample: `(sample, ..., slice, slice)`."""
    return (job[0], ..., *(axis[i][0] for axis, i in zip(axes, job[1:], strict=True)))


def _cut(value: Any, places: Sequence[tuple[Any, ...]], *, n: int, space: tuple[int, ...]) -> Any:
    """Return a condition for the tiles: rows of its samples, and their voxels if it has any."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != n:
        return value
    spatial = value.ndim > len(space) and tuple(value.shape[-len(space) :]) == space
    return torch.stack([value[place if spatial else place[0]] for place in places])


def _to(axis: Axis, x: Tensor, behind: int) -> list[Tensor]:
    """Return the weights of an axis on the device of x, shaped to multiply along that axis."""
    return [
        torch.from_numpy(weight)
        .to(device=x.device, dtype=x.real.dtype, non_blocking=True)
        .reshape(-1, *(1,) * behind)
        for _, weight in axis
    ]


@lru_cache(maxsize=256)
def _axis(size: int, tile: int, overlap: int) -> Axis:
    """Return the tiles of one axis, spread evenly, with weights that sum to one."""
    if size <= tile:
        return ((slice(0, size), np.ones(size)),)
    count = math.ceil((size - overlap) / (tile - overlap))
    starts = [round(i * (size - tile) / (count - 1)) for i in range(count)]
    rise = np.ones(tile)
    rise[:overlap] = np.sin(0.5 * np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    window = rise * rise[::-1]
    total = np.zeros(size)
    for start in starts:
        total[start : start + tile] += window
    parts = [slice(start, start + tile) for start in starts]
    return tuple((part, window / total[part]) for part in parts)
