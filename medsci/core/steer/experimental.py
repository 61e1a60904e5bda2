"""Published update rules that did not keep their promise when measured. Experimental.

They are here to be compared with, and may change or go without notice. What was measured stands in
the docstrings (exact denoisers, float64, error against the exact flow). For work use `Multistep`.
"""

__all__ = ["EvoDiff", "Tangential"]

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from medsci.core.process.path import Path
from medsci.core.steer.hook import Hook, StepState

MANY_STEPS = 20  # above, the released code of EvoDiff takes another zeta


@final
class Tangential(Hook):
    """Turn the noise estimate ahead: Levenberg-Marquardt-Langevin, made consistent.

        d = e + weight (e - e_1)_perp, scaled to |d| = |e|,    x0 <- (x - sigma d) / alpha

    with e the noise estimate, e_1 that of the step before and `perp` the part orthogonal to e, per
    sample. x0 is edited, so that `Multistep("eps", order=1)` behind it walks by `d` exactly.

    The published rule is a damped inverse of a rank-one curvature,

        d = e - m <m, e> / (lam + |m|^2),    m = kappa e_1 + (1 - kappa) e,    |d| = |e|

    Expanded for small `lam` it is the first formula with `weight = kappa |m|^2 / lam`: a tangential
    extrapolation, for which the second order of Adams-Bashforth would need 1/2 on even steps.
    `legacy` computes it literally, and applies d as released: with x0 left alone the next state is
    `alpha_s x0 + sigma_s d`, so the whole sigma multiplies the turn and not the step.

    Measured (16-d Gaussian, `|e|^2 = 16` unless said otherwise): at `kappa = 0`, the default of
    every released script, d is e, by algebra. What is left is rounding: at `|e|^2 = 3000` and `lam`
    from 8e-4 to 5e-5 e changes by 15 % to 142 % in float32, by 141 % in float16, by 3e-10 to 4e-9
    in float64. `legacy` with `kappa = 0.5` does not converge: the error stays at 5e-2 for
    `lam = 16`, at 0.5 for the released `lam = 8e-4`, however many steps are taken. The first
    formula converges with order 1 and gains a factor of 1.24 at `weight = 0.5`, none at 0, where
    `Multistep("eps", order=2)` has order 2.

    Args:
        path: of the states.
        weight: of the tangential part; 0 changes nothing.
        legacy: `(lam, kappa)` for the published rule instead.

    Source: Wang et al. 2025, arXiv:2505.24222, for `legacy`; the first formula is our own.
    """

    def __init__(
        self, path: Path, weight: float = 0.0, *, legacy: tuple[float, float] | None = None
    ) -> None:
        if not math.isfinite(weight) or (legacy is not None and weight != 0.0):
            raise ValueError(
                f"weight={weight}, legacy={legacy} came; give a finite weight or (lam, kappa)"
            )
        if legacy is not None and not (legacy[0] > 0.0 and 0.0 <= legacy[1] <= 1.0):
            raise ValueError(f"legacy={legacy} came; give (lam, kappa), lam > 0, 0 <= kappa <= 1")
        self.path = path
        self.weight = float(weight)
        self.legacy = legacy

    def denoised(self, state: StepState) -> None:
        """Turn the noise estimate."""
        alpha, sigma = float(self.path.alpha(state.t)), float(self.path.sigma(state.t))
        e = (state.x - alpha * state.x0) / sigma
        key = f"tangential-{id(self)}"
        before: Tensor | None = state.extra.get(key)
        state.extra[key] = e
        if self.legacy is not None:
            d = damped(e, e if before is None else before, lam=self.legacy[0], kappa=self.legacy[1])
            state.x = alpha * state.x0 + sigma * d
            state.reset = True
        elif before is not None and alpha > 0.0:
            d = tangential(e, before, weight=self.weight)
            state.x0 = (state.x - sigma * d) / alpha


