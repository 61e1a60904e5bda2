"""Endless 3D heads for training: T1 and tissue fractions of simulated heads, painted at each draw.

A pool of deformed, labelled heads is made once (`head_pool`). Each draw moves one head by a small
affine and a gentle bend, shifts the balance of its tissues, gives every tissue a random intensity
and texture, mixes in the template, and adds a bias field and a trace of noise. Image and fractions
come from the same moved maps, so they fit each other in every voxel. Item and seed determine the
draw completely.
"""

__all__ = ["CHANNELS", "CORRELATION", "COVARIATES", "SimulatedHeadVolumes", "blurred_to"]

import math
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from medsci.data.head_pool import PooledHead, look_up, pool_head
from medsci.data.head_template import FLUID, WHITE
from medsci.data.random_field import coarse_field, fourier_field
from medsci.data.whole_head import WHOLE_LABELS

CHANNELS = ("t1", "fluid", "grey", "white")

COVARIATES = (
    ("brain_ml", "ml", 1700.0, 225.0, 1250.0, 2350.0),
    ("fluid_fraction", "", 0.186, 0.042, 0.1, 0.31),
    ("grey_fraction", "", 0.501, 0.053, 0.35, 0.61),
    ("white_fraction", "", 0.313, 0.0275, 0.24, 0.385),
)
"""What a sample's covariates are: name, unit, mean and spread they are standardised by, range."""

CORRELATION = (
    (1.0, 0.146, -0.048, -0.133),
    (0.146, 1.0, -0.855, 0.093),
    (-0.048, -0.855, 1.0, -0.596),
    (-0.133, 0.093, -0.596, 1.0),
)
"""Of the covariates over 512 draws of the 64 training heads at 4 mm; the fractions sum to one."""

# mean and spread of each tissue's T1 intensity, and how rough its texture is
_PAINT = {
    "fluid": (0.20, 0.06, 0.05), "grey": (0.52, 0.06, 0.05), "white": (0.80, 0.06, 0.05),
    "dura": (0.32, 0.10, 0.3), "bone": (0.07, 0.03, 0.05), "marrow": (0.60, 0.22, 0.35),
    "muscle": (0.42, 0.10, 0.2), "fat": (1.10, 0.25, 0.15), "skin": (0.55, 0.15, 0.25),
    "deep": (0.55, 0.20, 0.3), "vitreous": (0.18, 0.06, 0.05), "cord": (0.66, 0.08, 0.05),
}  # fmt: skip
_TISSUES = slice(FLUID - 1, WHITE)  # rows of the maps, which leave air out


