"""Which conditions a source of samples gives the network."""

__all__ = ["Conditioned", "Standardised", "TissueVolumes", "coarsened"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medsci.data.source import Source, as_sample
from medsci.errors import InvalidInputError
from medsci.models.config import CovariateConfig


@final
@dataclass(frozen=True)
class Conditioned:
    """A source with its covariates or without, and with a coarse copy of itself or without.

    Attributes:
        source: draws `x0` (c, i, j, k) and `covariates` (n,).
        covariates: keep them.
        coarser: add the condition `image` (1, i, j, k): the first channel, averaged over cubes of
            so many voxels and interpolated back; None adds nothing.
    """

    source: Source
    covariates: bool
    coarser: int | None

    @property
    def n_items(self) -> int:
        """Return the number of items of the source."""
        return self.source.n_items

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return the sample of the source with the conditions that are wanted."""
        drawn = as_sample(self.source.draw(item, seed))
        if not self.covariates:
            drawn.pop("covariates", None)
        if self.coarser is not None:
            drawn["image"] = coarsened(drawn["x0"][:1], factor=self.coarser)
        return drawn


@final
@dataclass(frozen=True)
class Standardised:
    """A source whose named numbers become the condition `covariates`, `(value - mean) / std`.

    Attributes:
        source: draws the numbers as conditions, each by its name.
        covariates: which, in their order.
    """

    source: Source
    covariates: Sequence[CovariateConfig]

    @property
    def n_items(self) -> int:
        """Return the number of items of the source."""
        return self.source.n_items

    @property
    def skipped(self) -> Sequence[tuple[Path, str]]:
        """Return the files that the source left out."""
        left_out: Sequence[tuple[Path, str]] = getattr(self.source, "skipped", ())
        return left_out

    @property
    def vocabulary(self) -> Mapping[str, tuple[str, ...]]:
        """Return the words of the source's labels."""
        words: Mapping[str, tuple[str, ...]] = getattr(self.source, "vocabulary", {})
        return words

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return the sample with its covariates.

        Raises:
            InvalidInputError: a covariate holds words.
        """
        drawn = as_sample(self.source.draw(item, seed))
        values = []
        for covariate in self.covariates:
            if covariate.name in self.vocabulary:
                raise InvalidInputError(
                    f"data.covariates: the column {covariate.name} holds words; give numbers, or "
                    "take it as data.label"
                )
            value = float(drawn.pop(covariate.name))
            values.append((value - covariate.mean) / covariate.std)
        return drawn | {"covariates": torch.tensor(values, dtype=torch.float32)}


@final
@dataclass(frozen=True)
class TissueVolumes:
    """A source whose channels 1 to 3 are tissue fractions, with their volumes as `covariates`.

    Attributes:
        source: draws `x0` (4, i, j, k): an image, and fractions p of fluid, grey and white matter
            as 2 p - 1.
        voxel_ml: volume of a voxel.
    """

    source: Source
    voxel_ml: float

    @property
    def n_items(self) -> int:
        """Return the number of items of the source."""
        return self.source.n_items

    @property
    def skipped(self) -> Sequence[tuple[Path, str]]:
        """Return the files that the source left out."""
        left_out: Sequence[tuple[Path, str]] = getattr(self.source, "skipped", ())
        return left_out

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return the sample with the covariates of simulated head volumes, in their units."""
        from medsci.data.head_volumes import COVARIATES

        drawn = as_sample(self.source.draw(item, seed))
        volumes = (0.5 * (drawn["x0"][1:4] + 1.0)).double().sum((1, 2, 3)) * self.voxel_ml
        total = float(volumes.sum())
        values = [total, *(volumes / max(total, 1e-9)).tolist()]
        known = [
            (value - mean) / std
            for value, (_, _, mean, std, _, _) in zip(values, COVARIATES, strict=True)
        ]
        return drawn | {"covariates": torch.tensor(known, dtype=torch.float32)}


def coarsened(x: Float[Tensor, "c i j k"], *, factor: int) -> Float[Tensor, "c i j k"]:
    """Average over cubes of `factor` voxels and interpolate linearly between their centres.

    Sides that are no multiple of the factor are continued by their last voxel first.
    """
    sides = x.shape[1:]
    ends = [end for n in reversed(sides) for end in (0, -n % factor)]
    whole = functional.pad(x[None], ends, mode="replicate")
    coarse = functional.avg_pool3d(whole, factor)
    fine = functional.interpolate(coarse, scale_factor=float(factor), mode="trilinear")
    i, j, k = sides
    return fine[0, :, :i, :j, :k].contiguous()
