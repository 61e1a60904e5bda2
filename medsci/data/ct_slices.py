"""Axial CT slices for training: real volumes, simulated heads and simulated trunks, mixed."""

__all__ = ["SimulatedCt"]

from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medsci.data.ct_phantom import AIR_HU, head_slice, trunk_slice
from medsci.data.head_template import simulate_head
from medsci.data.known import read_data
from medsci.data.random_field import coarse_field

_TRUNK_MM = 1.15
_HEAD_MM = 1.0
_Window = tuple[tuple[int, int], float]


@final
class SimulatedCt:
    """Axial slices of real CT volumes and of simulated anatomy as a `Source`.

    A draw chooses among the kinds by `shares`, turns, mirrors, scales and bends the slice, cuts a
    random window of `size` pixels whose side is drawn between the limits of `pixel_mm`, adds noise
    like that of a reconstruction, and maps `window_hu` to [0, 1] (bone above the window exceeds 1).

    Args:
        size: rows (posterior to anterior) and columns (left to right) of a sample.
        volumes: names of real CT volumes of the registry.
        shares: of real, head and trunk slices; without volumes the first falls to the others.
        n_heads: simulated heads in the pool.
        pixel_mm: smallest and largest side of a pixel.
        window_hu: Hounsfield units that become 0 and 1.
        seed: chooses heads and draws.
        split: `train` or `validation`: other heads, other trunks, and of every real volume the last
            tenth of its slices.
        cache_dir: where the labelled heads are kept; memory only if None.

    A sample is float32 `(1, rows, columns)`.

    Raises:
        InvalidInputError: a volume is not on this machine, with the way to get it.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (160, 160),
        volumes: tuple[str, ...] = ("chest-ct-1",),
        shares: tuple[float, float, float] = (0.4, 0.3, 0.3),
        n_heads: int = 24,
        pixel_mm: tuple[float, float] = (0.85, 2.0),
        window_hu: tuple[float, float] = (-1000.0, 1000.0),
        seed: int = 0,
        split: Literal["train", "validation"] = "train",
        cache_dir: str | Path | None = None,
    ) -> None:
        if not window_hu[0] < window_hu[1]:
            raise ValueError(f"window_hu={window_hu} came; give a lower and an upper bound")
        if not 0.0 < pixel_mm[0] <= pixel_mm[1]:
            raise ValueError(f"pixel_mm={pixel_mm} came; give a smallest and a largest side")
        self.size, self.volumes, self.n_heads = size, volumes, n_heads
        self.shares = np.array(shares if volumes else (0.0, *shares[1:]), dtype=np.float64)
        if (self.shares < 0.0).any() or not self.shares.sum() > 0.0:
            raise ValueError(
                f"shares={shares} came; give three that are not negative and not all 0"
            )
        self.shares /= self.shares.sum()
        self.pixel_mm, self.window_hu = pixel_mm, window_hu
        self.seed, self.split = seed, split
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def n_items(self) -> int:
        """Number of draws that count as one pass; what is drawn depends on the seed as well."""
        return 4096 if self.split == "train" else 256

    @cached_property
    def _real(self) -> list[tuple[np.ndarray, float]]:
        """The volumes as (slices, rows, columns) in Hounsfield units, with the side of a pixel."""
        found = []
        for name in self.volumes:
            volume = read_data(name).to_orientation("RAS")
            stack = np.ascontiguousarray(volume.array.T.astype(np.float32))
            last = max(1, len(stack) // 10)
            part = stack[:-last] if self.split == "train" else stack[-last:]
            found.append((part, float(np.linalg.norm(volume.affine[:3, 0]))))
        return found

    @cached_property
    def _heads(self) -> list[np.ndarray]:
        offset = 1_000_003 * self.seed + (500_000 if self.split == "validation" else 0)
        return [self._head(7_000_000 + offset + index) for index in range(self.n_heads)]

    def _head(self, number: int) -> np.ndarray:
        file = None if self.cache_dir is None else self.cache_dir / f"ct_head_{number}.npy"
        if file is not None and file.is_file():
            return np.load(file, mmap_mode="r", allow_pickle=False)
        labels = np.ascontiguousarray(simulate_head(number)[0][:, :, 20:175].T)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial.npy")
            np.save(partial, labels, allow_pickle=False)
            partial.replace(file)
        return labels

    def draw(self, item: int, seed: int) -> Tensor:
        """Return one slice, determined by `(item, seed)`.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng([self.seed, item, seed, self.split == "validation"])
        kind = generator.choice(3, p=self.shares)
        image, side = self._pick(int(kind), generator)
        moved = _cut(torch.from_numpy(image), side, self._window(side, generator), generator)
        lo, hi = self.window_hu
        grain = generator.uniform(0.0, 25.0) * generator.random()
        noise = generator.standard_normal(self.size).astype(np.float32)
        noisy = moved + torch.from_numpy(noise * np.float32(grain))
        return ((noisy.clamp(AIR_HU, 3000.0) - lo) / (hi - lo))[None]

    def _pick(self, kind: int, generator: np.random.Generator) -> tuple[np.ndarray, float]:
        if kind == 0:
            stack, side = self._real[int(generator.integers(len(self._real)))]
            level = int(generator.integers(len(stack)))
            return np.array(stack[level]), side
        if kind == 1:
            labels = self._heads[int(generator.integers(self.n_heads))]
            chosen = np.asarray(labels[int(generator.integers(len(labels)))])
            return head_slice(chosen, generator), _HEAD_MM
        return trunk_slice(generator), _TRUNK_MM

    def _window(self, side: float, generator: np.random.Generator) -> _Window:
        lo, hi = np.log(self.pixel_mm)
        return self.size, float(np.exp(generator.uniform(lo, hi))) / side


def _cut(
    image: Tensor,
    side: float,
    window: _Window,
    generator: np.random.Generator,
) -> Tensor:
    """Mirror, turn, bend and cut a window out of a slice; `window` is its size and its zoom."""
    size, zoom = window
    angle = np.deg2rad(generator.normal(0.0, 6.0))
    matrix = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[1] *= generator.choice([-1.0, 1.0])
    axes = [torch.arange(n, dtype=torch.float32) - 0.5 * (n - 1) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    grid = grid @ torch.from_numpy(matrix.T.astype(np.float32))
    reach = np.maximum(0.5 * np.array(image.shape) - 0.5 * zoom * np.array(size), 6.0 / side)
    grid += torch.from_numpy((reach * generator.uniform(-0.8, 0.8, 2)).astype(np.float32))
    bend = coarse_field(size, spacing=40.0, generator=generator, channels=2)
    grid += zoom * generator.uniform(0.0, 1.5) * torch.from_numpy(bend).permute(1, 2, 0)
    if zoom > 1.5:  # many pixels become one: average before sampling
        sigma = 0.35 * zoom
        image = _smooth(image, sigma)
    half = 0.5 * (torch.tensor(image.shape, dtype=torch.float32) - 1.0)
    moved = functional.grid_sample(
        image[None, None] - AIR_HU, (grid / half).flip(-1)[None], align_corners=True
    )
    return moved[0, 0] + AIR_HU


def _smooth(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, taps.reshape(1, 1, -1, 1))
    return functional.conv2d(rows, taps.reshape(1, 1, 1, -1))[0, 0]
