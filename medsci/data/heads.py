"""Endless T1 head slices for training: simulated heads, painted anew at every draw.

A pool of deformed, labelled heads is made once (`head_template`). Each draw takes one axial slice,
gives every tissue a random intensity and texture, mixes in the deformed template, and adds partial
volume, a bias field, a small affine motion, and the residual phase that is left of a smooth phase
after low-resolution phase removal. Item and seed determine the draw completely.
"""

__all__ = ["SimulatedHeads", "simulated_head_volume"]

from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from scipy import ndimage
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from medsci.data.head_template import LABELS, simulate_head
from medsci.data.phase import remove_low_resolution_phase, smooth_phase
from medsci.data.random_field import coarse_field, fourier_field

# mean and spread of each tissue's T1 intensity, white matter near 0.8
_INTENSITY = {
    "air": (0.0, 0.0), "fluid": (0.20, 0.06), "grey": (0.52, 0.06), "white": (0.80, 0.06),
    "dura": (0.32, 0.10), "bone": (0.07, 0.03), "marrow": (0.60, 0.22), "muscle": (0.42, 0.10),
    "fat": (1.10, 0.25), "skin": (0.55, 0.15), "deep": (0.55, 0.20),
}  # fmt: skip
_TEXTURED = {"marrow": 0.35, "muscle": 0.2, "fat": 0.15, "skin": 0.25, "deep": 0.3, "dura": 0.3}


