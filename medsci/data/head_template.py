"""Labelled heads: the ICBM 2009a brain, dressed in skull and scalp and deformed at random.

nilearn carries the ICBM 152 nonlinear symmetric 2009a template (T1, grey- and white-matter
probability, 1 mm, skull-stripped). Grey, white and fluid come from its maps with their logits
disturbed, so that every head folds a little differently; skull and scalp are shells of random
thickness around the hull of the brain; the space outside the skull below is filled with random
soft tissue. A random smooth deformation then moves everything.

Source: Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033; randomised label synthesis after
Billot et al. 2023, doi:10.1016/j.media.2023.102789.
"""

__all__ = ["LABELS", "Template", "load_template", "pull", "simulate_head"]

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import final

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from medsci.data.random_field import coarse_field, fourier_field
from medsci.errors import InvalidInputError

LABELS = (
    "air", "fluid", "grey", "white", "dura", "bone", "marrow", "muscle", "fat", "skin", "deep",
)  # fmt: skip
(AIR, FLUID, GREY, WHITE, DURA, BONE, MARROW, MUSCLE, FAT, SKIN, DEEP) = range(len(LABELS))


@final
@dataclass(frozen=True, eq=False)
class Template:
    """What every simulated head starts from, on the 1 mm grid of the ICBM 2009a template.

    Attributes:
        logits: log probability of fluid, grey and white inside the brain, float32 (3, i, j, k).
        t1: template intensity scaled to [0, 1], float32 (i, j, k).
        distance_mm: signed distance to the smooth hull of the brain, positive outside.
    """

    logits: np.ndarray
    t1: np.ndarray
    distance_mm: np.ndarray


def _map(name: str) -> np.ndarray:
    import nibabel as nib

    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InvalidInputError(
            "the ICBM 2009a template lives in the package nilearn, which is not installed; "
            "run `pip install nilearn`"
        )
    folder = Path(spec.origin).parent / "datasets" / "data"
    path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    return np.asanyarray(image.dataobj).astype(np.float32) / 255.0


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template maps of nilearn and measure the distance to the brain's hull."""
    t1, grey, white = _map("t1"), _map("gm"), _map("wm")
    brain = ndimage.binary_fill_holes(t1 > 0.08)
    total = np.maximum(grey + white, 1.0)
    grey, white = grey / total, white / total
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    logits = np.log(np.stack([fluid, grey, white]) + 0.02)
    outside = ndimage.distance_transform_edt(~brain)
    closed = ndimage.distance_transform_edt(outside < 9.0) > 9.0  # closing by 9 mm bridges sulci
    hull = closed | brain
    distance = ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)
    smooth = ndimage.gaussian_filter(distance.astype(np.float32), 2.0)
    return Template(logits.astype(np.float32), t1, smooth)


def _deformation(shape: tuple[int, ...], generator: np.random.Generator) -> torch.Tensor:
    """Return pull-back coordinates in voxels, (i, j, k, 3): affine plus three random scales."""
    angles = np.deg2rad(generator.normal(0.0, (3.0, 3.0, 4.0)))
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    rotation = (
        np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        @ np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        @ np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    )
    matrix = rotation @ np.diag(generator.uniform(0.93, 1.09, 3))
    centre = (np.array(shape, dtype=np.float64) - 1.0) / 2.0
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    offset = centre - matrix @ centre + generator.normal(0.0, 3.0, 3)
    warped = grid @ torch.from_numpy(matrix.T.astype(np.float32))
    warped += torch.from_numpy(offset.astype(np.float32))
    for spacing, amplitude in ((48.0, 5.0), (22.0, 2.4), (10.0, 1.2)):
        field = coarse_field(shape, spacing=spacing, generator=generator, channels=3)
        strength = amplitude * generator.uniform(0.4, 1.1)
        warped += strength * torch.from_numpy(field).permute(1, 2, 3, 0)
    return warped


