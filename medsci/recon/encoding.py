"""From raw k-space to what a solver needs: operator, data and scale, with the phase taken out."""

__all__ = ["Encoding", "encode"]

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace
from medsci.inverse.measurement import Measurement
from medsci.operators import CartesianMriOp
from medsci.recon.baselines import sense_cg
from medsci.recon.coils import estimate_maps, low_resolution_phase, noise_variance
from medsci.recon.settings import MapsMethod


@final
@dataclass(frozen=True, eq=False)
class Encoding:
    """A measurement in the units of a prior.

    Attributes:
        op: complex image slices to k-space, unit norm. Its coil maps carry the low-resolution
            phase of the image, so the image that remains is real and positive but for details.
        y: k-space divided by `scale`, complex64 `(n_slices, n_coils, n_readout, n_phase)`.
        scale: what one unit of the image means in units of the file.
        noise_variance: mean `|noise|^2` of a k-space sample, estimated, in units of the prior.
    """

    op: CartesianMriOp
    y: Tensor
    scale: float
    noise_variance: float

    @cached_property
    def measured(self) -> Measurement:
        """The data as a solver takes them; only acquired samples count."""
        n_samples = int(self.op.mask.sum()) * (self.y.numel() // self.op.mask.numel())
        noise = (0.5 * self.noise_variance) ** 0.5
        return Measurement(self.y, self.op, noise=noise, n_data=2 * n_samples)


def encode(kspace: KSpace, *, maps: MapsMethod = "espirit", device: str = "cpu") -> Encoding:
    """Estimate coil maps and phase, and scale the data for a prior.

    One unit is the 99th percentile of the magnitude of a SENSE solution: the median over slices.

    Raises:
        InvalidInputError: stored maps are asked for and the file has none, or the data are zero.
    """
    data = torch.from_numpy(kspace.data).to(device)
    mask = torch.from_numpy(kspace.mask).to(device)
    if maps == "file":
        if kspace.maps is None:
            raise InvalidInputError(
                "maps=file was asked for, but this k-space file stores no coil maps; "
                "use espirit or low_res"
            )
        sensitivities = torch.from_numpy(kspace.maps).to(device)
    else:
        sensitivities = estimate_maps(data, mask, method=maps)
    phase = low_resolution_phase(data, sensitivities, mask)
    sensitivities = sensitivities * torch.polar(torch.ones_like(phase), phase)[:, None]
    op = CartesianMriOp(sensitivities, mask)
    rough = sense_cg(data, op, n_iter=8, ridge=1e-3)
    scale = float(torch.quantile(rough.abs().flatten(1), 0.99, dim=1).median())
    if not scale > 0.0:
        raise InvalidInputError(
            "the k-space data are zero almost everywhere; nothing to reconstruct"
        )
    variance = noise_variance(data, mask) / scale**2
    return Encoding(op=op, y=data / scale, scale=scale, noise_variance=variance)
