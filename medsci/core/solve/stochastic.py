"""Stochastic solvers: the reverse diffusion with any amount of noise, all with the same marginals.

Adding noise of coefficient g(t) while walking back, and the score drift that balances it, leaves
every marginal of the path as it is. With `T = int tau^2 dlambda` over a step, `lambda = ln(alpha /
sigma)`, the walk is solved exactly but for x0:

    x_s = sigma_s / sigma_t e^-T x_t
        + sigma_s int e^-T(lambda, s) (1 + tau^2) e^lambda x0 dlambda + sigma_s sqrt(1 - e^-2T) z

`tau = 0` is the probability flow (DDIM at order 1), `tau = 1` the reverse of the diffusion (DDPM).
For a diffusion coefficient, `tau^2 dlambda = g^2 / (2 sigma^2) |dt|`.

Source: Xue et al. 2023, prop. 4.1, arXiv:2305.14267, for tau; the integral over time is our own.
"""

__all__ = ["Sde"]

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Literal, final

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.frame import Frame, frame_of, lagrange
from medsci.core.solve.grid import check_grid
from medsci.core.solve.multistep import FEW_STEPS
from medsci.core.solve.plan import Plan, Row, Step

Diffusion = Callable[[np.ndarray], np.ndarray]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
_DELTA = 1e-4  # of lambda, for dt / dlambda


@final
@dataclass(frozen=True)
class Sde:
    """Reverse diffusion by a multistep rule in x0.

    The order is that of the drift: with `tau = 0` the error falls as `n ** -order`. With noise the
    law of the samples converges with the same order for small tau, and with order 1 pathwise.

    Args:
        tau: noise relative to the reverse diffusion, >= 0.
        diffusion: the coefficient g(t) instead: a function of float64 arrays of times, for instance
            `lambda t: 3 * t**2`. Two plans share a cache entry only if the function is the same
            object.
        order: x0 estimates that are extrapolated, 1 to 3.
        lower_final: let the order fall to 1 towards the last step; `auto` does so below 15 steps.
    """

    tau: float = 1.0
    _: KW_ONLY
    diffusion: Diffusion | None = None
    order: int = 1
    lower_final: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.lower_final not in (True, False, "auto"):
            raise ValueError(f"lower_final {self.lower_final!r} came; choose True, False or 'auto'")
        if not 0.0 <= self.tau < np.inf:
            raise ValueError(f"tau={self.tau} came; give noise >= 0, 1 for the reverse diffusion")
        if self.order not in (1, 2, 3):
            raise ValueError(f"order {self.order!r} came; choose 1, 2 or 3")
        if self.diffusion is not None and self.tau != 1.0:
            raise ValueError("tau and diffusion came together; the coefficient g sets the noise")

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the coefficients for a decreasing grid.

        Raises:
            ValueError: the grid does not decrease, or reaches zero noise before its end.
        """
        return _plan(self, path, check_grid(grid).tobytes())


@lru_cache(maxsize=256)
def _plan(solver: Sde, path: Path, grid: bytes) -> Plan:
    times = np.frombuffer(grid)
    frame = frame_of(path, times, basis="x0", variable="log_snr")
    if np.any(frame.sigma[:-1] <= 0.0):
        at = int(np.argmax(frame.sigma[:-1] <= 0.0))
        raise ValueError(f"grid[{at}] = {times[at]} has no noise left; end the grid there")
    n = len(times) - 1
    lower = n < FEW_STEPS if solver.lower_final == "auto" else solver.lower_final
    steps = []
    for i in range(n):
        left = n - i if lower else solver.order
        decay = float(np.exp(-_exponent(solver, path, times[i], times[i + 1])))
        a = float(frame.sigma[i + 1] / frame.sigma[i]) * decay
        b = float(frame.alpha[i + 1] - frame.alpha[i] * a)  # exact for any tau: see Ancestral
        rows = [Row(a=a, b=b)]
        for k in range(2, min(solver.order, i + 1, left) + 1):
            nodes = list(range(i, i - k, -1))
            if not np.all(np.isfinite(frame.lam[[*nodes, i + 1]])):
                break
            c = _weights(solver, path, frame, nodes)
            rows.append(Row(a=a, b=b - sum(c[1:]), c=(0.0, *c[1:])))
        fresh = float(frame.sigma[i + 1]) * float(np.sqrt(max(1.0 - decay * decay, 0.0)))
        f = (0.0, 1.0) if solver.order > 1 else None
        t, s = float(times[i]), float(times[i + 1])
        steps.append(Step(t=t, s=s, rows=tuple(rows), f=f, z=fresh))
    return Plan(tuple(steps), history=solver.order if solver.order > 1 else 0, nfe=n)


def _exponent(solver: Sde, path: Path, t: float, s: float) -> float:
    """Return T of the step from t to s; infinite if the noise is renewed altogether."""
    if solver.diffusion is None:
        if solver.tau == 0.0:
            return 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = float(path.log_snr(np.float64(s)) - path.log_snr(np.float64(t)))
        return solver.tau**2 * rise
    points = 0.5 * (t + s) + 0.5 * (t - s) * NODES
    rate = solver.diffusion(points) ** 2 / (2.0 * path.sigma(points) ** 2)
    return float(0.5 * (t - s) * (WEIGHTS * rate).sum())


def _weights(solver: Sde, path: Path, frame: Frame, nodes: list[int]) -> tuple[float, ...]:
    """Return the exact integrals of the polynomials through x0 at the nodes, newest first."""
    start, end = float(frame.lam[nodes[0]]), float(frame.lam[nodes[0] + 1])
    half = 0.5 * (end - start)
    points = 0.5 * (start + end) + half * NODES
    if solver.diffusion is None:
        tau2 = np.full_like(points, solver.tau**2)
        left = solver.tau**2 * (end - points)
    else:
        t = path.time_at_log_snr(points)
        ahead, behind = (path.time_at_log_snr(points + d) for d in (_DELTA, -_DELTA))
        tau2 = solver.diffusion(t) ** 2 / (2.0 * path.sigma(t) ** 2) * (behind - ahead)
        tau2 /= 2.0 * _DELTA
        s = float(frame.times[nodes[0] + 1])
        left = np.array([_exponent(solver, path, float(own), s) for own in t])
    sigma_s = float(frame.sigma[nodes[0] + 1])
    measure = half * WEIGHTS * sigma_s * np.exp(points - left) * (1.0 + tau2)
    return lagrange(points, measure, frame.lam[nodes].tolist())
