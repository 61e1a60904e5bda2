"""Sections of an adversarial recipe: who judges, and what is said besides."""

__all__ = ["DiscriminatorConfig", "ReconstructionConfig"]

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medsci.training.recipe.base import Frozen
from medsci.training.recipe.law import MetricConfig, SquaredErrorConfig

Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


class DiscriminatorConfig(Frozen):
    """The judge of the generator, and the optimiser that is its own.

    `channels` is the width of every block, each of which halves the image; for vectors there are as
    many hidden layers of the first width. `stem_factor` folds blocks of pixels into channels first.
    The learning rate follows the warm-up and the cosine of `optimiser`; there is no weight decay.

    Source: rate and betas of EMDM, Zhou et al. 2024, arXiv:2312.02256.
    """

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)] = (32, 64, 128)
    stem_factor: PositiveInt = 1
    learning_rate: PositiveFloat = 1.25e-4
    betas: tuple[Momentum, Momentum] = (0.5, 0.9)


class ReconstructionConfig(Frozen):
    """`weight` times the metric between the sample drawn and the one it was drawn for.

    It steadies the start and pulls draws together: leave it at 0 where the posterior has several
    modes that matter.
    """

    weight: NonNegativeFloat = 0.0
    metric: MetricConfig = SquaredErrorConfig()
