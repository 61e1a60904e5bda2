"""Fit the constants of `auto(..., spectrum="short")` on an ensemble of random targets.

    python bench/nfe_tuning.py [REGIME ...] [--evaluations 250]

For every regime (a solver and a range of budgets) six numbers place the noise levels: the centre
and the two widths of the sinh law, each as `a + b least / n`. They minimise the mean log error over
all budgets of the regime, over Gaussians (weight .2), mixtures of narrow modes in few dimensions
(.3) and mixtures of low rank in many dimensions (.5), mean over samples and targets inside a kind.
Two seeds of targets are fitted, a third validates. No target of `bench/nfe_error.py` is among
them, and none has the long spectrum of images, for which these constants are wrong. Independent
errors of the network must not be amplified past `GAIN`: the gain is the norm of the weights of the
x0 estimates in the final state. The fit starts from the present constants, so a second run moves
them a little. The last line is `RESULT {json}`. Without a regime all are fitted, half an hour.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from medsci.core.process import Path
from medsci.core.solve import Multistep
from medsci.core.solve.auto import BOTTOM, REGIMES, TOP, Regime, noise_levels

DOUBLE = torch.float64
VE = Path.ve(sigma_max=TOP, rho=1.0)  # sigma = TOP t
GAIN = 2.5
WEIGHTS = {"gauss": 0.2, "low": 0.3, "high": 0.5}
SHAPES = {  # (modes, dimensions, how many)
    "gauss": ((1, 16, 7), (1, 48, 5), (1, 4, 3)),
    "low": ((2, 2, 4), (8, 2, 4), (20, 2, 5), (5, 1, 2), (12, 3, 3)),
    "high": ((4, 24, 3), (12, 48, 3), (16, 64, 3), (10, 96, 3), (20, 96, 2)),
}
BUDGETS = {
    2: (2, 3),
    4: (4, 5, 6),
    7: (7, 8, 9, 10, 12, 15),
    16: (16, 18, 20, 23, 27),
    28: (28, 33, 40, 50, 70, 100),
}
SAMPLES, NODES = 8, 500


@dataclass
class Targets:
    """A batch of mixtures with diagonal covariances, padded to one shape, and their end points."""

    log_weights: Tensor  # (targets, modes)
    means: Tensor  # (targets, modes, dimensions)
    variances: Tensor
    start: Tensor  # (targets, samples, dimensions) at TOP
    end: Tensor  # at BOTTOM

    def __call__(self, y: Tensor, t: float) -> Tensor:
        """Return `E[x0 | y]`."""
        spread = self.variances + (TOP * t) ** 2
        away = y[:, None] - self.means[:, :, None]
        square = (away.square() / spread[:, :, None]).sum(-1) + spread.log().sum(-1)[:, :, None]
        share = torch.softmax(self.log_weights[:, :, None] - 0.5 * square, dim=1)
        x0 = self.means[:, :, None] + away * (self.variances / spread)[:, :, None]
        return (share[..., None] * x0).sum(1)


def random_target(
    kind: str, modes: int, d: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Return weights, means and variances of one target with a random overall scale."""

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    k = np.arange(1.0, d + 1.0)
    weights = rng.dirichlet(np.full(modes, 4.0)) + 1e-3
    weights /= weights.sum()
    if kind == "gauss":
        means = rng.standard_normal((1, d)) * rng.uniform(0.0, 1.2)
        variances = np.maximum(k ** -rng.uniform(0.0, 2.5), log_uniform(0.003, 0.3) ** 2)[None]
    else:
        high = kind == "high"
        decay = rng.uniform(0.0, 1.2 if high else 0.6)
        means = rng.standard_normal((modes, d)) * k ** (-0.5 * decay)
        if not high and rng.uniform() < 0.3:
            means = rng.integers(-3, 4, (modes, d)) + 0.02 * rng.standard_normal((modes, d))
        top = log_uniform(0.1, 0.9) if high else log_uniform(0.03, 0.5)
        rank, fall = np.ceil(d * rng.uniform(0.05, 0.6)), rng.uniform(0.0, 2.0)
        floor = log_uniform(0.02, 0.3)
        spectra = []
        for _ in range(modes):
            spectrum = top**2 * k**-fall * np.exp(0.3 * rng.standard_normal())
            spectrum = np.where((k <= rank) | (not high), spectrum, 0.0)
            spectra.append(np.maximum(rng.permutation(spectrum), (floor * top) ** 2))
        variances = np.stack(spectra)
    centre = weights @ means
    total = (variances.mean(0) + weights @ (means - centre) ** 2).mean()
    scale = log_uniform(0.4, 1.3) / math.sqrt(total)
    return weights, means * scale, variances * scale**2


@cache
def ensemble(seed: int) -> dict[str, Targets]:
    """Return the targets of one seed by kind, with exact end points of a few samples each."""
    return {kind: _batch(kind, seed) for kind in SHAPES}


