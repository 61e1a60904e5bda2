"""What `medsci brain prep` is asked for, and the files and records it leaves."""

__all__ = ["PrepJob", "record_of", "result_of", "run_of", "write_prepared"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from medsci.brain.prep_settings import PrepSettings
from medsci.pipelines.outputs import Existing, staged
from medsci.pipelines.run import Option, Run, sha256_of

if TYPE_CHECKING:
    from medsci.brain.prep import Prepared
    from medsci.imaging import Volume

_FULL_SCALE = {"uint16": 65535, "float32": 1}


@final
@dataclass(frozen=True)
class PrepJob:
    """How to prepare and what to write; the same for every case of a batch.

    Attributes:
        settings: see `PrepSettings`.
        mask: of the brain; in a batch a folder with a mask of every image's name.
        save_mask: write the brain that was used to `OUT_mask.nii.gz`.
        existing: what to do about an output that is there.
        timings: record wall time in the sidecar, which then differs from run to run.
    """

    settings: PrepSettings = field(default_factory=PrepSettings)
    mask: Path | None = None
    save_mask: bool = False
    existing: Existing = "refuse"
    timings: bool = False


def record_of(found: "Prepared", image: "Volume", job: PrepJob) -> dict[str, Any]:
    """Tell what was done, for the sidecar."""
    mask: dict[str, Any] = {"method": found.brain.method}
    if job.mask is not None:
        mask |= {"name": job.mask.name, "sha256": sha256_of(job.mask)}
    return {
        "mask": mask,
        "brain_ml": round(found.brain.volume_ml, 1),
        "crop_start": list(found.crop_start),
        "intensity": {
            "low": found.low,
            "high": found.high,
            "full_scale": _FULL_SCALE[job.settings.dtype],
        },
        "grid": _grid(found.volume),
        "input_grid": _grid(image),
        "remarks": list(found.remarks),
    }


def _grid(volume: "Volume") -> dict[str, Any]:
    return {
        "shape": list(volume.shape[:3]),
        "spacing_mm": [round(mm, 6) for mm in volume.spacing_mm],
        "orientation": "".join(volume.orientation),
    }


def result_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Take from the record what a report of the case says."""
    return {
        "mask": record["mask"]["method"],
        "brain_ml": record["brain_ml"],
        "crop_start": record["crop_start"],
        "shape": record["grid"]["shape"],
        "remarks": record["remarks"],
    }


def run_of(job: PrepJob, source: Path, output: Path) -> Run:
    """Describe the run: its options as on the command line."""
    s = job.settings
    options: dict[str, Option] = {
        "mask": job.mask,
        "fov": ",".join(f"{mm:g}" for mm in s.fov_mm),
        "spacing": "none" if s.spacing_mm == "keep" else s.spacing_mm,
        "percentiles": ",".join(f"{p:g}" for p in s.percentiles),
        "orientation": s.orientation,
        "dtype": s.dtype,
    }
    return Run(("brain", "prep"), source, output, options=options)


def write_prepared(
    found: "Prepared",
    files: Mapping[str, Path],
    *,
    run: Run,
    job: PrepJob,
    record: Mapping[str, Any],
) -> None:
    """Write image, mask and sidecar: all of them or none."""
    from medsci.imaging import write_json, write_nifti

    with staged(list(files.values()), overwrite=job.existing != "refuse") as places:
        place = {kind: places[path] for kind, path in files.items()}
        if "mask" in place:
            write_nifti(found.mask, place["mask"], overwrite=True)
        sidecar = {
            "Description": "Prepared for a volume model: grid, grey scale and field of view",
            "Sources": [run.input.name],
            "Outputs": {kind: path.name for kind, path in files.items()},
            **record,
            "MedsciProvenance": run.provenance(),
        }
        write_json(place["sidecar"], sidecar, overwrite=True)
        write_nifti(found.volume, place["prepared"], overwrite=True)
