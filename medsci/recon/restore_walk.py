"""How a solver walks for a restoration: its settings for the task at hand."""

__all__ = ["walk_of"]

from typing import Any

from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.dds3d import Dds3dSettings
from medsci.recon.restore_problem import Problem
from medsci.recon.restore_settings import RestoreSettings, Task

_WALKS: dict[Task, tuple[int, float, int]] = {  # network calls, first noise level, CG steps
    "denoise": (20, 0.5, 5),
    "inpaint": (30, 5.0, 5),
    "superres": (25, 0.5, 8),
    "deblur": (25, 0.5, 12),
}


def walk_of(
    problem: Problem, settings: RestoreSettings, *, spacing_mm: tuple[float, float, float]
) -> Any:
    """Return the settings of the chosen method.

    Those of `dds3d` depend on the task: a hole starts from pure noise, where other tasks have an
    estimate to start from. The tie to the prior's estimate is the variance of the noise, but none
    for super-resolution unless the noise was given: the finest details of large voxels are anatomy,
    and an estimate from them is too high. Coupling between slices weakens with their distance
    beyond 1 mm. Other methods take their own defaults.
    `settings.n_steps` and `settings.options` have the last word.

    Raises:
        UsageError: there is no such method, or it has no such option.
    """
    from medsci.inverse.methods import method_of, settings_of

    method = settings.chosen
    _, kind = method_of(method).load()
    base = _dds3d(problem, settings, spacing_mm[0]) if method == "dds3d" else kind()
    options = dict(settings.options)
    if settings.n_steps is not None:
        name = "n_steps" if hasattr(base, "n_steps") else "steps"
        options = {name: str(settings.n_steps)} | options
    return settings_of(method, options, base=base)


def _dds3d(problem: Problem, settings: RestoreSettings, slice_mm: float) -> Dds3dSettings:
    n_steps, sigma_max, n_cg = _WALKS[settings.task]
    gap = slice_mm / problem.factors[0]
    coupling = AdmmTvSettings(n_cg=n_cg, threshold=0.02 * min(1.0, 1.0 / gap))
    guessed = settings.task == "superres" and settings.noise is None
    return Dds3dSettings(
        n_steps=n_steps,
        sigma_max=sigma_max,
        prox_noise=0.0 if guessed else problem.measured.noise**2,
        consistency=coupling,
    )
