"""Multistep solvers: one builder for DDIM, DEIS, DPM-Solver++, UniPC, PNDM and heavy balls.

The solver puts the polynomial through the last k directions in place of the direction f of a frame
(`medsci.core.solve.frame`) and integrates it exactly over the step. Evaluated once more with the
newest direction, the same integral corrects the step just taken, at no network call.

Source: own derivation. One direction, of any basis but `angle`, is DDIM (Song et al. 2021,
arXiv:2010.02502); `eps` in `log_snr` is DEIS (Zhang and Chen 2023, arXiv:2204.13902); `x0` in
`log_snr` is DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) with exact weights, and UniPC (Zhao et
al. 2023, arXiv:2302.04867) with the corrector; `eps` in `index` is PNDM (Liu et al. 2022,
arXiv:2202.09778), and with `momentum` GHVB (Wizadwongsa et al. 2023, arXiv:2307.11118).
"""

__all__ = ["Momentum", "Multistep"]

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Literal, final

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
from medsci.core.solve.momentum import Momentum
from medsci.core.solve.plan import Plan, Row, Step
from medsci.core.solve.runge_kutta import HEUN, RK4, stages

FEW_STEPS = 15  # below, x0 and the corrector overshoot at the end: see Multistep.lower_final
FEWER_STEPS = 7  # below, every basis does
PURE = 80.0  # sigma_hat, in standard deviations of the data, at which pure noise counts as a node
WIDE_STEP = 2.0  # in log-SNR: a step over more than e^2 in sigma_hat


