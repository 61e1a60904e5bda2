"""A scan as a problem to tune on: data to fit, and a judge of images."""

__all__ = ["Judged", "Problem", "encoded", "middle_slices", "posed"]

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import numpy as np

from medsci.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

    from medsci.imaging import KSpace, Volume
    from medsci.imaging.sinogram import Sinogram
    from medsci.inverse.measurement import Measurement
    from medsci.recon.orientation import View

Judged: TypeAlias = Literal["truth", "held-out"]
Judge: TypeAlias = "Callable[[Tensor], float]"

HELD_OUT = 0.1  # of the views, or of the lines outside the centre


@final
@dataclass(frozen=True, eq=False)
class Encoded:
    """A scan in the units of a prior.

    Attributes:
        name: of the file.
        scan: its middle slices.
        measured: their data.
        base: what `recon` takes for the solver's settings if told nothing.
        view: how its slices lie.
        show: image to volume, in the units of the stored truth.
    """

    name: str
    scan: "KSpace | Sinogram"
    measured: "Measurement"
    base: Any
    view: "View"
    show: "Callable[[Tensor], Volume]"


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """What a solver is given, and who judges what comes back.

    Attributes:
        encoded: the scan.
        measured: the data to fit; less than those of the scan where some are held out.
        judge: image to score, more is better.
    """

    encoded: Encoded
    measured: "Measurement"
    judge: Judge


def middle_slices(scan: "Any | KSpace | Sinogram", count: int) -> "Any | KSpace | Sinogram":
    """Return a scan of neighbouring slices in the middle; neighbours, as some solvers couple them.

    Its affine stays that of the whole, which says how slices lie but not where.
    """
    first = max(scan.n_slices - count, 0) // 2
    part = slice(first, first + count)
    names = ("data", "reference", "maps")
    arrays = {name: getattr(scan, name, None) for name in names}
    return dataclasses.replace(
        scan, **{name: array[part] for name, array in arrays.items() if array is not None}
    )


def encoded(
    scan: "KSpace | Sinogram",
    name: str,
    *,
    solver: str,
    maps: Literal["espirit", "low_res", "file"],
    window_hu: tuple[float, float] | None,
    device: str,
) -> Encoded:
    """Bring a scan into the units of a prior, as `recon` does."""
    from medsci.imaging import KSpace
    from medsci.recon.orientation import prior_view

    spacing = float(np.linalg.norm(scan.affine[:3, scan.axes[0]]))
    if isinstance(scan, KSpace):
        return _mri(scan, name, solver=solver, maps=maps, spacing=spacing, device=device)

    from medsci.recon.ct_encoding import encode_ct
    from medsci.recon.ct_sampling import FALLBACK_WINDOW_HU, default_ct_walk

    window = window_hu or FALLBACK_WINDOW_HU
    ct = encode_ct(scan, window_hu=window, device=device)
    base = None
    if solver == "dds3d":
        noise = ct.measured.noise
        base = default_ct_walk(scan.n_angles, noise=noise, slice_spacing_mm=spacing)
    return Encoded(name, scan, ct.measured, base, prior_view(scan), ct.decode)


def _mri(
    scan: "KSpace",
    name: str,
    *,
    solver: str,
    maps: Literal["espirit", "low_res", "file"],
    spacing: float,
    device: str,
) -> Encoded:
    from medsci.recon.encoding import encode
    from medsci.recon.orientation import prior_view
    from medsci.recon.sampling import default_settings

    found = encode(scan, maps=maps, device=device)

    def show(image: "Tensor") -> "Volume":
        return scan.to_volume((image.abs() * found.scale).float().cpu().numpy())

    base = None
    if solver == "dds3d":
        base = default_settings(
            scan.acceleration, noise_variance=found.noise_variance, slice_spacing_mm=spacing
        )
    return Encoded(name, scan, found.measured, base, prior_view(scan), show)


def posed(encoded: Encoded, *, judged: Judged, seed: int) -> Problem:
    """Choose what to fit and what to judge by.

    Against the truth all data are fitted. Otherwise some views, or lines of k-space outside the
    centre, which coil maps were estimated from, are held out.

    Raises:
        InvalidInputError: nothing can be held out.
    """
    if judged == "truth":
        return Problem(encoded, encoded.measured, _truth_judge(encoded))
    from medsci.inverse.tuning import data_judge, held_out

    among, axis = _rows(encoded.scan)
    try:
        fit, test = held_out(encoded.measured, share=HELD_OUT, seed=seed, axis=axis, among=among)
    except ValueError as error:
        raise InvalidInputError(
            f"{encoded.name}: nothing can be held out to judge by ({error})"
        ) from error
    return Problem(encoded, fit, data_judge(test))


def _rows(scan: "KSpace | Sinogram") -> tuple[list[int], int]:
    """Return which rows of the data may be held out, and along which axis they lie."""
    from medsci.imaging import KSpace

    if not isinstance(scan, KSpace):
        return list(range(scan.n_angles)), -2
    lines = set(np.flatnonzero(scan.mask).tolist()) - set(scan.center_lines)
    return sorted(lines), -1


def _truth_judge(encoded: Encoded) -> Judge:
    """Return a judge by PSNR in dB, where `recon` measures it: inside the head or the body."""
    from medsci.imaging import KSpace
    from medsci.metrics import psnr
    from medsci.pipelines.recon_results import images_of

    scan = encoded.scan
    if scan.reference is None:
        raise InvalidInputError(f"{encoded.name} stores no truth; judge by held-out data")
    modality = "MRI" if isinstance(scan, KSpace) else "CT"
    truth = scan.to_volume(scan.reference)
    images = images_of(truth, truth=truth, modality=modality, slice_axis=scan.axes[0])
    wanted = images.above_air(truth).array

    def judge(image: "Tensor") -> float:
        found = images.above_air(encoded.show(image)).array
        if not np.isfinite(found).all():
            return float("nan")
        return psnr(found, wanted, mask=images.mask)

    return judge
