"""Reconstruction of undersampled multi-coil MRI by sampling the posterior of a 2D prior."""

__all__ = ["Posterior", "default_settings", "posterior", "reconstruct"]

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from medsci.core import Rng, Slicewise, mix64
from medsci.imaging import KSpace, Volume
from medsci.inverse import AdmmTvSettings, Dds3dSettings, dds3d
from medsci.recon.encoding import Encoding, encode
from medsci.recon.orientation import Oriented, prior_view
from medsci.recon.settings import ReconSettings

Progress = Callable[[int, int, str], None]


@final
@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of the image given the data, summarised.

    Attributes:
        mean: magnitude of the mean of the samples, float32, in the units of the k-space file.
        std: standard deviation of the samples' magnitudes per voxel; None for one sample.
        zero_filled: magnitude of the adjoint solution.
        reference: the fully sampled truth, where the file has one.
        info: what was done, as plain numbers and words for a sidecar.
    """

    mean: Volume
    std: Volume | None
    zero_filled: Volume
    reference: Volume | None
    info: dict[str, Any] = field(default_factory=dict)


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
    progress: Progress | None = None,
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
    say = (lambda *_: None) if progress is None else progress
    denoiser = _load(prior, settings)
    say(0, 1, "coil maps and phase")
    encoding = encode(kspace, maps=settings.maps, device=settings.device)
    walk = _walk(kspace, settings, noise_variance=encoding.noise_variance)
    total = settings.n_samples * walk.n_steps
    view = Oriented(denoiser, prior_view(kspace))
    chunked = Slicewise(view, chunk=settings.chunk or _default_chunk(settings.device))
    samples = []
    for index in range(settings.n_samples):
        rng = Rng(mix64(settings.seed, index), range(kspace.n_slices))

        def report(done: int, _: int, sample: int = index) -> None:
            text = f"sample {sample + 1} of {settings.n_samples}"
            say(sample * walk.n_steps + done, total, text)

        drawn = dds3d(encoding.y, encoding.op, chunked, rng=rng, settings=walk, progress=report)
        samples.append(drawn)
    return _summary(kspace, encoding, torch.stack(samples), settings=settings, walk=walk)


def reconstruct(
    kspace: KSpace,
    prior: nn.Module | str | FilePath = "brain-t1-2d",
    *,
    settings: ReconSettings | None = None,
    progress: Progress | None = None,
) -> Volume:
    """Return the mean of posterior samples as a volume; see `posterior` for the rest."""
    return posterior(kspace, prior, settings=settings, progress=progress).mean


def _load(prior: nn.Module | str | FilePath, settings: ReconSettings) -> nn.Module:
    if isinstance(prior, nn.Module):
        return prior
    from medsci.models import load_denoiser

    return load_denoiser(prior, device=settings.device, precision=settings.precision)


def _walk(kspace: KSpace, settings: ReconSettings, *, noise_variance: float) -> Dds3dSettings:
    spacing = float(np.linalg.norm(kspace.affine[:3, kspace.axes[0]]))
    walk = default_settings(
        kspace.acceleration, noise_variance=noise_variance, slice_spacing_mm=spacing
    )
    if settings.n_steps is not None:
        walk = replace(walk, n_steps=settings.n_steps)
    if settings.n_cg is not None:
        walk = replace(walk, consistency=replace(walk.consistency, n_cg=settings.n_cg))
    return walk


def _default_chunk(device: str) -> int:
    return 4 if device == "cpu" else 32


def _summary(
    kspace: KSpace,
    encoding: Encoding,
    samples: Tensor,
    *,
    settings: ReconSettings,
    walk: Dds3dSettings,
) -> Posterior:
    mean = samples.mean(dim=0)
    residual = encoding.op(mean) - encoding.y
    misfit = float(residual.abs().square().sum() / encoding.y.abs().square().sum()) ** 0.5
    spread = samples.abs().std(dim=0) if len(samples) > 1 else None

    def volume(image: Tensor) -> Volume:
        return kspace.to_volume((image * encoding.scale).float().cpu().numpy())

    info = {
        "method": "dds3d",
        "samples": settings.n_samples,
        "steps": walk.n_steps,
        "cg_steps": walk.consistency.n_cg,
        "eta": walk.eta,
        "noise_sd_estimated": (encoding.noise_variance**0.5) * encoding.scale,
        "prox_noise": walk.prox_noise,
        "slice_coupling_threshold": walk.consistency.threshold,
        "slice_coupling_rho": walk.consistency.rho,
        "coil_maps": settings.maps,
        "acceleration": kspace.acceleration,
        "coils": kspace.n_coils,
        "slices": kspace.n_slices,
        "scale": encoding.scale,
        "relative_data_misfit": misfit,
        "seed": settings.seed,
        "precision": settings.precision,
        "device": settings.device,
    }
    return Posterior(
        mean=volume(mean.abs()),
        std=None if spread is None else volume(spread),
        zero_filled=volume(encoding.op.adjoint(encoding.y).abs()),
        reference=None if kspace.reference is None else kspace.to_volume(kspace.reference),
        info=info,
    )
