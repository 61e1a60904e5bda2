"""Bias fields by a prior of volumes: restore, compare, fit what is smooth, and again.

    v = b x,    log b smooth

In every round the box is restored from `v / b`, as if the rest of the field were noise of a level
that falls from round to round, and `log b` takes up the smooth part, a low-order cosine series, of
`log v - log x`. A prior that was trained with mild fields takes them for anatomy
and leaves them in; N4, which needs no prior, is the default of the task.
"""

__all__ = ["correct_volume_bias"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_to
from medsci.inverse.measurement import Prior
from medsci.recon.bias_field import cosine_field
from medsci.recon.restoration import Restored, as_type_of
from medsci.recon.restore_settings import RestoreSettings
from medsci.recon.volume_frame import VolumePrior, thinned
from medsci.recon.volume_problem import VolumeProblem, volume_problem

Progress = Callable[[int, int, str], None]

_LEVELS = (0.3, 0.12, 0.05)  # noise the rest of the field is taken for, of the range
_LEAST = 0.1  # of the bright tissue; darker voxels say nothing about the field


def correct_volume_bias(
    volume: Volume,
    denoiser: Prior,
    *,
    settings: RestoreSettings,
    prior: VolumePrior,
    progress: Progress | None = None,
) -> Restored:
    """Divide the field out; the mean of its logarithm over the object is zero.

    Raises:
        InvalidInputError: negative values, for which a factor has no meaning, or a dark image.
    """
    from medsci.recon.volume_restoration import draw_states, restoration_info, tissue_labels

    if float(volume.array.min()) < 0.0:
        raise InvalidInputError(
            f"values go down to {float(volume.array.min()):g}; a multiplicative field needs "
            "magnitudes, which are not negative"
        )
    coarse = thinned(volume, min(prior.voxel_mm))
    log_field = volume.with_array(np.zeros(volume.shape, np.float32))
    calls = 0
    for index, level in enumerate(_LEVELS):

        def report(done: int, total: int, text: str, turn: int = index) -> None:
            if progress is not None:
                progress(turn * total + done, len(_LEVELS) * total, f"round {turn + 1}, {text}")

        field = log_field.with_array(np.exp(log_field.array))
        problem = volume_problem(volume, prior, settings=settings, field=field, level=level)
        states, n = draw_states(problem, denoiser, settings, progress=report)
        mean = states.mean(dim=0, keepdim=True)
        log_field, centre = _fitted(volume, coarse, problem, problem.image(mean))
        calls += n
    field = log_field.with_array(np.exp(log_field.array))
    corrected = volume.with_array(volume.array.astype(np.float32) / field.array)
    info: dict[str, Any] = {
        **restoration_info(settings, calls),
        "method": "prior",
        **problem.info,
        "rounds": len(_LEVELS),
        "mean_log_field": centre,
    }
    fractions = resample_to(problem.fractions(mean), volume, order=1)
    labels = tissue_labels(fractions) if len(prior.channels) > 1 else None
    return Restored(
        as_type_of(volume, corrected),
        bias_field=replace(field, array=field.array.astype(np.float32)),
        labels=labels,
        info=info,
    )


def _fitted(
    volume: Volume, coarse: Volume, problem: VolumeProblem, image: Volume
) -> tuple[Volume, float]:
    """Return the smooth part of log(measured / restored) on the grid of the volume."""
    found = torch.from_numpy(resample_to(image, coarse, order=1).array.astype(np.float32))
    given = torch.from_numpy(coarse.array.astype(np.float32))
    floor = _LEAST * problem.scale
    known = (found > floor) & (given > floor)
    if not bool(known.any()):
        raise InvalidInputError("no voxel says anything about the field; the image is dark")
    weights = torch.where(known, (found / problem.scale).clamp(0.0, 1.0).square(), 0.0)
    ratio = torch.where(known, given / found.clamp_min(floor), 1.0).clamp_min(1e-3).log()
    fitted = cosine_field(ratio, weights, spacing_mm=coarse.spacing_mm)
    centre = float(fitted[known].mean())
    smooth = coarse.with_array((fitted - centre).numpy())
    return resample_to(smooth, volume, order=1), centre
