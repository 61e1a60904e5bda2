"""What a reconstruction amounts to: numbers against the truth, files, and the page of both."""

__all__ = [
    "Outcome",
    "compare",
    "images_of",
    "mask_of",
    "measure",
    "metrics_of",
    "on_grid",
    "report_of",
    "write_results",
]

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Bool

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace, Volume, read_nifti, write_json, write_nifti
from medsci.imaging.sinogram import Sinogram
from medsci.metrics import head_mask
from medsci.pipelines.outputs import staged
from medsci.pipelines.run import Run
from medsci.recon.drawing import Posterior
from medsci.recon.hounsfield import AIR_HU
from medsci.report import ReconImages, Report, Score, recon_report, recon_score, write_report

_log = logging.getLogger(__name__)
_LABELS = {  # the report's names for what the reconstruction says about itself
    "samples": "n_samples",
    "steps": "n_steps",
    "cg_steps": "cg_iterations",
    "coils": "n_coils",
    "slices": "n_slices",
    "acceleration": "effective_acceleration",
}
_TOLERANCE_VOXELS = 1e-3
_REGION = {"MRI": "head", "CT": "body"}


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """A reconstruction with everything known about it.

    Attributes:
        posterior: the volumes and how they were made.
        images: the same volumes as the report wants them, truth and mask included.
        scores: against the truth; empty where none is known.
        acceleration: nominal where the file states it, else effective; None for CT.
        sampling: lines acquired and in full.
        prior_seen: what the prior was trained on.
    """

    posterior: Posterior
    images: ReconImages
    scores: tuple[Score, ...]
    acceleration: float | None
    sampling: Mapping[str, Any]
    prior_seen: str

    def as_dict(self) -> dict[str, Any]:
        """Give the numbers that a line of `--json` carries."""
        return {
            "metrics": metrics_of(self.scores),
            "acceleration": self.acceleration,
            "data_misfit": self.posterior.info.get("relative_data_misfit"),
        }

    def in_words(self) -> str:
        """Give the comparison as the end of a sentence; empty without a truth."""
        psnr = {score.method: score.psnr_db for score in self.scores}
        simple = self.images.simple_name
        ours, other = psnr.get("reconstruction"), psnr.get(simple)
        if ours is None or other is None:
            return ""
        return f", PSNR {ours:.2f} dB ({simple} {other:.2f} dB)"


def on_grid(path: Path, scan: KSpace | Sinogram) -> Volume:
    """Read a truth and cut it to the grid of an acquisition; nothing is resampled.

    Raises:
        InvalidInputError: the two grids differ by more than axis order, flips and a crop, or the
            truth is no real, finite 3D image.
    """
    found = read_nifti(path)
    values = np.asarray(found.array)
    if values.ndim != 3 or values.dtype.kind not in "fiub":
        raise InvalidInputError(
            f"the reference {path} ({found!r}) is not one real 3D image; give a single volume"
        )
    if not np.isfinite(values).all():
        raise InvalidInputError(f"the reference {path} holds NaN or infinite values; give others")
    grid = scan.to_volume(np.zeros(scan.image_shape, dtype=np.float32))
    turned = found.to_orientation(grid.orientation)
    offset = np.linalg.inv(turned.affine) @ grid.affine
    first = np.rint(offset[:3, 3]).astype(int)
    whole = np.eye(4)
    whole[:3, 3] = first
    inside = (first >= 0).all() and (first + grid.shape[:3] <= turned.shape[:3]).all()
    if not inside or np.abs(offset - whole).max() > _TOLERANCE_VOXELS:
        raise InvalidInputError(
            f"the reference {path} ({found!r}) does not contain the grid of the acquisition "
            f"({grid!r}); give the volume it was simulated from, or resample one of them"
        )
    for axis, start in enumerate(first.tolist()):
        turned = turned.slab(axis, start, start + grid.shape[axis])
    return grid.with_array(np.asarray(turned.array, dtype=np.float32))


def measure(
    drawn: Posterior,
    scan: KSpace | Sinogram,
    *,
    reference: Volume | None = None,
    prior_seen: str = "",
) -> Outcome:
    """Compare a reconstruction, and the one without a prior, with the truth where it is known."""
    truth = drawn.reference if reference is None else reference
    images = images_of(
        drawn.mean, truth=truth, modality=drawn.modality, slice_axis=scan.axes[0], std=drawn.std
    )
    images = dataclasses.replace(images, simple=drawn.simple)
    misfit = drawn.info.get("relative_data_misfit")
    scores = compare(images, {images.simple_name: drawn.simple, "reconstruction": drawn.mean})
    acceleration, sampling = None, {}
    if isinstance(scan, KSpace):
        acceleration = float(scan.attributes.get("acceleration", scan.acceleration))
        sampling = {
            "n_lines": int(scan.mask.sum()),
            "n_phase": scan.mask.size,
            "n_centre_lines": len(scan.center_lines),
        }
    return Outcome(
        posterior=drawn,
        images=images,
        scores=tuple(
            dataclasses.replace(row, data_misfit=misfit) if row.ours else row for row in scores
        ),
        acceleration=acceleration,
        sampling=sampling,
        prior_seen=prior_seen,
    )


