"""Miscibility: what a coupling of data and noise gains, and what it does to the noise.

Independent pairs mix all data with all noise, and every noisy state could have come from anywhere.
Nearer pairs are easier to learn. The price may be the law of the noise: sampling starts from
`N(0, I)`, so a model trained on other noise starts where it was never trained.
"""

__all__ = ["LawShift", "LawShiftWarning", "law_shift", "miscibility"]

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_SIGNIFICANT = 4.0  # standard errors: the largest of some thousand directions stays below


@final
class LawShiftWarning(UserWarning):
    """A coupling changed the law of the noise."""


@final
@dataclass(frozen=True)
class LawShift:
    """How noise changed on being coupled.

    Attributes:
        variance: after over before, along the principal directions of the data, strongest first.
        correlation: `E <z, x> / E |x|^2` after the coupling; 0 for independent pairs.
        error: standard error of one entry of `variance`, if noise was redrawn.
    """

    variance: Float[Tensor, " k"]
    correlation: float
    error: float


def miscibility(x0: Float[Tensor, " b *d"], z: Float[Tensor, " b *d"]) -> float:
    """Return the mean distance of the pairs over that of all samples to all noise.

    1 for independent pairs, with a standard error of about `1 / sqrt(2 b d)`; less when pairs are
    nearer than chance. The gain fades with d: the best permutation of 1024 has 2 % in 3072.
    """
    if len(x0) != len(z):
        raise ValueError(f"{len(x0)} samples came with {len(z)} noises; give one for each")
    flat_x, flat_z = x0.flatten(1), z.flatten(1)
    own = (flat_x - flat_z).square().sum(1).sqrt().mean()
    return (own / torch.cdist(flat_x, flat_z).mean()).item()


def law_shift(
    z_before: Float[Tensor, " b *d"],
    z_after: Float[Tensor, " b *d"],
    x0: Float[Tensor, " b *d"],
    *,
    tolerance: float = 0.05,
) -> LawShift:
    """Compare the noise that went into a coupling with the noise that came out.

    Collect many batches: the standard error of a variance is `2 / sqrt(b)`. A permutation changes
    no variance at all, and none at one sample either.

    Args:
        z_before: independent noise.
        z_after: the noise of the pairs.
        x0: the samples of the pairs; their principal directions are looked along, and they are
            centred for that and for the correlation.
        tolerance: fall of a variance from which on to warn.

    Warns:
        LawShiftWarning: along some direction the variance falls by more than the tolerance and by
            more than four standard errors.
    """
    centred = (x0 - x0.mean(0)).flatten(1)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh
    before, after = (
        ((z - z.mean(0)).flatten(1) @ directions.mT).square().mean(0) for z in (z_before, z_after)
    )
    variance = after / before
    correlation = (z_after.flatten(1) * centred).sum() / centred.square().sum()
    error = 2.0 / math.sqrt(len(x0))
    fall = 1.0 - variance.min().item()
    if fall > max(tolerance, _SIGNIFICANT * error):
        warnings.warn(
            f"the coupling shrinks the noise to {variance.min().item():.2f} of its variance along "
            f"one of {len(variance)} directions; sampling starts from the full variance, so use "
            "Assignment (a permutation), a smaller k, or data of more dimensions",
            LawShiftWarning,
            stacklevel=2,
        )
    return LawShift(variance, correlation.item(), error)
