"""Restoration of volumes by a prior of whole volumes: thick slices, holes, noise, blur, fields.

The image channel of the prior's box is inferred from what the volume's voxels say about it (see
`volume_problem`); the other channels, tissue fractions, follow from the prior alone. What the prior
does not resolve it cannot restore: super-resolution ends at its voxel size, and where the grid of
the input is finer, what comes back has the detail of the prior's.
"""

__all__ = ["restore_volume"]

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from medsci.core import Rng, mix64
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.imaging.resample import resample_to
from medsci.inverse.measurement import Prior
from medsci.inverse.methods import method_of, settings_of, solve
from medsci.inverse.solvers.admm_tv import AdmmTvSettings
from medsci.inverse.solvers.dds3d import Dds3dSettings
from medsci.recon.holes import holes_of
from medsci.recon.restoration import Restored, as_type_of
from medsci.recon.restore_problem import check_volume
from medsci.recon.restore_settings import RestoreSettings
from medsci.recon.volume_frame import VolumePrior
from medsci.recon.volume_problem import ClippedPrior, VolumeProblem, volume_problem

Progress = Callable[[int, int, str], None]

_log = logging.getLogger(__name__)
_FIRST_LEVEL = 50.0  # the channels that were not measured start from noise
_LAST_LEVEL = 0.1  # below it small networks leave noise in: the last step goes from here to 0
_N_CG = 10
_STEPS = 25
_FINER = 1.3  # an input finer than the prior by this factor loses its finest detail