def images_of(
    reconstruction: Volume,
    *,
    truth: Volume | None,
    modality: str,
    slice_axis: int,
    std: Volume | None = None,
) -> ReconImages:
    """Put together what a report of this modality shows and measures."""
    is_ct = modality == "CT"
    air = AIR_HU if is_ct else 0.0
    return ReconImages(
        reconstruction=reconstruction,
        std=std,
        simple_name="FBP" if is_ct else "zero-filled",
        reference=truth,
        mask=None if truth is None else mask_of(truth, air=air, region=_REGION[modality]),
        slice_axis=slice_axis,
        modality=modality,
        region=_REGION[modality],
        air=air,
    )


def report_of(outcome: Outcome, *, provenance: Mapping[str, Any]) -> Report:
    """Build the page of an outcome."""
    info = {_LABELS.get(name, name): value for name, value in outcome.posterior.info.items()}
    model = provenance.get("Model")
    named = {"prior": model["Name"], "prior_sha256": model["Sha256"]} if model else {}
    return recon_report(
        outcome.images,
        settings=_without_none(
            {"acceleration": outcome.acceleration, **outcome.sampling, **named, **info}
        ),
        provenance=provenance,
        scores=outcome.scores,
        prior_seen=outcome.prior_seen,
    )


def write_results(
    outcome: Outcome,
    files: Mapping[str, Path],
    *,
    run: Run,
    overwrite: bool = False,
    timings: Mapping[str, float] | None = None,
) -> None:
    """Write volume, uncertainty, sidecar and report: all of them or none.

    Args:
        outcome: what to write.
        files: kind (`std`, `report`, `sidecar`, `reconstruction`) -> final path.
        run: the record of what was done.
        overwrite: replace files that are there.
        timings: wall times for the sidecar; they make two equal runs differ.
    """
    provenance = run.provenance() | ({} if timings is None else {"Timings": dict(timings)})
    drawn = outcome.posterior
    with staged(list(files.values()), overwrite=overwrite) as places:
        place = {kind: places[path] for kind, path in files.items()}
        if "std" in place and drawn.std is not None:
            write_nifti(drawn.std, place["std"], dtype="float32", overwrite=True)
        if "report" in place:
            page = report_of(outcome, provenance=provenance)
            write_report(page, place["report"], overwrite=True)
        is_ct = drawn.modality == "CT"
        record = {
            "Description": "Reconstructed from incomplete projections"
            if is_ct
            else "Magnitude reconstructed from undersampled k-space",
            "Sources": [run.input.name],
            **_without_none({"ParallelReductionFactorInPlane": outcome.acceleration}),
            "Units": "HU" if is_ct else "arbitrary",
            "Outputs": {kind: path.name for kind, path in files.items()},
            "Reconstruction": drawn.info,
            "Metrics": metrics_of(outcome.scores),
            "MedsciProvenance": provenance,
        }
        write_json(place["sidecar"], record, overwrite=True)
        write_nifti(drawn.mean, place["reconstruction"], dtype="float32", overwrite=True)


def mask_of(truth: Volume, *, air: float = 0.0, region: str = "head") -> Bool[np.ndarray, "i j k"]:
    """Find the head or body in a truth; where there is none, warn and take the whole image."""
    try:
        return head_mask(truth.array - air if air else truth.array, spacing_mm=truth.spacing_mm)
    except InvalidInputError as error:
        _log.warning("no %s mask (%s); the numbers are over the whole image", region, error)
        return np.ones(truth.shape[:3], dtype=bool)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def compare(images: ReconImages, volumes: Mapping[str, Volume | None]) -> tuple[Score, ...]:
    """Score volumes by name against the truth of `images`; nothing where there is no truth."""
    if images.reference is None:
        return ()
    named = {name: volume for name, volume in volumes.items() if volume is not None}
    try:
        return tuple(
            recon_score(name, volume, images=images, mask=images.mask)
            for name, volume in named.items()
        )
    except InvalidInputError as error:
        _log.warning("the result was not compared with the truth: %s", error)
        return ()


def metrics_of(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Give PSNR (dB), SSIM and NRMSE inside the mask by method; JSON has no infinity, so no it."""
    names = ("psnr_db", "ssim", "nrmse")
    measured = {score.method: {n: getattr(score, n) for n in names} for score in scores}
    return {
        method: {n: v for n, v in row.items() if v is not None and math.isfinite(v)}
        for method, row in measured.items()
    }