@final
class SimulatedHeadVolumes:
    """Whole simulated heads as a `Source` of `x0` and `covariates`.

    The field of view is centred on the bounding box of the brain, up to the shift of the draw;
    array axes are RAS+.

    Args:
        n_heads: heads in the pool.
        size: voxels along i (to the right), j (to anterior) and k (to superior).
        voxel_mm: side of a voxel, 1 or more.
        seed: chooses the heads; train and validation never share one.
        split: `train` or `validation`.
        cache_dir: where the pool is kept as npy files between runs; memory only if None.
        low_resolution_mm: add `image`, the T1 channel blurred to this resolution; None adds none.

    A draw is a dict of

    - `x0`: float32 (4, i, j, k): T1 scaled to [-1, 1] with air at exactly -1, then the fractions p
      of fluid, grey and white matter in the voxel as `2 p - 1`;
    - `covariates`: float32 (4,): volume of the three tissues in the field of view, and their
      fractions of it, standardised by `COVARIATES`;
    - `image`, if asked for: float32 (1, i, j, k), see `blurred_to`.
    """

    def __init__(
        self,
        *,
        n_heads: int = 48,
        size: tuple[int, int, int] = (48, 56, 48),
        voxel_mm: float | int = 4.0,
        seed: int = 0,
        split: Literal["train", "validation"] = "train",
        cache_dir: str | Path | None = None,
        low_resolution_mm: float | int | None = None,
    ) -> None:
        if voxel_mm < 1.0:
            raise ValueError(f"voxel_mm={voxel_mm} came; heads are made at 1 mm, give 1 or more")
        if n_heads < 1 or min(size) < 1:
            raise ValueError(f"n_heads={n_heads}, size={size} came; give 1 or more of each")
        if low_resolution_mm is not None and low_resolution_mm <= voxel_mm:
            raise ValueError(
                f"low_resolution_mm={low_resolution_mm} came with voxels of {voxel_mm} mm; "
                "give a resolution coarser than the voxels, or None"
            )
        self.low_resolution_mm = low_resolution_mm
        self.n_heads, self.size, self.voxel_mm = n_heads, size, float(voxel_mm)
        self.seed, self.split = seed, split
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @property
    def n_items(self) -> int:
        """Number of heads in the pool."""
        return self.n_heads

    @cached_property
    def _pool(self) -> dict[int, PooledHead]:
        return {}

    def _head(self, index: int) -> PooledHead:
        if index not in self._pool:
            self._pool[index] = pool_head(
                2 * (1_000_003 * self.seed + index) + (self.split == "validation"),
                field_mm=[round(n * self.voxel_mm) for n in self.size],
                voxel_mm=self.voxel_mm,
                cache_dir=self.cache_dir,
            )
        return self._pool[index]

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return one head, determined by `(item, seed)`.

        Raises:
            IndexError: there is no such item.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        generator = np.random.default_rng([self.seed, item, seed])
        maps = _moved(self._head(item), self.size, voxel_mm=self.voxel_mm, generator=generator)
        shares, template = maps[:-1], maps[-1]
        fractions = _rebalanced(shares[_TISSUES], generator)
        image = _painted(shares, fractions, template, generator)
        image = _finished(image, shares.sum(0), voxel_mm=self.voxel_mm, generator=generator)
        x0 = torch.cat([image[None], fractions]).mul_(2.0).sub_(1.0).clamp_(-1.0, 1.0)
        sample = {"x0": x0, "covariates": _covariates(fractions, voxel_mm=self.voxel_mm)}
        if self.low_resolution_mm is not None:
            sample["image"] = blurred_to(
                x0[:1], voxel_mm=self.voxel_mm, resolution_mm=float(self.low_resolution_mm)
            )
        return sample


def blurred_to(
    image: Float[Tensor, "1 i j k"], *, voxel_mm: float, resolution_mm: float
) -> Float[Tensor, "1 i j k"]:
    """Blur a volume of voxels to a coarser resolution on the same grid, and scale it to [-1, 1].

    The Gaussian's full width at half maximum and the side of the voxel add in quadrature to the
    resolution. The range is stretched again because that of a measured image is not known.
    """
    width = math.sqrt(max(resolution_mm**2 - voxel_mm**2, 0.0)) / (2.3548 * voxel_mm)
    smooth = ndimage.gaussian_filter(image[0].numpy(), width, mode="nearest")
    low, high = float(smooth.min()), float(smooth.max())
    scaled = (smooth - low) * (2.0 / max(high - low, 1e-6)) - 1.0
    return torch.from_numpy(scaled.astype(np.float32))[None].clamp_(-1.0, 1.0)


def _moved(
    head: PooledHead, size: tuple[int, int, int], *, voxel_mm: float, generator: np.random.Generator
) -> Float[Tensor, "n i j k"]:
    """Mirror, turn, scale, shift and bend a head onto the output grid; shares in [0, 1]."""
    tilt, roll, yaw = np.deg2rad(generator.uniform(-5.0, 5.0, 3))
    turn = _axis_turn(0, tilt) @ _axis_turn(1, roll) @ _axis_turn(2, yaw)
    scale = generator.uniform(1.0, 1.14) * generator.uniform(0.97, 1.03, 3)
    matrix = turn @ np.diag(scale * [generator.choice([-1.0, 1.0]), 1.0, 1.0])
    shift = generator.uniform(-5.0, 5.0, 3)
    axes = [voxel_mm * (torch.arange(n, dtype=torch.float32) - 0.5 * (n - 1)) for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    points = (points + torch.tensor(shift, dtype=torch.float32)) @ torch.tensor(
        matrix.T, dtype=torch.float32
    )
    bend = coarse_field(size, spacing=36.0 / voxel_mm, generator=generator, channels=3)
    points += generator.uniform(0.0, 2.0) * torch.from_numpy(bend).permute(1, 2, 3, 0)
    return look_up(head, points.reshape(-1, 3).numpy()).reshape(-1, *size)


def _axis_turn(axis: int, angle_rad: float) -> np.ndarray:
    a, b = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle_rad)
    matrix[a, b], matrix[b, a] = -np.sin(angle_rad), np.sin(angle_rad)
    return matrix


