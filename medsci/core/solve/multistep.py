"""Multistep solvers: one builder for DDIM, DEIS, DPM-Solver++ and the UniPC family.

The probability-flow equation of every affine Gaussian path is linear in one direction f, four of
which are used here. With `e = (x - alpha x0) / sigma` and `r = sqrt(alpha^2 + sigma^2)`:

    basis   C              tau                      f
    eps     alpha          sigma / alpha            e
    x0      sigma          alpha / sigma            x0
    v       alpha + sigma  sigma / (alpha + sigma)  e - x0
    angle   r              atan2(sigma, alpha)      (alpha e - sigma x0) / r

and `d(x / C) = f dtau` holds exactly, so `x_s = C_s / C_t x_t + C_s int f dtau`. The solver puts
the polynomial through the last k directions in place of f, in a variable u of your choice, and
integrates it exactly. Evaluated once more with the newest direction, the same integral corrects the
step just taken, at no network call. `v` and `angle` are finite from pure noise to clean data.

Source: own derivation. With one direction this is DDIM (Song et al. 2021, arXiv:2010.02502); `eps`
in `log_snr` is DEIS (Zhang and Chen 2023, arXiv:2204.13902); `x0` in `log_snr` is DPM-Solver++
(Lu et al. 2022, arXiv:2211.01095) with exact weights, and UniPC (Zhao et al. 2023,
arXiv:2302.04867) with the corrector.
"""

__all__ = ["Basis", "Multistep", "Variable"]

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, final, get_args

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.grid import check_grid
from medsci.core.solve.plan import Plan, Row, Step

Basis = Literal["x0", "eps", "v", "angle"]
Variable = Literal["log_snr", "sigma", "ratio", "angle"]

FEW_STEPS = 15  # below, x0 and the corrector overshoot at the end: see Multistep.lower_final
FEWER_STEPS = 7  # below, every basis does
WIDE_STEP = 2.0  # in log-SNR: a step over more than e^2 in sigma_hat
NODES, WEIGHTS = np.polynomial.legendre.leggauss(96)  # 1e-13 on one step from sigma_hat 80 to .002


