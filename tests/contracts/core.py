"""Properties that every part of the core must have, as checks to import.

Each returns what it measured, so that a test can also assert that a broken variant fails it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsci.core.check import (
    GaussianMixtureOracle,
    GaussianOracle,
    convergence_order,
    relative_error,
)
from medsci.core.process import Path
from medsci.core.solve import Plan

DOUBLE = torch.float64


def assert_order(
    error: Callable[[int], float],
    *,
    expected: float,
    steps: Sequence[int] = (64, 128, 256),
    tolerance: float = 0.15,
    last: int = 2,
) -> float:
    """Check that `error(n)` falls as `n ** -expected`; the slope is fitted to the last runs."""
    errors = [error(n) for n in steps]
    order = convergence_order(errors, steps, last=last)
    message = f"order {order:.2f}, expected {expected} +- {tolerance}; errors {errors}"
    assert abs(order - expected) <= tolerance, message
    return order


def assert_batch_invariant(
    run: Callable[[Sequence[int]], Tensor], ids: Sequence[int] = (0, 1, 2, 3, 4, 5, 6, 7)
) -> None:
    """Check that `run(ids)` gives every sample the bits that it has alone and in another order."""
    together = run(ids)
    assert together.shape[0] == len(ids)
    for index, sample in enumerate(ids):
        alone = run([sample])[0]
        assert torch.equal(together[index], alone), f"sample {sample} differs alone and in a batch"
    backwards = run(list(reversed(ids))).flip(0)
    assert torch.equal(together, backwards), "samples depend on their place in the batch"
    assert not torch.equal(together[0], together[1]), "two ids gave one sample; nothing was tested"


def assert_marginal(
    x: Tensor, *, mean: Tensor, covariance: Tensor, limit: float = 4.5
) -> tuple[float, float]:
    """Check mean and covariance of real samples (n, d) within `limit` standard errors.

    The standard errors are those of a Gaussian. Returns the largest deviations, in them.
    """
    n = x.shape[0]
    spread = covariance.diagonal()
    off_mean = (x.mean(0) - mean) / (spread / n).sqrt()
    error = ((spread[:, None] * spread[None] + covariance**2) / n).sqrt()
    off_covariance = (x.T.cov() - covariance) / error
    worst = off_mean.abs().max().item(), off_covariance.abs().max().item()
    assert worst[0] <= limit, f"the mean is off by {worst[0]:.1f} standard errors"
    assert worst[1] <= limit, f"the covariance is off by {worst[1]:.1f} standard errors"
    return worst


def gaussian16(path: Path, *, centred: bool = False) -> GaussianOracle:
    """Return the target G16: 16 dimensions, spectrum 1 / k, with or without a mean.

    Without a mean, errors of some solvers cancel by symmetry, and the order looks higher.
    """
    mean = torch.randn(16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    variances = 1.0 / torch.arange(1, 17, dtype=DOUBLE)
    return GaussianOracle(path, mean * (0.0 if centred else 1.0), variances=variances)


def mixture2(path: Path) -> GaussianMixtureOracle:
    """Return the target M2: a 5 x 5 grid of modes of sd .05, scaled to unit variance.

    The modes are 0.707 apart and 0.0353 wide, so half-way between two is 10 sd from either.
    """
    ticks = torch.arange(-2, 3, dtype=DOUBLE)
    scale = math.sqrt(2.0 + 0.05**2)
    means = torch.cartesian_prod(ticks, ticks) / scale
    variances = torch.full((25, 2), (0.05 / scale) ** 2, dtype=DOUBLE)
    return GaussianMixtureOracle(
        path, torch.ones(25, dtype=DOUBLE), means=means, covariances=variances
    )


def mixture64(path: Path, *, seed: int = 0) -> GaussianMixtureOracle:
    """Return the target M64: 16 modes in 64 dimensions, each of rank 8 plus a floor of sd .02."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(16, 64, generator=generator, dtype=DOUBLE)
    factors = torch.randn(16, 64, 8, generator=generator, dtype=DOUBLE) / math.sqrt(80.0)
    covariances = factors @ factors.mT + 0.02**2 * torch.eye(64, dtype=DOUBLE)
    weights = torch.ones(16, dtype=DOUBLE)
    return GaussianMixtureOracle(path, weights, means=means, covariances=covariances)


def draw(*shape: int, scale: float = 1.0, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Return reproducible standard normal numbers times a scale."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def median_error(x: Tensor, reference: Tensor) -> float:
    """Return the median over samples of the relative distance to the reference."""
    return relative_error(x, reference).median().item()


def gaussian_error(plan: Plan, oracle: GaussianOracle) -> float:
    """Return the median relative error of a plan on a Gaussian, against the exact flow."""
    first, last = plan.steps[0].t, plan.steps[-1].s
    noise = draw(16, len(oracle.mean), scale=float(oracle.path.sigma(first)), seed=1)
    x = float(oracle.path.alpha(first)) * oracle.mean + noise
    return median_error(plan.run(oracle, x), oracle.flow(x, first, last))
