"""Heads of 16^3 voxels with four random numbers each, and the bars a generator of them must meet.

A head is a ball of tissue with a round ventricle and a linear bias field, in [-1, 1] with air at
exactly -1. Its volumes can be counted, so a generator is judged by laws of volumes and of
intensities, by the energy distance of the voxels, and by nearest neighbours.
"""

__all__ = ["CLEAR", "N_GENERATED", "N_REAL", "Figures", "figures", "measures", "phantoms"]

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.metrics.sets import (
    energy_distance,
    neighbour_distances,
    pairwise_distances,
    wasserstein_over_sd,
)

SIDE, N_REAL, N_GENERATED = 16, 256, 128
TISSUE, FLUID, CLEAR = 0.75, 0.15, 0.35  # of 1; below CLEAR a voxel is air or fluid
MOST = {"head": 0.4, "ventricle": 0.7, "mean": 0.4}  # W1 / sd of the real ones
SD_RATIO, NEIGHBOURS, ENERGY = (0.6, 1.4), (1.0, 3.0), 1.5


def phantoms(n: int, *, generator: torch.Generator) -> Float[Tensor, "n 1 16 16 16"]:
    """Draw heads: radius, ventricle, and strength and direction of the bias field are random."""
    radius, share, bias, turn = torch.rand(4, n, 1, 1, 1, generator=generator).unbind()
    radius = 4.4 + 2.4 * radius
    inner = radius * (0.3 + 0.35 * share)
    axis = torch.arange(SIDE) - 0.5 * (SIDE - 1)
    i, j, k = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (i**2 + j**2 + k**2).sqrt()
    head = (radius - distance + 0.5).clamp(0.0, 1.0)
    ventricle = (inner - distance + 0.5).clamp(0.0, 1.0)
    along = (torch.cos(2.0 * torch.pi * turn) * i + torch.sin(2.0 * torch.pi * turn) * j) / 8.0
    field = 1.0 + 0.25 * bias * along
    image = field * (TISSUE * (head - ventricle) + FLUID * ventricle)
    return 2.0 * image[:, None] - 1.0


def measures(x: Float[Tensor, "n 1 i j k"]) -> dict[str, Float[Tensor, " n"]]:
    """Return volumes in voxels, and the mean intensity on a scale of 0 to 1.

    The ventricle is what is dark and has tissue on both sides along all three axes.
    """
    image = 0.5 * (x[:, 0].double() + 1.0)
    tissue = (image > CLEAR).double()
    inside = torch.ones_like(tissue)
    for axis in (1, 2, 3):
        before = tissue.cummax(axis).values
        behind = tissue.flip(axis).cummax(axis).values.flip(axis)
        inside = inside * before * behind
    return {
        "head": tissue.sum((1, 2, 3)),
        "ventricle": (inside * (1.0 - tissue)).sum((1, 2, 3)),
        "mean": image.mean((1, 2, 3)),
    }


@final
@dataclass(frozen=True)
class Figures:
    """How far a set lies from the real one, and where it misses its bar.

    Attributes:
        shift: W1 over the sd of the real ones, for every measure.
        spread: sd over that of the real ones.
        average: mean and sd of every measure.
        energy: energy distance of the voxels.
        neighbours: mean distance to the nearest real one, over that of real ones unseen.
        slack: two standard errors of `neighbours`, which for real ones is around 1.
    """

    shift: dict[str, float]
    spread: dict[str, float]
    average: dict[str, tuple[float, float]]
    energy: float
    neighbours: float
    slack: float

    @property
    def missed(self) -> tuple[str, ...]:
        """Return the names of the bars that are not met."""
        checks = {f"W1/sd of {name}": self.shift[name] <= most for name, most in MOST.items()}
        checks |= {
            f"sd ratio of {name}": SD_RATIO[0] <= value <= SD_RATIO[1]
            for name, value in self.spread.items()
        }
        checks["energy distance"] = self.energy <= ENERGY
        least = NEIGHBOURS[0] - self.slack
        checks["nearest neighbours"] = least <= self.neighbours <= NEIGHBOURS[1]
        return tuple(name for name, good in checks.items() if not good)


def figures(
    made: Float[Tensor, "n 1 i j k"],
    real: Float[Tensor, "m 1 i j k"],
    *,
    unseen: Float[Tensor, "u 1 i j k"],
) -> Figures:
    """Compare a set with real heads; `unseen` are others, the yardstick of nearest neighbours."""
    ours, theirs = measures(made), measures(real)
    near, usual = (neighbour_distances(pairwise_distances(x, real)) for x in (made, unseen))
    ratio = float(near.mean() / usual.mean())
    error = sum(float(d.var(ddof=1)) / (len(d) * usual.mean() ** 2) for d in (near, usual)) ** 0.5
    return Figures(
        shift={name: wasserstein_over_sd(theirs[name], ours[name]) for name in ours},
        spread={name: float(ours[name].std() / theirs[name].std()) for name in ours},
        average={name: (float(v.mean()), float(v.std())) for name, v in ours.items()},
        energy=energy_distance(made, real),
        neighbours=ratio,
        slack=2.0 * error,
    )
