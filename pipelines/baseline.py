"""A scan in, a classical reconstruction out: what a learnt prior has to beat."""

__all__ = ["BaselineSettings", "Method", "baseline_file"]

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

from medsci.errors import UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, existing_file, staged
from medsci.pipelines.run import Option, Run, sidecar_of
from medsci.pipelines.scans import domain_of, read_scan

if TYPE_CHECKING:
    from torch import Tensor

    from medsci.imaging import KSpace, Sinogram, Volume
    from medsci.operators import LinearOp

_log = logging.getLogger(__name__)

Method: TypeAlias = Literal["zero-filled", "fbp", "sense", "cg", "tv", "tv-3d", "l1-wavelet"]
_OF = {"mri": ("zero-filled", "sense", "tv", "tv-3d", "l1-wavelet"),
       "ct": ("fbp", "cg", "tv", "tv-3d", "l1-wavelet")}  # fmt: skip
_DIRECT = ("zero-filled", "fbp")


@final
@dataclass(frozen=True)
class BaselineSettings:
    """Which classical method, and how hard it regularises.

    Attributes:
        method: of MRI: adjoint (`zero-filled`) or SENSE by conjugate gradients; of CT: filtered
            backprojection with a Hann window or least squares by conjugate gradients (`cg`); of
            both: total variation of slices or of the volume, or L1-wavelet.
        weight: of the penalty, relative to the largest value of `A^H y`; the tuned default if None.
        n_iter: iterations; the default of the method if None.
        maps: where coil maps come from, as in `ReconSettings`.
    """

    method: Method = "tv"
    weight: float | None = None
    n_iter: int | None = None
    maps: Literal["espirit", "low_res", "file"] = "espirit"

    def __post_init__(self) -> None:
        if self.weight is not None and not self.weight >= 0:
            raise UsageError(f"weight={self.weight} came; give a number that is not negative")
        if self.n_iter is not None and self.n_iter < 1:
            raise UsageError(f"n_iter={self.n_iter} came; give at least 1")
        if self.method in _DIRECT and (self.weight, self.n_iter) != (None, None):
            raise UsageError(f"{self.method} has no weight and no iterations; leave them out")


def baseline_file(
    input: str | Path,
    output: str | Path,
    *,
    settings: BaselineSettings | None = None,
    existing: Existing = "refuse",
) -> CaseReport:
    """Reconstruct k-space or a sinogram without a learnt prior and write volume and sidecar.

    Raises:
        InvalidInputError: the input is neither usable k-space nor a usable sinogram.
        UsageError: the method is for the other kind of scan.
        OutputExistsError: an output exists and is not to be replaced.
    """
    start = time.perf_counter()
    settings = BaselineSettings() if settings is None else settings
    source, target = existing_file(input), Path(output)
    if not target.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"the output is {target.name}; name it *.nii.gz")
    files = {"sidecar": sidecar_of(target), "reconstruction": target}
    if not check_outputs(list(files.values()), inputs=[source], existing=existing):
        return CaseReport(source.name, "skipped", outputs=files)

    from medsci.imaging import write_json, write_nifti

    domain = domain_of(source)
    if settings.method not in _OF[domain]:
        raise UsageError(
            f"{settings.method} is not for {domain.upper()}, and {source.name} is that; "
            f"choose one of {', '.join(_OF[domain])}"
        )
    volume, facts = (_mri if domain == "mri" else _ct)(source, settings)
    run = Run(("recon", "baseline"), source, target, options=_options(settings, domain))
    record = {
        "Description": "Reconstructed without a learnt prior",
        "Sources": [source.name],
        **facts,
        "MedsciProvenance": run.provenance(),
    }
    with staged(list(files.values()), overwrite=existing != "refuse") as places:
        write_json(places[files["sidecar"]], record, overwrite=True)
        write_nifti(volume, places[target], dtype="float32", overwrite=True)
    _log.info("wrote %s", target)
    seconds = time.perf_counter() - start
    result = {"metrics": facts["Metrics"]}
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def _options(settings: BaselineSettings, domain: str) -> dict[str, Option]:
    return {
        "method": settings.method,
        "weight": settings.weight,
        "iterations": settings.n_iter,
        "maps": settings.maps if domain == "mri" else None,
    }


def _mri(source: Path, settings: BaselineSettings) -> "tuple[Volume, dict[str, Any]]":
    """Reconstruct k-space; what is known of it goes into the sidecar."""
    from medsci.recon import encode

    scan = read_scan(source, "mri")
    encoding = encode(scan, maps=settings.maps)
    image = _solve(encoding.y, encoding.op, settings).abs() * encoding.scale
    volume = scan.to_volume(image.numpy())
    return volume, {
        "ParallelReductionFactorInPlane": scan.acceleration,
        "Units": "arbitrary",
        "Metrics": _metrics(volume, scan, name=settings.method, modality="MRI"),
    }


def _ct(source: Path, settings: BaselineSettings) -> "tuple[Volume, dict[str, Any]]":
    """Reconstruct a sinogram."""
    from medsci.recon import encode_ct, fbp_hu

    scan = read_scan(source, "ct")
    if settings.method == "fbp":
        volume = fbp_hu(scan, window="hann")
    else:
        encoding = encode_ct(scan)
        volume = encoding.decode(_solve(encoding.measured.y, encoding.measured.op, settings))
    metrics = _metrics(volume, scan, name=settings.method, modality="CT")
    return volume, {"Units": "HU", "Metrics": metrics}


def _metrics(
    volume: "Volume", scan: "KSpace | Sinogram", *, name: str, modality: str
) -> dict[str, dict[str, float]]:
    from medsci.pipelines.recon_results import compare, images_of, metrics_of

    truth = None if scan.reference is None else scan.to_volume(scan.reference)
    images = images_of(volume, truth=truth, modality=modality, slice_axis=scan.axes[0])
    return metrics_of(compare(images, {name: volume}))


def _solve(y: "Tensor", op: "LinearOp", settings: BaselineSettings) -> Any:
    """Run the method; a None leaves the method's own default."""
    from medsci.recon.baselines import l1_wavelet, least_squares_cg, total_variation, zero_filled

    known: dict[str, Any] = {"n_iter": settings.n_iter}
    known["ridge" if settings.method in ("sense", "cg") else "weight"] = settings.weight
    if settings.method.startswith("tv"):
        known["dims"] = 3 if settings.method == "tv-3d" else 2
    given = {name: value for name, value in known.items() if value is not None}
    solvers = {
        "zero-filled": zero_filled,
        "sense": least_squares_cg,
        "cg": least_squares_cg,
        "tv": total_variation,
        "tv-3d": total_variation,
        "l1-wavelet": l1_wavelet,
    }
    return solvers[settings.method](y, op, **given)