def tangential(e: Tensor, before: Tensor, *, weight: float) -> Tensor:
    """Return e turned away from `before`, its norm kept per sample."""
    change = e - before
    change = change - e * (_dot(e, change) / _dot(e, e))
    return _with_norm_of(e, e + weight * change)


def damped(e: Tensor, before: Tensor, *, lam: float, kappa: float) -> Tensor:
    """Return the published direction, computed as it is written."""
    m = kappa * before + (1.0 - kappa) * e
    return _with_norm_of(e, e - m * _dot(m, e) / (lam + _dot(m, m)))


def _with_norm_of(e: Tensor, d: Tensor) -> Tensor:
    return d * (_dot(e, e).sqrt() / _dot(d, d).sqrt())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return `Re <a, b>` of every sample, shaped to multiply it."""
    product = (a * b.conj()).real if a.is_complex() else a * b
    return product.flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


@final
class EvoDiff(Hook):
    """Entropy-aware variance optimised inference, on top of `Multistep("x0", order=1)`.

    Between the steps of DDIM, `x_e = a x + b m0` with m the x0 estimates, newest first, the hook
    probes ahead, lets the next evaluation happen at the probe, and corrects with what it found, at
    one evaluation per step. With `r_l` the ratio of the last two steps in log-SNR:

        probe      x = x_e + b / (2 r_i) D1,    D1 = m0 - r1 m1,    r_i = sigmoid(|r1| / 4) r_l
        correct    x = x_e + b / (2 zeta) B,    B = r_l (1 - eta) D2 - eta / r_l D1,  D2 = m - r2 m0
        eta        sigmoid(|proj(Bn + Bp, Bn - Bp)| / 2) / 2,    Bn = r_l D2,  Bp = D1 / r_l
        zeta       sigmoid(|proj(P, D1) / b| - 1/2),    P = (D1 - B) b / (2 r_i)

    `proj(u, v) = <u, v> / <v, v>`, kept in [-2, 2]. The balances r1, r2 blend the root of the ratio
    of successive sigma ratios with `proj(m0, m1)` and `proj(m, m0)`. Above 20 steps zeta is another
    function; as the published rule has it, the total number of steps decides.

    Measured: order 0.6 to 1.2, as the balances multiply whole outputs and the sigmoids never take
    the values that a second order needs. On Karras grids of 5 / 10 / 20 / 50 steps the errors are
    .15 / .20 / .036 / .009 on a 16-d Gaussian and .16 / .14 / .022 / .006 on a 64-d mixture; DDIM
    has .21 / .12 / .062 / .026 and .16 / .08 / .042 / .017, `Multistep("x0", order=2)` .09 / .09 /
    .033 / .004 and .11 / .08 / .017 / .002. With `final="released"` the error stays at 0.1 on grids
    uniform in `ratio`, whatever the number of steps.

    Here the projections are taken per sample, for states of any rank; the released code takes them
    per channel of an image.

    Args:
        path: of the states.
        final: the last step: `plain` DDIM, or as `released`, which multiplies the state by
            `1 - sqrt(sigma sigma_s)`.

    Source: Li, Chen and Zeng 2025, arXiv:2509.26096, and its released code for EDM.
    """

    def __init__(self, path: Path, *, final: Literal["plain", "released"] = "plain") -> None:
        if final not in ("plain", "released"):
            raise ValueError(f"final={final!r} came; choose plain or released")
        self.path = path
        self.final = final

    def denoised(self, state: StepState) -> None:
        """Correct the state that was probed, now that x0 is known there."""
        memory: _Memory = state.extra.setdefault(f"evodiff-{id(self)}", _Memory())
        level = _level(self.path, state.t)
        if memory.probe is not None:
            state.x = memory.probe.corrected(state.x0, many=state.n > MANY_STEPS)
            state.reset = True
            memory.probe = None
        memory.outputs = (state.x0.clone(), *memory.outputs[:1])
        memory.levels = (level, *memory.levels[:1])
        memory.highest = max(memory.highest, level)

    def after(self, state: StepState) -> None:
        """Probe ahead; at the end of the walk, take the last step."""
        memory: _Memory = state.extra[f"evodiff-{id(self)}"]
        if len(memory.outputs) < 2 or not math.isfinite(memory.levels[1]):
            return
        sigma_t, sigma_s = float(self.path.sigma(state.t)), float(self.path.sigma(state.s))
        b = float(self.path.alpha(state.s)) - float(self.path.alpha(state.t)) * sigma_s / sigma_t
        m0, m1 = memory.outputs
        if state.i == state.n - 1:
            if self.final == "released":
                ratio = sigma_s / sigma_t
                r = 1.0 - 0.5 * math.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
                shrink = 1.0 - math.sqrt(sigma_s * sigma_t)
                state.x = shrink * state.x + (0.5 * b) * (m0 - r * m1)
            return
        memory.probe = _probe(memory, state.x, level=_level(self.path, state.s), b=b)
        state.x = memory.probe.state()
        state.reset = True


@final
@dataclass(slots=True)
class _Memory:
    """What a walk remembers: x0 estimates and noise levels, newest first."""

    outputs: tuple[Tensor, ...] = ()
    levels: tuple[float, ...] = ()
    highest: float = 0.0
    probe: "_Probe | None" = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A step that was probed; numbers per sample are tensors that broadcast."""

    base: Tensor  # the end of the DDIM step
    m0: Tensor
    m1: Tensor
    d1: Tensor
    r_i: Tensor
    r_l: float
    b: float
    h: float  # 1 / level at the end minus 1 / level at the beginning
    ratio: float  # of the levels of the step
    root: float
    blend: float

    def state(self) -> Tensor:
        """Return the state at which the next evaluation is made."""
        return self.base + (0.5 * self.b) * self.d1 / self.r_i

    def corrected(self, m: Tensor, *, many: bool) -> Tensor:
        """Return the state that the step ends at, given x0 at the probe."""
        r2 = (1.0 - self.blend) * self.root + self.blend * _proj(m, self.m0)
        ahead, behind = self.r_l * (m - r2 * self.m0), self.d1 / self.r_l
        eta = 0.5 * torch.sigmoid((0.5 * _proj(ahead + behind, ahead - behind)).abs())
        bend = (1.0 - eta) * ahead - eta * behind
        miss = (0.5 * self.b) * (self.d1 - bend) / self.r_i
        excess = _proj(miss, self.d1).abs() / abs(self.b) - 0.5
        if many:
            steady = _proj(self.m0, (self.m0 - self.m1) / self.h) * (2.0 - self.ratio**2)
            excess = -excess * torch.sigmoid(steady)
        return self.base + (0.5 * self.b) * bend / torch.sigmoid(excess)


