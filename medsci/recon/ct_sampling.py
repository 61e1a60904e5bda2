"""Reconstruction of sparse-view and limited-angle CT by sampling the posterior of a 2D prior."""

__all__ = ["default_ct_walk", "posterior_ct", "reconstruct_ct"]

from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from medsci.imaging import Volume
from medsci.imaging.sinogram import Sinogram
from medsci.inverse import AdmmTvSettings, Dds3dSettings
from medsci.recon.ct_encoding import CtEncoding, encode_ct, fbp_hu
from medsci.recon.drawing import (
    Posterior,
    Tell,
    denoiser_of,
    draw,
    misfit_of,
    plain_settings,
    walk_of,
)
from medsci.recon.hounsfield import hu_to_mu
from medsci.recon.orientation import prior_view
from medsci.recon.settings import ReconSettings

FALLBACK_WINDOW_HU = (-1000.0, 1000.0)
FEW_VIEWS = 16  # below, the data leave more open: start with more noise


def default_ct_walk(
    n_views: int, *, noise: float = 0.0, slice_spacing_mm: float = 1.0
) -> Dds3dSettings:
    """Return the walk of dds3d tuned on simulated anatomy and on the patient of the training data.

    Rays are not weighed by their photons: few CG steps do not get far in the worse conditioned
    problem, which costs 0.2 dB at 8 views and 1 dB at 24.

    Args:
        n_views: views over half a turn.
        noise: of the data, as of `Measurement`; its square ties the result to the prior's estimate.
        slice_spacing_mm: the coupling between slices weakens with their distance beyond 1 mm.
    """
    few = n_views < FEW_VIEWS
    return Dds3dSettings(
        n_steps=60,
        sigma_max=0.5 if few else 0.25,
        sigma_min=0.02 if few else 0.005,
        prox_noise=noise**2,
        consistency=AdmmTvSettings(n_cg=30, threshold=0.02 * min(1.0, 1.0 / slice_spacing_mm)),
    )


def posterior_ct(
    sinogram: Sinogram,
    prior: nn.Module | str | FilePath = "ct-2d",
    *,
    settings: ReconSettings | None = None,
    window_hu: tuple[float, float] | None = None,
    progress: Tell | None = None,
) -> Posterior:
    """Draw samples of the volume given its sinogram.

    Args:
        sinogram: the scan.
        prior: a denoiser of one-channel slices with its `path`, or a stored one by name or folder.
        settings: see `ReconSettings`; `maps` does not matter here.
        window_hu: the Hounsfield units that the prior knows as 0 and 1; as its model card says if
            None.
        progress: called as `progress(done, total, text)`.

    Returns:
        Volumes in Hounsfield units.

    Raises:
        InvalidInputError: the data cannot be encoded.
        UsageError: an option of the solver is wrong.
        WeightsError: no such prior, or its weights are not the recorded ones.

    Warns:
        UnitsWarning: the file does not say how much water attenuates.
    """
    settings = ReconSettings() if settings is None else settings
    denoiser = denoiser_of(prior, settings)
    window = _window_of(prior) if window_hu is None else window_hu
    if progress is not None:
        progress(0, 1, "projector")
    encoding = encode_ct(sinogram, window_hu=window, device=settings.device)
    spacing = float(np.linalg.norm(sinogram.affine[:3, sinogram.axes[0]]))
    base = None
    if settings.solver == "dds3d":
        noise = encoding.measured.noise
        base = default_ct_walk(sinogram.n_angles, noise=noise, slice_spacing_mm=spacing)
    walk = walk_of(settings, base=base)
    samples, n_calls = draw(
        encoding.measured,
        denoiser,
        settings=settings,
        walk=walk,
        view=prior_view(sinogram),
        tell=progress,
    )
    info = _info(encoding, samples, settings=settings, walk=walk)
    info |= {"network_calls": n_calls}
    return _summary(encoding, samples, info)


def reconstruct_ct(
    sinogram: Sinogram,
    prior: nn.Module | str | FilePath = "ct-2d",
    *,
    settings: ReconSettings | None = None,
    progress: Tell | None = None,
) -> Volume:
    """Return the mean of posterior samples as a volume; see `posterior_ct` for the rest."""
    return posterior_ct(sinogram, prior, settings=settings, progress=progress).mean


def _window_of(prior: nn.Module | str | FilePath) -> tuple[float, float]:
    if isinstance(prior, nn.Module):
        return FALLBACK_WINDOW_HU
    from medsci.models import find_model
    from medsci.models.store import read_config

    return read_config(find_model(prior)).window_hu or FALLBACK_WINDOW_HU


def _info(
    encoding: CtEncoding, samples: Tensor, *, settings: ReconSettings, walk: Any
) -> dict[str, Any]:
    scan = encoding.sinogram
    return {
        "method": settings.solver,
        "samples": settings.n_samples,
        **plain_settings(walk),
        "n_views": scan.n_angles,
        "span_degrees": _span_deg(scan.beam.angles),
        "n_bins": scan.beam.n_bins,
        "slices": scan.n_slices,
        "window_hu": [encoding.window.lo, encoding.window.hi],
        "mu_water": encoding.window.mu_water,
        "noise_of_line_integrals": encoding.noise,
        "operator_norm": encoding.norm,
        **_misfit(encoding, samples.mean(dim=0)),
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }


def _misfit(encoding: CtEncoding, image: Tensor) -> dict[str, float]:
    """Return the misfit of the line integrals as they stand in the file, and over their noise."""
    window = encoding.window
    mu = hu_to_mu(window.to_hu(image), mu_water=window.mu_water)
    y = torch.from_numpy(encoding.sinogram.data).to(mu.device)
    with torch.no_grad():
        left = torch.linalg.vector_norm(encoding.projector(mu) - y)
    relative = float(left / torch.linalg.vector_norm(y))
    return misfit_of(encoding.measured, image) | {"relative_data_misfit": relative}


def _span_deg(angles: Float64[np.ndarray, " n_angles"]) -> float:
    """Return the part of the circle that views cover: all but the largest gap, plus one step."""
    places = np.unique(np.round(np.degrees(angles), 6) % 360.0)
    gaps = np.sort(np.diff(places, append=places[0] + 360.0))
    step = float(np.median(gaps[:-1])) if len(gaps) > 1 else 0.0
    return round(360.0 - float(gaps[-1]) + step, 6)


def _summary(encoding: CtEncoding, samples: Tensor, info: dict[str, Any]) -> Posterior:
    scan = encoding.sinogram
    std = None
    if len(samples) > 1:
        spread = samples.std(dim=0) * (encoding.window.hi - encoding.window.lo)
        std = scan.to_volume(spread.float().cpu().numpy())
    return Posterior(
        mean=encoding.decode(samples.mean(dim=0)),
        std=std,
        simple=fbp_hu(scan, window="hann"),
        reference=None if scan.reference is None else scan.to_volume(scan.reference),
        info=info,
        modality="CT",
    )
