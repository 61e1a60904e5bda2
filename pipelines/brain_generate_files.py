"""The job of generating volumes, and the files that one volume becomes."""

__all__ = ["LABELS_FILE", "GenerateJob", "Generator", "VolumeWriter", "files_of", "label_table"]

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import medsci
from medsci.errors import UsageError
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.outputs import Existing, staged
from medsci.pipelines.run import sha256_of

if TYPE_CHECKING:
    import numpy as np

    from medsci.brain.frame import Centre, Place
    from medsci.brain.generation import Generated, GenerateSettings
    from medsci.brain.memory import MemoryPlan
    from medsci.imaging import Volume
    from medsci.models import ModelConfig

_log = logging.getLogger(__name__)

LABELS_FILE = "dseg.tsv"
DESCRIPTION = "Synthetic image"
_COLOURS = ("#4363d8", "#808080", "#f5f5f5", "#e6194b", "#3cb44b", "#ffe119")


@final
@dataclass(frozen=True)
class GenerateJob:
    """What to generate and what to write.

    Attributes:
        settings: see `GenerateSettings`; its `batch` is the most that the memory plan may take.
        n: volumes; the rows of `condition_file`, or 1, if None.
        first: number of the first volume of the seed.
        model: name or folder of a stored model of volumes.
        conditions: by name, for all volumes.
        condition_file: CSV or TSV, one row per volume.
        like: image whose grid the volumes are written on; the model's own box if None.
        centre: what of `like` the heads are centred on.
        labels: write label maps.
        dtype: `float32` in [0, 1], or `uint16` with each volume stretched to 0..65535.
        existing: what to do about an output that is there.
        device: `auto`, `cpu`, `cuda` or `cuda:n`.
        precision: numbers of the network.
        memory: see `medsci.brain.memory`; `tiled` is an approximation and never chosen unasked.
        unasked: conditions that are not asked for are drawn from the training population, given
            those that are, where the model knows it; `unknown` leaves them to the network.
    """

    settings: "GenerateSettings"
    n: int | None = None
    first: int = 1
    model: str = "brain-t1-small"
    conditions: Mapping[str, float] = field(default_factory=dict)
    condition_file: Path | None = None
    like: Path | None = None
    centre: "Centre" = "auto"
    labels: bool = False
    dtype: Literal["float32", "uint16"] = "float32"
    existing: Existing = "refuse"
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory: Literal["auto", "plain", "sliced", "tiled"] = "auto"
    unasked: Literal["population", "unknown"] = "population"

    def __post_init__(self) -> None:
        for name, number in (("n", self.n), ("first", self.first)):
            if number is not None and number < 1:
                raise UsageError(f"{name} is {number}; give 1 or more")
        if self.centre != "auto" and self.like is None:
            raise UsageError("--centre says where in the image of --like; give that as well")


@final
@dataclass(frozen=True, eq=False)
class Generator:
    """A denoiser ready to run, with what a record needs to know of it."""

    name: str
    sha256: str
    config: "ModelConfig"
    denoiser: Any


