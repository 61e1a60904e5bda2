"""The targets of `bench/nfe_error.py`: distributions with exact trajectories, and how to judge.

States are in the frame `y = x / alpha`, whose noise level is `sigma / alpha`. G16 is a Gaussian of
spectrum 1/k, M2 a lattice of 25 narrow modes, M64 a mixture of 16 modes of low rank in 64
dimensions; H32, held out, has seven unequal modes of full covariance, with scales spread over 100
to 1. The four have a short spectrum: what matters happens around the standard deviation of an
entry. P64 has the long one of images, with a leading component 30 times as wide.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medsci.core.check import GaussianMixtureOracle, GaussianOracle, relative_error
from medsci.core.process import Path
from medsci.core.solve import AbstractSolver, Multistep, grid
from medsci.core.steer.hook import StepState

DOUBLE = torch.float64
HIGH, LOW = 80.0, 0.002
TOP = 1e7  # reference trajectories begin here, above every peer's start
VE = Path.ve(sigma_max=TOP, sigma_min=0.0, rho=1.0)  # sigma = TOP t


@dataclass
class Target:
    """A distribution, and exact trajectories through every noise level."""

    name: str
    oracle: GaussianOracle | GaussianMixtureOracle
    states: Tensor  # at the level TOP
    spectrum: Literal["long", "short"] = "short"
    calls: int = 0
    _levels: np.ndarray = field(default_factory=lambda: np.empty(0))
    _path: list[Tensor] = field(default_factory=list)
    _slopes: list[Tensor] = field(default_factory=list)

    def denoise(self, y: Tensor, level: float) -> Tensor:
        """Return `E[x0 | y]` for `y = x0 + level z`, and count the call."""
        self.calls += 1
        return self.oracle(y, level / TOP)

    def solve(self, nodes: int) -> None:
        """Walk the trajectories down by the corrected solver of order 4 and keep every node."""
        if isinstance(self.oracle, GaussianOracle):
            return
        levels = np.geomspace(TOP, 1e-5, nodes + 1)
        solver = Multistep("x0", order=4, corrector=True, lower_final=False)
        plan = solver.plan(VE, levels / TOP)
        keep = _Keep(self._path, self._slopes)
        plan.run(self.oracle, self.states, hooks=[keep])
        self._levels = levels[: len(self._path)]

    def at(self, level: float) -> Tensor:
        """Return the exact states at a noise level, by Hermite interpolation between the nodes."""
        if isinstance(self.oracle, GaussianOracle):
            return self.oracle.flow(self.states, 1.0, level / TOP)
        if level <= self._levels[-1]:
            return self._path[-1]
        i = int(np.clip(np.searchsorted(-self._levels, -level) - 1, 0, len(self._levels) - 2))
        a, b = (math.log(value) for value in self._levels[i : i + 2])
        u, step = (math.log(level) - a) / (b - a), b - a
        start, end = self._path[i], self._path[i + 1]
        out, into = self._slopes[i] * step, self._slopes[i + 1] * step
        v = 1.0 - u
        return (
            (1 + 2 * u) * v * v * start
            + u * v * v * out
            + u * u * (3 - 2 * u) * end
            - u * u * v * into
        )


@dataclass
class _Keep:
    """Hook: keep the corrected states and their slopes `dy / dln(level) = y - x0`."""

    states: list[Tensor]
    slopes: list[Tensor]

    def before(self, state: StepState) -> None:
        """Do nothing."""

    def denoised(self, state: StepState) -> None:
        """Store the state that the denoiser saw."""
        self.states.append(state.x.clone())
        self.slopes.append(state.x - state.x0)

    def after(self, state: StepState) -> None:
        """Do nothing."""


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def gaussian16() -> GaussianOracle:
    return GaussianOracle(VE, _normal(3, 16), variances=1.0 / torch.arange(1, 17, dtype=DOUBLE))


def lattice2() -> GaussianMixtureOracle:
    """25 modes of sd .05 on the integer lattice, scaled to unit variance."""
    axis = torch.arange(-2, 3, dtype=DOUBLE)
    means = torch.cartesian_prod(axis, axis)
    scale = (2.0 + 0.05**2) ** -0.5
    covariances = ((0.05 * scale) ** 2 * torch.eye(2, dtype=DOUBLE)).expand(25, 2, 2)
    return GaussianMixtureOracle(
        VE, torch.ones(25, dtype=DOUBLE), means=means * scale, covariances=covariances
    )


def lowrank64() -> GaussianMixtureOracle:
    """16 modes in 64 dimensions, each of rank 8 plus a floor of sd .02: like images."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(16, 64, generator=generator, dtype=DOUBLE)
    factors = torch.randn(16, 64, 8, generator=generator, dtype=DOUBLE) / math.sqrt(80.0)
    covariances = factors @ factors.mT + 0.02**2 * torch.eye(64, dtype=DOUBLE)
    return GaussianMixtureOracle(
        VE, torch.ones(16, dtype=DOUBLE), means=means, covariances=covariances
    )