def pull(channels: np.ndarray, coordinates: torch.Tensor) -> np.ndarray:
    """Sample channels (c, i, j, k) at voxel coordinates, linearly, in slabs to use both cores."""
    shape = torch.tensor(channels.shape[1:], dtype=torch.float32)
    grid = (2.0 * coordinates / (shape - 1.0) - 1.0).flip(-1)[None]
    image = torch.from_numpy(channels)[None]
    moved = functional.grid_sample(image, grid, align_corners=True, padding_mode="border")
    return moved[0].numpy()


def _outer_labels(
    distance: np.ndarray, height: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Label everything outside the brain's hull by shells of random thickness."""
    shape = distance.shape

    def around(mean: float, spread: float, spacing: float) -> np.ndarray:
        field = coarse_field(shape, spacing=spacing, generator=generator)[0]
        return np.maximum(mean * generator.uniform(0.75, 1.3) + spread * field, 0.0)

    # sulci are narrower than the shells: small ripples keep the tables from being perfect
    edges = [around(1.6, 0.7, 25.0)]  # subarachnoid fluid
    for mean, spread, spacing in (
        (0.7, 0.25, 12.0),  # dura
        (1.6, 0.5, 18.0),  # inner table
        (2.6, 1.3, 22.0),  # diploe
        (1.7, 0.5, 18.0),  # outer table
    ):
        edges.append(edges[-1] + around(mean, spread, spacing))
    table = edges[-1]
    low = 1.0 / (1.0 + np.exp((height - generator.uniform(45.0, 75.0)) / 7.0))
    ripple = fourier_field(shape, scale=14.0, generator=generator)
    edges.append(table + np.maximum(0.0, 9.0 * low * (0.6 + 0.6 * ripple)))  # muscle, below
    edges.append(edges[-1] + around(4.5, 1.6, 24.0) + 2.0 * low)  # fat
    edges.append(edges[-1] + around(1.8, 0.4, 20.0))  # skin
    labels = np.full(shape, AIR, dtype=np.uint8)
    for edge, label in reversed(
        list(zip(edges, (FLUID, DURA, BONE, MARROW, BONE, MUSCLE, FAT, SKIN), strict=True))
    ):
        labels[distance < edge] = label
    texture = fourier_field(shape, scale=generator.uniform(2.5, 6.0), generator=generator)
    base = (distance > table) & (distance < edges[-2]) & (low + 0.08 * texture > 0.8)
    classes = np.array([AIR, BONE, MUSCLE, DEEP, FAT], dtype=np.uint8)
    cuts = np.sort(generator.normal([-1.5, -0.7, 0.4, 1.1], 0.25))
    labels[base] = classes[np.digitize(texture[base], cuts)]
    veins = np.abs(fourier_field(shape, scale=3.0, generator=generator)) < 0.06
    labels[veins & (labels == FAT)] = MUSCLE
    return labels


def simulate_head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one head.

    Returns:
        labels: uint8 (i, j, k), indices into `LABELS`, 1 mm RAS grid of the template.
        t1: uint8 template intensity moved by the same deformation, 0 outside the brain.
    """
    template = load_template()
    generator = np.random.default_rng([seed % 2**63, 0x4EAD])
    shape = template.t1.shape
    coordinates = _deformation(shape, generator)
    stacked = np.concatenate([template.logits, template.t1[None], template.distance_mm[None]])
    moved = pull(stacked, coordinates)
    logits, t1, distance = moved[:3], moved[3], moved[4]
    height = coordinates[..., 2].numpy()
    del coordinates
    for channel in range(3):
        for scale, amplitude in ((1.2, 0.5), (2.5, 0.5)):
            strength = amplitude * generator.uniform(0.3, 1.2)
            logits[channel] += strength * fourier_field(shape, scale=scale, generator=generator)
    brain = t1 > 0.08
    labels = _outer_labels(distance, height, generator)
    inner = distance < 0.0
    labels[inner] = FLUID
    tissue = np.array([FLUID, GREY, WHITE], dtype=np.uint8)[np.argmax(logits, axis=0)]
    labels[brain] = tissue[brain]
    return labels, np.round(255.0 * np.clip(t1, 0.0, 1.0) * brain).astype(np.uint8)
