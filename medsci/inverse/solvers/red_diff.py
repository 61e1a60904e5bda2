"""RED-Diff: optimise one image against the data, with the denoiser of every noise level as prior.

At every step the current image mu is noised to a level, denoised, and pulled towards the result:

    g  = r_data A^H (A mu - y) + lambda h(r) / r (mu - x0(alpha mu + sigma z)) + tv_z D^H sign(D mu)
    mu <- mu - lr Adam(g)

with `r = sigma / alpha` falling along the walk, h from `red_diff_weights`, D the difference between
slices and a smoothed sign. No derivative of the network is needed: one evaluation, one A and one
A^H per step.

The method seeks a mode. Runs from several seeds differ by little, which says nothing about the
uncertainty; draw posterior samples for that. It is the falling order of the levels that makes it
good: the minimiser of the objective averaged over all levels is far too smooth. Left alone it fits
noise; `history["overfit"]` says when, and `tau` prevents it.

Source: Mardani et al. 2024, alg. 1, arXiv:2305.04391. We differ: the gradient is written with x0,
the data term is a sum for an operator of norm one (the published means over entries are
`r_data="n/m"`), both ends of the schedule are visited, and the image after the last step is
returned, not the one before.
"""

__all__ = ["DataGradient", "RedDiffSettings", "red_diff"]

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from medsci.core import Rng
from medsci.inverse.measurement import Measurement, Prior, Progress, Solution
from medsci.inverse.solvers.data_term import LeastSquares, warn_unless_unit_norm
from medsci.inverse.solvers.red_diff_settings import TV_SMOOTH, RedDiffSettings
from medsci.inverse.solvers.red_diff_weights import pull, times_of_walk
from medsci.operators import DifferenceOp

DataGradient = Callable[[Tensor], Tensor]

OVERFIT = 0.6  # of the misfit expected of the truth
ADAM_EPS = 1e-8
PATIENCE = 3  # steps in a row below the bound before the walk stops


@torch.no_grad()
def red_diff(
    measured: Measurement,
    prior: Prior,
    *,
    rng: Rng,
    settings: RedDiffSettings | None = None,
    progress: Progress | None = None,
    start: Tensor | None = None,
    data_gradient: DataGradient | None = None,
) -> Solution:
    """Reconstruct an image, or a volume of slices.

    Args:
        measured: the data, with an operator of norm one (`measured.normalised()`).
        prior: `prior(x, t) -> x0` with its `path`.
        rng: one id per slice.
        settings: see `RedDiffSettings`.
        progress: called as `progress(done, total)` after every step.
        start: image to start from, for instance a filtered backprojection.
        data_gradient: image to gradient of the data term, in place of `A^H (A x - y)`, for
            operators that are not linear; the misfit is then not known.

    Returns:
        The image after the last step. Its history holds `misfit` and `overfit` (1 where the misfit
        is below 0.6 of that of the truth) after every step, `distance` (rms of `mu - x0`), `level`
        (sigma / alpha) and `pull` (lambda h / r).

    Raises:
        ValueError: the settings need what the measurement does not give.

    Warns:
        OperatorScaleWarning: the norm of the operator is far from one.
    """
    settings = RedDiffSettings() if settings is None else settings
    if settings.tau is not None and (data_gradient is not None or not measured.noise > 0.0):
        raise ValueError(
            f"tau={settings.tau} came without a known noise of a linear measurement; give "
            "Measurement(noise=...), or leave tau out"
        )
    if data_gradient is None:
        warn_unless_unit_norm(measured)
    walk = _Walk(measured, prior, settings=settings, rng=rng, data_gradient=data_gradient)
    return walk.run(_start(measured, settings, start), progress)


def _start(measured: Measurement, settings: RedDiffSettings, start: Tensor | None) -> Tensor:
    """Return a first state of its own memory."""
    if start is not None:
        return measured.state(start).clone()
    if settings.init == "zeros":
        return torch.zeros_like(measured.rhs)
    return measured.rhs.clone()


