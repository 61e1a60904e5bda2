"""Filtered backprojection of parallel and fan-beam sinograms.

For parallel rays with views over 180 degrees

    mu(x) = sum_a w_a (h * y_a)(x cos theta_a + y sin theta_a),    sum_a w_a = pi,

with the band-limited ramp in the spatial domain, for bins of pitch d: `h_0 = 1/(4 d)`, `h_k = 0` at
even k, `h_k = -1/(pi^2 k^2 d)` at odd k (the sum over bins carries the d of the integral). Built
so, and zero padded to twice the detector, it has the right mean; a ramp sampled in frequency does
not. A fan is weighted by the cosine of the ray, filtered on its detector and summed with the
squared distance from the source.

The result is linear in the sinogram. For white noise of standard deviation s in the bins, its
variance per pixel with the plain ramp and A equal views over 180 degrees is close to
`(pi s / d)^2 (1/18 - 1/(6 pi^2)) / A`.

Source: Kak and Slaney 1988, Principles of Computerized Tomographic Imaging, ch. 3, eq. 61, 87 and
107; Ramachandran and Lakshminarayanan 1971, doi:10.1073/pnas.68.9.2236; Shepp and Logan 1974,
doi:10.1109/TNS.1974.6499235.
"""

__all__ = ["FilterWindow", "filtered_backprojection"]

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import Beam, FanBeam, ImageGrid, ParallelBeam
from medsci.operators._redundancy import fan_redundancy, view_widths

FilterWindow = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]
_SLICES_PER_PASS = 32
_Ray = Callable[[int], tuple[Tensor, Tensor | None]]


def filtered_backprojection(
    y: Float[Tensor, "n_slices n_angles n_bins"],
    beam: Beam,
    *,
    grid: ImageGrid,
    window: FilterWindow = "ramp",
    cutoff: float = 1.0,
    short_scan: Literal["auto", "off"] = "auto",
) -> Float[Tensor, "n_slices n_rows n_cols"]:
    """Reconstruct attenuation in 1/mm from line integrals.

    Args:
        y: dimensionless line integrals; slices are reconstructed together.
        beam: where the rays ran. Views need not be equally spaced or sorted.
        grid: where the image is. Pixels that no ray of a view meets get nothing from it.
        window: what multiplies the ramp in frequency: 1, sinc, cosine, Hamming or Hann, each
            reaching its end at the cut-off.
        cutoff: highest frequency kept, as a fraction of Nyquist's, in (0, 1].
        short_scan: for a fan that turned less than 360 degrees: `auto` weights rays that were
            measured twice by Parker's rule where the scan suffices for it; `off` never.

    Raises:
        InvalidInputError: the sinogram is not of the beam's size.
        UsageError: unknown window, or a cut-off outside (0, 1].

    Warns:
        UserWarning: a fan turned less than a short scan needs.
    """
    if tuple(y.shape[1:]) != (beam.n_angles, beam.n_bins):
        raise InvalidInputError(
            f"the sinogram has {tuple(y.shape[1:])} views and bins, the beam "
            f"{(beam.n_angles, beam.n_bins)}; give the geometry of this very scan"
        )
    if window not in get_args(FilterWindow):
        raise UsageError(f"window={window!r} came; choose one of {get_args(FilterWindow)}")
    if not 0.0 < cutoff <= 1.0:
        raise UsageError(f"cutoff={cutoff} came; give a fraction of Nyquist's frequency in (0, 1]")
    across, down = _pixels(grid, y)
    if isinstance(beam, ParallelBeam):
        weights, step, ray = _parallel(beam, across, down)
        filtered = _filter(y * _like(weights, y), _kernel(beam.n_bins), window, cutoff) / step
    else:
        weights, step, ray = _fan(beam, across, down, short_scan)
        kernel = _kernel(beam.n_bins, step_rad=step if beam.curved else None)
        filtered = _filter(y * _like(weights, y), kernel, window, cutoff) / step
    size = grid.n_rows * grid.n_cols
    parts = [_backproject(part, ray, beam, size).T for part in filtered.split(_SLICES_PER_PASS)]
    return torch.cat(parts).reshape(y.shape[0], *grid.shape)


def _parallel(beam: ParallelBeam, across: Tensor, down: Tensor) -> tuple[np.ndarray, float, _Ray]:
    """Return weights (n_angles, 1), bin pitch, and where on the detector a pixel is seen."""

    def ray(view: int) -> tuple[Tensor, None]:
        theta = float(beam.angles[view])
        cos, sin = math.cos(theta) / beam.bin_mm, math.sin(theta) / beam.bin_mm
        return across * cos + down * sin, None

    return view_widths(beam.angles, period=math.pi)[:, None], beam.bin_mm, ray