@final
@dataclass(frozen=True, eq=False)
class VolumeWriter:
    """Writes one volume after the other."""

    folder: Path
    job: GenerateJob
    generator: Generator
    channels: tuple[str, ...]
    place: "Place | None"
    memory: "MemoryPlan"
    device: str
    inputs: Sequence[Path]

    def write(self, made: "Generated", row: "np.ndarray", *, told: "np.ndarray") -> CaseReport:
        """Write the files of a volume, and say what it came out as.

        Args:
            made: the volume.
            row: the conditions asked for.
            told: those the network was given, which may have been drawn.
        """
        from medsci.brain.conditions import asked_of
        from medsci.brain.frame import Frame
        from medsci.brain.generation import regions
        from medsci.imaging import write_json, write_nifti, write_text

        frame = Frame.of(self.generator.config)
        files = files_of(self.folder, made.number, job=self.job)
        tissues = self.channels[1:]
        asked = asked_of(self.generator.config.covariates, row)
        known = asked_of(self.generator.config.covariates, told)
        drawn = {name: value for name, value in known.items() if name not in asked}
        found = regions(made.fractions, tissues, voxel_ml=frame.voxel_ml) if tissues else {}
        shift = None if self.place is None else self.place.shift_mm(frame.volume(made.image))
        image, labels, doubt = self._volumes(made, shift)
        record = {
            "Description": f"{DESCRIPTION}: {self.generator.name}, volume {made.number} of the "
            f"seed {self.job.settings.seed}",
            "Modality": "MR",
            "Synthetic": True,
            "Units": "arbitrary",
            "Generation": {**self._generation(made, shift), "Guidance": self._guidance(asked)},
            "Conditions": asked,
            "ConditionsDrawn": drawn,
            "Achieved": found,
            "MedsciProvenance": self._provenance(made.number, asked),
        }
        overwrite = self.job.existing != "refuse"
        with staged(list(files.values()), overwrite=overwrite) as places:
            if labels is not None:
                write_nifti(labels, places[files["labels"]], overwrite=True, description="Labels")
            if doubt is not None:
                write_nifti(doubt, places[files["hallucination"]], overwrite=True)
            write_json(places[files["sidecar"]], record, overwrite=True)
            write_nifti(image, places[files["image"]], overwrite=True, description=DESCRIPTION)
        table = self.folder / LABELS_FILE
        if labels is not None and (overwrite or not table.exists()):
            write_text(table, label_table(tissues), overwrite=True)
        _log.info("wrote %s", files["image"])
        name = files["image"].name.partition("_")[0]
        result: dict[str, Any] = {"number": made.number, "conditions": asked, "achieved": found}
        if made.hallucination is not None:
            result["hallucination"] = float(made.hallucination.mean())
        return CaseReport(name, "done", outputs=files, result=result)

    def _volumes(
        self, made: "Generated", shift: tuple[float, float, float] | None
    ) -> "tuple[Volume, Volume | None, Volume | None]":
        """Return image, labels and map on the grid they are written on, in the types written."""
        import numpy as np

        from medsci.brain.frame import Frame
        from medsci.brain.generation import label_map

        frame = Frame.of(self.generator.config)

        def placed(array: "np.ndarray") -> "Volume":
            volume = frame.volume(array)
            if self.place is None or shift is None:
                return volume
            return self.place.onto(volume, shift)

        image = placed(made.image)
        values = image.array
        values = _stretched(values) if self.job.dtype == "uint16" else values.astype(np.float32)
        labels = doubt = None
        if self.job.labels:
            shares = placed(np.moveaxis(made.fractions, 0, -1))
            labels = shares.with_array(label_map(np.moveaxis(shares.array, -1, 0)))
        if made.hallucination is not None:
            doubt = placed(made.hallucination)
        return image.with_array(values), labels, doubt

    def _generation(
        self, made: "Generated", shift: tuple[float, float, float] | None
    ) -> dict[str, Any]:
        from medsci.brain.walk import walk_of

        config, settings = self.generator.config, self.job.settings
        walk = walk_of(config, solver=settings.solver, steps=settings.n_steps)
        found: dict[str, Any] = {
            "Seed": settings.seed,
            "SampleNumber": made.number,
            "Solver": walk.name,
            "SolverSettings": str(walk.solver),
            "NetworkEvaluations": walk.n_evaluations,
            "Clip": settings.clip,
            "MemoryMode": self.memory.mode,
            "Tile": None if self.memory.tile is None else list(self.memory.tile),
            "ValueRange": list(config.value_range) if config.value_range else None,
            "Overshoot": list(made.overshoot),
            "Voxels": f"{self.job.dtype}, "
            + ("stretched to 0..65535" if self.job.dtype == "uint16" else "0 to 1"),
        }
        if made.hallucination is not None:
            found["HallucinationMean"] = float(made.hallucination.mean())
            found["HallucinationWindow"] = walk.n_settled(config.sigma_data)
        if self.place is not None and shift is not None:
            centre = "centroid of head" if self.place.centre == "head" else "centre of view"
            found["Placement"] = {
                "Centre": f"{centre}, on that of the reference",
                "ShiftMm": [round(x, 4) for x in shift],
                "TargetMm": [round(x, 4) for x in self.place.target_mm],
                "Interpolation": "linear, by world coordinates",
            }
        return found

    def _guidance(self, asked: Mapping[str, float]) -> float:
        """Return the weight for a volume: one of which nothing is asked follows nothing."""
        return self.job.settings.guidance if asked else 1.0

    def _provenance(self, number: int, asked: Mapping[str, float]) -> dict[str, Any]:
        """Return the record of one volume, with the command that makes it alone."""
        job, settings = self.job, self.job.settings
        options: dict[str, Any] = {
            "n": 1,
            "first": number,
            "model": self.generator.name,
            "seed": settings.seed,
            "steps": settings.n_steps,
            "solver": settings.solver,
            "guidance": self._guidance(asked),
            "clip": settings.clip,
            "dtype": job.dtype,
            "like": None if job.like is None else job.like.name,
            "centre": None if job.like is None else job.centre,
            "labels": job.labels or None,
            "hallucination": settings.maps or None,
            "device": self.device,
            "precision": "bf16" if job.precision == "bfloat16" else "fp32",
            "memory": self.memory.mode,
            "unasked": job.unasked,
        }
        words = ["medsci", "brain", "generate"]
        for name, value in options.items():
            lead = "-n" if name == "n" else f"--{name}"
            words += [] if value is None else [lead] if value is True else [lead, str(value)]
        for name, value in asked.items():
            words += ["--condition", f"{name}={value!r}"]
        return {
            "Version": medsci.__version__,
            "Command": shlex.join([*words, "-o", self.folder.name]),
            "Inputs": [{"Name": path.name, "Sha256": sha256_of(path)} for path in self.inputs],
            "Seed": settings.seed,
            "Device": self.device,
            "Options": {name: value for name, value in options.items() if value is not None},
            "Model": {"Name": self.generator.name, "Sha256": self.generator.sha256},
        }


def label_table(tissues: Sequence[str]) -> str:
    """Return the look-up table of the label maps, in the layout of BIDS."""
    lines = ["index\tname\tcolor", "0\tbackground\t#000000"]
    for index, name in enumerate(tissues, start=1):
        lines.append(f"{index}\t{name}\t{_COLOURS[(index - 1) % len(_COLOURS)]}")
    return "\n".join(lines) + "\n"


def files_of(folder: Path, number: int, *, job: GenerateJob) -> dict[str, Path]:
    """Name every file of a volume, the image last."""
    stem = f"sub-gen{number:04d}"
    found = {}
    if job.labels:
        found["labels"] = folder / f"{stem}_dseg.nii.gz"
    if job.settings.maps:
        found["hallucination"] = folder / f"{stem}_hallucination.nii.gz"
    found["sidecar"] = folder / f"{stem}_T1w.json"
    found["image"] = folder / f"{stem}_T1w.nii.gz"
    return found


def _stretched(values: "np.ndarray") -> "np.ndarray":
    """Return uint16 with the lowest value at 0 and the highest at 65535."""
    import numpy as np

    low, high = float(values.min()), float(values.max())
    scale = 65535.0 / (high - low) if high > low else 0.0
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint16)
