"""Labelled whole heads: the simulated brain of `head_template` with skull, face and neck.

The brain comes from the ICBM template, deformed by an affine and a random diffeomorphism
(`DeformationLaw`), with ventricles of random size and tissue boundaries disturbed. Meninges,
skull and scalp are shells of random thickness around its hull. What lies outside the skull - face,
neck, eyes, airways, spine - is made of simple solids in the coordinates of the template, of random
size, so that it deforms with the brain. It looks like a head at a few millimetres; it is no atlas.
"""

__all__ = ["OUTER_LABELS", "WHOLE_LABELS", "simulate_whole_head"]

from collections.abc import Sequence

import numpy as np
import torch

from medsci.data.deformation_law import DeformationLaw, resampled_field
from medsci.data.head_template import (
    AIR,
    BONE,
    DEEP,
    DURA,
    FAT,
    FLUID,
    GREY,
    LABELS,
    MARROW,
    MUSCLE,
    SKIN,
    WHITE,
    load_template,
    pull,
)
from medsci.data.random_field import coarse_field

OUTER_LABELS = ("vitreous", "cord")
WHOLE_LABELS = (*LABELS, *OUTER_LABELS)
VITREOUS, CORD = len(LABELS), len(LABELS) + 1

_BELOW_MM = 27  # how far the grid reaches below the template's
_ORIGIN = np.array([98.0, 134.0, 72.0])  # template voxel of the origin of MNI space
_LAW = DeformationLaw(turn_deg=(3.0, 3.0, 4.0), log_scale=0.045, shift_mm=2.0)


