"""Prewhitening: coils are combined so that their noise is independent and of equal power.

Least squares, and so every data-consistency step, weighs all coils alike; that is right only for
white noise. With `C = E[n n^H] = L L^H` and `W = L^-1`, the model `y = S x + n` becomes
`W y = (W S) x + W n`, the same image, with `E[(W n)(W n)^H] = 1`. Coil maps therefore go the same
way as the data, or are estimated afterwards.

Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241, appendix B.
"""

__all__ = ["edge_noise_covariance", "prewhiten", "prewhiten_kspace"]

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace
from medsci.imaging.whitening import noise_covariance as covariance_of
from medsci.imaging.whitening import whitening_matrix


def prewhiten(
    data: Complex[Tensor, "n_slices n_coils *space"],
    noise_covariance: Complex[Tensor, "n_noise n_noise"],  # compared below, in words
) -> Complex[Tensor, "n_slices n_coils *space"]:
    """Return `W data`: k-space or coil maps, W the inverse of the covariance's Cholesky factor.

    Args:
        data: coils along dimension 1.
        noise_covariance: `E[n n^H]` of a k-space sample.

    Raises:
        InvalidInputError: the covariance is of another number of coils, not Hermitian or not
            positive definite.
    """
    if noise_covariance.shape[0] != data.shape[1]:
        raise InvalidInputError(
            f"the noise covariance is of {noise_covariance.shape[0]} coils and the data of "
            f"{data.shape[1]}; give that of the same coils"
        )
    matrix = torch.from_numpy(whitening_matrix(noise_covariance.cpu().numpy()))
    return torch.einsum("dc,sc...->sd...", matrix.to(data), data)


def edge_noise_covariance(
    kspace: Complex[Tensor, "n_slices n_coils n_readout n_phase"], mask: Bool[Tensor, " n_phase"]
) -> Complex[Tensor, "n_coils n_coils"]:
    """Estimate the noise covariance from the outermost samples, for data without a noise scan.

    Taken are the ends of the readouts, a sixteenth on each side, of the outer half of the acquired
    lines. What signal is left there counts as noise, so the result is an upper bound. Readouts
    whose ends are all zero (an asymmetric echo, filled up) are left out.

    Args:
        kspace: measured, zero frequency at `n // 2`.
        mask: acquired lines.

    Raises:
        InvalidInputError: too few samples are left, or a coil shows no noise at all.
    """
    lines = torch.nonzero(mask)[:, 0]
    away = (lines - mask.numel() // 2).abs()
    outer = lines[away >= away.float().median()]
    width = max(kspace.shape[2] // 16, 1)
    ends = torch.cat((kspace[:, :, :width, outer], kspace[:, :, -width:, outer]), dim=2)
    samples = ends.transpose(0, 1).flatten(1)
    samples = samples[:, samples.abs().sum(dim=0) > 0]
    if samples.shape[1] < 2 * samples.shape[0]:
        raise InvalidInputError(
            f"{samples.shape[1]} samples at the edge of k-space hold anything, too few for the "
            f"noise of {samples.shape[0]} coils; give the covariance of a noise scan"
        )
    return torch.from_numpy(covariance_of(samples.cpu().numpy())).to(kspace.dtype)


def prewhiten_kspace(
    kspace: KSpace, *, noise_covariance: Complex[Tensor, "n_coils n_coils"] | None = None
) -> KSpace:
    """Return the same scan with white noise of variance 1, its maps transformed with it.

    Maps are not divided by their root sum of squares again, so that the image stays in its units.
    Without maps those units are lost, and the reference with them.

    Args:
        kspace: the scan.
        noise_covariance: `E[n n^H]`; from the edge of k-space if None.

    Raises:
        InvalidInputError: see `prewhiten` and `edge_noise_covariance`.
    """
    data = torch.from_numpy(kspace.data)
    if noise_covariance is None:
        noise_covariance = edge_noise_covariance(data, torch.from_numpy(kspace.mask))
    maps = kspace.maps
    if maps is not None:
        maps = prewhiten(torch.from_numpy(maps), noise_covariance).numpy()
    return replace(
        kspace,
        data=prewhiten(data, noise_covariance).numpy().astype(np.complex64),
        maps=maps,
        reference=None if maps is None else kspace.reference,
        attributes={**kspace.attributes, "whitened": True},
    )