@final
class SimulatedHeads:
    """Axial slices of simulated heads as a `Source`.

    Args:
        n_heads: heads in the pool.
        size: rows (posterior to anterior) and columns (left to right) of a slice.
        pixel_mm: side of a pixel. Slices are painted at 1 mm and averaged over coarser pixels.
        seed: chooses the heads; train and validation never share one.
        split: `train` or `validation`.
        slices: range of axial template slices used; 72 is the level of the origin of MNI space.
        cache_dir: where the pool is kept as npy files between runs; memory only if None.

    A drawn slice is float32 `(2, rows, columns)`: real and imaginary part, scaled so that the 99th
    percentile of the magnitude is 1 up to a random factor between 0.8 and 1.25.
    """

    def __init__(
        self,
        *,
        n_heads: int = 32,
        size: tuple[int, int] = (224, 192),
        seed: int = 0,
        split: Literal["train", "validation"] = "train",
        slices: tuple[int, int] = (40, 150),
        cache_dir: str | Path | None = None,
        pixel_mm: float = 1.0,
    ) -> None:
        if pixel_mm < 1.0:
            raise ValueError(f"pixel_mm={pixel_mm} came; heads are painted at 1 mm, give 1 or more")
        self.n_heads = n_heads
        self.size = size
        self.pixel_mm = float(pixel_mm)
        self.seed = seed
        self.split = split
        self.slices = slices
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def n_items(self) -> int:
        """Number of different slices before any augmentation."""
        return self.n_heads * (self.slices[1] - self.slices[0])

    @cached_property
    def _pool(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._head(index) for index in range(self.n_heads)]

    def _head(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        head_seed = 2 * (1_000_003 * self.seed + index) + (self.split == "validation")
        name = f"head_{head_seed}_{self.slices[0]}_{self.slices[1]}"
        file = None if self.cache_dir is None else self.cache_dir / f"{name}.npy"
        if file is not None and file.is_file():
            stacked = np.load(file, mmap_mode="r", allow_pickle=False)
            return stacked[0], stacked[1]
        keep = slice(*self.slices)
        labels, t1 = (np.ascontiguousarray(v[:, :, keep].T) for v in simulate_head(head_seed))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial.npy")
            np.save(partial, np.stack([labels, t1]), allow_pickle=False)
            partial.replace(file)
        return labels, t1

    def draw(self, item: int, seed: int) -> Tensor:
        """Return one slice, determined by `(item, seed)`.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng([self.seed, item, seed])
        head, level = divmod(item, self.slices[1] - self.slices[0])
        labels, t1 = self._pool[head]
        painted = torch.from_numpy(paint(labels[level], t1[level], generator))
        image = _blur(painted, generator.uniform(0.35, 0.8))  # partial volume
        fine = (round(self.size[0] * self.pixel_mm), round(self.size[1] * self.pixel_mm))
        drawn = _finish(_move(image, fine, generator), generator)
        return drawn if fine == self.size else functional.adaptive_avg_pool2d(drawn, self.size)


def simulated_head_volume(seed: int, *, slices: tuple[int, int] = (75, 111)) -> np.ndarray:
    """Simulate one whole head for tests and tuning, never used in training.

    Args:
        seed: which head.
        slices: range of axial template slices kept.

    Returns:
        float32 magnitude `(i, j, k)` on the 1 mm RAS grid of the template, white matter near 0.8.
    """
    labels, t1 = simulate_head(-1 - seed)
    keep = (slice(None), slice(None), slice(*slices))
    generator = np.random.default_rng([seed, 0x707])
    painted = paint(np.ascontiguousarray(labels[keep]), np.ascontiguousarray(t1[keep]), generator)
    return ndimage.gaussian_filter(painted, 0.5)


def paint(labels: np.ndarray, t1: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give every tissue an intensity and a texture, and mix in the template; any rank."""
    shape = labels.shape
    table = np.array(
        [max(0.0, generator.normal(*_INTENSITY[name])) for name in LABELS], dtype=np.float32
    )
    rough = np.array([_TEXTURED.get(name, 0.05) for name in LABELS], dtype=np.float32)
    fine = _texture(shape, generator.uniform(0.6, 1.6), generator)
    wide = _texture(shape, generator.uniform(4.0, 9.0), generator)
    strength = rough * generator.uniform(0.3, 1.3)
    painted = table[labels] * (1.0 + strength[labels] * (0.6 * fine + 0.6 * wide))
    inside = t1 > 0
    share = generator.uniform(0.0, 0.85)
    template = _contrast(t1.astype(np.float32) / 255.0, generator)
    painted[inside] = (1.0 - share) * painted[inside] + share * template[inside]
    return np.maximum(painted, 0.0)


def _texture(shape: tuple[int, ...], scale: float, generator: np.random.Generator) -> np.ndarray:
    """Draw a field on a grid whose transform is fast (the template's axes are primes), and crop."""
    fast = [next_fast_len(n, real=True) for n in shape]
    field = fourier_field(fast, scale=scale, generator=generator)
    return field[tuple(slice(n) for n in shape)]


def _contrast(template: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Bend the template's grey scale by a random monotone curve with white matter near 0.8."""
    gamma = generator.uniform(0.8, 1.9)
    return generator.normal(0.85, 0.06) * (template / 0.9) ** gamma


def _blur(image: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = functional.pad(image[None, None], (3, 3, 3, 3), mode="replicate")
    rows = functional.conv2d(padded, taps.reshape(1, 1, 7, 1))
    return functional.conv2d(rows, taps.reshape(1, 1, 1, 7))[0, 0]


def _move(image: Tensor, size: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Mirror, rotate, scale, shift and gently bend a slice onto the output grid."""
    angle = np.deg2rad(generator.normal(0.0, 4.0))
    scale = generator.uniform(0.93, 1.1, 2)
    mirror = generator.choice([-1.0, 1.0])
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    matrix[1] *= mirror
    axes = [torch.arange(n, dtype=torch.float32) - 0.5 * (n - 1) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    grid = grid @ torch.from_numpy(matrix.T.astype(np.float32))
    grid += torch.from_numpy(generator.normal(0.0, 5.0, 2).astype(np.float32))
    bend = coarse_field(size, spacing=40.0, generator=generator, channels=2)
    grid += generator.uniform(0.0, 1.5) * torch.from_numpy(bend).permute(1, 2, 0)
    half = 0.5 * (torch.tensor(image.shape, dtype=torch.float32) - 1.0)
    moved = functional.grid_sample(
        image[None, None], (grid / half).flip(-1)[None], mode="bicubic", align_corners=True
    )
    return moved[0, 0].clamp_min(0.0)


def _finish(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Add bias, a trace of noise and residual phase; scale; split into two channels."""
    shape = tuple(image.shape)
    bias = coarse_field(shape, spacing=generator.uniform(70.0, 140.0), generator=generator)[0]
    image = image * torch.from_numpy(np.exp(generator.uniform(0.0, 0.2) * bias))
    phase = torch.from_numpy(
        smooth_phase(
            shape,
            generator=generator,
            spacing=generator.uniform(45.0, 120.0),
            swing_rad=generator.uniform(0.0, 1.0),
        )
    )
    grain = generator.uniform(0.0, 0.012)
    noise = torch.from_numpy(generator.standard_normal((2, *shape)).astype(np.float32))
    measured = torch.polar(image, phase) + grain * torch.complex(noise[0], noise[1])
    width = (float(generator.uniform(10.0, 40.0)), float(generator.uniform(7.0, 20.0)))
    if generator.random() < 0.5:
        width = width[::-1]
    measured = remove_low_resolution_phase(measured, width=width)
    magnitude = measured.abs().flatten().numpy()
    rank = int(0.99 * magnitude.size)
    level = max(float(np.partition(magnitude, rank)[rank]), 1e-6)
    gain = float(np.exp(generator.uniform(np.log(0.8), np.log(1.25))))
    return torch.view_as_real(measured * (gain / level)).permute(2, 0, 1).contiguous()