def simulate_whole_head(
    seed: int, *, law: DeformationLaw | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one head with face and neck.

    Args:
        seed: which head.
        law: what its deformation is drawn from; by default the law matched to a real warp, with
            an affine spread.

    Returns:
        labels: uint8 (i, j, k), indices into `WHOLE_LABELS`, 1 mm, RAS.
        t1: uint8 template intensity moved by the same deformation, 0 outside the brain.
    """
    template = load_template()
    generator = np.random.default_rng([seed % 2**63, 0x3EAD])
    shape = (*template.t1.shape[:2], template.t1.shape[2] + _BELOW_MM)
    points = _points(shape, law=_LAW if law is None else law, generator=generator)
    stacked = np.concatenate([template.logits, template.t1[None], template.distance_mm[None]])
    moved = pull(stacked, torch.from_numpy(np.moveaxis(points, 0, -1)))
    logits, t1, distance = moved[:3], moved[3], moved[4]
    logits[0] += generator.normal(0.0, 0.4)
    logits[1] += generator.normal(0.0, 0.15)
    for channel in logits:
        for spacing, amplitude in ((2.5, 0.7), (6.0, 0.8)):
            strength = amplitude * generator.uniform(0.3, 1.2)
            channel += strength * coarse_field(shape, spacing=spacing, generator=generator)[0]
    above = points[2] > 0.0
    brain = (t1 > 0.08) & above
    labels = _outside(
        points - _ORIGIN[:, None, None, None].astype(np.float32), distance, generator=generator
    )
    labels[(distance < 0.0) & above] = FLUID
    labels[(distance < 0.0) & ~above] = DURA
    labels[(t1 > 0.08) & ~above] = CORD
    labels[(labels == FLUID) & ~above] = DURA
    tissue = np.array([FLUID, GREY, WHITE], dtype=np.uint8)[np.argmax(logits, axis=0)]
    labels[brain] = tissue[brain]
    return labels, np.round(255.0 * np.clip(t1, 0.0, 1.0) * brain).astype(np.uint8)


def _points(
    shape: tuple[int, ...], *, law: DeformationLaw, generator: np.random.Generator
) -> np.ndarray:
    """Return where in the template each voxel of the new head comes from, float32 (3, i, j, k)."""
    coarse = [n // 2 + 1 for n in shape]
    points = law.draw(coarse, spacing_mm=2.0, generator=generator)
    for axis, n in enumerate(coarse):
        line = 2.0 * np.arange(n, dtype=np.float32) - (_BELOW_MM if axis == 2 else 0)
        points[axis] += line.reshape([-1 if a == axis else 1 for a in range(3)])
    # a pull towards the centre of the ventricles makes them larger, a push smaller
    centre = _ORIGIN + np.array([0.0, -12.0, 14.0])
    size = np.array([20.0, 32.0, 20.0]) * generator.uniform(0.85, 1.15, 3)
    away = (points - centre[:, None, None, None]) / size[:, None, None, None]
    bump = np.exp(-0.5 * np.square(away).sum(0))
    points -= generator.uniform(-0.15, 0.4) * bump * away * size[:, None, None, None]
    return resampled_field(points.astype(np.float32), shape, step=0.5)


def _outside(
    xyz: np.ndarray, distance: np.ndarray, *, generator: np.random.Generator
) -> np.ndarray:
    """Label everything outside the hull of the brain; positions in mm of MNI space."""
    shape = distance.shape

    def around(mean: float, spread: float, spacing: float) -> np.ndarray:
        field = coarse_field(shape, spacing=spacing, generator=generator)[0]
        level = mean * generator.uniform(0.75, 1.3)
        return np.maximum(np.float32(spread) * field + np.float32(level), 0.0)

    edges = [around(generator.uniform(1.2, 3.2), 0.6, 25.0)]
    for mean, spread, spacing in (
        (0.7, 0.2, 20.0),  # dura
        (1.6, 0.4, 18.0),  # inner table
        (2.6, 1.1, 25.0),  # diploe
        (1.7, 0.4, 18.0),  # outer table
    ):
        edges.append(edges[-1] + around(mean, spread, spacing))
    table = edges[-1]
    low = 1.0 / (1.0 + np.exp((xyz[2] - generator.uniform(-30.0, 0.0)) / 8.0))
    scalp = table + around(6.0, 1.2, 35.0) + low * around(5.0, 2.0, 35.0)
    coarse = _face_and_neck(xyz[:, ::2, ::2, ::2], generator=generator)
    body = np.minimum(distance - scalp, resampled_field(coarse[None], shape, step=0.5)[0])
    skin = around(1.9, 0.3, 25.0)
    fat = skin + around(3.6, 1.4, 28.0) + 1.5 * low
    labels = np.full(shape, AIR, dtype=np.uint8)
    labels[body < 0.0] = SKIN
    labels[body < -skin] = FAT
    texture = coarse_field(shape, spacing=generator.uniform(6.0, 11.0), generator=generator)[0]
    deep = body < -fat
    classes = np.array([DURA, BONE, MUSCLE, DEEP, FAT], dtype=np.uint8)
    cuts = np.sort(generator.normal([-1.2, -0.7, 0.35, 0.8], 0.1))
    labels[deep] = classes[np.digitize(texture[deep], cuts)]
    inner = (body < -4.0) & (distance > edges[0]) & (xyz[2] < 10.0)
    labels[inner] = _solids(labels[inner], xyz[:, inner], generator=generator)
    for edge, label in reversed(list(zip(edges, (FLUID, DURA, BONE, MARROW, BONE), strict=True))):
        labels[distance < edge] = label
    return labels


def _ellipsoid(
    xyz: np.ndarray, centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return about how many mm a point lies outside an ellipsoid, negative inside."""
    square = np.zeros(xyz.shape[1:], dtype=np.float32)
    for part, middle, radius in zip(xyz, centre, radii, strict=True):
        square += np.square((part - np.float32(middle)) / np.float32(radius))
    return (np.sqrt(square) - 1.0) * np.float32(min(radii))


def _face_and_neck(xyz: np.ndarray, *, generator: np.random.Generator) -> np.ndarray:
    """Return about how many mm a point lies outside face, nose, neck and ears."""
    wide, deep, tall = generator.normal(1.0, 0.05, 3)
    far = 400.0  # a cylinder is a long ellipsoid
    neck = _ellipsoid(
        xyz,
        (0.0, generator.normal(-32.0, 5.0), -75.0),
        (57.0 * wide, generator.normal(58.0, 4.0), far),
    )
    neck = np.maximum(neck, xyz[2] + generator.normal(42.0, 4.0))
    front = generator.normal(92.0, 4.0) * deep
    face = _ellipsoid(xyz, (0.0, front - 60.0, -68.0), (63.0 * wide, 60.0, 74.0 * tall))
    jaw = _ellipsoid(xyz, (0.0, front - 62.0, -100.0), (55.0 * wide, 62.0, 55.0 * tall))
    nose = _ellipsoid(
        xyz,
        (0.0, front - 2.0, generator.normal(-52.0, 4.0)),
        (11.0 * wide, generator.normal(15.0, 2.0), 20.0 * tall),
    )
    parts = [face, jaw, nose]
    for side in (-1.0, 1.0):
        ear = (side * generator.normal(80.0, 2.0), generator.normal(-24.0, 4.0), -38.0)
        parts.append(_ellipsoid(xyz, ear, (6.0, 11.0, 24.0 * tall)))
    union = neck
    for part in parts:  # a smooth minimum rounds the creases
        share = np.clip(0.5 + (union - part) / 20.0, 0.0, 1.0)
        union = union * (1.0 - share) + part * share - 10.0 * share * (1.0 - share)
    return union


def _solids(labels: np.ndarray, xyz: np.ndarray, *, generator: np.random.Generator) -> np.ndarray:
    """Write eyes, airways, jaw and cheek bones into soft tissue; labels (n,) at points (3, n)."""

    def fill(
        label: int, centre: tuple[float, float, float], radii: tuple[float, float, float]
    ) -> None:
        middle = np.array(centre) + generator.normal(0.0, 1.5, 3)
        extent = np.array(radii) * generator.uniform(0.85, 1.15, 3)
        labels[_ellipsoid(xyz, middle, extent) < 0.0] = label

    for side in (-1.0, 1.0):
        fill(BONE, (side * 44.0, 8.0, -72.0), (6.0, 14.0, 32.0))  # ramus of the jaw
        fill(MARROW, (side * 44.0, 8.0, -72.0), (3.0, 10.0, 28.0))
        fill(MUSCLE, (side * 55.0, 10.0, -70.0), (7.0, 18.0, 28.0))  # masseter
        fill(BONE, (side * 58.0, -28.0, -48.0), (12.0, 13.0, 16.0))  # mastoid
        fill(FAT, (side * 30.0, 42.0, -33.0), (17.0, 34.0, 16.0))  # orbit
        fill(VITREOUS, (side * 32.0, 60.0, -33.0), (12.0, 12.0, 12.0))
        fill(AIR, (side * 27.0, 48.0, -60.0), (13.0, 17.0, 15.0))  # maxillary sinus
        fill(AIR, (side * 9.0, 45.0, -40.0), (6.0, 22.0, 10.0))  # ethmoid cells
        fill(AIR, (side * 5.0, 50.0, -58.0), (3.5, 30.0, 14.0))  # nasal cavity
    fill(BONE, (0.0, 52.0, -78.0), (30.0, 22.0, 6.0))  # palate
    fill(MUSCLE, (0.0, 42.0, -98.0), (26.0, 28.0, 16.0))  # tongue
    fill(AIR, (0.0, 18.0, -40.0), (11.0, 10.0, 8.0))  # sphenoid sinus
    fill(AIR, (0.0, 6.0, -80.0), (11.0, 6.0, 32.0))  # pharynx
    return labels
