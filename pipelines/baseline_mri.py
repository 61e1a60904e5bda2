"""Undersampled k-space in, a classical reconstruction out: what a learnt prior has to beat."""

__all__ = ["BaselineSettings", "Method", "baseline_mri"]

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

from medsci.errors import UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, check_outputs, existing_file, staged
from medsci.pipelines.run import Run, sidecar_of

if TYPE_CHECKING:
    from medsci.recon.encoding import Encoding

_log = logging.getLogger(__name__)

Method: TypeAlias = Literal["zero-filled", "sense", "tv", "l1-wavelet"]


@final
@dataclass(frozen=True)
class BaselineSettings:
    """Which classical method, and how hard it regularises.

    Attributes:
        method: adjoint, SENSE by conjugate gradients, total variation or L1-wavelet.
        weight: of the penalty, relative to the largest value of `A^H y`; the tuned default if None.
        n_iter: iterations; the default of the method if None.
        maps: where coil maps come from, as in `ReconSettings`.
    """

    method: Method = "l1-wavelet"
    weight: float | None = None
    n_iter: int | None = None
    maps: Literal["espirit", "low_res", "file"] = "espirit"

    def __post_init__(self) -> None:
        if self.weight is not None and not self.weight >= 0:
            raise UsageError(f"weight={self.weight} came; give a number that is not negative")
        if self.n_iter is not None and self.n_iter < 1:
            raise UsageError(f"n_iter={self.n_iter} came; give at least 1")
        if self.method == "zero-filled" and (self.weight, self.n_iter) != (None, None):
            raise UsageError("zero-filled has no weight and no iterations; leave them out")


def baseline_mri(
    input: str | Path,
    output: str | Path,
    *,
    settings: BaselineSettings | None = None,
    existing: Existing = "refuse",
) -> CaseReport:
    """Reconstruct one k-space file without a learnt prior and write volume and sidecar.

    Raises:
        InvalidInputError: the input is not usable k-space.
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

    from medsci.imaging import read_kspace, write_json, write_nifti
    from medsci.pipelines.recon_results import compare, mask_of, metrics_of
    from medsci.recon import encode
    from medsci.report import ReconImages

    kspace = read_kspace(source)
    encoding = encode(kspace, maps=settings.maps)
    image = _solve(encoding, settings).abs() * encoding.scale
    volume = kspace.to_volume(image.numpy())
    truth = None if kspace.reference is None else kspace.to_volume(kspace.reference)
    images = ReconImages(
        reconstruction=volume,
        reference=truth,
        mask=None if truth is None else mask_of(truth),
        slice_axis=kspace.axes[0],
    )
    metrics = metrics_of(compare(images, {settings.method: volume}))
    run = Run(("recon", "baseline"), source, target, options=_options(settings))
    record = {
        "Description": "Magnitude reconstructed from undersampled k-space without a learnt prior",
        "Sources": [source.name],
        "ParallelReductionFactorInPlane": kspace.acceleration,
        "Metrics": metrics,
        "MedsciProvenance": run.provenance(),
    }
    with staged(list(files.values()), overwrite=existing != "refuse") as places:
        write_json(places[files["sidecar"]], record, overwrite=True)
        write_nifti(volume, places[target], dtype="float32", overwrite=True)
    _log.info("wrote %s", target)
    seconds = time.perf_counter() - start
    result = {"metrics": metrics}
    return CaseReport(source.name, "done", outputs=files, result=result, seconds=seconds)


def _options(settings: BaselineSettings) -> dict[str, str | int | float | None]:
    return {
        "method": settings.method,
        "weight": settings.weight,
        "iterations": settings.n_iter,
        "maps": settings.maps,
    }


def _solve(encoding: "Encoding", settings: BaselineSettings) -> Any:
    """Run the method; a None leaves the method's own default."""
    from medsci.recon import l1_wavelet, sense_cg, total_variation, zero_filled

    known: dict[str, Any] = {"n_iter": settings.n_iter}
    known["ridge" if settings.method == "sense" else "weight"] = settings.weight
    given = {name: value for name, value in known.items() if value is not None}
    solvers = {
        "zero-filled": zero_filled,
        "sense": sense_cg,
        "tv": total_variation,
        "l1-wavelet": l1_wavelet,
    }
    return solvers[settings.method](encoding.y, encoding.op, **given)
