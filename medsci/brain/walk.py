"""How a generator walks from noise to a volume: solver, grid, and where the estimate is clipped."""

__all__ = ["Clipping", "SolverName", "Walk", "clip_hooks", "walk_of"]

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final, get_args

from medsci.core.process.path import Path
from medsci.core.solve import AbstractSolver, Ancestral, Multistep, RungeKutta, auto
from medsci.core.solve import grid as grids
from medsci.core.steer.clip import Clip
from medsci.core.steer.hook import Hook
from medsci.errors import UsageError
from medsci.models import build_path
from medsci.models.sampling import sampling_of

if TYPE_CHECKING:
    import numpy as np

    from medsci.models import ModelConfig

SolverName = Literal["auto", "ddim", "dpmpp2m", "heun", "ancestral"]
Clipping = Literal["consistent", "ddim", "none"]

PUBLISHED_STEPS = 256
"""Evaluations of the published head generators, at rows spread over the whole table."""

_FIRST_ORDER = ("ddim", "ancestral")
_NOISE_END = 0.999  # where a prediction that says nothing at pure noise begins


@final
@dataclass(frozen=True, eq=False)
class Walk:
    """A solver and the times it visits.

    Attributes:
        path: of the states.
        solver: makes the plan.
        grid: decreasing times.
        name: of the solver, never `auto` where the choice has a name.
    """

    path: Path
    solver: AbstractSolver
    grid: "np.ndarray"
    name: str

    @cached_property
    def n_evaluations(self) -> int:
        """Return the network evaluations per volume, guidance not counted."""
        return self.solver.plan(self.path, self.grid).nfe

    def n_settled(self, sigma_data: float) -> int:
        """Return the last evaluations in which a sound sample has settled, three at least.

        Those at noise levels below 0.3 standard deviations of the data. The variance of the
        estimate over them finds voxels that end between the modes of their data. Measured on two
        modes and a denoiser smoothed over a twelfth to a quarter of half their distance: area under
        the curve .95 to 1.0 at 40 to 256 evaluations, .90 to 1.0 at 20 and .84 to .98 at 10 on the
        grid of `auto`; on rows of a table .78 to .83 at 20 and nothing at 10. Over twice as many it
        falls to .2 to .6 on the grid of `auto`, where .5 is chance: it then sees when a mode was
        chosen.
        """
        plan = self.solver.plan(self.path, self.grid)
        low = [step.evaluate and _level(self.path, step.t) <= 0.3 * sigma_data
               for step in plan.steps]  # fmt: skip
        return max(3, sum(low))

    @property
    def is_first_order(self) -> bool:
        """Say whether a step looks at one estimate only, as `Clipping` `ddim` needs."""
        return self.name in _FIRST_ORDER


def walk_of(
    config: "ModelConfig", *, solver: SolverName = "auto", steps: int | None = None
) -> Walk:
    """Return the walk for a stored model.

    `auto` is what the model asks for; for the published head generators DDIM at 256 rows of their
    table, first and last included; for all others the best general solver, at 20 evaluations.
    DDIM and ancestral steps visit rows where there is a table, and the noise levels of the general
    choice elsewhere, as the other solvers always do.

    Args:
        config: of the model.
        solver: see above; `dpmpp2m` is DPM-Solver++ of order 2, `heun` that of EDM, `ancestral`
            adds fresh noise (eta = 1).
        steps: network evaluations. Heun takes two for a step, but one where the step begins at pure
            noise or ends at data, and may leave one out.

    Raises:
        UsageError: no such solver, or a number of steps that the model's table has not.

    Source: Remedios et al. 2025, arXiv:2510.26834 (path and predictions of the head generators).
    """
    if solver not in get_args(SolverName):
        raise UsageError(f"solver {solver!r} came; choose one of {', '.join(get_args(SolverName))}")
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps came; give 1 or more")
    path = build_path(config.path)
    try:
        if solver == "auto":
            return _own_choice(config, path, steps=steps)
        n = steps or _default_steps(config)
        if solver == "heun":
            return _heun(config, path, n=n)
        kinds: dict[str, AbstractSolver] = {
            "ddim": Multistep("eps", order=1),
            "dpmpp2m": Multistep("x0", order=2),
            "ancestral": Ancestral(1.0),
        }
        first_order = solver in _FIRST_ORDER
        times = _rows(config, n) if first_order and _is_tabulated(config) else None
        times = _general_grid(config, path, n=n) if times is None else times
        return Walk(path, kinds[solver], times, solver)
    except ValueError as error:  # of the grid or the plan: too many rows, no such hint
        raise UsageError(f"{config.name} cannot be sampled so: {error}") from error