def restore_volume(
    volume: Volume,
    denoiser: nn.Module,
    *,
    settings: RestoreSettings,
    prior: VolumePrior,
    mask: Volume | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore a volume in the box of a prior.

    Args:
        volume: the damaged image, three axes, any orientation.
        denoiser: of states of the box, with its `path`.
        settings: the method is `dds3d` where none is named; `factor`, `axes`, `boundary` and
            `chunk` are not used.
        prior: what the states mean.
        mask: of inpainting: not 0 where the image is to be replaced; what it is elsewhere comes
            back bit for bit.
        progress: called as `progress(done, total, text)`.

    Returns:
        For `superres` an image on the grid of the box, in float32 unless the input holds whole
        numbers; for other tasks on the grid of the input, whose voxels outside the box stay as
        they are. `labels` has the tissues of the mean, 0 where none of them prevails.

    Raises:
        InvalidInputError: image or mask are not what they should be.
        UsageError: the method is not one for volumes.
    """
    check_volume(volume)
    volume = replace(volume, array=volume.array.reshape(volume.shape[:3]))
    if not volume.has_orientation:
        _log.warning("the file does not state its orientation; left and right may be exchanged")
    if mask is None and settings.task == "inpaint":
        raise InvalidInputError(
            "inpainting needs a mask; give one that is not 0 where the image is to be replaced"
        )
    if mask is not None and settings.task != "inpaint":
        raise InvalidInputError(f"a mask came for the task {settings.task}; only inpaint takes one")
    clipped = ClippedPrior(denoiser, prior.value_range)
    if settings.task == "bias":
        from medsci.recon.volume_bias import correct_volume_bias

        return correct_volume_bias(
            volume, clipped, settings=settings, prior=prior, progress=progress
        )
    problem = volume_problem(volume, prior, settings=settings, mask=mask)
    states, calls = draw_states(problem, clipped, settings, progress=progress)
    return _summary(volume, problem, states, settings=settings, mask=mask, n_calls=calls)


def draw_states(
    problem: VolumeProblem,
    denoiser: Prior,
    settings: RestoreSettings,
    *,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "s c i j k"], int]:
    """Return samples of the whole state, and the network calls of one."""
    name = volume_method(settings)
    walk = walk_of_volume(problem, settings)
    found, calls = [], 0
    for index in range(settings.n_samples):

        def report(done: int, total: int, sample: int = index) -> None:
            if progress is not None:
                text = f"sample {sample + 1} of {settings.n_samples}"
                progress(sample * total + done, settings.n_samples * total, text)

        rng = Rng(mix64(settings.seed, index), range(1))
        solution = solve(
            problem.measured, denoiser, rng=rng, method=name, settings=walk, progress=report
        )
        found.append(solution.image)
        calls = solution.n_calls
    return torch.cat(found), calls


def volume_method(settings: RestoreSettings) -> str:
    """Return the solver, `dds3d` where none is named.

    Raises:
        UsageError: it is one of the methods of 2D restoration, or needs the SVD of its operator.
    """
    name = "dds3d" if settings.method in (None, "prior") else str(settings.method)
    if name in ("mmse", "spline", "n4", "ddrm"):
        raise UsageError(
            f"method {name} came with a prior of volumes; choose dds3d, diffpir, pigdm, dps, "
            "flowchef, red-diff or pnp"
        )
    return name


def walk_of_volume(problem: VolumeProblem, settings: RestoreSettings) -> Any:
    """Return the settings of the solver.

    `dds3d` walks down from pure noise, as channels are there of which nothing was measured, ties
    its estimate to the prior's by the variance of the noise, and knows no slices. Other methods
    take their own defaults. `settings.n_steps` and `settings.options` have the last word.

    Raises:
        UsageError: there is no such method, or it has no such option.
    """
    name = volume_method(settings)
    _, kind = method_of(name).load()
    base = kind()
    if name == "dds3d":
        base = Dds3dSettings(
            n_steps=_STEPS,
            sigma_max=_FIRST_LEVEL,
            sigma_min=_LAST_LEVEL,
            prox_noise=problem.measured.noise**2,
            consistency=AdmmTvSettings(n_cg=_N_CG, rho=0.0),
        )
    options = dict(settings.options)
    if settings.n_steps is not None:
        steps = "n_steps" if hasattr(base, "n_steps") else "steps"
        options = {steps: str(settings.n_steps)} | options
    return settings_of(name, options, base=base)


def tissue_labels(fractions: Volume) -> Volume:
    """Return 0 where what is left of a voxel is more than any of its tissues, else 1, 2 ... ."""
    parts = np.asarray(fractions.array, dtype=np.float32)
    other = 1.0 - parts.sum(axis=-1, keepdims=True)
    labels: UInt8[np.ndarray, "i j k"] = (
        np.concatenate([other, parts], axis=-1).argmax(axis=-1).astype(np.uint8)
    )
    return fractions.with_array(labels)


def _summary(
    volume: Volume,
    problem: VolumeProblem,
    states: Float[Tensor, "s c i j k"],
    *,
    settings: RestoreSettings,
    mask: Volume | None,
    n_calls: int,
) -> Restored:
    mean = states.mean(dim=0, keepdim=True)
    image = problem.image(mean)
    several = len(states) > 1
    low, high = problem.prior.value_range
    spread = states[:, 0].std(dim=0).float().cpu().numpy() if several else None
    std = None
    if spread is not None:
        std = problem.box.with_array(spread * np.float32(problem.scale / (high - low)))
    fractions = problem.fractions(mean)
    if settings.task != "superres":
        image, std, fractions = _on_grid(volume, image, std, fractions, mask=mask)
    info = {
        **restoration_info(settings, n_calls),
        **problem.info,
        "data_misfit": problem.measured.misfit(mean),
    }
    labels = tissue_labels(fractions) if len(problem.prior.channels) > 1 else None
    return Restored(as_type_of(volume, image), std, labels=labels, info=info)


def restoration_info(settings: RestoreSettings, n_calls: int) -> dict[str, Any]:
    """Return what every record of a restoration by a prior of volumes says."""
    return {
        "task": settings.task,
        "method": volume_method(settings),
        "samples": settings.n_samples,
        "network_calls": n_calls,
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }


def _on_grid(
    volume: Volume, image: Volume, std: Volume | None, fractions: Volume, *, mask: Volume | None
) -> tuple[Volume, Volume | None, Volume]:
    """Bring what was found to the grid of the input, and leave alone what it does not replace."""
    finest, voxel = min(volume.spacing_mm), max(image.spacing_mm)
    if mask is None and finest * _FINER < voxel:
        _log.warning(
            "the image has voxels of %.3g mm, the prior of %.3g mm: the result has the detail of "
            "the prior only", finest, voxel,
        )  # fmt: skip
    ones = image.with_array(np.ones(image.shape, np.float32))
    replaced = resample_to(ones, volume, order=0).array > 0.5
    if mask is not None:
        replaced &= holes_of(mask, volume)
    there = resample_to(image, volume, order=3).array
    home = volume.with_array(np.where(replaced, there, volume.array.astype(np.float32)))
    home = replace(home, array=np.where(replaced, as_type_of(volume, home).array, volume.array))
    if std is not None:
        spread = np.where(replaced, resample_to(std, volume, order=1).array, np.float32(0.0))
        std = replace(volume, array=spread.astype(np.float32))
    return home, std, resample_to(fractions, volume, order=1)
