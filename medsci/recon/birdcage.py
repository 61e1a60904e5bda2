"""Analytic sensitivities of a head coil array."""

__all__ = ["birdcage_maps"]

import math

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from medsci.errors import UsageError


def birdcage_maps(
    shape: tuple[int, int, int],
    n_coils: int,
    *,
    seed: int = 0,
    n_rings: int = 1,
    radius: float = 1.3,
    slice_spacing: float = 1.0,
) -> Complex[Tensor, "n_slices n_coils n_readout n_phase"]:
    """Compute the sensitivities of loops that sit around the head on one or two rings.

    Each loop is a magnetic dipole that looks at the axis, softened over the loop's own radius a:
    `B = curl(m x d / s^3) = (2 m s^2 - 3 m |d|^2 + 3 d (m.d)) / s^5`, `s^2 = |d|^2 + a^2`, d the
    way from loop to voxel; on the loop's axis this is the exact field of a current loop. A
    receive coil sees `B_x - i B_y` (reciprocity), whose phase winds once around the ring as in a
    birdcage. Angle, distance, gain and phase of the loops are jittered by the seed, as
    no real array is perfect. The maps are smooth in all three directions, and divided by their
    root sum of squares.

    Args:
        shape: n_slices, n_readout, n_phase.
        n_coils: Number of loops, at least 1.
        seed: Seed of the jitter; equal seeds give equal maps.
        n_rings: 1 or 2 rings along the slice axis, staggered by half a loop.
        radius: Distance of the loops from the axis, in halves of the longer in-plane side.
        slice_spacing: Distance of slices in units of the in-plane voxel size.

    Returns:
        Complex64 maps with `sum_c |S_c|^2 = 1` everywhere.

    Raises:
        UsageError: If n_coils or n_rings is out of range.

    Source: Hoult 2000, doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q (reciprocity).
    """
    if n_coils < 1 or n_rings not in (1, 2):
        raise UsageError(
            f"n_coils is {n_coils} and n_rings {n_rings}; give at least 1 coil on 1 or 2 rings"
        )
    z, y, x = _positions(shape, slice_spacing)
    rng = np.random.default_rng(seed)
    per_ring = -(-n_coils // n_rings)
    loop_radius = 1.1 * math.pi * radius / max(per_ring, 4)
    maps = np.empty((shape[0], n_coils, *shape[1:]), dtype=np.complex64)
    for c in range(n_coils):
        ring, place = c % n_rings, c // n_rings
        angle = 2 * math.pi * (place + 0.5 * ring + 0.15 * rng.uniform(-1, 1)) / per_ring
        distance = radius * (1 + 0.05 * rng.uniform(-1, 1))
        height = (ring - 0.5 * (n_rings - 1)) * 1.5 * loop_radius
        gain = (1 + 0.1 * rng.uniform(-1, 1)) * np.exp(1j * rng.uniform(-np.pi, np.pi))
        direction = (math.cos(angle), math.sin(angle))
        maps[:, c] = gain * _loop_field(
            x - distance * direction[0], y - distance * direction[1], z - height,
            direction=direction, loop_radius=loop_radius,
        )  # fmt: skip
    maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=1, keepdims=True))
    return torch.from_numpy(maps)


def _positions(
    shape: tuple[int, int, int], slice_spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return broadcastable coordinates of slices, readout and phase, centred, in half sides."""
    half = max(shape[1:]) / 2
    axes = [(np.arange(n) - (n - 1) / 2) / half for n in shape]
    return (
        axes[0][:, None, None] * slice_spacing,
        axes[1][None, :, None],
        axes[2][None, None, :],
    )


def _loop_field(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    *,
    direction: tuple[float, float],
    loop_radius: float,
) -> np.ndarray:
    """Return `B_x - i B_y` of a softened dipole of moment `-direction` at offset (dx, dy, dz)."""
    squared = dx**2 + dy**2 + dz**2
    softened = squared + loop_radius**2
    isotropic = 3 * squared - 2 * softened
    along = 3 * (direction[0] * dx + direction[1] * dy)
    b_x = direction[0] * isotropic - along * dx
    b_y = direction[1] * isotropic - along * dy
    return (b_x - 1j * b_y) / softened**2.5
