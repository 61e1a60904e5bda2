"""Samples of an image given its data: drawing them with any solver, and what comes out."""

__all__ = ["Posterior", "Tell", "denoiser_of", "draw", "misfit_of", "plain_settings", "walk_of"]

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, final

import torch
from torch import Tensor, nn

from medsci.core import Rng, Slicewise, mix64
from medsci.errors import UsageError
from medsci.imaging import Volume
from medsci.inverse.measurement import Measurement
from medsci.inverse.methods import options_of, settings_of, solve
from medsci.recon.orientation import Oriented, View
from medsci.recon.settings import ReconSettings

Tell = Callable[[int, int, str], None]


@final
@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of the image given the data, summarised.

    Attributes:
        mean: of the samples, float32: magnitude in the units of the k-space file, or Hounsfield
            units.
        std: standard deviation of the samples (of their magnitudes) per voxel; None for one sample.
        simple: what comes out without a prior: the adjoint solution, or filtered backprojection.
        reference: the truth, where the file has one.
        info: what was done, as plain numbers and words for a sidecar.
        modality: `MRI` or `CT`.
    """

    mean: Volume
    std: Volume | None
    simple: Volume
    reference: Volume | None
    info: dict[str, Any] = field(default_factory=dict)
    modality: str = "MRI"


def denoiser_of(prior: nn.Module | str | FilePath, settings: ReconSettings) -> nn.Module:
    """Return a denoiser, loaded by name or folder if it is not one already.

    Raises:
        WeightsError: no such model, or its weights are not the recorded ones.
    """
    if isinstance(prior, nn.Module):
        return prior
    from medsci.models import load_denoiser

    return load_denoiser(prior, device=settings.device, precision=settings.precision)


def walk_of(settings: ReconSettings, *, base: Any = None) -> Any:
    """Return the settings of the solver: `base`, changed by what was asked for.

    Args:
        settings: `solver`, `n_steps`, `n_cg` and `options` count, the last over the others.
        base: tuned settings to start from; the solver's own defaults if None.

    Raises:
        UsageError: the solver has no such option, or it is out of range.
    """
    known = options_of(settings.solver)
    asked: dict[str, str] = {}
    for option, value, names in (
        ("n_steps", settings.n_steps, ("n_steps", "n_iter")),
        ("n_cg", settings.n_cg, ("n_cg", "consistency.n_cg")),
    ):
        if value is None:
            continue
        name = next((name for name in names if name in known), None)
        if name is None:
            raise UsageError(f"{option}={value} came and {settings.solver} has none; leave it out")
        asked[name] = str(value)
    return settings_of(settings.solver, asked | dict(settings.options), base=base)


def draw(
    measured: Measurement,
    denoiser: nn.Module,
    *,
    settings: ReconSettings,
    walk: Any,
    view: View,
    tell: Tell | None = None,
) -> tuple[Tensor, int]:
    """Draw `settings.n_samples` images, each from noise of its own.

    The noise of a sample depends on the seed, the number of the sample and the slice, and on
    nothing else: neither on `chunk` nor on how many samples are drawn.

    Returns:
        samples: (n_samples, n_slices, rows, columns), in units of the prior.
        n_calls: evaluations of the network per slice and sample.
    """
    chunk = settings.chunk or (4 if settings.device == "cpu" else 32)
    prior = Slicewise(Oriented(denoiser, view), chunk=chunk)
    n_slices = len(measured.backprojection)
    samples, n_calls = [], 0
    for index in range(settings.n_samples):

        def report(done: int, total: int, index: int = index) -> None:
            if tell is not None:
                text = f"sample {index + 1} of {settings.n_samples}"
                tell(index * total + done, settings.n_samples * total, text)

        rng = Rng(mix64(settings.seed, index), range(n_slices))
        found = solve(
            measured, prior, rng=rng, method=settings.solver, settings=walk, progress=report
        )
        samples.append(found.image)
        n_calls = found.n_calls
    return torch.stack(samples), n_calls


def misfit_of(measured: Measurement, image: Tensor) -> dict[str, float]:
    """Return how far the data are from an image, relative to the data and to their noise."""
    with torch.no_grad():
        left = float(torch.linalg.vector_norm(measured.op(image) - measured.y))
        size = float(torch.linalg.vector_norm(measured.y))
    found = {"relative_data_misfit": left / size if size > 0.0 else 0.0}
    if measured.noise > 0.0:
        found["misfit_over_noise"] = measured.misfit(image)
    return found


def plain_settings(walk: Any) -> dict[str, Any]:
    """Return a solver's settings as numbers and words; tables within them are flattened."""
    found: dict[str, Any] = {}
    for field_ in dataclasses.fields(walk):
        value = getattr(walk, field_.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field_.name}_{name}": v for name, v in plain_settings(value).items()}
        elif isinstance(value, bool | int | float | str):
            found[field_.name] = value
    return found