def clip_hooks(
    clip: Clipping, value_range: tuple[float, float] | None, walk: Walk
) -> tuple[Hook, ...]:
    """Return the hooks that keep estimates in the range of the data.

    `consistent` forms the direction of the step from the clipped estimate; `ddim` keeps the
    direction of the raw one, as the original DDIM does, so that the two disagree where it clips.

    Raises:
        UsageError: `ddim` came with a solver that looks at more than one estimate, or a kind of
            clipping that is not there.
    """
    if clip not in get_args(Clipping):
        raise UsageError(f"clip {clip!r} came; choose one of {', '.join(get_args(Clipping))}")
    if clip == "ddim" and not walk.is_first_order:
        raise UsageError(
            f"clip ddim came with the solver {walk.name}; it is defined for ddim and ancestral, "
            "use consistent"
        )
    if clip == "none" or value_range is None:
        return ()
    low, high = value_range
    return (Clip(low, high, mode=clip, path=walk.path),)


def _level(path: Path, t: float) -> float:
    alpha = float(path.alpha(t))
    return float(path.sigma(t)) / alpha if alpha > 0.0 else math.inf


def _own_choice(config: "ModelConfig", path: Path, *, steps: int | None) -> Walk:
    hint = config.sampler
    if hint is not None and hint.solver != "auto":
        chosen = sampling_of(config, steps=steps)
        return Walk(path, chosen["solver"], chosen["grid"], hint.solver)
    if hint is None and _is_published(config):
        n = steps or PUBLISHED_STEPS
        tabulated = _is_tabulated(config)
        times = _rows(config, n) if tabulated else grids.uniform(n, t_max=_NOISE_END)
        return Walk(path, Multistep("eps", order=1), times, "ddim")
    n = steps or _default_steps(config)
    solver, times = auto(
        path,
        n,
        sigma_max=_first_level(config, path),
        sigma_data=config.sigma_data,
        spectrum=config.spectrum,
    )
    return Walk(path, solver, times, "auto")


def _heun(config: "ModelConfig", path: Path, *, n: int) -> Walk:
    """Return the longest walk by Heun of at most `n` evaluations; one is a step of Euler."""
    solver = RungeKutta("heun", sigma_data=config.sigma_data)
    for k in range(n // 2 + 1, 0, -1):
        walk = Walk(path, solver, _general_grid(config, path, n=k), "heun")
        if walk.n_evaluations <= n:
            return walk
    return Walk(path, RungeKutta("euler"), _general_grid(config, path, n=1), "heun")


def _general_grid(config: "ModelConfig", path: Path, *, n: int) -> "np.ndarray":
    _, times = auto(
        path,
        n,
        sigma_max=_first_level(config, path),
        sigma_data=config.sigma_data,
        spectrum=config.spectrum,
    )
    return times


def _first_level(config: "ModelConfig", path: Path) -> float | None:
    """Return the noise level to begin at, where the network says nothing at the path's own."""
    if config.prediction not in ("eps", "score") or float(path.alpha(1.0)) > 0.0:
        return None
    return float(path.sigma(_NOISE_END) / path.alpha(_NOISE_END))


def _rows(config: "ModelConfig", n: int) -> "np.ndarray":
    return grids.indices(getattr(config.path, "n_rows", 1000), n, spacing="linspace")


def _is_tabulated(config: "ModelConfig") -> bool:
    return config.path.kind == "tabulated" and config.time_code in ("row", "nearest_row")


def _is_published(config: "ModelConfig") -> bool:
    return _is_tabulated(config) or config.training.get("imported_from") == "medforj"


def _default_steps(config: "ModelConfig") -> int:
    if config.sampler is not None:
        return config.sampler.steps
    return PUBLISHED_STEPS if _is_published(config) else 20
