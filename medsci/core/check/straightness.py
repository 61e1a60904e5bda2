"""Straightness: how far a flow is from walking its chords, and from one exact step.

A flow that carries noise to data along straight lines at constant speed takes one Euler step:

    S(v) = int_0^1 E |(x_1 - x_0) - v(x_t, t)|^2 dt,      x_1 - x_0 = z - x0 on the rectified path

The square is summed over coordinates; divide by their number to compare targets. For independent
pairs of `N(0, I)` and `N(mu, L)` and the exact velocity, `S = (pi / 2) tr sqrt(L)`; for pairs that
the flow itself has made, S is the bend of its trajectories.

Being straight is more than one exact step needs. Where the noise estimate `e = (x - alpha x0) /
sigma` does not change along a trajectory, one DDIM step is exact on every path, bent or not:
`noise_drift` measures that.

Source: Liu et al. 2022, sec. 2.1, arXiv:2209.03003; the drift after Wang et al. 2024,
arXiv:2410.07303.
"""

__all__ = ["VelocityFn", "flow_velocity", "noise_drift", "straightness", "trajectory_straightness"]

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.solve.plan import DenoiseFn

VelocityFn = Callable[[Tensor, float], Tensor]


def flow_velocity(denoise: DenoiseFn, path: Path) -> VelocityFn:
    """Return the velocity `dx/dt = alpha' x0 + sigma' e` of a denoiser's flow, `(x, t) -> dx/dt`.

    The rates of the path are exact, by automatic differentiation; on the rectified path this is
    `e - x0`. The noise estimate `e = (x - alpha x0) / sigma` needs `sigma(t) > 0`.

    Raises:
        ValueError: the path has a shift; subtract the conditional mean from the states first.
    """
    if any(float(path.shift(t)) for t in (0.0, 0.5, 1.0)):
        raise ValueError(f"{path!r} has a shift; move the states by it and use its path without")

    def velocity(x: Tensor, t: float) -> Tensor:
        alpha, d_alpha = _value_and_rate(path.alpha, t)
        sigma, d_sigma = _value_and_rate(path.sigma, t)
        x0 = denoise(x, t)
        return (d_alpha - d_sigma * alpha / sigma) * x0 + (d_sigma / sigma) * x

    return velocity


def straightness(
    velocity: VelocityFn,
    x0: Shaped[Tensor, " b *d"],
    z: Shaped[Tensor, " b *d"],
    *,
    path: Path | None = None,
    nodes: int = 32,
) -> Float[Tensor, ""]:
    """Return `S(v)` over pairs of samples and noise.

    Args:
        velocity: `(x, t) -> dx/dt`; `flow_velocity(denoiser, path)` makes one of a denoiser.
        x0: samples.
        z: the noise paired with them.
        path: the path on which the pairs are joined; the rectified one if left out.
        nodes: Gauss-Legendre points in t, all inside (0, 1).
    """
    path = Path.rectified() if path is None else path
    chord = path.perturb(x0, 1.0, z) - path.perturb(x0, 0.0, z)
    total = torch.zeros((), dtype=chord.real.dtype, device=chord.device)
    with torch.no_grad():
        for t, weight in zip(*_gauss_legendre(nodes), strict=True):
            gap = chord - velocity(path.perturb(x0, t, z), t)
            total = total + weight * _mean_square(gap)
    return total


def trajectory_straightness(
    times: Sequence[float], states: Sequence[Shaped[Tensor, " b *d"]]
) -> Float[Tensor, ""]:
    """Return `S` of simulated trajectories, with the velocity of every step of the walk.

    `sum_i du_i E |(x_n - x_0) - (x_{i+1} - x_i) / du_i|^2`, where u runs from 0 to 1 with the
    times: zero if and only if all states lie on their chords at constant speed.

    Args:
        times: of the states, monotone; `Trace("x", at="before")` and the end of the walk, say.
        states: one batch per time.

    Raises:
        ValueError: fewer than two times, not one state for each, or two equal times in a row.
    """
    if len(times) < 2 or len(times) != len(states):
        raise ValueError(
            f"{len(times)} times and {len(states)} states came; give two or more pairs"
        )
    u = (np.asarray(times, dtype=np.float64) - times[0]) / (times[-1] - times[0])
    if not np.all(np.diff(u) > 0.0):
        raise ValueError("the times do not run in one direction; remove duplicates, give one walk")
    chord = states[-1] - states[0]
    total = torch.zeros((), dtype=chord.real.dtype, device=chord.device)
    for i, du in enumerate(np.diff(u).tolist()):
        total = total + du * _mean_square(chord - (states[i + 1] - states[i]) / du)
    return total


def noise_drift(
    denoise: DenoiseFn,
    path: Path,
    *,
    times: Sequence[float],
    states: Sequence[Shaped[Tensor, " b *d"]],
) -> Float[Tensor, ""]:
    """Return how much the noise estimate changes along trajectories, relative to its size.

    `max_i rms(e_i - e_0) / rms(e_0)` with `e_i = (x_i - alpha x0_i) / sigma`; zero makes one DDIM
    step from the first time to any other exact. The times need `sigma(t) > 0`.
    """
    estimates = []
    with torch.no_grad():
        for t, x in zip(times, states, strict=True):
            alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
            estimates.append((x - alpha * denoise(x, t)) / sigma)
    first = estimates[0]
    moved = torch.stack([_mean_square(e - first) for e in estimates]).max()
    return (moved / _mean_square(first)).sqrt()


def _value_and_rate(coefficient: Callable[[Tensor], Tensor], t: float) -> tuple[float, float]:
    at = torch.tensor(t, dtype=torch.float64)
    rate, value = torch.func.grad_and_value(coefficient)(at)
    return float(value), float(rate)


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    """Return points in (0, 1) and weights that sum to one."""
    points, weights = np.polynomial.legendre.leggauss(n)
    return (0.5 + 0.5 * points).tolist(), (0.5 * weights).tolist()


def _mean_square(x: Tensor) -> Tensor:
    """Return `E |x|^2`, summed over coordinates."""
    return x.abs().square().flatten(1).sum(1).mean()