def held_out32() -> GaussianMixtureOracle:
    """Seven unequal modes in 32 dimensions, full covariances, scales spread over 100 to 1."""
    scales = torch.logspace(0.2, -1.8, 32, dtype=DOUBLE)
    means = 0.8 * _normal(101, 7, 32) * scales.sqrt()
    frames = torch.linalg.qr(_normal(102, 7, 32, 32)).Q
    spectra = (0.5 * scales * torch.exp(0.5 * _normal(103, 7, 32))) ** 2
    covariances = frames @ torch.diag_embed(spectra) @ frames.mT
    return GaussianMixtureOracle(
        VE, torch.arange(1, 8, dtype=DOUBLE), means=means, covariances=covariances
    )


def powerlaw64() -> GaussianMixtureOracle:
    """Eight modes in 64 dimensions, of standard deviation `30 k^-1.1`, down to a floor of .02."""
    k = torch.arange(1, 65, dtype=DOUBLE)
    wide = (30.0 * k**-1.1).clamp_min(0.02)
    means = 0.85 * _normal(105, 8, 64) * wide * (k <= 12)
    spread = wide * torch.where(k <= 12, 0.5, 1.0) * torch.exp(0.5 * _normal(106, 8, 64))
    return GaussianMixtureOracle(
        VE, torch.ones(8, dtype=DOUBLE), means=means, covariances=spread**2
    )


def targets(samples: int, nodes: int) -> list[Target]:
    """Return the three judges, the held-out and the image-like target, trajectories solved."""
    built = []
    oracles = {
        "G16": gaussian16(),
        "M2": lattice2(),
        "M64": lowrank64(),
        "H32": held_out32(),
        "P64": powerlaw64(),
    }
    for name, oracle in oracles.items():
        if isinstance(oracle, GaussianOracle):
            noise = _normal(11, samples, len(oracle.mean))
            states = oracle.mean + (oracle.variances + TOP**2).sqrt() * noise
        else:
            states = oracle.sample(samples, 1.0, generator=torch.Generator().manual_seed(12))
        target = Target(name, oracle, states, "long" if name == "P64" else "short")
        target.solve(nodes)
        built.append(target)
    return built


@dataclass
class End:
    """Where a method arrived: states in the frame `y = x / alpha`, and its noise levels."""

    y: Tensor
    start: float
    level: float


Method = Callable[[Target, int], End | None]


def error(method: Method, target: Target, n: int) -> float:
    """Return the median relative error with at most `n` evaluations, infinite if it has none."""
    target.calls = 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about casts and deprecations
        end = method(target, n)
    if end is None:
        return math.inf
    if target.calls > n:
        raise RuntimeError(f"{method} used {target.calls} evaluations where {n} were allowed")
    value = relative_error(end.y.to(DOUBLE), target.at(end.level)).median().item()
    return value if math.isfinite(value) else math.inf


ENDS = {"sigma_max": HIGH, "sigma_min": LOW}
GRIDS: dict[str, Callable[[int], np.ndarray]] = {
    "karras7": lambda n: grid.karras(VE, n, **ENDS),
    "log-SNR": lambda n: grid.log_snr(VE, n, **ENDS),
    "ratio": lambda n: grid.ratio(VE, n, **ENDS),
}


def walk(
    target: Target, n: int, *, solver: AbstractSolver, levels: Callable[[int], np.ndarray]
) -> End | None:
    """Run one of our solvers on a grid of as many steps as `n` evaluations pay for."""
    for steps in range(n, 0, -1):
        times = levels(steps)
        plan = solver.plan(VE, times)
        if plan.nfe <= n:
            y = plan.run(lambda x, t: target.denoise(x, TOP * t), target.at(HIGH))
            return End(y, HIGH, TOP * float(times[-1]))
    return None
