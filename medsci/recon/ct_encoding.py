"""From a sinogram to what a solver needs, and back to Hounsfield units.

A prior of CT slices knows images in which 0 and 1 are two Hounsfield units. The sinogram is mapped
along with the image, exactly (`medsci.recon.hounsfield`), and operator, data and noise are divided
by the norm of the operator.

With statistical weights W, rows of operator and data are multiplied by sqrt(W): then every datum
has the same noise, and least squares is the Gaussian likelihood.
"""

__all__ = ["CtEncoding", "WeightsMethod", "encode_ct", "fbp_hu"]

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.imaging.sinogram import Sinogram
from medsci.inverse.measurement import Measurement
from medsci.operators import LinearOp
from medsci.operators.filtered_backprojection import FilterWindow, filtered_backprojection
from medsci.operators.projector import projector
from medsci.recon.baselines import weighted
from medsci.recon.ct_noise import expected_noise, measured_noise, statistical_weights
from medsci.recon.hounsfield import AIR_HU, HuWindow, known_mu_water, mu_to_hu

WeightsMethod = Literal["none", "statistical"]


@final
@dataclass(frozen=True, eq=False)
class CtEncoding:
    """A CT scan as a measurement in the units of a prior.

    Attributes:
        measured: images (n_slices, n_rows, n_cols) in units of the prior, an operator of norm one,
            and data and noise that fit it.
        projector: the operator before weights and division by `norm`: pixels times mm.
        norm: of the operator with its weights; `measured.op` is that operator over `norm`.
        window: the Hounsfield units of 0 and 1, and the attenuation of water.
        noise: root mean square error of a line integral, in units of the sinogram; known from the
            photons or estimated.
        sinogram: what was encoded.
    """

    measured: Measurement
    projector: LinearOp
    norm: float
    window: HuWindow
    noise: float
    sinogram: Sinogram

    def decode(self, image: Float[Tensor, "n_slices n_rows n_cols"]) -> Volume:
        """Return a solver's image as a volume of Hounsfield units, float32, on the scan's grid."""
        hounsfield = self.window.to_hu(image.detach()).float().cpu().numpy()
        return self.sinogram.to_volume(hounsfield)

    def encode_image(self, volume: Volume) -> Float[Tensor, "n_slices n_rows n_cols"]:
        """Return a volume of Hounsfield units on the scan's grid in units of the prior."""
        stack = torch.from_numpy(self.sinogram.from_volume_array(volume.array)).float()
        return self.window.to_prior(stack).to(self.measured.y.device)


def encode_ct(
    sinogram: Sinogram,
    *,
    window_hu: tuple[float, float] = (AIR_HU, 2000.0),
    weights: WeightsMethod = "none",
    backend: str = "auto",
    memory_gib: float = 1.0,
    device: str = "cpu",
) -> CtEncoding:
    """Build operator, data and noise of a scan in the units of a prior.

    Args:
        sinogram: the scan.
        window_hu: the Hounsfield units of 0 and 1. They clip nothing.
        weights: `statistical` gives rays that many photons passed more weight.
        backend: of the projector.
        memory_gib: most memory of the projector.
        device: where to compute.

    Raises:
        InvalidInputError: the sinogram is zero everywhere.
        UsageError: unknown weights, or an empty window.

    Warns:
        UnitsWarning: the file does not say how much water attenuates.
    """
    if weights not in ("none", "statistical"):
        raise UsageError(f"weights={weights!r} came; choose none or statistical")
    lo, hi = map(float, window_hu)
    window = HuWindow(lo, hi, mu_water=known_mu_water(sinogram.mu_water))
    y = torch.from_numpy(sinogram.data).to(device)
    if not y.any():
        raise InvalidInputError("the sinogram is zero everywhere; nothing to reconstruct")
    op = projector(sinogram.beam, sinogram.grid, backend=backend, memory_gib=memory_gib).to(device)
    one = y.new_ones(1, *sinogram.grid.shape)
    data = window.sinogram_to_prior(y, op(one).expand_as(y))
    ray_weights = statistical_weights(y) if weights == "statistical" else None
    root = None if ray_weights is None else ray_weights.sqrt()
    noise = _noise(y, sinogram.photons, root=None)
    noise_of_data = _noise(y, sinogram.photons, root=root) / window.mu_span
    whole: LinearOp = op
    if ray_weights is not None:
        data, whole = weighted(data, op, weights=ray_weights)
    # Slices share the rays; only weights make their norms differ.
    norm = whole.norm(one if root is None else one.expand(len(y), -1, -1), n_iter=30)
    if not norm > 0.0:
        raise InvalidInputError("no ray meets the image; check the geometry of the sinogram")
    measured = Measurement(
        data / norm, whole * (1.0 / norm), noise=noise_of_data / norm, layout="real"
    )
    return CtEncoding(measured, op, norm, window, noise, sinogram)


def fbp_hu(
    sinogram: Sinogram,
    *,
    window: FilterWindow = "ramp",
    cutoff: float = 1.0,
    short_scan: Literal["auto", "off"] = "auto",
) -> Volume:
    """Reconstruct a scan in Hounsfield units by filtered backprojection.

    Args:
        sinogram: the scan.
        window, cutoff, short_scan: see `filtered_backprojection`.

    Warns:
        UnitsWarning: the file does not say how much water attenuates.
        UserWarning: a fan turned less than a short scan needs.
    """
    mu = filtered_backprojection(
        torch.from_numpy(sinogram.data),
        sinogram.beam,
        grid=sinogram.grid,
        window=window,
        cutoff=cutoff,
        short_scan=short_scan,
    )
    hounsfield = mu_to_hu(mu, mu_water=known_mu_water(sinogram.mu_water))
    return sinogram.to_volume(hounsfield.float().numpy())


def _noise(y: Tensor, photons: float | None, *, root: Tensor | None) -> float:
    """Return the root mean square noise of the (weighted) line integrals."""
    if photons is None:
        return measured_noise(y if root is None else root * y)
    each = expected_noise(y, photons=photons)
    each = each if root is None else root * each
    return float(each.double().square().mean().sqrt())