def _rebalanced(
    tissues: Float[Tensor, "3 i j k"], generator: np.random.Generator
) -> Float[Tensor, "3 i j k"]:
    """Move the boundaries between fluid, grey and white: more or less of each, sum unchanged."""
    weight = torch.tensor(
        np.exp(generator.normal((0.15, 0.0, 0.1), (0.35, 0.2, 0.2))), dtype=torch.float32
    )
    weighted = tissues * weight[:, None, None, None]
    total = weighted.sum(0)
    return weighted * torch.where(total > 0.0, tissues.sum(0) / total, 0.0)


def _painted(
    shares: Float[Tensor, "n i j k"],
    fractions: Float[Tensor, "3 i j k"],
    template: Float[Tensor, "i j k"],
    generator: np.random.Generator,
) -> Float[Tensor, "i j k"]:
    """Give every tissue an intensity and a texture; share the grey scale with the template."""
    mean, spread, rough = np.array([_PAINT[name] for name in WHOLE_LABELS[1:]]).T
    level = torch.tensor(generator.normal(mean, spread).clip(min=0.0), dtype=torch.float32)
    rough = level * torch.tensor(rough, dtype=torch.float32)
    mixed = torch.cat([fractions, shares[WHITE:]])
    flat = torch.stack([level, rough]) @ mixed.flatten(1)
    painted, roughness = flat.reshape(2, *template.shape)
    # of a texture of a few mm, averaging over coarse voxels leaves a small part
    texture = fourier_field(template.shape, scale=generator.uniform(0.5, 1.5), generator=generator)
    painted = painted + generator.uniform(0.1, 0.6) * roughness * torch.from_numpy(texture)
    inside = shares[_TISSUES].sum(0)
    grey = torch.where(inside > 0.02, template / inside.clamp_min(0.02), 0.0)
    gamma, gain = generator.uniform(0.8, 1.9), generator.normal(0.85, 0.06)
    bent = inside * gain * (grey / 0.9).pow(gamma)
    plain = torch.tensordot(level[_TISSUES], shares[_TISSUES], dims=1)
    return (painted + generator.uniform(0.0, 0.85) * (bent - plain)).clamp_min(0.0)


def _finished(
    image: Float[Tensor, "i j k"],
    body: Float[Tensor, "i j k"],
    *,
    voxel_mm: float,
    generator: np.random.Generator,
) -> Float[Tensor, "i j k"]:
    """Add a bias field and a trace of noise, and scale to [0, 1] with air at exactly 0."""
    spacing = generator.uniform(70.0, 140.0) / voxel_mm
    bias = coarse_field(tuple(image.shape), spacing=spacing, generator=generator)[0]
    image = image * torch.from_numpy(np.exp(generator.uniform(0.0, 0.2) * bias))
    grain = torch.from_numpy(generator.standard_normal(tuple(image.shape)).astype(np.float32))
    image = (image + generator.uniform(0.0, 0.015) * body.clamp_max(1.0) * grain).clamp_min(0.0)
    rank = int(0.999 * (image.numel() - 1))
    top = float(np.partition(image.flatten().numpy(), rank)[rank])
    return (image / max(top, 1e-6)).clamp_max(1.0)


def _covariates(fractions: Float[Tensor, "3 i j k"], *, voxel_mm: float) -> Float[Tensor, "4"]:
    millilitres = fractions.sum(dim=(1, 2, 3), dtype=torch.float64) * voxel_mm**3 / 1000.0
    total = millilitres.sum()
    values = torch.cat([total[None], millilitres / total.clamp_min(1e-9)])
    mean = torch.tensor([entry[2] for entry in COVARIATES], dtype=torch.float64)
    std = torch.tensor([entry[3] for entry in COVARIATES], dtype=torch.float64)
    return ((values - mean) / std).float()
