"""Reconstruction of undersampled multi-coil MRI by sampling the posterior of a 2D prior."""

__all__ = ["default_settings", "posterior", "reconstruct"]

from pathlib import Path as FilePath
from typing import Any

import numpy as np
from torch import Tensor, nn

from medsci.imaging import KSpace, Volume
from medsci.inverse import AdmmTvSettings, Dds3dSettings
from medsci.recon.drawing import (
    Posterior,
    Tell,
    denoiser_of,
    draw,
    misfit_of,
    plain_settings,
    walk_of,
)
from medsci.recon.encoding import Encoding, encode
from medsci.recon.orientation import prior_view
from medsci.recon.settings import ReconSettings


def default_settings(
    acceleration: float, *, noise_variance: float = 0.0, slice_spacing_mm: float = 1.0
) -> Dds3dSettings:
    """Return the walk tuned on simulated heads, never on a real one.

    High accelerations take more steps and more CG steps. The tie to the prior's estimate grows
    with the noise of the data; the coupling between slices weakens with their distance beyond
    1 mm.

    Args:
        acceleration: lines of the full grid divided by lines acquired.
        noise_variance: mean `|noise|^2` of a k-space sample, in units of the prior.
        slice_spacing_mm: distance between slice centres.
    """
    steps, n_cg = (25, 8) if acceleration < 6.0 else (40, 12)
    return Dds3dSettings(
        n_steps=steps,
        prox_noise=0.2 * noise_variance,
        consistency=AdmmTvSettings(n_cg=n_cg, threshold=0.02 * min(1.0, 1.0 / slice_spacing_mm)),
    )


def posterior(
    kspace: KSpace,
    prior: nn.Module | str | FilePath,
    *,
    settings: ReconSettings | None = None,
    progress: Tell | None = None,
) -> Posterior:
    """Draw samples of the volume given its k-space.

    Args:
        kspace: the measurement.
        prior: a denoiser of two-channel slices with its `path`, or a stored one by name or folder.
        settings: see `ReconSettings`.
        progress: called as `progress(done, total, text)`.

    Raises:
        InvalidInputError: the data cannot be encoded.
        WeightsError: no such prior, or its weights are not the recorded ones.
    """
    settings = ReconSettings() if settings is None else settings
    denoiser = denoiser_of(prior, settings)
    if progress is not None:
        progress(0, 1, "coil maps and phase")
    encoding = encode(kspace, maps=settings.maps, device=settings.device)
    walk = walk_of(settings, base=_tuned(kspace, settings, variance=encoding.noise_variance))
    measured = encoding.measured
    samples, n_calls = draw(
        measured,
        denoiser,
        settings=settings,
        walk=walk,
        view=prior_view(kspace),
        tell=progress,
    )
    info = _info(kspace, encoding, settings=settings, walk=walk)
    info |= misfit_of(measured, samples.mean(dim=0)) | {"network_calls": n_calls}
    return _summary(kspace, encoding, samples, info)


def reconstruct(
    kspace: KSpace,
    prior: nn.Module | str | FilePath = "brain-t1-2d",
    *,
    settings: ReconSettings | None = None,
    progress: Tell | None = None,
) -> Volume:
    """Return the mean of posterior samples as a volume; see `posterior` for the rest."""
    return posterior(kspace, prior, settings=settings, progress=progress).mean


def _tuned(kspace: KSpace, settings: ReconSettings, *, variance: float) -> Dds3dSettings | None:
    if settings.solver != "dds3d":
        return None
    spacing = float(np.linalg.norm(kspace.affine[:3, kspace.axes[0]]))
    return default_settings(kspace.acceleration, noise_variance=variance, slice_spacing_mm=spacing)


def _info(
    kspace: KSpace, encoding: Encoding, *, settings: ReconSettings, walk: Any
) -> dict[str, Any]:
    return {
        "method": settings.solver,
        "samples": settings.n_samples,
        **plain_settings(walk),
        "noise_sd_estimated": (encoding.noise_variance**0.5) * encoding.scale,
        "coil_maps": settings.maps,
        "acceleration": kspace.acceleration,
        "coils": kspace.n_coils,
        "slices": kspace.n_slices,
        "scale": encoding.scale,
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }


def _summary(
    kspace: KSpace, encoding: Encoding, samples: Tensor, info: dict[str, Any]
) -> Posterior:
    spread = samples.abs().std(dim=0) if len(samples) > 1 else None

    def volume(image: Tensor) -> Volume:
        return kspace.to_volume((image * encoding.scale).float().cpu().numpy())

    return Posterior(
        mean=volume(samples.mean(dim=0).abs()),
        std=None if spread is None else volume(spread),
        simple=volume(encoding.op.adjoint(encoding.y).abs()),
        reference=None if kspace.reference is None else kspace.to_volume(kspace.reference),
        info=info,
    )
