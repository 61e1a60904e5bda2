"""Two mixtures and the bridge between them: what every test of interpolants starts from."""

import torch
from contracts.core import DOUBLE, draw

from medsci.core import Path
from medsci.core.check import GaussianMixtureOracle
from medsci.core.check.interpolant import InterpolantOracle
from medsci.core.process.two_sided import TwoSided


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(means, spread) -> GaussianMixtureOracle:
    means = torch.tensor(means, dtype=DOUBLE)
    n, d = means.shape
    tilt = draw(n, d, d, seed=int(10 * spread))
    covariances = spread**2 * (torch.eye(d, dtype=DOUBLE) + 0.2 * tilt @ tilt.mT)
    weights = torch.arange(1.0, n + 1.0, dtype=DOUBLE)
    return GaussianMixtureOracle(Path.rectified(), weights, means=means, covariances=covariances)


DATA = mixture([[2.0, 0.0], [-1.0, 1.8]], 0.3)
OTHER = mixture([[0.0, -2.0], [0.5, 0.5], [-3.0, 0.0]], 0.4)
BRIDGE = InterpolantOracle(TwoSided("linear", "sqrt"), DATA, second=OTHER)
