"""Frechet distance between two sets of images, in a space of features, with its yardstick.

    FD = |m1 - m2|^2 + tr C1 + tr C2 - 2 |C1^(1/2) C2^(1/2)|_*

with the sum of singular values `|.|_*`: the squared 2-Wasserstein distance of the two Gaussians
with these moments. Estimated from n images it is too large, by about `c / n`, also between two
halves of the same data. A number alone therefore says nothing; `feature_frechet` gives the distance
of real from real at the same n beside it.

Source: Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X; Heusel et al. 2017,
arXiv:1706.08500, for images; bias and extrapolation: Chong and Forsyth 2020, arXiv:1911.07023.
"""

__all__ = ["FeatureStatistics", "FrechetReport", "feature_frechet", "frechet_distance"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from medsci.errors import InvalidInputError

_FEWEST = 4


def frechet_distance(
    mean1: Float64[np.ndarray, " d"],
    cov1: Float64[np.ndarray, "d d"],
    *,
    mean2: Float64[np.ndarray, " d"],
    cov2: Float64[np.ndarray, "d d"],
) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians, zero for equal ones.

    Covariances may be singular. Square roots come from eigenvalues, and the trace of the geometric
    part from singular values, which are found to rounding; the square root of a product of
    covariances is not (eigenvalues of 1e-16 become 1e-8 each). Zero up to 1e-15 of the traces.
    """
    if np.array_equal(mean1, mean2) and np.array_equal(cov1, cov2):
        return 0.0
    shared = np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False).sum()
    apart = np.square(mean1 - mean2).sum()
    return max(float(apart + np.trace(cov1) + np.trace(cov2) - 2.0 * shared), 0.0)


def _root(cov: np.ndarray) -> np.ndarray:
    """Return A with `A A^T = cov`."""
    values, vectors = np.linalg.eigh(0.5 * (cov + cov.T))
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors * np.sqrt(np.where(values > noise, values, 0.0))


@final
@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count, mean and covariance of rows of features, in float64; two of them merge exactly.

    Attributes:
        n: rows seen.
        mean: their mean.
        scatter: sum of the outer products of the deviations from it.

    Source: merging after Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115.
    """

    n: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @staticmethod
    def of(rows: np.ndarray | Tensor) -> "FeatureStatistics":
        """Return the statistics of rows (n, d)."""
        values = _rows(rows)
        mean = values.mean(0)
        far = values - mean
        return FeatureStatistics(len(values), mean, far.T @ far)

    @property
    def cov(self) -> Float64[np.ndarray, "d d"]:
        """The unbiased covariance.

        Raises:
            InvalidInputError: fewer than two rows were seen.
        """
        if self.n < 2:
            raise InvalidInputError(f"{self.n} image has no covariance; give at least two")
        return self.scatter / (self.n - 1)

    def merged(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return the statistics of both sets of rows together."""
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return FeatureStatistics(n, self.mean + step * (other.n / n), scatter)

    def distance(self, other: "FeatureStatistics") -> float:
        """Return the Frechet distance of the Gaussians with these moments."""
        return frechet_distance(self.mean, self.cov, mean2=other.mean, cov2=other.cov)


@final
@dataclass(frozen=True)
class FrechetReport:
    """A Frechet distance with what it means.

    Attributes:
        value: distance of all real from all fake images.
        n_real: real images in it.
        n_fake: fake images in it.
        matched: mean distance of `n_matched` fake from `n_matched` real images.
        baseline: mean distance of `n_matched` real images from as many others. Compare `matched`
            with it: both carry the bias of the same sample size. Nearly equal: these features and
            this many images cannot tell fake from real.
        n_matched: images on either side of `matched` and `baseline`.
        spread: standard deviation of the baseline over the random halves.
        extrapolated: the value of infinitely many images, from a line in 1/n.
    """

    value: float
    n_real: int
    n_fake: int
    matched: float
    baseline: float
    n_matched: int
    spread: float
    extrapolated: float


def feature_frechet(
    real: Tensor,
    fake: Tensor,
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    standardise: bool = False,
    batch_size: int = 32,
    n_splits: int = 8,
    seed: int = 0,
) -> FrechetReport:
    """Measure fake images against real ones, and real ones against themselves.

    Args:
        real: images (n, ...), or rows of features if `features` is left out.
        fake: the same, as many or not.
        features: `images -> (n, d)`, for instance `medsci.nets.DenoiserFeatures`.
        standardise: divide every feature by its standard deviation over the real images, so that
            a few large ones do not drown the rest; values then compare with each other only.
        batch_size: images per call of it.
        n_splits: random halves over which baseline and matched distance are averaged.
        seed: of the halves.

    Raises:
        InvalidInputError: fewer than four images on a side, unequal features, or values that are
            not finite.
    """
    left, right = (_rows(_described(x, features, batch_size)) for x in (real, fake))
    if left.shape[1] != right.shape[1]:
        raise InvalidInputError(
            f"real images have {left.shape[1]} features and fake ones {right.shape[1]}; "
            "describe both with the same network"
        )
    if min(len(left), len(right)) < _FEWEST:
        raise InvalidInputError(
            f"{len(left)} real and {len(right)} fake images came; give at least {_FEWEST} of each"
        )
    if standardise:
        sd = left.std(0)
        sd = np.where(sd > 0.0, sd, 1.0)
        left, right = left / sd, right / sd
    value = _between(left, right)
    m = min(len(left) // 2, len(right))
    generator = np.random.default_rng(seed)
    own, cross = [], []
    for _ in range(n_splits):
        order, others = generator.permutation(len(left)), generator.permutation(len(right))
        half = left[order[:m]]
        own.append(_between(half, left[order[m : 2 * m]]))
        cross.append(_between(half, right[others[:m]]))
    return FrechetReport(
        value=value,
        n_real=len(left),
        n_fake=len(right),
        matched=float(np.mean(cross)),
        baseline=float(np.mean(own)),
        n_matched=m,
        spread=float(np.std(own)),
        extrapolated=_extrapolated(left, right, generator, n_splits=n_splits),
    )


def _between(left: np.ndarray, right: np.ndarray) -> float:
    """Return the Frechet distance of rows without their covariances, quick if rows are few.

    With `C = X^T X` and `X = Q R`, the geometric part is `|R1 R2^T|_*`.
    """
    if np.array_equal(left, right):
        return 0.0
    factors: list[np.ndarray] = []
    total = float(np.square(left.mean(0) - right.mean(0)).sum())
    for rows in (left, right):
        x = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
        total += float(np.square(x).sum())
        factors.append(x if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(x, mode="r")))
    shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    return max(total - 2.0 * float(shared), 0.0)


def _extrapolated(
    left: np.ndarray, right: np.ndarray, generator: np.random.Generator, *, n_splits: int
) -> float:
    """Return the intercept of a line through distances at falling sizes against 1/n."""
    most = min(len(left), len(right))
    sizes = np.unique(np.linspace(max(most // 2, 2), most, 6).astype(int))
    inverse, distances = [], []
    for n in sizes:
        for _ in range(n_splits):
            picks = [x[generator.permutation(len(x))[:n]] for x in (left, right)]
            inverse.append(1.0 / n)
            distances.append(_between(picks[0], picks[1]))
    if len(sizes) < 2:
        return distances[0]
    return float(np.polyfit(inverse, distances, 1)[1])


@torch.no_grad()
def _described(
    images: Tensor, features: Callable[[Tensor], Tensor] | None, batch_size: int
) -> Tensor:
    if features is None:
        return images
    return torch.cat([features(part).cpu() for part in images.split(batch_size)])


def _rows(rows: np.ndarray | Tensor) -> np.ndarray:
    """Return finite float64 rows."""
    host = rows.detach().cpu().double().numpy() if isinstance(rows, Tensor) else rows
    values = np.asarray(host, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise InvalidInputError(
            f"features have shape {values.shape}; give one row of numbers per image"
        )
    if not np.isfinite(values).all():
        raise InvalidInputError(
            f"features hold {int((~np.isfinite(values)).sum())} values that are NaN or infinite; "
            "look at the images they came from"
        )
    return values
