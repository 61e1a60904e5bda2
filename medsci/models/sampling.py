"""How a stored model wants to be sampled."""

__all__ = ["few_step", "sampling_of"]

from typing import TYPE_CHECKING, Any

from medsci.models.config import ModelConfig

if TYPE_CHECKING:
    import numpy as np

    from medsci.core.solve import AbstractSolver

_UNDETERMINED = ("eps", "score")  # say nothing of x0 at pure noise
_NOISE_END = 0.999


def few_step(solver: str, steps: int, *, prediction: str) -> "tuple[AbstractSolver, np.ndarray]":
    """Return solver and grid by name: `ddim`, or `renoise` for flow maps; uniform in time.

    Raises:
        ValueError: no such solver.
    """
    from medsci.core.solve import Multistep, grid, renoise

    times = grid.uniform(steps, t_max=_NOISE_END if prediction in _UNDETERMINED else 1.0)
    if solver == "ddim":
        return Multistep("eps", order=1), times
    if solver == "renoise":
        return renoise(), times
    if solver == "ancestral_latent":
        raise ValueError(
            "a generator with a latent came, which medsci.core.solve.sample does not draw; use "
            "BridgeGan.sample, as its card shows"
        )
    raise ValueError(f"solver {solver!r} came; choose ddim or renoise")


def sampling_of(config: ModelConfig, *, steps: int | None = None) -> dict[str, Any]:
    """Return the arguments of `medsci.core.solve.sample` for a stored model.

    Without a hint of the model that is the best general solver at `steps` evaluations, 20 if left
    out; a few-step model keeps its own solver, and its own number unless `steps` is given.
    """
    hint = config.sampler
    if hint is None or hint.solver == "auto":
        return {"steps": steps or (hint.steps if hint else 20)}
    solver, times = few_step(hint.solver, steps or hint.steps, prediction=config.prediction)
    return {"solver": solver, "grid": times}
