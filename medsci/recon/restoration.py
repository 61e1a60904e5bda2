"""Restoration of images: noise, holes, large voxels and blur, with a 2D prior of slices."""

__all__ = ["Restored", "as_type_of", "mmse", "restore", "spline"]

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from medsci.core import Rng, Slicewise, mix64
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.inverse.measurement import Measurement, Prior, Solution
from medsci.operators.downsample import DownsampleOp
from medsci.recon.restore_problem import (
    Problem,
    RealImages,
    Slices,
    check_volume,
    problem_of,
    slices_of,
)
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

_ALL = (-3, -2, -1)
Progress = Callable[[int, int, str], None]


@final
@dataclass(frozen=True, eq=False)
class Restored:
    """What a restoration found.

    Attributes:
        mean: mean of the samples in the type of the input, on its grid, or a finer one where that
            was asked for.
        std: standard deviation of the samples per voxel, float32; None for one sample.
        bias_field: the multiplicative field that was divided out, float32; of the task `bias`.
        labels: of a prior of volumes that knows tissues: which one prevails, uint8, 0 for none.
        info: what was done, as plain numbers and words for a sidecar.
    """

    mean: Volume
    std: Volume | None = None
    bias_field: Volume | None = None
    labels: Volume | None = None
    info: dict[str, Any] = field(default_factory=dict)


