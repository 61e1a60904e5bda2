"""Pseudo-inverse guided diffusion: guidance through the network, weighed by how sure x0 is.

With `x0 = D(x_t)`, its Jacobian J, and x0 given x_t taken for Gaussian of variance r^2,

    v = r^2 A^H (r^2 A A^H + noise^2)^-1 (y - A x0) = (A^H A + noise^2 / r^2)^-1 A^H (y - A x0)
    r^2 = sigma^2 d^2 / (alpha^2 d^2 + sigma^2)        d the standard deviation of the data

by conjugate gradients on the right-hand form; without noise it is the pseudo-inverse of A applied
to the residual. Then one of two rules:

    tweedie   x0 <- x0 + sigma^2 / (alpha r^2) J^H v, and the step is formed from the new x0
    code      x_s <- x_s + alpha_s alpha_t J^H v, added to the step formed from the old x0

`code` is what published implementations do. `tweedie` is the mean of x0 given the state and the
data under the approximation, and the direction of the noise follows it.

What is known of its calibration: `tweedie` is exact, in mean and covariance up to the steps of the
solver, for an isotropic Gaussian prior with `sigma_data` its standard deviation. For any other
prior r^2 times the identity stands in for the covariance of x0 given x_t, and the answer is off as
far as that is. `code` is exact for no prior: every step takes the whole shift where Tweedie's rule
takes the share `1 - alpha_t sigma_s / (alpha_s sigma_t)` of it, so the data are counted once per
step. For an isotropic Gaussian and 150 deterministic steps the variance along the data is 0.0006 of
the true one, that across them right.

Source: Song et al. 2023, sec. 3, openreview.net/forum?id=9_gsMA8MRKQ.
"""

__all__ = ["PiGdmSettings", "pi_gdm"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from medsci.core import Ancestral, Path, Plan, Rng, StepState
from medsci.core.steer import PiGdm, WithGradient, tweedie_variance
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers._walk import (
    Record,
    checked_levels,
    finished,
    first_state,
    is_separable,
    times_of,
)
from medsci.operators import conjugate_gradient

Weight = Literal["tweedie", "code"]


@final
@dataclass(frozen=True)
class PiGdmSettings:
    """How the sampler walks.

    Attributes:
        n_steps: network calls per slice.
        weight: which rule, see above.
        sigma_data: standard deviation of an entry of the prior's images, in their units; 1 is the
            published value.
        eta: share of fresh noise in each step, 1 as in DDPM, 0 as in DDIM.
        sigma_max: first noise level; less if the prior's path ends before.
        sigma_min: last noise level but zero.
        rho_grid: exponent of the Karras grid between them.
        n_cg: most conjugate-gradient steps.
        tol: relative residual at which they stop.
    """

    n_steps: int = 100
    weight: Weight = "tweedie"
    sigma_data: float = 1.0
    eta: float = 1.0
    sigma_max: float = 50.0
    sigma_min: float = 0.01
    rho_grid: float = 7.0
    n_cg: int = 20
    tol: float = 1e-6

    def __post_init__(self) -> None:
        checked_levels(
            self.n_steps, self.sigma_max, sigma_min=self.sigma_min, rho_grid=self.rho_grid
        )
        if self.weight not in get_args(Weight):
            raise ValueError(f"weight={self.weight!r} came; choose one of {get_args(Weight)}")
        if not (self.sigma_data > 0.0 and self.tol > 0.0 and self.n_cg >= 1):
            raise ValueError(
                f"sigma_data={self.sigma_data}, tol={self.tol}, n_cg={self.n_cg} came; "
                "give positive numbers"
            )
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} came; give a share of fresh noise in [0, 1]")


def pi_gdm(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: PiGdmSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Draw one image by pseudo-inverse guidance.

    Args:
        measured: the data; `noise = 0` makes the guidance a pseudo-inverse.
        prior: differentiable in the state.
        rng: one id per slice.
        settings: see `PiGdmSettings`.
        progress: called as `progress(done, total)` after every step.

    Raises:
        ValueError: the prior gives no gradient, or a state of another shape.
    """
    chosen = PiGdmSettings() if settings is None else settings
    path = prior.path
    times = times_of(
        path,
        chosen.n_steps,
        sigma_max=chosen.sigma_max,
        sigma_min=chosen.sigma_min,
        rho_grid=chosen.rho_grid,
    )
    plan = Ancestral(eta=chosen.eta).plan(path, times)
    record = Record(measured, progress)
    pull = _pull(measured, path, chosen)
    if chosen.weight == "code":
        pull = _as_coded(pull, path, plan, chosen.sigma_data)
    end = plan.run(
        WithGradient(prior),
        first_state(measured, path, times[0], rng=rng),
        rng=rng,
        hooks=(PiGdm(path, pull), record),
    )
    end = end / float(path.alpha(times[-1]))
    return finished(measured, end, n_calls=chosen.n_steps, record=record)


Pull = Callable[[Tensor, StepState], Tensor]


def _pull(measured: Measurement, path: Path, chosen: PiGdmSettings) -> Pull:
    """Return the gradient of the log-likelihood, `v / r^2`."""
    separable = is_separable(measured)

    @torch.no_grad()
    def pull(x0: Tensor, state: StepState) -> Tensor:
        variance = tweedie_variance(path, state.t, sigma_data=chosen.sigma_data)
        tie = measured.noise**2 / variance
        v = conjugate_gradient(
            lambda u: measured.normal(u) + tie * u,
            -measured.gradient(x0.detach()),
            n_iter=chosen.n_cg,
            tol=chosen.tol,
            batched=separable,
        )
        return v / variance

    return pull


def _as_coded(pull: Pull, path: Path, plan: Plan, sigma_data: float) -> Pull:
    """Rescale a pull so that a step moves by `alpha_s alpha_t J^H v` and not by Tweedie's rule.

    `PiGdm` moves x0 by `sigma^2 / alpha J^H pull` and the step takes `b` of it, so both are divided
    out.
    """

    def coded(x0: Tensor, state: StepState) -> Tensor:
        alpha, sigma = float(path.alpha(state.t)), float(path.sigma(state.t))
        variance = tweedie_variance(path, state.t, sigma_data=sigma_data)
        wanted = float(path.alpha(state.s)) * alpha * variance
        taken = plan.steps[state.i].rows[0].b * sigma**2 / alpha
        return pull(x0, state) * (wanted / taken)

    return coded
