"""Runge-Kutta solvers: several evaluations a step, no memory between steps.

A stage is written as a step of its own. With `y = x / C` the stages of one step are
`y_j = y_0 + sum_l W_jl f_l`, so the walk from stage j to stage j + 1 adds the difference of two
rows of W, and the loop of a `Plan` needs to know nothing about stages. A vector that a hook adds to
the state at one stage is carried to the end of the step.

    Butcher       classical weights in the variable u: `W_jl = C du a_jl dtau/du (u_l)`
    Exponential   the polynomial through chosen stages, integrated exactly against dtau

Source: Hairer, Norsett and Wanner 1993, chapter II; the exponential tableaus are those of
DPM-Solver (Lu et al. 2022, arXiv:2206.00927) in any basis, Heun is Karras et al. 2022.
"""

__all__ = [
    "HEUN",
    "RK4",
    "TABLEAUS",
    "Butcher",
    "Exponential",
    "RungeKutta",
    "TableauName",
    "stages",
]

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, final, get_args

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.frame import (
    Basis,
    Frame,
    Variable,
    check_choices,
    ddim,
    direction,
    frame_of,
    lagrange,
)
from medsci.core.solve.grid import check_walkable
from medsci.core.solve.plan import Plan, Row, Step


@final
@dataclass(frozen=True)
class Butcher:
    """An explicit tableau: nodes, one row of weights per further stage, weights of the result."""

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


@final
@dataclass(frozen=True)
class Exponential:
    """Nodes in u, and which stages every further stage and the result interpolate."""

    nodes: tuple[float, ...]
    uses: tuple[tuple[int, ...], ...]


TableauName = Literal["euler", "midpoint", "heun", "kutta3", "rk4", "dpm2", "dpm3"]

