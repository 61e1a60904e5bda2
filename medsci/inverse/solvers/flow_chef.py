"""FlowChef: steer a rectified flow by the data, without going through the network.

On the straight path x_t = (1 - t) x0 + t z the velocity is `v = (x - x0) / t`. Where the estimate
x0 is moved, the state moves by the same vector, as if the Jacobian of the network were the
identity, and v stays what it was:

    d = -s A^H (A x0 - y)          once, or K times with A x0 renewed
    x <- x + d + (t' - t) v,   v = (x - x0) / t

Diffusion priors take part through the rescaled state, `x = (1 - t) / alpha x_diffusion` at the time
of equal `sigma / alpha = t / (1 - t)`.

It is a fast heuristic sampler, not a calibrated one: for a Gaussian prior the mean of its samples
is off by a seventh of the prior's deviation. It does not know the noise of the data and fits it.

Source: Patel et al. 2025, arXiv:2412.00100. We differ: the data term is a sum for an operator of
norm one, so that the scale is a number in (0, 1] at every resolution; the adjoint is exact; and
data that were measured once are used as they are.
"""

__all__ = ["FlowChefSettings", "flow_chef"]

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from medsci.core import Hook, Multistep, Path, Rng, StepState, grid
from medsci.core.denoise import OnPath
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers.data_term import LeastSquares, warn_unless_unit_norm
from medsci.operators import conjugate_gradient


@final
@dataclass(frozen=True)
class FlowChefSettings:
    """How FlowChef walks, for an operator of norm one.

    Attributes:
        n_steps: network calls per slice, uniform in the time of the rectified flow.
        scale: s in (0, 1]; 1 is the full step along the stiffest direction of the data term.
        decay: `constant`, or `linear` for s t, which trusts the data less as noise vanishes.
        move: `gradient`, or `cg` for conjugate gradients on the data term from x0, as in decomposed
            diffusion sampling; the scale is then the part of the way that is taken.
        inner: gradient steps, or conjugate-gradient steps, per network call.
        skip_last: leave the last step alone, as published; for Gaussian priors that never helps.
    """

    n_steps: int = 100
    scale: float = 1.0
    decay: Literal["constant", "linear"] = "constant"
    move: Literal["gradient", "cg"] = "gradient"
    inner: int = 1
    skip_last: bool = False

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.inner < 1:
            raise ValueError(f"n_steps={self.n_steps}, inner={self.inner} came; give at least 1")
        if not 0.0 < self.scale <= 1.0:
            raise ValueError(
                f"scale={self.scale} came; give a number in (0, 1], for an operator of norm one"
            )
        if self.decay not in ("constant", "linear") or self.move not in ("gradient", "cg"):
            raise ValueError(
                f"decay={self.decay!r}, move={self.move!r} came; choose constant or linear, and "
                "gradient or cg"
            )


def flow_chef(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: FlowChefSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Draw one image, or one volume of slices, that agrees with the data and the prior.

    Args:
        measured: the data, with an operator of norm one (`measured.normalised()`).
        prior: `prior(x, t) -> x0` with its `path`, of a flow or of a diffusion model.
        rng: one id per slice; other ids give another sample.
        settings: see `FlowChefSettings`.
        progress: called as `progress(done, total)` after every step.

    Returns:
        The sample. Its history holds the `misfit` of every estimate before it is moved.

    Warns:
        OperatorScaleWarning: the norm of the operator is far from one.
    """
    settings = FlowChefSettings() if settings is None else settings
    warn_unless_unit_norm(measured)
    path = Path.rectified()
    times = grid.uniform(settings.n_steps, t_max=_first_time(prior.path))
    hook = _MoveBoth(measured, settings=settings, progress=progress)
    plan = Multistep("v", "ratio", order=1).plan(path, times)
    like = measured.rhs
    noise = rng.normal(like.shape, step=-1, dtype=like.dtype, device=like.device)
    x = plan.run(OnPath(prior, path), noise.mul_(float(times[0])), rng=rng, hooks=(hook,))
    return Solution(measured.image(x), plan.nfe, {"misfit": tuple(hook.misfits)})


def _first_time(path: Path) -> float:
    """Return the highest `sigma / (alpha + sigma)` that the prior knows."""
    alpha, sigma = float(path.alpha(1.0)), float(path.sigma(1.0))
    return sigma / (alpha + sigma)


@final
class _MoveBoth(Hook):
    """Move the estimate towards the data, and the state by the same vector."""

    def __init__(
        self, measured: Measurement, *, settings: FlowChefSettings, progress: Progress | None
    ) -> None:
        self.measured, self.settings, self.progress = measured, settings, progress
        self.data_term = LeastSquares(measured)
        self.misfits: list[float] = []

    def denoised(self, state: StepState) -> None:
        """Move x and x0."""
        slope, misfit = self.data_term(state.x0)
        self.misfits.append(misfit)
        if self.settings.skip_last and state.i == state.n - 1:
            return
        s = self.settings.scale * (state.t if self.settings.decay == "linear" else 1.0)
        by_cg = self.settings.move == "cg"
        move = self._solve(state.x0) * s if by_cg else self._descend(state.x0, slope, s)
        state.x = state.x + move
        state.x0 = state.x0 + move

    def after(self, state: StepState) -> None:
        """Report."""
        if self.progress is not None:
            self.progress(state.i + 1, state.n)

    def _descend(self, x0: Tensor, slope: Tensor, scale: float) -> Tensor:
        moved = x0 - scale * slope
        for _ in range(self.settings.inner - 1):
            moved = moved - scale * self.data_term(moved)[0]
        return moved - x0

    def _solve(self, x0: Tensor) -> Tensor:
        measured = self.measured
        found = conjugate_gradient(measured.normal, measured.rhs, x0=x0, n_iter=self.settings.inner)
        return found - x0