@final
@dataclass(frozen=True)
class Multistep:
    """Adams-Bashforth in a basis that makes the direction change slowly, with a free corrector.

    A decreasing grid walks from noise to data, an increasing one inverts the walk.

    Args:
        basis: the direction that is extrapolated. `x0` is the safe choice under strong guidance,
            `eps` with order 3 the most accurate at 10 to 20 steps, `angle` or `v` reach from pure
            noise to clean data at full order.
        variable: the variable in which the directions form a polynomial; `ratio` and `angle` are
            finite at both ends, `log_ratio = ln(sigma / (alpha + sigma))` at pure noise, and in
            `log_snr` the direction of pure noise counts as that of 80 standard deviations, which it
            equals to a per cent. Directions at which it is infinite are left out. `index` counts
            grid points and freezes the measure, as PNDM does: order 2 at most on uneven grids.
        order: directions used, 1 to 5.
        corrector: redo every step with the newest direction; raises the order by one for free.
        lower_final: let the order fall to 1 towards the last step. `auto` does so for `x0` and for
            the corrector below 15 steps, or when one of the last steps spans more than e^2 in
            sigma_hat; for the others below 7 steps (measured on Gaussian mixtures: at 10 Karras
            steps lowering gains 1.6 times for `x0` and costs 2.5 times for `eps` of order 3).
            Below 15 steps the corrector is used only together with it: alone it overshoots.
            On an increasing grid `auto` never does.
        momentum: extrapolate a moving average of the directions instead; see `Momentum`.
        warmup: take the first `order - 1` steps, at most three, by a Runge-Kutta rule of that
            order (`improved_euler` for order 2, four evaluations a step above), as PNDM does.
        sigma_data: standard deviation of the data, the scale on which `v`, `angle` and the
            variables `ratio` and `angle` weigh noise against data.
    """

    basis: Basis = "x0"
    variable: Variable = "log_snr"
    _: KW_ONLY
    order: int = 2
    corrector: bool = False
    lower_final: bool | Literal["auto"] = "auto"
    momentum: Momentum | None = None
    warmup: bool = False
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self.basis, self.variable, self.sigma_data)
        if self.order not in (1, 2, 3, 4, 5):
            raise ValueError(f"order {self.order!r} came; choose 1 to 5")
        if self.lower_final not in (True, False, "auto"):
            raise ValueError(f"lower_final {self.lower_final!r} came; choose True, False or 'auto'")
        if self.corrector and self.momentum is not None:
            raise ValueError(
                "momentum and corrector came together; the corrector needs the directions "
                "themselves, not their moving average, so choose one"
            )
        if self.corrector and self.variable == "index":
            raise ValueError("the corrector came with variable 'index', whose weights are frozen")

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the coefficients for a grid; equal questions are answered from a cache.

        Raises:
            ValueError: the grid does not run in one direction, or visits zero noise before its end.
        """
        return _plan(self, path, check_walkable(path, grid).tobytes())


@lru_cache(maxsize=256)
def _plan(solver: Multistep, path: Path, grid: bytes) -> Plan:
    times = np.frombuffer(grid)
    frame = frame_of(
        path,
        times,
        basis=solver.basis,
        variable=solver.variable,
        sigma_data=solver.sigma_data,
    )
    if solver.variable == "log_snr" and np.isneginf(frame.u[0]):
        u = frame.u.copy()
        u[0] = min(-math.log(PURE), u[1] - 1.0)
        frame = replace(frame, u=u)
    builder = _Builder(solver, frame)
    n = len(times) - 1
    steps: list[Step] = []
    warm = min(solver.order - 1, 3, n - 1) if solver.warmup else 0
    tableau = HEUN if solver.order == 2 else RK4
    for i in range(n):
        if i < warm:
            steps += stages(path, frame, i, tableau=tableau, keep=True)
        else:
            steps.append(builder.step(i))
    history = max(len(step.rows) for step in steps) if builder.keeps else 0
    if warm:
        history = max(history, warm - 1 + len(tableau.nodes))
    return Plan(tuple(steps), history=history, nfe=len(steps))


class _Builder:
    """The rows of every step of one grid."""

    def __init__(self, solver: Multistep, frame: Frame) -> None:
        self.solver, self.frame = solver, frame
        every = np.arange(len(frame.times) - 1)
        self.points, self.measure = frame.quadrature(every, every + 1)
        self.orders, self.corrector = _orders(solver, frame)
        self.known = np.isfinite(frame.u)
        self.keeps = self.corrector or max(self.orders) > 1 or solver.momentum is not None

    def step(self, i: int) -> Step:
        """Return step `i`, with one row for every number of directions that may be at hand."""
        frame, orders = self.frame, self.orders
        kept = self.keeps and bool(self.known[i])
        nodes = [j for j in range(i, -1, -1) if self.known[j]] if kept else [i]
        corrects = self.corrector and i > 0 and len(nodes) > 1 and bool(frame.bounded[i - 1])
        longest = max(orders[i], orders[i - 1] + 1 if corrects else 1)
        rows = [self._row(nodes[:1])]
        for k in range(2, min(longest, len(nodes)) + 1):
            corr: tuple[float, ...] = ()
            if corrects:
                corr = self._correction(nodes[: min(k - 1, orders[i - 1]) + 1])
            rows.append(self._row(nodes[: min(k, orders[i])], corr=corr))
        momentum = self.solver.momentum
        return Step(
            t=float(frame.times[i]),
            s=float(frame.times[i + 1]),
            rows=tuple(rows),
            f=direction(frame, i) if kept else None,
            mix=momentum.beta if momentum is not None else 1.0,
        )

    def _row(self, nodes: Sequence[int], *, corr: tuple[float, ...] = ()) -> Row:
        """Return the update from `nodes[0]` to the next point of the grid.

        A correction `x + sum corr_j f_j` of the last step comes first; it is a part of the same
        sum. The newest direction is folded into the weights of x and x0, except with momentum: what
        is kept is then not the direction of the present x and x0.
        """
        i, frame, basis = nodes[0], self.frame, self.solver.basis
        inside = bool(frame.bounded[i] and frame.bounded[i + 1] and self.known[i])
        if self.solver.momentum is not None and inside:
            return Row(a=float(frame.scale[i + 1] / frame.scale[i]), b=0.0, c=self._weights(nodes))
        if len(nodes) == 1 and basis != "angle":
            a, b = ddim(frame, i, i + 1)
            c: tuple[float, ...] = ()
        else:
            a, b = float(frame.scale[i + 1] / frame.scale[i]), 0.0
            c = self._weights(nodes)
        f_x, f_d = direction(frame, i)
        c = tuple(w + a * more for w, more in zip_longest(c, corr, fillvalue=0.0))
        if not c:
            return Row(a=a, b=b)
        return Row(a=a + c[0] * f_x, b=b + c[0] * f_d, c=(0.0, *c[1:]) if len(c) > 1 else ())

    def _weights(self, nodes: Sequence[int], *, start: int | None = None) -> tuple[float, ...]:
        """Return the weights of the directions at `nodes` for the step that begins at `start`."""
        i = nodes[0] if start is None else start
        u, measure = self.points[i], self.measure[i]
        at = self.frame.u[list(nodes)].tolist()
        momentum = self.solver.momentum
        if momentum is None or not momentum.generalised:
            return lagrange(u, measure, at)
        if self.solver.variable == "index":
            return tuple(w * float(measure.sum()) for w in momentum.weights(len(nodes)))
        first = 0 if len(nodes) >= self.orders[i] else nodes[-1]
        known = [float(v) for v in self.frame.u[first : i + 1] if np.isfinite(v)]
        return momentum.exact_weights(known, len(nodes), u=u, measure=measure)

    def _correction(self, nodes: Sequence[int]) -> tuple[float, ...]:
        """Return what to add for the step that ended at `nodes[0]`, now that its f is known."""
        start = nodes[0] - 1
        with_new = self._weights(nodes, start=start)
        without = self._weights(nodes[1:], start=start)
        return tuple(w - p for w, p in zip(with_new, (0.0, *without), strict=True))


def _orders(solver: Multistep, frame: Frame) -> tuple[list[int], bool]:
    """Return the order of every step, and whether the corrector is used."""
    n = len(frame.times) - 1
    if frame.times[0] < frame.times[-1]:  # an inversion ends where directions are smooth
        lower, enough = solver.lower_final is True, True
    else:
        eager = solver.basis == "x0" or solver.corrector
        wide = bool(np.any(np.diff(frame.lam)[-solver.order :] > WIDE_STEP))
        few = n < (FEW_STEPS if eager else FEWER_STEPS)
        automatic = solver.lower_final == "auto" and (few or (eager and wide))
        lower, enough = solver.lower_final is True or automatic, n >= FEW_STEPS
    orders = [min(solver.order, n - i) if lower else solver.order for i in range(n)]
    for i in range(n):
        ends = frame.bounded[i] and frame.bounded[i + 1] and np.isfinite(frame.u[i + 1])
        orders[i] = orders[i] if ends else 1
    return orders, solver.corrector and (enough or lower)