@final
@dataclass(frozen=True)
class Multistep:
    """Adams-Bashforth in a basis that makes the direction change slowly, with a free corrector.

    Args:
        basis: the direction that is extrapolated. `x0` is the safe choice under strong guidance,
            `eps` with order 3 the most accurate at 10 to 20 steps, `angle` or `v` reach from pure
            noise to clean data at full order.
        variable: the variable in which the directions form a polynomial; `ratio` and `angle` are
            finite at both ends. Directions at which it is infinite are left out.
        order: directions used, 1 to 3.
        corrector: redo every step with the newest direction; raises the order by one for free.
        lower_final: let the order fall to 1 towards the last step. `auto` does so for `x0` and for
            the corrector below 15 steps, or when one of the last steps spans more than e^2 in
            sigma_hat; for the others below 7 steps (measured on Gaussian mixtures: at 10 Karras
            steps lowering gains 1.6 times for `x0` and costs 2.5 times for `eps` of order 3).
            Below 15 steps the corrector is used only together with it: alone it overshoots.
    """

    basis: Basis = "x0"
    variable: Variable = "log_snr"
    _: KW_ONLY
    order: int = 2
    corrector: bool = False
    lower_final: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.basis not in get_args(Basis):
            raise ValueError(f"basis {self.basis!r} came; choose one of {get_args(Basis)}")
        if self.variable not in get_args(Variable):
            raise ValueError(f"variable {self.variable!r} came; choose one of {get_args(Variable)}")
        if self.order not in (1, 2, 3):
            raise ValueError(f"order {self.order!r} came; choose 1, 2 or 3")
        if self.lower_final not in (True, False, "auto"):
            raise ValueError(f"lower_final {self.lower_final!r} came; choose True, False or 'auto'")

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the coefficients for a grid; equal questions are answered from a cache.

        Raises:
            ValueError: the grid does not decrease, or reaches zero noise before its end.
        """
        return _plan(self, path, check_grid(grid).tobytes())


class _Frame(NamedTuple):
    """What the builder knows about every point of the grid, in native coordinates."""

    times: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    lam: np.ndarray
    u: np.ndarray
    scale: np.ndarray  # C
    bounded: np.ndarray  # tau is finite
    points: np.ndarray  # u at the quadrature points of every step
    measure: np.ndarray  # C_s dtau there


@lru_cache(maxsize=256)
def _plan(solver: Multistep, path: Path, grid: bytes) -> Plan:
    frame = _frame(solver, path, np.frombuffer(grid))
    n = len(frame.times) - 1
    orders, corrector = _orders(solver, frame)
    known = np.isfinite(frame.u)
    keeps = corrector or max(orders) > 1
    steps = []
    for i in range(n):
        nodes = [j for j in range(i, -1, -1) if known[j]] if known[i] and keeps else [i]
        rows = [_row(solver, frame, nodes[:1])]
        corrects = corrector and i > 0 and len(nodes) > 1 and frame.bounded[i - 1]
        longest = max(orders[i], orders[i - 1] + 1 if corrects else 1)
        for k in range(2, min(longest, len(nodes)) + 1):
            corr: tuple[float, ...] = ()
            if corrects:
                p = min(k - 1, orders[i - 1])
                corr = _correction(frame, nodes[: p + 1])
            used = nodes[: min(k, orders[i])]
            rows.append(_row(solver, frame, used, corr=corr))
        f = _direction(solver.basis, frame, i) if keeps and known[i] else None
        t, s = float(frame.times[i]), float(frame.times[i + 1])
        steps.append(Step(t=t, s=s, rows=tuple(rows), f=f))
    history = max(len(step.rows) for step in steps) if keeps else 0
    return Plan(tuple(steps), history=history, nfe=n)


def _frame(solver: Multistep, path: Path, times: np.ndarray) -> _Frame:
    alpha, sigma = path.alpha(times), path.sigma(times)
    if np.any(path.shift(times) != 0.0):
        raise ValueError(f"{path!r} has a conditional mean; let the denoiser work on x - mu")
    if np.any(sigma[:-1] <= 0.0):
        at = int(np.argmax(sigma[:-1] <= 0.0))
        raise ValueError(f"grid[{at}] = {times[at]} has no noise left; end the grid there")
    phi = np.arctan2(sigma, alpha)
    if np.any(np.diff(phi) >= 0.0):
        at = int(np.argmax(np.diff(phi) >= 0.0))
        raise ValueError(
            f"grid[{at}] = {times[at]!r} and grid[{at + 1}] = {times[at + 1]!r} have the same "
            f"noise level on {path!r}; take fewer steps or a grid made for this path"
        )
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
        h = sigma / alpha
    scale = {
        "eps": alpha,
        "x0": sigma,
        "v": alpha + sigma,
        "angle": np.hypot(alpha, sigma),
    }[solver.basis]
    u = _variable(solver.variable, phi=phi, lam=lam, h=h)
    points, measure = _quadrature(solver, phi, lam)
    measure *= scale[1:, None]
    return _Frame(times, alpha, sigma, lam, u, scale, scale > 0.0, points, measure)


def _orders(solver: Multistep, frame: _Frame) -> tuple[list[int], bool]:
    """Return the order of every step, and whether the corrector is used."""
    n = len(frame.times) - 1
    eager = solver.basis == "x0" or solver.corrector
    wide = bool(np.any(np.diff(frame.lam)[-solver.order :] > WIDE_STEP))
    few = n < (FEW_STEPS if eager else FEWER_STEPS)
    lower = solver.lower_final is True or (
        solver.lower_final == "auto" and (few or (eager and wide))
    )
    orders = [min(solver.order, n - i) if lower else solver.order for i in range(n)]
    for i in range(n):
        ends = frame.bounded[i] and frame.bounded[i + 1] and np.isfinite(frame.u[i + 1])
        orders[i] = orders[i] if ends else 1
    return orders, solver.corrector and (n >= FEW_STEPS or lower)


def _row(
    solver: Multistep, frame: _Frame, nodes: Sequence[int], *, corr: tuple[float, ...] = ()
) -> Row:
    """Return the update from `nodes[0]` to the next point of the grid.

    The newest direction is folded into the weights of x and x0, except after a correction: it was
    formed from the state before that.
    """
    i, basis = nodes[0], solver.basis
    if len(nodes) == 1 and basis != "angle" and (not corr or basis == "x0"):
        a = float(frame.sigma[i + 1] / frame.sigma[i])  # DDIM, finite at both ends
        return Row(a=a, b=float(frame.alpha[i + 1] - frame.alpha[i] * a), corr=corr)
    a = float(frame.scale[i + 1] / frame.scale[i])
    c = _weights(frame, nodes, start=i)
    f_x, f_d = _direction(basis, frame, i)
    if corr and f_x != 0.0:
        return Row(a=a, b=0.0, c=c, corr=corr)
    rest = (0.0, *c[1:]) if len(c) > 1 else ()
    return Row(a=a + c[0] * f_x, b=c[0] * f_d, c=rest, corr=corr)


def _correction(frame: _Frame, nodes: Sequence[int]) -> tuple[float, ...]:
    """Return what to add for the step that ended at `nodes[0]`, now that its f is known."""
    start = nodes[0] - 1
    with_new = _weights(frame, nodes, start=start)
    without = _weights(frame, nodes[1:], start=start)
    return tuple(w - p for w, p in zip(with_new, (0.0, *without), strict=True))


def _direction(basis: Basis, frame: _Frame, i: int) -> tuple[float, float]:
    """Return `(f_x, f_d)` with `f = f_x x + f_d x0`."""
    alpha, sigma = float(frame.alpha[i]), float(frame.sigma[i])
    if basis == "eps":
        return 1.0 / sigma, -alpha / sigma
    if basis == "x0":
        return 0.0, 1.0
    if basis == "v":
        return 1.0 / sigma, -(alpha + sigma) / sigma
    norm = float(frame.scale[i])
    return alpha / (sigma * norm), -norm / sigma


def _weights(frame: _Frame, nodes: Sequence[int], *, start: int) -> tuple[float, ...]:
    """Return `C_s int L_j(u) dtau` over one step, L_j the Lagrange polynomials of the nodes."""
    u, measure = frame.points[start], frame.measure[start]
    at = frame.u[list(nodes)].tolist()
    from_node = [u - value for value in at]
    weights = []
    for j, own in enumerate(at):
        lagrange = measure
        for m, other in enumerate(at):
            if m != j:
                lagrange = lagrange * (from_node[m] / (own - other))
        weights.append(float(lagrange.sum()))
    return tuple(weights)


def _quadrature(
    solver: Multistep, phi: np.ndarray, lam: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return u and `dtau` at the Gauss points of every step, each of shape (steps, points).

    A step is parametrised by lambda, or by the angle if one of its ends has no finite lambda.
    """
    smooth = (np.isfinite(lam[:-1]) & np.isfinite(lam[1:]))[:, None]
    ends = np.where(smooth, np.stack([lam[:-1], lam[1:]], 1), np.stack([phi[:-1], phi[1:]], 1))
    half = 0.5 * (ends[:, 1:] - ends[:, :1])
    p = 0.5 * (ends[:, 1:] + ends[:, :1]) + half * NODES
    p_lam, p_phi = np.where(smooth, p, 0.0), np.where(smooth, 0.25 * np.pi, p)
    h = np.where(smooth, np.exp(-p_lam), np.tan(p_phi))
    slopes = {  # dtau / dh and, times dh / dphi, the same without its poles
        "eps": (np.ones_like(h), np.cos(p_phi) ** -2),
        "x0": (-(h**-2), -(np.sin(p_phi) ** -2)),
        "v": ((1.0 + h) ** -2, (np.cos(p_phi) + np.sin(p_phi)) ** -2),
        "angle": (1.0 / (1.0 + h * h), np.ones_like(h)),
    }
    by_h, by_phi = slopes[solver.basis]
    slope = np.where(smooth, -h * by_h, by_phi)
    u = _variable(solver.variable, phi=np.arctan(h), lam=-np.log(h), h=h)
    return u, half * WEIGHTS * slope


def _variable(variable: Variable, *, phi: np.ndarray, lam: np.ndarray, h: np.ndarray) -> np.ndarray:
    if variable == "log_snr":
        return lam
    if variable == "sigma":
        return h
    if variable == "ratio":
        return np.sin(phi) / (np.sin(phi) + np.cos(phi))
    return phi
