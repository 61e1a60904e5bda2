"""Distances between two sets of images that, unlike the Frechet distance, have no bias.

Both come with the level that equal laws exceed in 5 % of cases, and a p-value from dealing the
images into two sets again: see `medsci.core.check.distribution`.
"""

__all__ = ["feature_energy", "kid"]

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.check.distribution import (
    Comparison,
    Kernel,
    NegativeDistance,
    Polynomial,
    mmd_null,
)
from medsci.core.rng import Rng
from medsci.errors import InvalidInputError


def kid(
    real: Float[Tensor, "n d"],
    fake: Float[Tensor, "m k"],
    *,
    degree: int = 3,
    n_deals: int = 200,
    seed: int = 0,
) -> Comparison:
    """Return the unbiased MMD^2 of two sets of features, with the kernel `(<x, y> / d + 1)^degree`.

    It compares moments up to the degree. Of equal laws the mean is zero at any sample size.

    Source: Binkowski et al. 2018, sec. 4, arXiv:1801.01401.
    """
    return _compared(real, fake, kernel=Polynomial(degree=degree), n_deals=n_deals, seed=seed)


def feature_energy(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m k"], *, n_deals: int = 200, seed: int = 0
) -> Comparison:
    """Return the energy distance of two sets of features; it is zero for equal laws only.

    Entries weigh as they come: scale features of very different size first.

    Source: Szekely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018.
    """
    return _compared(real, fake, kernel=NegativeDistance(), n_deals=n_deals, seed=seed)


def _compared(real: Tensor, fake: Tensor, *, kernel: Kernel, n_deals: int, seed: int) -> Comparison:
    if min(len(real), len(fake)) < 2 or real.shape[1] != fake.shape[1]:
        raise InvalidInputError(
            f"features of shape {tuple(real.shape)} and {tuple(fake.shape)} came; give two or more "
            "rows on either side, of equal length"
        )
    x, y = (rows.detach().to("cpu", torch.float64) for rows in (real, fake))
    return mmd_null(x, y, rng=Rng(seed, range(n_deals)), kernel=kernel)