def _fan(
    beam: FanBeam, across: Tensor, down: Tensor, short_scan: Literal["auto", "off"]
) -> tuple[np.ndarray, float, _Ray]:
    """Return weights (n_angles, n_bins), pitch, and where and how strongly a pixel is seen.

    A flat detector is filtered as if it stood at the rotation centre, pitch in mm; an arc in its
    angle, pitch in rad.
    """
    radius, reach = beam.source_mm, beam.source_mm + beam.detector_mm
    gammas = beam.fan_angles()
    weights = view_widths(beam.angles, period=2 * math.pi)[:, None] * np.cos(gammas)
    weights = weights * fan_redundancy(beam.angles, gammas, short_scan=short_scan)

    def ray(view: int) -> tuple[Tensor, Tensor]:
        beta = float(beam.angles[view])
        depth = (radius - across * math.sin(beta)) + down * math.cos(beta)
        aside = across * math.cos(beta) + down * math.sin(beta)
        slope = torch.atan2(aside, depth) if beam.curved else aside / depth
        seen = depth > 1e-6 * radius  # nothing behind the source
        scale = radius if beam.curved else radius**2
        strength = torch.where(seen, scale / (aside**2 * beam.curved + depth**2), 0.0)
        return torch.where(seen, slope * (reach / beam.bin_mm), math.inf), strength

    step = beam.bin_mm / reach
    return weights, step if beam.curved else step * radius, ray


def _like(weights: np.ndarray, y: Tensor) -> Tensor:
    return torch.from_numpy(weights).to(device=y.device, dtype=y.dtype)


def _pixels(grid: ImageGrid, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (1, n_cols) and y (n_rows, 1) in mm, of the number type of the sinogram."""
    down, across = (torch.from_numpy(centres).to(y.device, y.dtype) for centres in grid.centres())
    return across[None], down[:, None]


def _kernel(n_bins: int, *, step_rad: float | None = None) -> Tensor:
    """Return the ramp over a detector twice as long, for pitch 1: 1/4, odd -1/(pi k)^2.

    On an arc of equal angles, k becomes `sin(k step) / step`.
    """
    size = 2 ** math.ceil(math.log2(2 * n_bins))
    k = torch.arange(size, dtype=torch.float64)
    k = torch.minimum(k, size - k)
    distance = k if step_rad is None else torch.sin(k * step_rad) / step_rad
    kernel = torch.where(k % 2 == 1, -1.0 / (math.pi * distance) ** 2, 0.0)
    if step_rad is not None:
        kernel[k >= n_bins] = 0.0  # no two bins are that far apart, and the sine may vanish
    kernel[0] = 0.25
    return kernel


def _filter(y: Tensor, kernel: Tensor, window: FilterWindow, cutoff: float) -> Tensor:
    """Convolve along the bins with the windowed kernel."""
    response = torch.fft.rfft(kernel).real
    f = torch.linspace(0.0, 1.0, response.numel(), dtype=torch.float64) / cutoff
    response = torch.where(f <= 1.0, response * _window(f, window), 0.0)
    response = response.to(device=y.device, dtype=y.dtype)
    spectrum = torch.fft.rfft(y, n=kernel.numel()) * response
    return torch.fft.irfft(spectrum, n=kernel.numel())[..., : y.shape[-1]]


def _window(f: Tensor, window: FilterWindow) -> Tensor:
    if window == "shepp-logan":
        return torch.sinc(f / 2)
    if window == "cosine":
        return torch.cos(math.pi / 2 * f)
    if window == "hamming":
        return 0.54 + 0.46 * torch.cos(math.pi * f)
    if window == "hann":
        return 0.5 + 0.5 * torch.cos(math.pi * f)
    return torch.ones_like(f)


def _backproject(filtered: Tensor, ray: _Ray, beam: Beam, size: int) -> Tensor:
    """Sum over the views what each shows at every pixel, linear between bins: (pixels, slices)."""
    rows = torch.nn.functional.pad(filtered.permute(1, 2, 0), (0, 0, 1, 2)).contiguous()
    image = filtered.new_zeros(size, filtered.shape[0])
    middle = (beam.n_bins - 1) / 2 - beam.offset_bins + 1.0  # a zero bin was added in front
    for view in range(rows.shape[0]):
        bins, strength = ray(view)
        # Beyond the outermost bins the sum is zero: those pixels read the added bins.
        position = (bins + middle).clamp(0.0, beam.n_bins + 1.0).flatten()
        left = position.floor()
        index = left.long()
        values, share = rows[view], (position - left)[:, None]
        seen = torch.lerp(values.index_select(0, index), values[1:].index_select(0, index), share)
        image = image + seen if strength is None else image + seen * strength.flatten()[:, None]
    return image
