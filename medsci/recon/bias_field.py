"""Smooth multiplicative fields: intensity inhomogeneity of receive coils, found and divided out.

    v = b x,    log b smooth

`n4` is the established method: it sharpens the histogram of log v and fits a B-spline to what that
moves. `prior` alternates: the prior restores x from v / b as if the rest of the field were noise of
a level that falls from round to round, then log b takes up the smooth part, a low-order cosine
series, of `log v - log x`. Both leave the mean of log b over the object at zero.

Source: Tustison et al. 2010 (N4), doi:10.1109/TMI.2010.2046908.
"""

__all__ = ["correct_bias", "cosine_field"]

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medsci.core import Rng, Slicewise
from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.metrics import head_mask
from medsci.recon.restoration import Restored, as_type_of, check_volume, mmse
from medsci.recon.restore_problem import RealImages, Slices, slices_of
from medsci.recon.restore_settings import PriorUnits, RestoreSettings

Progress = Callable[[int, int, str], None]

_ROUNDS = 8
_LEVELS = (0.3, 0.05)  # noise the rest of the field is taken for, first and last round
_WAVELENGTH_MM = 120.0  # shortest full wave of the cosine series
_COARSE_MM = 4.0  # n4 works on voxels of about this size
_N4_LEVELS = 3  # of doubling the spline's knots; more lets it follow anatomy in a slab
_N4_ITERATIONS = 50
_LEAST = 0.05  # of the bright tissue; darker voxels say nothing about the field


def correct_bias(
    volume: Volume,
    prior: nn.Module | None,
    *,
    settings: RestoreSettings,
    units: PriorUnits,
    progress: Progress | None = None,
) -> Restored:
    """Divide the field out.

    Raises:
        InvalidInputError: the image has no object, or units in which a factor has no meaning.
    """
    if units.window_hu is not None and settings.chosen == "prior":
        raise InvalidInputError("Hounsfield units have no multiplicative field; use an MRI prior")
    if float(volume.array.min()) < 0.0:
        raise InvalidInputError(
            f"values go down to {float(volume.array.min()):g}; a multiplicative field needs "
            "magnitudes, which are not negative"
        )
    check_volume(volume)
    slices = slices_of(volume, PriorUnits(), device=settings.device)
    inside = torch.from_numpy(_object_of(slices)).to(slices.values.device)
    n_calls = 0
    if settings.chosen == "n4":
        log_field = _by_n4(slices, inside, progress)
    else:
        if prior is None:
            raise InvalidInputError("method prior needs a prior; load one")
        log_field, n_calls = _by_prior(slices, inside, prior, settings=settings, progress=progress)
    log_field = log_field - log_field[inside].mean()
    field = log_field.exp()
    intensity = slices.intensity
    home = slices.volume(slices.values * intensity.scale / field).to_grid_of(volume)
    info: dict[str, Any] = {
        "task": "bias",
        "method": settings.chosen,
        "samples": 1,
        "network_calls": n_calls,
        "field_range": [float(field[inside].min()), float(field[inside].max())],
        "intensity_scale": intensity.scale,
        "slices": len(slices.values),
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }
    return Restored(
        as_type_of(volume, home),
        bias_field=slices.volume(field).to_grid_of(volume),
        info=info,
    )


def _object_of(slices: Slices) -> Bool[np.ndarray, "n rows columns"]:
    values = slices.values.cpu().numpy()
    return np.asarray(head_mask(values, spacing_mm=slices.spacing_mm)) & (values > _LEAST)


