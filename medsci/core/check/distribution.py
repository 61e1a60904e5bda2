"""Distances between laws, each with the size it has when the laws are equal.

A distance between two sets of samples is never zero, so a number alone says nothing. Every
comparison here comes with a p-value and with the level that equal laws exceed in 5 % of cases.

    MMD^2     E k(x, x') + E k(y, y') - 2 E k(x, y)       sees everything its kernel sees
    energy    2 E|x - y| - E|x - x'| - E|y - y'|           the MMD^2 of the kernel -|x - y|
    KS        sup |F_x - F_y|                              one dimension, or the worst slice

All pairs of samples are held at once. Source: Gretton et al. 2012, lemma 6, JMLR 13:723; Szekely
and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018.
"""

__all__ = [
    "Comparison",
    "Kernel",
    "NegativeDistance",
    "Polynomial",
    "Rbf",
    "energy_distance",
    "ks_distance",
    "median_width",
    "mmd",
    "mmd_null",
    "sliced_ks",
    "support_distance",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.rng import Rng

Kernel = Callable[[Tensor, Tensor], Tensor]
_LEVEL = 0.05
_TAG_PERMUTE, _TAG_SLICE = 0x9E, 0x51


@final
@dataclass(frozen=True)
class Comparison:
    """A distance with what it means.

    Attributes:
        value: the distance.
        p_value: how often equal laws give at least this value.
        level: what equal laws exceed in 5 % of cases.
    """

    value: float
    p_value: float
    level: float


@final
@dataclass(frozen=True)
class Rbf:
    """The kernel `exp(-|x - y|^2 / (2 width^2))`."""

    width: float

    def __call__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Return the kernel of all pairs."""
        square = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.T
        return torch.exp(-0.5 * square.clamp_min(0.0) / self.width**2)


@final
@dataclass(frozen=True)
class Polynomial:
    """The kernel `(<x, y> / d + offset)^degree`; it compares moments up to its degree.

    Source: Binkowski et al. 2018, sec. 4, arXiv:1801.01401.
    """

    degree: int = 3
    offset: float = 1.0

    def __call__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Return the kernel of all pairs."""
        return (x @ y.T / x.shape[1] + self.offset) ** self.degree


@final
@dataclass(frozen=True)
class NegativeDistance:
    """The kernel `-|x - y|`; its MMD^2 is the energy distance."""

    def __call__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Return the kernel of all pairs."""
        return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def median_width(x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"]) -> float:
    """Return the median distance between the samples of the pool, the usual width of `Rbf`.

    It does not depend on which sample is in which set, so permutation tests stay valid.
    """
    return torch.pdist(torch.cat([x, y]).flatten(1)).median().item()


def mmd(
    x: Float[Tensor, " n *d"],
    y: Float[Tensor, " m *d"],
    *,
    kernel: Kernel | None = None,
    unbiased: bool = True,
) -> Float[Tensor, ""]:
    """Return the squared maximum mean discrepancy, differentiable in both sets.

    Args:
        x: samples of one law.
        y: samples of the other; as many or not.
        kernel: `Rbf(median_width(x, y))` if left out; fix it when the samples are being optimised.
        unbiased: leave out the pairs of a sample with itself; the mean over draws is then exact,
            and single values may be negative. With them the value is never negative.
    """
    kernel = Rbf(median_width(x, y)) if kernel is None else kernel
    xx, yy = (kernel(s.flatten(1), s.flatten(1)) for s in (x, y))
    cross = kernel(x.flatten(1), y.flatten(1)).mean()
    n, m = len(x), len(y)
    if not unbiased:
        return xx.mean() + yy.mean() - 2.0 * cross
    own_x = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1))
    own_y = (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return own_x + own_y - 2.0 * cross


def energy_distance(x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"]) -> Float[Tensor, ""]:
    """Return the energy distance, unbiased; it needs no width."""
    return mmd(x, y, kernel=NegativeDistance())


def mmd_null(
    x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"], *, rng: Rng, kernel: Kernel | None = None
) -> Comparison:
    """Return the unbiased MMD^2 with its null, found by dealing the pool into two sets again.

    If the laws are equal every deal is as likely as the one that came, so
    `p = (1 + deals at least as large) / (1 + deals)` is exact for any sample size.

    Args:
        x: samples of one law.
        y: samples of the other.
        rng: one stream per deal: `Rng(seed, range(500))` makes 500.
        kernel: as for `mmd`; `NegativeDistance()` tests the energy distance.
    """
    kernel = Rbf(median_width(x, y)) if kernel is None else kernel
    pool = torch.cat([x, y]).flatten(1)
    n, m = len(x), len(y)
    full = kernel(pool, pool)
    full = full - torch.diag(full.diagonal())
    keys = rng.normal((len(rng.ids), n + m), step=0, tag=_TAG_PERMUTE, dtype=torch.float64)
    first = torch.cat([torch.arange(n + m)[None], keys.argsort(1)])[:, :n]
    in_x = torch.zeros(len(first), n + m).scatter_(1, first, 1.0).to(full)
    in_y = 1.0 - in_x
    to_x, to_y = in_x @ full, in_y @ full
    values = (to_x * in_x).sum(1) / (n * (n - 1)) + (to_y * in_y).sum(1) / (m * (m - 1))
    values = values - 2.0 * (to_x * in_y).sum(1) / (n * m)
    value, null = values[0], values[1:]
    reached = int((null >= value).sum())
    level = null.quantile(1.0 - _LEVEL).item()
    return Comparison(value.item(), (1.0 + reached) / (1.0 + len(null)), level)


def ks_distance(
    x: Float[Tensor, " n"], reference: Float[Tensor, " m"] | Callable[[Tensor], Tensor]
) -> Comparison:
    """Return `sup |F_x - F|` in one dimension, with its asymptotic p-value.

    Args:
        x: samples.
        reference: samples of the other law, or its distribution function.

    Source: Kolmogorov's law, with the finite-sample correction `sqrt(n) + .12 + .11 / sqrt(n)` of
    Stephens 1970, JRSS B 32:115.
    """
    x = x.sort().values
    n = len(x)
    if isinstance(reference, Tensor):
        y = reference.sort().values
        both = torch.cat([x, y])
        f_x, f_y = (torch.searchsorted(a, both, right=True).double() / len(a) for a in (x, y))
        return _ks_verdict((f_x - f_y).abs().max().item(), n * len(y) / (n + len(y)), tests=1)
    steps = torch.arange(n + 1, device=x.device).double() / n
    f = reference(x)
    value = torch.maximum((steps[1:] - f).max(), (f - steps[:-1]).max()).item()
    return _ks_verdict(value, float(n), tests=1)


def sliced_ks(x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"], *, rng: Rng) -> Comparison:
    """Return the largest KS distance over random directions; p is corrected for their number.

    The correction (Bonferroni) is valid for any dependence between slices, hence careful.

    Args:
        x: samples of one law.
        y: samples of the other.
        rng: one stream per direction: `Rng(seed, range(64))` makes 64.
    """
    flat_x, flat_y = x.flatten(1), y.flatten(1)
    shape = (len(rng.ids), flat_x.shape[1])
    directions = rng.normal(shape, step=0, tag=_TAG_SLICE, dtype=x.dtype, device=x.device)
    slices = zip((flat_x @ directions.T).unbind(1), (flat_y @ directions.T).unbind(1), strict=True)
    value = max(ks_distance(a, b).value for a, b in slices)
    return _ks_verdict(value, len(x) * len(y) / (len(x) + len(y)), tests=len(rng.ids))


def support_distance(
    x: Float[Tensor, " b *d"],
    centres: Float[Tensor, " m *d"],
    *,
    sd: float | Float[Tensor, " m"] = 1.0,
) -> Float[Tensor, " b"]:
    """Return the distance of every sample from the nearest mode, in standard deviations of it.

    Samples many deviations away from every mode lie where the data have no mass: hallucinations by
    interpolation between modes.

    Source: Aithal et al. 2024, arXiv:2406.09358.
    """
    distance = torch.cdist(x.flatten(1), centres.flatten(1))
    return (distance / sd).min(1).values


def _ks_verdict(value: float, n: float, *, tests: int) -> Comparison:
    scale = math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = tests * _kolmogorov(middle) > _LEVEL
        low, high = (middle, high) if above else (low, middle)
    return Comparison(value, min(1.0, tests * _kolmogorov(scale * value)), high / scale)


def _kolmogorov(x: float) -> float:
    """Return `P(K > x)`, `2 sum_k (-1)^(k-1) exp(-2 k^2 x^2)`; its theta-function dual if small."""
    if x <= 0.0:
        return 1.0
    if x < 1.0:
        terms = (math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8.0 * x * x)) for k in range(1, 6))
        return 1.0 - math.sqrt(2.0 * math.pi) / x * math.fsum(terms)
    return 2.0 * math.fsum((-1.0) ** (k - 1) * math.exp(-2.0 * (k * x) ** 2) for k in range(1, 11))
