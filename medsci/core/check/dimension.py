"""Intrinsic dimension: how many directions the data vary in, read off a denoiser.

Near data that fill a d-dimensional surface the score points back to the surface, along its normals.
Two estimates use that, each at one noise level, in the units of the level itself:

    spectrum     among the singular values of the scores of a noisy cloud around one sample, minus
                 their mean, the n - d normals stand out: d is where the gap is
    divergence   d = n + sigma^2 (div s + |s|^2) = alpha div D + |alpha D - x|^2 / sigma^2
                 at a clean sample, x = alpha x0, with the denoiser D and the score s

The mean is the sample's own offset from the middle of the data, a tangent direction; kept in the
cloud it passes for a normal and lowers d by one wherever that offset is large.

The level must be small against the curvature and the spread of the data and large against their
thickness: data with a floor of sd tau add about `2 (n - d) tau^2 / sigma^2` to the divergence
estimate, while the gap only needs `tau < sigma`. Scan the level; trust a plateau.

Source: Stanczuk et al. 2022, arXiv:2212.12611 (spectrum, without the subtraction); Horvat and
Pfister 2024, arXiv:2402.03845, and Kamkari et al. 2024, arXiv:2406.03537 (divergence).
"""

__all__ = ["SpectrumDimension", "dimension_by_divergence", "dimension_by_spectrum"]

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medsci.core.check.field import random_signs, value_and_divergence
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve.plan import DenoiseFn

_TAG_CLOUD = 0xD1


@final
@dataclass(frozen=True)
class SpectrumDimension:
    """Dimensions found by the gap in a spectrum.

    Attributes:
        dimension: of the data around every sample, 1 to n - 1: a gap has two sides.
        spectrum: sd of `sigma score` along its principal directions, largest first; 1 for a normal.
        gap: ratio of the two singular values at the gap; near 1 there is none.
    """

    dimension: Int[Tensor, " b"]
    spectrum: Float[Tensor, "b n"]
    gap: Float[Tensor, " b"]


def dimension_by_spectrum(
    denoise: DenoiseFn,
    x0: Float[Tensor, " b *d"],
    *,
    path: Path,
    t: float,
    rng: Rng,
    cloud: int | None = None,
) -> SpectrumDimension:
    """Return the intrinsic dimension around every sample, by the gap in the spectrum of scores.

    Args:
        denoise: `denoise(x, t) -> x0`.
        x0: clean samples.
        path: the path of the denoiser's states.
        t: the time that sets the noise level.
        rng: one stream per sample.
        cloud: noisy copies per sample; four times the number of entries if left out.
    """
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    n = x0[0].numel()
    cloud = 4 * n if cloud is None else cloud
    if cloud < n:
        raise ValueError(f"a cloud of {cloud} came for {n} entries; give at least as many copies")
    shape = (1, cloud, *x0.shape[1:])
    spectra = []
    with torch.no_grad():
        for sample, i in zip(x0, rng.ids, strict=True):
            z = Rng(rng.seed, [i]).normal(shape, step=0, tag=_TAG_CLOUD, dtype=x0.dtype)
            x = alpha * sample + sigma * z[0].to(x0.device)
            scaled = (alpha * denoise(x, t) - x).flatten(1) / sigma
            centred = scaled - scaled.mean(0)
            spectra.append(torch.linalg.svdvals(centred) / cloud**0.5)
    spectrum = torch.stack(spectra)
    ratios = spectrum[:, :-1] / spectrum[:, 1:].clamp_min(torch.finfo(spectrum.dtype).tiny)
    gap, normals = ratios.max(1)
    return SpectrumDimension(n - 1 - normals, spectrum, gap)


def dimension_by_divergence(
    denoise: DenoiseFn,
    x0: Float[Tensor, " b *d"],
    *,
    path: Path,
    t: float,
    rng: Rng | None = None,
    probes: int = 1,
) -> Float[Tensor, " b"]:
    """Return `n + sigma^2 (div s + |s|^2)` at every clean sample; average over samples.

    Args:
        denoise: `denoise(x, t) -> x0`.
        x0: clean samples.
        path: the path of the denoiser's states.
        t: the time that sets the noise level.
        rng: streams for random probes of the divergence; exact, one pass per entry, if left out.
        probes: per sample.
    """
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    x = alpha * x0
    signs = None if rng is None else random_signs(x, rng, probes)
    with torch.no_grad():
        estimate, trace = value_and_divergence(lambda x: denoise(x, t), x, probes=signs)
    return alpha * trace + ((alpha * estimate - x) / sigma).square().flatten(1).sum(1)