def _by_n4(slices: Slices, inside: Tensor, progress: Progress | None) -> Tensor:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(slices.values.cpu().numpy())
    image.SetSpacing(tuple(reversed(slices.spacing_mm)))
    mask = SimpleITK.GetImageFromArray(inside.cpu().numpy().astype(np.uint8))
    mask.CopyInformation(image)
    shrink = [
        max(1, min(round(_COARSE_MM / step), n // 8))
        for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    small, small_mask = SimpleITK.Shrink(image, shrink), SimpleITK.Shrink(mask, shrink)
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # so that equal runs give equal bytes on any machine
    n4.SetMaximumNumberOfIterations([_N4_ITERATIONS] * _N4_LEVELS)
    if progress is not None:
        progress(0, 1, "n4")
    try:
        n4.Execute(small, small_mask)
        found = n4.GetLogBiasFieldAsImage(image)
    except RuntimeError as error:
        raise InvalidInputError(
            "n4 cannot fit a field to this image; it needs at least a few slices of an object "
            "with some contrast"
        ) from error
    if progress is not None:
        progress(1, 1, "n4")
    return torch.from_numpy(SimpleITK.GetArrayFromImage(found)).to(slices.values)


def _by_prior(
    slices: Slices,
    inside: Tensor,
    prior: nn.Module,
    *,
    settings: RestoreSettings,
    progress: Progress | None,
) -> tuple[Tensor, int]:
    from medsci.inverse.measurement import Measurement
    from medsci.operators import IdentityOp

    chunk = settings.chunk or (4 if settings.device == "cpu" else 32)
    denoiser = Slicewise(RealImages(prior), chunk=chunk)
    rounds = settings.n_steps or _ROUNDS
    values = slices.values
    log_field = torch.zeros_like(values)
    rng = Rng(settings.seed, range(len(values)))
    for index in range(rounds):
        share = index / max(rounds - 1, 1)
        level = _LEVELS[0] ** (1.0 - share) * _LEVELS[1] ** share
        flat = values / log_field.exp()
        image = torch.complex(flat, torch.zeros_like(flat))
        seen = Measurement(image, IdentityOp(), noise=level)
        restored = mmse(seen, denoiser, rng=rng.spawn(index)).image.real
        known = inside & (restored > _LEAST)
        weights = torch.where(known, restored.clamp(0.0, 1.0) ** 2, 0.0)
        ratio = torch.where(known, values / restored.clamp_min(_LEAST), 1.0).clamp_min(1e-3).log()
        log_field = cosine_field(ratio, weights, spacing_mm=slices.spacing_mm)
        if progress is not None:
            progress(index + 1, rounds, "bias field")
    return log_field, rounds


def cosine_field(
    values: Float[Tensor, "n rows columns"],
    weights: Float[Tensor, "n rows columns"],
    *,
    spacing_mm: tuple[float, float, float],
    wavelength_mm: float = _WAVELENGTH_MM,
    ridge: float = 1e-4,
) -> Float[Tensor, "n rows columns"]:
    """Fit a product series of cosines with waves of at least `wavelength_mm` by least squares.

    Args:
        values: what to fit.
        weights: of the squares, not negative; 0 where nothing is known.
        spacing_mm: voxel size.
        wavelength_mm: shortest full wave.
        ridge: keeps coefficients that the weights say nothing about small, relative to the mean
            weight.

    Returns:
        The series everywhere.
    """
    bases = [
        _cosines(n, int(2.0 * n * step / wavelength_mm) + 1)
        for n, step in zip(values.shape, spacing_mm, strict=True)
    ]
    wide = [basis.to(device=values.device) for basis in bases]
    weight = weights.double()
    right = torch.einsum("zyx,zc,yb,xa->cba", weight * values.double(), *wide)
    squares = [torch.einsum("ni,nj->nij", basis, basis) for basis in wide]
    gram = torch.einsum("zyx,xad->zyad", weight, squares[2])
    gram = torch.einsum("zyad,ybe->zabde", gram, squares[1])
    gram = torch.einsum("zabde,zcf->cbafed", gram, squares[0])
    size = right.numel()
    matrix = gram.reshape(size, size)
    total = float(weight.mean())
    if not total > 0.0:
        raise InvalidInputError("no voxel says anything about the field; the image is dark")
    matrix = matrix + ridge * total * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    solved = torch.linalg.solve(matrix, right.reshape(size)).reshape(right.shape)
    return torch.einsum("cba,zc,yb,xa->zyx", solved, *wide).to(values.dtype)


def _cosines(n: int, order: int) -> Float[Tensor, "n order"]:
    """Return the first orthonormal cosines on n points, in columns."""
    place = (torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n)
    k = torch.arange(min(order, n), dtype=torch.float64)
    waves = torch.cos(place[:, None] * k) * (2.0 / n) ** 0.5
    waves[:, 0] = n**-0.5
    return waves