def _batch(kind: str, seed: int) -> Targets:
    rng = np.random.default_rng((seed, list(SHAPES).index(kind)))
    shapes = SHAPES[kind]
    modes, d, count = (
        max(s[0] for s in shapes),
        max(s[1] for s in shapes),
        sum(s[2] for s in shapes),
    )
    log_weights = np.full((count, modes), -700.0)  # modes that are not there
    means, variances = np.zeros((count, modes, d)), np.ones((count, modes, d))
    start = np.zeros((count, SAMPLES, d))
    drawn = ((m, dim) for m, dim, many in shapes for _ in range(many))
    for i, (m, dim) in enumerate(drawn):
        weights, mu, variance = random_target(kind, m, dim, rng)
        log_weights[i, :m], means[i, :m, :dim], variances[i, :m, :dim] = (
            np.log(weights),
            mu,
            variance,
        )
        mode = rng.choice(m, SAMPLES, p=weights)
        inner = np.sqrt(variance[mode]) * rng.standard_normal((SAMPLES, dim))
        start[i, :, :dim] = mu[mode] + inner + TOP * rng.standard_normal((SAMPLES, dim))
    arrays = (torch.tensor(a) for a in (log_weights, means, variances, start))
    targets = Targets(*arrays, end=torch.empty(0))
    fine = Multistep("x0", order=3, corrector=True, lower_final=False)
    targets.end = fine.plan(VE, np.geomspace(TOP, BOTTOM, NODES + 1) / TOP).run(
        targets, targets.start
    )
    return targets


def errors(solver: Multistep, levels: np.ndarray, seed: int) -> dict[str, float]:
    """Return the geometric mean error by kind."""
    plan = solver.plan(VE, levels / TOP)
    found = {}
    for kind, targets in ensemble(seed).items():
        gap = (plan.run(targets, targets.start) - targets.end).norm(dim=-1)
        found[kind] = (gap / targets.end.norm(dim=-1) + 1e-12).log().mean().exp().item()
    return found


def gain(solver: Multistep, levels: np.ndarray) -> float:
    """Return the norm of the weights with which the x0 estimates enter the final state."""
    plan = solver.plan(VE, levels / TOP)
    pulses = iter(torch.eye(plan.nfe, dtype=DOUBLE))
    end = plan.run(lambda x, t: next(pulses)[None], torch.zeros(1, plan.nfe, dtype=DOUBLE))
    return end.norm().item()


def with_numbers(regime: Regime, numbers: np.ndarray) -> Regime:
    pairs = [tuple(float(v) for v in pair) for pair in numbers.reshape(3, 2)]
    return regime._replace(centre=pairs[0], above=pairs[1], below=pairs[2])


def cost(numbers: np.ndarray, regime: Regime, seeds: tuple[int, ...]) -> float:
    """Return the weighted mean log error over budgets and seeds, and the penalty of the gain."""
    regime = with_numbers(regime, numbers)
    total = 0.0
    for n in BUDGETS[regime.least]:
        share = regime.least / n
        widths = [a + b * share for a, b in (regime.above, regime.below)]
        if min(widths) < 0.4:
            return 10.0
        levels = noise_levels(regime, n, top=TOP, bottom=BOTTOM)
        total += 3.0 * max(0.0, math.log(gain(regime.solver, levels) / GAIN))
        for seed in seeds:
            found = errors(regime.solver, levels, seed)
            total += sum(WEIGHTS[k] * math.log(found[k]) for k in WEIGHTS) / len(seeds)
    return total / len(BUDGETS[regime.least])


def fit(regime: Regime, evaluations: int) -> Regime:
    """Return the regime with the numbers that a thrice restarted simplex search finds."""
    numbers = np.array([*regime.centre, *regime.above, *regime.below])
    for shrink in (1.0, 2.0, 3.0):
        steps = np.diag([0.25, 0.4, 0.4, 0.5, 0.4, 0.5]) / shrink
        found = minimize(
            cost,
            numbers,
            args=(regime, (0, 1)),
            method="Nelder-Mead",
            options={
                "maxfev": evaluations // 3,
                "xatol": 0.005,
                "fatol": 0.002,
                "adaptive": True,
                "initial_simplex": np.vstack([numbers, numbers + steps]),
            },
        )
        numbers = found.x
    return with_numbers(regime, np.round(numbers, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("regimes", nargs="*", type=int, help="least budgets; all if left out")
    parser.add_argument("--evaluations", type=int, default=250, help="0 only reports")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {}
    for regime in REGIMES:
        if asked.regimes and regime.least not in asked.regimes:
            continue
        begun = time.perf_counter()
        found = fit(regime, asked.evaluations) if asked.evaluations else regime
        print(
            f"{regime.least}: centre={found.centre}, above={found.above}, below={found.below}",
            end="",
        )
        print(f"   {time.perf_counter() - begun:.0f} s")
        rows = {}
        for n in BUDGETS[regime.least]:
            levels = noise_levels(found, n, top=TOP, bottom=BOTTOM)
            rows[n] = errors(found.solver, levels, 2) | {"gain": gain(found.solver, levels)}
            print(f"  {n:4d}  " + "  ".join(f"{k} {v:.1e}" for k, v in rows[n].items()), flush=True)
        result[str(regime.least)] = {"numbers": found[2:], "validation": rows}
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