@final
class _Walk:
    """One run: what does not change along it, and the moments of the optimiser."""

    def __init__(
        self,
        measured: Measurement,
        prior: Prior,
        *,
        settings: RedDiffSettings,
        rng: Rng,
        data_gradient: DataGradient | None,
    ) -> None:
        self.measured, self.prior, self.settings, self.rng = measured, prior, settings, rng
        self.data_gradient = data_gradient
        self.data_term = LeastSquares(measured)
        self.descent = _Descent(settings)
        self.history: dict[str, list[float]] = {}
        self.times = times_of_walk(
            prior.path,
            settings.n_steps * settings.n_avg,
            sigma_max=settings.sigma_max,
            sigma_min=settings.sigma_min,
            spacing=settings.spacing,
            order=settings.order,
            rng=rng,
        ).reshape(settings.n_steps, settings.n_avg)

    def run(self, mu: Tensor, progress: Progress | None) -> Solution:
        """Walk from mu, which is changed, and return the image."""
        s = self.settings
        r_data = s.r_data if not isinstance(s.r_data, str) else mu.numel() / self.measured.count
        first_kept = s.n_steps - math.ceil(s.average * s.n_steps)
        kept: Tensor | None = None
        slope, misfit = self._data(mu)
        below, k = 0, 0
        for k in range(s.n_steps):
            weight, x0 = self._denoised(mu, k)
            distance = _rms(mu - x0)
            for _ in range(s.inner):
                held = s.at_tau == "hold" and self._is_low(misfit)
                gradient = slope * (0.0 if held else r_data) + weight * (mu - x0)
                if s.tv_z > 0.0:
                    gradient.add_(self._tv_gradient(mu), alpha=s.tv_z)
                self.descent.step(mu, gradient)
                slope, misfit = self._data(mu)
            self._note(k, misfit, distance=distance, weight=weight)
            if k >= first_kept:
                kept = mu.clone() if kept is None else kept.lerp_(mu, 1.0 / (k + 1 - first_kept))
            may_stop = s.at_tau == "stop" and k + 1 >= s.stop_after * s.n_steps
            below = below + 1 if may_stop and self._is_low(misfit) else 0
            stops = below >= PATIENCE
            if progress is not None:
                progress(s.n_steps if stops else k + 1, s.n_steps)
            if stops:
                break
        history = {name: tuple(values) for name, values in self.history.items()}
        n_calls = (k + 1) * s.n_avg * (2 if s.antithetic else 1)
        return Solution(self.measured.image(mu if kept is None else kept), n_calls, history)

    def _data(self, mu: Tensor) -> tuple[Tensor, float | None]:
        """Return the gradient of the data term, and the misfit where it is known."""
        if self.data_gradient is not None:
            with torch.enable_grad():  # it may well be found by autograd
                slope = self.data_gradient(self.measured.image(mu))
            return self.measured.state(slope.detach()), None
        return self.data_term(mu)

    def _denoised(self, mu: Tensor, k: int) -> tuple[float, Tensor]:
        """Return the weight of step k, lambda included, and the estimate to pull towards."""
        s, path = self.settings, self.prior.path
        total, x0 = 0.0, torch.zeros_like(mu)
        for j, t in enumerate(self.times[k].tolist()):
            alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
            share = pull(s.weight, sigma / alpha, noise=self.measured.noise)
            noise = self._noise(mu, step=k, tag=j)
            seen = self.prior(alpha * mu + sigma * noise, t)
            if s.antithetic:
                seen = 0.5 * (seen + self.prior(alpha * mu - sigma * noise, t))
            total += share
            x0 = seen if j == 0 else x0.lerp(seen, share / total)
        return s.weight_of_prior * total / s.n_avg, x0

    def _noise(self, mu: Tensor, *, step: int, tag: int) -> Tensor:
        if self.settings.share_noise == "no":
            return self.rng.normal(mu.shape, step=step, tag=tag, dtype=mu.dtype, device=mu.device)
        one = Rng(self.rng.seed, self.rng.ids[:1])
        drawn = one.normal((1, *mu.shape[1:]), step=step, tag=tag, dtype=mu.dtype, device=mu.device)
        return drawn.expand(mu.shape)

    def _tv_gradient(self, mu: Tensor) -> Tensor:
        """Return the gradient of `sum sqrt(|D x|^2 + s^2)`, D along the leading axis."""
        across = DifferenceOp(dim=0)
        change = across(self.measured.image(mu))
        smooth = change / torch.sqrt(change.abs().square() + TV_SMOOTH**2)
        return self.measured.state(across.adjoint(smooth))

    def _is_low(self, misfit: float | None) -> bool:
        tau = self.settings.tau
        return tau is not None and misfit is not None and misfit <= tau

    def _note(self, k: int, misfit: float | None, *, distance: float, weight: float) -> None:
        t = self.times[k]
        levels = self.prior.path.sigma(t) / self.prior.path.alpha(t)
        found = {"level": float(levels.mean()), "pull": weight, "distance": distance}
        if misfit is not None:
            known = self.measured.noise > 0.0
            found |= {"misfit": misfit, "overfit": float(known and misfit < OVERFIT)}
        for name, value in found.items():
            self.history.setdefault(name, []).append(value)


@final
class _Descent:
    """Adam (Kingma and Ba 2015, alg. 1, arXiv:1412.6980) or plain descent, in place.

    The arithmetic is that of torch's Adam, entry by entry, so that slices do not know each other.
    """

    def __init__(self, settings: RedDiffSettings) -> None:
        self.settings = settings
        self.count = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def step(self, x: Tensor, gradient: Tensor) -> None:
        """Move x."""
        s = self.settings
        if s.optimiser == "gradient":
            x.add_(gradient, alpha=-s.lr)
            return
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(x), torch.zeros_like(x)
        self.count += 1
        self.first.lerp_(gradient, 1.0 - s.betas[0])
        self.second.mul_(s.betas[1]).addcmul_(gradient, gradient, value=1.0 - s.betas[1])
        length = s.lr / (1.0 - s.betas[0] ** self.count)
        root = math.sqrt(1.0 - s.betas[1] ** self.count)
        x.addcdiv_(self.first, (self.second.sqrt() / root).add_(ADAM_EPS), value=-length)


def _rms(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / max(x.numel(), 1) ** 0.5