def _probe(memory: _Memory, base: Tensor, *, level: float, b: float) -> _Probe:
    (m0, m1), (h0, h1) = memory.outputs, memory.levels
    ratio = level / h0
    root = math.sqrt(ratio / (h0 / h1))
    blend = 0.5 * (1.0 - (level / memory.highest) ** 2)
    r1 = (1.0 - blend) * root + blend * _proj(m0, m1)
    r_l = math.log(h1 / h0) / math.log(h0 / level)
    d1, r_i = m0 - r1 * m1, torch.sigmoid(0.25 * r1.abs()) * r_l
    numbers = {"b": b, "h": 1.0 / level - 1.0 / h0, "ratio": ratio, "root": root, "blend": blend}
    return _Probe(base=base, m0=m0, m1=m1, d1=d1, r_i=r_i, r_l=r_l, **numbers)


def _level(path: Path, t: float) -> float:
    """Return `sigma / alpha`, infinite at pure noise."""
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    return sigma / alpha if alpha > 0.0 else math.inf


def _proj(u: Tensor, v: Tensor) -> Tensor:
    """Return `<u, v> / <v, v>` of every sample, kept in [-2, 2]; 0 where v vanishes."""
    size = _dot(v, v)
    return (_dot(u, v) / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(-2.0, 2.0)