def restore(
    volume: Volume,
    prior: nn.Module | None,
    *,
    settings: RestoreSettings,
    units: PriorUnits | None = None,
    mask: Volume | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore a volume.

    Args:
        volume: the damaged image, three axes.
        prior: a denoiser of slices with its `path`; None where the method needs none.
        settings: see `RestoreSettings`.
        units: what the prior's states mean.
        mask: of inpainting: not 0 where the image is to be replaced; what it is elsewhere comes
            back bit for bit.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: image or mask are not what they should be.
        UsageError: the method needs a prior, or is not one for this task.
    """
    units = PriorUnits() if units is None else units
    check_volume(volume)
    volume = replace(volume, array=volume.array.reshape(volume.shape[:3]))
    if settings.task == "bias":
        from medsci.recon.bias_field import correct_bias

        return correct_bias(volume, prior, settings=settings, units=units, progress=progress)
    if mask is not None and settings.task != "inpaint":
        raise InvalidInputError(f"a mask came for the task {settings.task}; only inpaint takes one")
    slices = slices_of(volume, units, device=settings.device)
    problem = problem_of(slices, settings, volume=volume, mask=mask, n_channels=units.n_channels)
    across = settings.task == "superres" and problem.factors[0] > 1
    if across and settings.method is None and settings.n_samples == 1:
        settings = replace(settings, method="spline")
    if settings.chosen == "spline":
        samples, calls = spline(problem.measured, problem.factors)[None], 0
        return _summary(volume, slices, problem, samples, settings=settings, n_calls=calls)
    if prior is None:
        raise InvalidInputError(f"method {settings.chosen} needs a prior; load one")
    denoiser = RealImages(prior) if units.n_channels == 2 else prior
    chunked = Slicewise(denoiser, chunk=settings.chunk or (4 if settings.device == "cpu" else 32))
    samples, calls = _draw(problem, chunked, settings, slices=slices, progress=progress)
    return _summary(volume, slices, problem, samples, settings=settings, n_calls=calls)


def mmse(measured: Measurement, prior: Prior, *, rng: Rng) -> Solution:
    """Return `E[x | y]` for white Gaussian noise: one look of the prior at the noise level of y.

    The image is taken for a state of the path at `sigma / alpha = noise`. Where it is complex its
    imaginary part carries no noise; the noise that a state has there is drawn.
    """
    path = prior.path
    t = float(path.time_at_sigma_hat(measured.noise))
    state = measured.rhs.clone()
    if state.shape[1] == 2:
        drawn = rng.normal(state[:, 1:].shape, step=0, device=state.device)
        state[:, 1:] = measured.noise * drawn
    with torch.no_grad():
        x0 = prior(float(path.alpha(t)) * state, t)
    return Solution(measured.image(x0), n_calls=1)


def spline(measured: Measurement, factors: tuple[int, int, int]) -> Tensor:
    """Divide voxels by cubic splines, then correct every block so that its mean is the old voxel.

    Needs no prior. The correction is the smallest one, `A^H (A A^H)^-1 (y - A x)`.
    """
    y = measured.y.real if measured.y.is_complex() else measured.y
    n_block = int(np.prod(factors))
    means = y / n_block**0.5  # the operator was scaled to norm one
    smooth = ndimage.zoom(
        means.double().cpu().numpy(), factors, order=3, mode="nearest", grid_mode=True
    )
    image = torch.from_numpy(smooth).to(means)
    left = means - DownsampleOp(factors, _ALL)(image)
    return image + n_block * DownsampleOp(factors, _ALL).adjoint(left)


def _draw(
    problem: Problem,
    prior: Prior,
    settings: RestoreSettings,
    *,
    slices: Slices,
    progress: Progress | None,
) -> tuple[Tensor, int]:
    """Return real samples `(s, n, rows, columns)` and the network calls per slice of one."""
    from medsci.recon.restore_walk import walk_of

    samples, calls = [], 0
    for index in range(settings.n_samples):
        rng = Rng(mix64(settings.seed, index), problem.ids)

        def report(done: int, total: int, sample: int = index) -> None:
            if progress is not None:
                text = f"sample {sample + 1} of {settings.n_samples}"
                progress(sample * total + done, settings.n_samples * total, text)

        if settings.chosen == "mmse":
            solution = mmse(problem.measured, prior, rng=rng)
            report(1, 1)
        else:
            from medsci.inverse.methods import solve

            solution = solve(
                problem.measured,
                prior,
                rng=rng,
                method=settings.chosen,
                settings=walk_of(problem, settings, spacing_mm=slices.spacing_mm),
                progress=report,
            )
        image = solution.image
        samples.append(image.real if image.is_complex() else image)
        calls = solution.n_calls
    return torch.stack(samples), calls


def _summary(
    volume: Volume,
    slices: Slices,
    problem: Problem,
    samples: Tensor,
    *,
    settings: RestoreSettings,
    n_calls: int,
) -> Restored:
    intensity, measured = slices.intensity, problem.measured
    mean = samples.mean(dim=0)
    as_image = torch.complex(mean, torch.zeros_like(mean)) if measured.y.is_complex() else mean
    info = {
        "task": settings.task,
        "method": settings.chosen,
        "samples": settings.n_samples,
        "network_calls": n_calls,
        **problem.info,
        "intensity_zero": intensity.zero,
        "intensity_scale": intensity.scale,
        "data_misfit": measured.misfit(as_image),
        "slices": len(problem.ids),
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }
    value = mean * intensity.scale + intensity.zero
    spread = samples.std(dim=0) * intensity.scale if len(samples) > 1 else None
    kept = problem.kept
    if kept is not None:
        value = _into(slices.values, value, problem)
        if spread is not None:
            spread = _into(slices.values, spread, problem).masked_fill(kept, 0.0)

    def home(values: Tensor) -> Volume:
        return _home(volume, slices.volume(values, factors=problem.factors))

    result = as_type_of(volume, home(value))
    if kept is not None:
        as_given = home(kept.float()).array > 0
        result = replace(result, array=np.where(as_given, volume.array, result.array))
    return Restored(result, None if spread is None else home(spread), info=info)


def _into(whole: Tensor, part: Tensor, problem: Problem) -> Tensor:
    """Put the restored slices among those that were left alone."""
    filled = whole.clone()
    filled[torch.tensor(problem.ids, device=whole.device)] = part
    return filled


def _home(volume: Volume, found: Volume) -> Volume:
    """Turn the axes of a volume back to the order of the input."""
    if found.shape[:3] == volume.canonical().shape[:3]:
        return found.to_grid_of(volume)
    return found.to_orientation(volume.orientation)


def as_type_of(volume: Volume, found: Volume) -> Volume:
    """Return a restoration in the type of its input: whole numbers are rounded, and kept in range.

    An input without negative values gives none.
    """
    dtype, array = volume.array.dtype, found.array
    if float(volume.array.min()) >= 0.0:
        array = np.maximum(array, 0.0)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        wide = np.rint(array.astype(np.float64))
        # the largest 64-bit integers are no float64; one float below the limit is
        top = np.nextafter(float(limits.max), 0.0) if dtype.itemsize == 8 else float(limits.max)
        array = np.clip(wide, float(limits.min), top)
    return replace(found, array=array.astype(dtype if dtype.kind in "iuf" else np.float32))
