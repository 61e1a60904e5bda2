"""Adaptive steps: an embedded Runge-Kutta pair that keeps the local error at a tolerance.

This is the one solver that reads its state while it walks, because it must decide. Use it for
reference solutions and likelihoods; with a budget of evaluations a `Plan` is better.
"""

__all__ = ["Adaptive", "AdaptiveResult"]

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.solve.frame import Basis, direction, frame_of
from medsci.core.solve.grid import check_walkable
from medsci.core.solve.plan import DenoiseFn

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
MATRIX = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
RESULT = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
TAU: dict[Basis, Literal["sigma", "ratio", "angle"]]
TAU = {"eps": "sigma", "v": "ratio", "angle": "angle"}


@final
@dataclass(frozen=True, slots=True)
class AdaptiveResult:
    """Where the walk ended, what it cost and how it stepped.

    Attributes:
        x: the states at the last time.
        nfe: evaluations of every sample (of the batch, if it walked together).
        times: the accepted times of every sample (or of the batch).
        rejected: steps tried in vain, per sample (or of the batch).
    """

    x: Tensor
    nfe: tuple[int, ...]
    times: tuple[np.ndarray, ...]
    rejected: tuple[int, ...]


@final
@dataclass(frozen=True)
class Adaptive:
    """Dormand and Prince 5(4) with local extrapolation, in the tau of a basis.

    The error estimate is `rms(error / (atol + rtol max(|x|, |x_new|)))`, kept below one, with the
    step chosen by the elementary controller.

    Args:
        rtol: relative tolerance of one step.
        atol: absolute tolerance of one step.
        basis: `angle`, `v` or `eps`; the first two start from pure noise.
        sigma_data: standard deviation of the data, the scale of `angle` and `v`.
        together: let the batch share its steps. By default every sample walks alone, so that its
            result does not depend on its neighbours.
        max_steps: steps after which to give up.

    Source: Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3; Hairer, Norsett and Wanner
    1993, sec. II.4.
    """

    rtol: float = 1e-4
    _: KW_ONLY
    atol: float = 1e-4
    basis: Basis = "angle"
    sigma_data: float = 1.0
    together: bool = False
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if not (self.rtol >= 0.0 and self.atol >= 0.0 and self.rtol + self.atol > 0.0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol} came; give a tolerance above 0")
        if self.basis not in TAU:
            raise ValueError(f"basis {self.basis!r} came; choose one of {tuple(TAU)}")

    def walk(
        self,
        denoise: DenoiseFn,
        x: Shaped[Tensor, " b *d"],
        *,
        path: Path,
        t: float,
        s: float,
        cond: Mapping[str, Any] | None = None,
    ) -> AdaptiveResult:
        """Carry the states from time `t` to time `s`, down or up; entries of `cond` are shared.

        A walk to clean data ends with one denoising step from sigma_hat = 1e-4 sigma_data, since
        no direction can be formed without noise.

        Raises:
            ValueError: there is no noise at `t`, or the tolerance is not reached in `max_steps`.
        """
        check_walkable(path, np.array([t, s]))
        rows = [x] if self.together else list(x.split(1))
        with torch.no_grad():
            results = [self._walk(denoise, row, path, t=t, s=s, cond=cond or {}) for row in rows]
        return AdaptiveResult(
            torch.cat([r[0] for r in results]),
            tuple(r[1] for r in results),
            tuple(r[2] for r in results),
            tuple(r[3] for r in results),
        )

    def _walk(
        self,
        denoise: DenoiseFn,
        x: Tensor,
        path: Path,
        *,
        t: float,
        s: float,
        cond: Mapping[str, Any],
    ) -> tuple[Tensor, int, np.ndarray, int]:
        stop = s
        if float(path.sigma(s)) == 0.0:
            stop = float(path.time_at_sigma_hat(1e-4 * self.sigma_data))
        end = self._tau(path, stop)
        field = _Field(self, denoise, path, cond=cond)
        tau, times, rejected = self._tau(path, t), [t], 0
        step = 0.02 * (end - tau)
        y = x / field.scale(tau)
        f = field(y, tau)
        for _ in range(self.max_steps):
            step = end - tau if abs(step) >= abs(end - tau) else step
            new, f_new, error = field.attempt(y, f, tau, step)
            here, there = field.scale(tau), field.scale(tau + step)
            size = torch.maximum((y * here).abs(), (new * there).abs())
            ratio = (error * there).abs() / (self.atol + self.rtol * size)
            worst = float(ratio.square().mean().sqrt())
            if worst <= 1.0:
                arrived = step == end - tau
                y, f, tau = new, f_new, tau + step
                times.append(stop if arrived else field.time(tau))
                if arrived:
                    break
            else:
                rejected += 1
            step *= min(GROW, max(SHRINK, SAFETY * max(worst, 1e-10) ** -0.2))
        else:
            raise ValueError(
                f"after {self.max_steps} steps the walk stands at t={times[-1]:.6g} of {stop:.6g}; "
                "raise rtol and atol, or max_steps"
            )
        x = y * field.scale(tau)
        if stop != s:
            x = denoise(x, stop, **cond) * float(path.alpha(s))
            field.nfe += 1
            times.append(s)
        return x, field.nfe, np.array(times), rejected

    def _tau(self, path: Path, t: float) -> float:
        alpha, sigma = self.sigma_data * float(path.alpha(t)), float(path.sigma(t))
        if self.basis == "angle":
            return float(np.arctan2(sigma, alpha))
        if self.basis == "v":
            return sigma / (alpha + sigma)
        if alpha == 0.0:
            raise ValueError(f"basis 'eps' cannot leave pure noise (t={t}); take 'angle' or 'v'")
        return sigma / alpha


