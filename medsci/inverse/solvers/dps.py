"""Diffusion posterior sampling: guide every step by the gradient of the data misfit.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - z^2) e + z noise
          - zeta grad_x |y - A x0(x_t)|^2 / |y - A x0|

The gradient goes through the network, which doubles the time of a step and keeps the network's
graph in memory; give one slice at a time where that is too much. The residual norm is that of each
slice. `zeta` belongs to the variance-preserving path, on which the method was published, so the
walk is made there whatever the path of the prior: a prior on another path is asked at the equal
noise level, and the same numbers serve all.

What is known of its calibration: none. The likelihood is taken at the mean of x0 given x_t as if x0
were certain, and zeta is neither a noise level nor a step size; the noise in the data does not
enter at all, so `noise = 0` is no special case. On a Gaussian the mean is off by a fraction of a
posterior standard deviation at the best zeta and the spread along the data is anywhere from a fifth
of the true one to many times it (figures in `medsci.core.steer.Dps`). Tune zeta on data with a
known truth, and do not read its spread as an uncertainty.

Conventions differ by two: the step above is `2 zeta grad |y - A x0|`.

Source: Chung et al. 2023, algorithm 1, arXiv:2209.14687.
"""

__all__ = ["DpsSettings", "dps"]

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from medsci.core import Ancestral, Path, Rng
from medsci.core.denoise.on_path import OnPath
from medsci.core.steer import Dps, WithGradient
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers._walk import Record, checked_levels, finished, first_state, times_of
from medsci.inverse.solvers.data_term import warn_unless_unit_norm

VP = Path.vp_cosine()


@final
@dataclass(frozen=True)
class DpsSettings:
    """How the sampler walks.

    Attributes:
        n_steps: network calls per slice.
        zeta: length of the guiding step, relative to the residual norm, for an operator of norm
            one and data of the prior's units.
        eta: share of fresh noise in each step, 1 as in DDPM, 0 as in DDIM.
        sigma_max: first noise level; less if the prior's path ends before.
        sigma_min: last noise level but zero.
        rho_grid: exponent of the Karras grid between them.
    """

    n_steps: int = 1000
    zeta: float = 0.5
    eta: float = 1.0
    sigma_max: float = 50.0
    sigma_min: float = 0.01
    rho_grid: float = 7.0

    def __post_init__(self) -> None:
        checked_levels(
            self.n_steps, self.sigma_max, sigma_min=self.sigma_min, rho_grid=self.rho_grid
        )
        if not 0.0 <= self.zeta < math.inf:
            raise ValueError(f"zeta={self.zeta} came; give a finite step length >= 0")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} came; give a share of fresh noise in [0, 1]")


def dps(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: DpsSettings | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Draw one image by diffusion posterior sampling.

    Args:
        measured: the data; their noise level is not used.
        prior: differentiable in the state.
        rng: one id per slice.
        settings: see `DpsSettings`.
        progress: called as `progress(done, total)` after every step.

    Raises:
        ValueError: the prior gives no gradient, or a state of another shape.

    Warns:
        OperatorScaleWarning: the operator is far from norm one, so zeta does not mean what it says.
    """
    chosen = DpsSettings() if settings is None else settings
    warn_unless_unit_norm(measured)
    levels = times_of(
        prior.path,
        chosen.n_steps,
        sigma_max=chosen.sigma_max,
        sigma_min=chosen.sigma_min,
        rho_grid=chosen.rho_grid,
    )
    times = VP.time_at_angle(prior.path.angle(levels))
    record = Record(measured, progress)
    end = (
        Ancestral(eta=chosen.eta)
        .plan(VP, times)
        .run(
            WithGradient(OnPath(prior, VP)),
            first_state(measured, VP, times[0], rng=rng),
            rng=rng,
            hooks=(Dps(lambda x0: squared_misfit(measured, x0), chosen.zeta), record),
        )
    )
    end = end / float(VP.alpha(times[-1]))
    return finished(measured, end, n_calls=chosen.n_steps, record=record)


def squared_misfit(measured: Measurement, x0: Tensor) -> Tensor:
    """Return `|y - A x0|^2` of every slice, with its graph.

    Where the rows of y are not one per slice, as with thick slices, the sum is shared out evenly:
    independent slices with equal misfits get the same either way.
    """
    residual = measured.op(measured.image(x0)) - measured.y
    square = residual.abs().square() if residual.is_complex() else residual.square()
    n = x0.shape[0]
    if square.shape[0] == n:
        return square.reshape(n, -1).sum(dim=1)
    return (square.sum() / n).expand(n)