HEUN = Butcher((0.0, 1.0), ((1.0,),), (0.5, 0.5))
RK4 = Butcher(
    (0.0, 0.5, 0.5, 1.0),
    ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
TABLEAUS: dict[str, Butcher | Exponential] = {
    "euler": Butcher((0.0,), (), (1.0,)),
    "midpoint": Butcher((0.0, 0.5), ((0.5,),), (0.0, 1.0)),
    "heun": HEUN,
    "kutta3": Butcher((0.0, 0.5, 1.0), ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "rk4": RK4,
    "dpm2": Exponential((0.0, 0.5), ((0,), (1,))),
    "dpm3": Exponential((0.0, 1 / 3, 2 / 3), ((0,), (0, 1), (0, 2))),
}


@final
@dataclass(frozen=True)
class RungeKutta:
    """A singlestep solver: `tableau` in a basis and a variable.

    It needs no history, so it is the choice when hooks move the state at every step, when the grid
    is very coarse or irregular, and for reference solutions (`rk4` in `angle`). A step from or to a
    point at which the basis or the variable is infinite is taken by DDIM, in one evaluation.

    Args:
        tableau: `euler` is DDIM; `heun` in `eps` and `sigma` is the sampler of EDM; `dpm2` and
            `dpm3` in `log_snr` are DPM-Solver-2 and -3 (`eps`) and DPM-Solver++ 2S and 3S (`x0`).
            A `Butcher` or `Exponential` of your own is welcome.
        basis: the direction; see `medsci.core.solve.frame`.
        variable: where the stages lie; the basis' own tau if left out (`eps`: sigma, `v`: ratio,
            `angle`: angle, `x0`: log_snr).
        sigma_data: standard deviation of the data.
    """

    tableau: TableauName | Butcher | Exponential = "heun"
    basis: Basis = "eps"
    variable: Variable | None = None
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.tableau, str) and self.tableau not in TABLEAUS:
            raise ValueError(
                f"tableau {self.tableau!r} came; choose one of {get_args(TableauName)} or build "
                "a Butcher or Exponential"
            )
        check_choices(self.basis, self.variable or "log_snr", self.sigma_data)
        if self.variable == "index":
            raise ValueError("variable 'index' has no points between the steps; choose another")

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the coefficients for a grid, increasing or decreasing.

        Raises:
            ValueError: the grid does not run in one direction, or visits zero noise before its end.
        """
        return _plan(self, path, check_walkable(path, grid).tobytes())


@lru_cache(maxsize=256)
def _plan(solver: RungeKutta, path: Path, grid: bytes) -> Plan:
    natural: dict[Basis, Variable]
    natural = {"eps": "sigma", "v": "ratio", "angle": "angle", "x0": "log_snr"}
    frame = frame_of(
        path,
        np.frombuffer(grid),
        basis=solver.basis,
        variable=solver.variable or natural[solver.basis],
        sigma_data=solver.sigma_data,
    )
    tableau = TABLEAUS[solver.tableau] if isinstance(solver.tableau, str) else solver.tableau
    steps: list[Step] = []
    for i in range(len(frame.times) - 1):
        steps += stages(path, frame, i, tableau=tableau)
    history = max((len(step.rows) for step in steps if step.f is not None), default=0)
    return Plan(tuple(steps), history=history, nfe=len(steps))


def stages(
    path: Path, frame: Frame, i: int, *, tableau: Butcher | Exponential, keep: bool = False
) -> list[Step]:
    """Return the stages of the step that begins at grid point `i`, one `Step` each.

    With `keep` the first direction stays in the history, for a multistep rule to go on from.
    """
    at = _stage_frame(path, frame, i, tableau)
    if at is None:
        a, b = ddim(frame, i, i + 1)
        return [Step(t=_time(frame, i), s=_time(frame, i + 1), rows=(Row(a=a, b=b),))]
    n = len(tableau.nodes)
    weights = _weights(at, tableau)
    steps = []
    for j in range(n):
        scale = float(at.scale[j + 1])
        gain = [
            scale * (w - (weights[j][m] if m < j else 0.0)) for m, w in enumerate(weights[j + 1])
        ]
        full = Row(a=float(at.scale[j + 1] / at.scale[j]), b=0.0, c=tuple(gain[::-1]))
        a, b = ddim(at, j, j + 1)
        last = j == n - 1
        steps.append(
            Step(
                t=_time(at, j),
                s=_time(at, j + 1),
                rows=(Row(a=a, b=b),) * j + (full,),
                f=direction(at, j),
                stage=j,
                drop=(n - 1 if keep else n) if last else 0,
            )
        )
    return steps


def _time(frame: Frame, i: int) -> float:
    return float(frame.times[i])


def _stage_frame(path: Path, frame: Frame, i: int, tableau: Butcher | Exponential) -> Frame | None:
    """Return the frame at the stages and at the end of a step, or None if one is out of reach."""
    begin, end = _time(frame, i), _time(frame, i + 1)
    reachable = bool(frame.bounded[i] and frame.bounded[i + 1])
    u = frame.u[i : i + 2]
    if not reachable or not np.all(np.isfinite(u)) or not np.all(np.isfinite(frame.tau[i : i + 2])):
        return None
    if frame.variable == "index":
        times = begin + np.array([*tableau.nodes, 1.0]) * (end - begin)
    else:
        inside = u[0] + np.array([*tableau.nodes, 1.0]) * (u[1] - u[0])
        times = np.asarray(path.time_at_angle(_angle_at(frame, inside)))
    times[np.array([*tableau.nodes, 1.0]) == 0.0] = begin
    times[np.array([*tableau.nodes, 1.0]) == 1.0] = end
    at = frame_of(
        path,
        times,
        basis=frame.basis,
        variable=frame.variable,
        sigma_data=frame.sigma_data,
    )
    return None if np.any(at.sigma[:-1] <= 0.0) else at


def _angle_at(frame: Frame, u: np.ndarray) -> np.ndarray:
    """Return `atan2(sigma, alpha)` of the path at values of the variable."""
    d = frame.sigma_data
    if frame.variable == "log_snr":
        return np.arctan(d * np.exp(-u))
    if frame.variable == "log_ratio":
        return np.arctan2(d * np.exp(u), -np.expm1(u))
    if frame.variable == "sigma":
        return np.arctan(d * u)
    if frame.variable == "ratio":
        return np.arctan2(d * u, 1.0 - u)
    return np.arctan2(d * np.sin(u), np.cos(u))


def _weights(at: Frame, tableau: Butcher | Exponential) -> list[list[float]]:
    """Return W for every stage and the result: row j holds the weights of f_0 .. f_(j-1)."""
    if isinstance(tableau, Exponential):
        return [[], *(_integrals(at, j, used) for j, used in enumerate(tableau.uses))]
    rows = (*tableau.matrix, tableau.weights)
    if _natural(at):  # a row sums to its node, so it spans the tau of its stage
        spans = [float(at.tau[j + 1] - at.tau[0]) / (sum(row) or 1.0) for j, row in enumerate(rows)]
        return [[], *([w * span for w in row] for row, span in zip(rows, spans, strict=True))]
    slope = (_tau_slopes(at) * (at.u[-1] - at.u[0])).tolist()
    return [[], *([w * slope[m] for m, w in enumerate(row)] for row in rows)]


def _integrals(at: Frame, j: int, used: tuple[int, ...]) -> list[float]:
    """Return the exact weights of stage `j + 1`, zero for the stages it does not use."""
    u, measure = at.quadrature(np.array([0]), np.array([j + 1]))
    values = lagrange(u[0], measure[0] / at.scale[j + 1], [float(at.u[m]) for m in used])
    found = dict(zip(used, values, strict=True))
    return [found.get(m, 0.0) for m in range(j + 1)]


def _natural(at: Frame) -> bool:
    own = {"eps": "sigma", "v": "ratio", "angle": "angle"}
    return at.variable == "index" or own.get(at.basis) == at.variable


def _tau_slopes(at: Frame) -> np.ndarray:
    """Return `dtau / du` at the stages, from `dtau / dlambda` and `du / dlambda`."""
    h = np.exp(-at.lam)
    by_lam = {"eps": -h, "x0": 1.0 / h, "v": -h / (1.0 + h) ** 2, "angle": -h / (1.0 + h * h)}
    own = {
        "log_snr": np.ones_like(h),
        "log_ratio": -1.0 / (1.0 + h),
        "sigma": by_lam["eps"],
        "ratio": by_lam["v"],
        "angle": by_lam["angle"],
    }
    return by_lam[at.basis] / own[at.variable]