class _Field:
    """The right-hand side `dy / dtau = f` of one walk, with its count of evaluations."""

    def __init__(
        self, solver: Adaptive, denoise: DenoiseFn, path: Path, *, cond: Mapping[str, Any]
    ) -> None:
        self.solver, self.denoise, self.path, self.cond = solver, denoise, path, cond
        self.nfe = 0

    def time(self, tau: float) -> float:
        """Return the time at which the path has this tau."""
        d, basis = self.solver.sigma_data, self.solver.basis
        if basis == "angle":
            angle = np.arctan2(d * np.sin(tau), np.cos(tau))
        else:
            angle = np.arctan2(d * tau, 1.0 - tau if basis == "v" else 1.0)
        return float(self.path.time_at_angle(float(angle)))

    def scale(self, tau: float) -> float:
        """Return C there."""
        return self._at(self.time(tau))[0]

    def _at(self, t: float) -> tuple[float, float, float]:
        basis = self.solver.basis
        frame = frame_of(
            self.path,
            np.array([t]),
            basis=basis,
            variable=TAU[basis],
            sigma_data=self.solver.sigma_data,
        )
        return (float(frame.scale[0]), *direction(frame, 0))

    def __call__(self, y: Tensor, tau: float) -> Tensor:
        """Return the direction."""
        t = self.time(tau)
        scale, f_x, f_d = self._at(t)
        self.nfe += 1
        x = y * scale
        return x * f_x + self.denoise(x, t, **self.cond) * f_d

    def attempt(
        self, y: Tensor, f: Tensor, tau: float, step: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result of one step, the direction there and the error estimate."""
        known = [f]
        for node, row in zip(NODES[1:], MATRIX, strict=True):
            stage = y + step * _combine(row, known)
            known.append(self(stage, tau + node * step))
        new = y + step * _combine(RESULT, known)
        known.append(self(new, tau + step))
        return new, known[-1], step * _combine(ERROR, known)


def _combine(weights: Sequence[float], directions: Sequence[Tensor]) -> Tensor:
    total = directions[0] * weights[0]
    for weight, f in zip(weights[1:], directions[1:], strict=True):
        total = total.add_(f, alpha=weight)
    return total
