"""Noise of X-ray transmission: counted photons, what their logarithm does, and how to weigh it.

A ray with line integral y lets through N photons, Poisson distributed with mean `I0 exp(-y)`, and
is recorded as `-ln(N / I0)`. Where many photons arrive, its error is close to Gaussian with
variance `1 / (I0 exp(-y))`; where fewer than about ten do, the logarithm is biased as well.

Source: Macovski 1983, Medical Imaging Systems, ch. 3; Sauer and Bouman 1993,
doi:10.1109/78.193196 (weighted least squares).
"""

__all__ = [
    "add_gaussian_noise",
    "add_photon_noise",
    "expected_noise",
    "measured_noise",
    "statistical_weights",
]

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core import Rng, mix64
from medsci.errors import UsageError

Sino = Float[Tensor, "n_slices n_angles n_bins"]

_TAG_COUNTS = 0xC7
_EIGHTH = (1.0, -8.0, 28.0, -56.0, 70.0, -56.0, 28.0, -8.0, 1.0)  # binomial coefficients
_EIGHTH_POWER = 12870.0  # their sum of squares
_MAD_OF_NORMAL = 0.6744897501960817


def add_photon_noise(y: Sino, *, photons: float, rng: Rng, floor: float = 1.0) -> Sino:
    """Return the logarithm of Poisson counts.

    Args:
        y: line integrals.
        photons: I0, photons per ray and view without an object.
        rng: one id per slice.
        floor: counts below it are taken as it, so that the logarithm of no photon is finite.

    Raises:
        UsageError: `photons` or `floor` is not positive.
    """
    _check(photons)
    if not floor > 0.0:
        raise UsageError(f"floor={floor} came; give a positive number of photons")
    noisy = torch.empty_like(y)
    for out, line, sample in zip(noisy, y, rng.ids, strict=True):
        generator = torch.Generator().manual_seed(mix64(rng.seed, sample, 0, _TAG_COUNTS))
        mean = photons * torch.exp(-line.detach().double().cpu())
        counts = torch.poisson(mean, generator=generator).clamp(min=floor)
        out.copy_(-torch.log(counts / photons))
    return noisy


def add_gaussian_noise(y: Sino, *, photons: float, rng: Rng) -> Sino:
    """Return y plus normal noise of variance `1 / (I0 exp(-y))`, the limit of many photons."""
    noise = rng.normal(y.shape, step=0, tag=_TAG_COUNTS, dtype=y.dtype, device=y.device)
    return y + noise * expected_noise(y, photons=photons)


def expected_noise(y: Sino, *, photons: float) -> Sino:
    """Return the standard deviation of each line integral, `exp(y / 2) / sqrt(I0)`.

    Raises:
        UsageError: `photons` is not positive.
    """
    _check(photons)
    return torch.exp(y / 2) * photons**-0.5


def statistical_weights(y: Sino, *, smooth_bins: int = 5) -> Sino:
    """Return the expected counts of every ray, relative to their mean: `exp(-y) / mean`.

    They do not depend on I0. Measured y are averaged over a few bins first: a weight that knows the
    noise of its own datum favours data that came out too low.

    Args:
        y: line integrals.
        smooth_bins: length of the average along the detector, odd; 1 for none.

    Raises:
        UsageError: an even or too small `smooth_bins`.
    """
    if smooth_bins < 1 or smooth_bins % 2 == 0:
        raise UsageError(f"smooth_bins={smooth_bins} came; give an odd number of bins")
    half = smooth_bins // 2
    padded = torch.nn.functional.pad(y, (half, half), mode="replicate")
    smooth = padded.unfold(-1, smooth_bins, 1).mean(-1)
    weights = torch.exp(-(smooth - smooth.min()))
    return weights / weights.mean()


@torch.no_grad()
def measured_noise(y: Sino, *, n_levels: int = 8) -> float:
    """Estimate the root mean square noise of a sinogram from itself.

    Eighth differences along the detector keep white noise and remove what is smooth; the median of
    their size, over 0.6745 sqrt(12870), is the noise. Rays are sorted into equally large groups of
    similar attenuation first, since noise grows with it. On a simulated scan of a head it comes out
    0 % too high with 3000 photons per ray, 6 % with 100 000 and 28 % with a million, where edges
    outweigh the noise. Noise that the detector correlates between neighbouring bins is
    underestimated. A sinogram of fewer than 9 bins gives 0.

    Args:
        y: line integrals.
        n_levels: number of groups.

    Source: Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425 (median rule).
    """
    if y.shape[-1] < len(_EIGHTH):
        return 0.0
    windows = y.double().unfold(-1, len(_EIGHTH), 1)
    differences = (windows @ y.new_tensor(_EIGHTH, dtype=torch.float64)).flatten()
    order = windows.mean(-1).flatten().argsort(stable=True)
    groups = differences[order].abs().chunk(n_levels)
    squares = torch.stack([group.median() ** 2 for group in groups])
    return float(squares.mean().sqrt()) / (_MAD_OF_NORMAL * _EIGHTH_POWER**0.5)


def _check(photons: float) -> None:
    if not photons > 0.0:
        raise UsageError(f"photons={photons} came; give the photons per ray without an object")
