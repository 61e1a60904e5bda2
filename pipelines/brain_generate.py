"""A model and a seed in; brain volumes with label maps, maps of doubt and sidecars out."""

__all__ = ["generate_volumes", "load_generator"]

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsci.errors import ExitCode, MedsciError, OutputExistsError, UsageError
from medsci.pipelines import Progress
from medsci.pipelines.brain_generate_files import (
    LABELS_FILE,
    GenerateJob,
    Generator,
    VolumeWriter,
    files_of,
    label_table,
)
from medsci.pipelines.cases import CaseReport
from medsci.pipelines.device import choose_device, warn_if_busy
from medsci.pipelines.failure import explain
from medsci.pipelines.outputs import check_outputs, existing_file

if TYPE_CHECKING:
    import numpy as np

    from medsci.brain.frame import Place
    from medsci.brain.memory import MemoryPlan
    from medsci.models import ModelConfig

_log = logging.getLogger(__name__)


def load_generator(
    name: str, *, device: str, precision: Literal["auto", "float32", "bfloat16"]
) -> Generator:
    """Load a stored model onto a device.

    Raises:
        WeightsError: there is none of that name, or its weights are not the recorded ones.
    """
    from medsci.models import load_denoiser, verify_model

    info = verify_model(name)
    denoiser = load_denoiser(name, device=device, precision=precision)
    return Generator(info.name, info.config.sha256, info.config, denoiser)


def generate_volumes(
    output: str | Path,
    *,
    job: GenerateJob,
    tell: Callable[[CaseReport], None],
    progress: Progress | None = None,
) -> ExitCode:
    """Generate volumes into a folder.

    Each becomes `sub-gen0001_T1w.nii.gz` with a sidecar of the same name and, if asked, a label map
    `_dseg` (the meaning of its numbers in `dseg.tsv`) and a map `_hallucination`. All names are
    checked before the work starts; the files of a volume appear together, when it is done. Equal
    seeds and numbers give equal bytes, whatever the batch and the number of volumes.

    Returns:
        DONE.

    Raises:
        InvalidInputError: the reference or the table of conditions is not what it should be.
        MedsciError: out of memory (its code says so), or numbers that are not finite.
        OutputExistsError: an output exists and is not to be replaced.
        UsageError: options do not fit each other or the model, or the device is absent.
        WeightsError: the model is missing or damaged.
    """
    from medsci.brain.conditions import population_rows

    folder = Path(output)
    if folder.is_file() or folder.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"the output {folder} names a file; volumes go into a folder, name one")
    device = choose_device(job.device)
    inputs = [existing_file(p) for p in (job.like, job.condition_file) if p is not None]
    config, channels = _described(job)
    rows = _rows(job, config)
    numbers = _wanted(folder, job, n=len(rows), inputs=inputs, tell=tell)
    if job.labels:
        _check_table(folder, job, channels[1:])
    if not numbers:
        return ExitCode.DONE
    place = _place(job)
    job, memory = _planned(job, config, n=len(numbers), device=device)
    generator = load_generator(job.model, device=device, precision=job.precision)
    generator = dataclasses.replace(generator, denoiser=memory.prepare(generator.denoiser))
    warn_if_busy()
    writer = VolumeWriter(folder, job, generator, channels, place, memory, device, inputs)
    picked = rows[[number - job.first for number in numbers]]
    told = picked
    if job.unasked == "population":
        told = population_rows(config.covariates, picked, seed=job.settings.seed, numbers=numbers)
    try:
        _draw(writer, numbers, (picked, told), tell=tell, progress=progress)
    except Exception as error:
        if explain(error).code == ExitCode.OUT_OF_MEMORY:
            raise _out_of_memory(job, device) from error
        raise
    return ExitCode.DONE


def _draw(
    writer: "VolumeWriter",
    numbers: Sequence[int],
    rows: "tuple[np.ndarray, np.ndarray]",
    *,
    tell: Callable[[CaseReport], None],
    progress: Progress | None,
) -> None:
    from medsci.brain.generation import generate

    start = time.perf_counter()
    drawn = generate(
        writer.generator.denoiser,
        writer.generator.config,
        numbers=numbers,
        settings=writer.job.settings,
        rows=rows[1],
        device=writer.device,
        progress=progress,
    )
    for made, asked, told in zip(drawn, *rows, strict=True):
        report = writer.write(made, asked, told=told)
        seconds = (now := time.perf_counter()) - start
        start = now
        tell(dataclasses.replace(report, seconds=seconds))


def _described(job: GenerateJob) -> "tuple[ModelConfig, tuple[str, ...]]":
    """Return the model's description, checked against the job, before weights are read."""
    from medsci.brain.generation import check_generator
    from medsci.brain.walk import clip_hooks, walk_of
    from medsci.models import find_model
    from medsci.models.store import read_config

    config = read_config(find_model(job.model))
    _, channels = check_generator(config)
    if job.labels and len(channels) < 2:
        raise UsageError(
            f"the model {config.name} draws no tissue, only {channels[0]}; leave --labels out, or "
            "choose a model with tissue fractions"
        )
    settings = job.settings
    walk = walk_of(config, solver=settings.solver, steps=settings.n_steps)
    clip_hooks(settings.clip, config.value_range, walk)
    if settings.maps and walk.n_evaluations < 2:
        raise UsageError("--hallucination came with one step; a variance needs two or more")
    guided = bool(job.conditions) or job.condition_file is not None
    if settings.guidance != 1.0 and not guided:
        raise UsageError(
            f"--guidance {settings.guidance:g} came without a --condition to follow; give one, or "
            "leave it out"
        )
    return config, channels


def _rows(job: GenerateJob, config: "ModelConfig") -> "np.ndarray":
    """Return the conditions, one row per volume of the run."""
    from medsci.brain.conditions import condition_rows, out_of_range

    n = job.n
    if n is None and job.condition_file is not None:
        from medsci.data.tables import read_table

        n = len(read_table(job.condition_file).rows)
    rows = condition_rows(
        config.covariates, n=n or 1, given=job.conditions, table=job.condition_file
    )
    for text in out_of_range(config.covariates, rows):
        _log.warning("%s", text)
    return rows


def _wanted(
    folder: Path,
    job: GenerateJob,
    *,
    n: int,
    inputs: Sequence[Path],
    tell: Callable[[CaseReport], None],
) -> list[int]:
    """Return the numbers that are still to be made; refuse if one is there and may not be."""
    numbers = []
    for number in range(job.first, job.first + n):
        files = files_of(folder, number, job=job)
        if check_outputs(list(files.values()), inputs=inputs, existing=job.existing):
            numbers.append(number)
        else:
            name = files["image"].name.partition("_")[0]
            tell(CaseReport(name, "skipped", outputs=files))
    return numbers


def _check_table(folder: Path, job: GenerateJob, tissues: Sequence[str]) -> None:
    """Refuse a folder whose labels mean something else."""
    path = folder / LABELS_FILE
    if not path.exists() or job.existing == "overwrite":
        return
    if path.read_text(encoding="utf-8") != label_table(tissues):
        raise OutputExistsError(
            f"{path} says that labels mean something else there; choose another folder, or pass "
            "--overwrite to replace it"
        )


def _place(job: GenerateJob) -> "Place | None":
    if job.like is None:
        return None
    from medsci.brain.frame import Place
    from medsci.imaging import read_nifti

    place = Place.on(read_nifti(job.like), centre=job.centre)
    if not place.reference.has_orientation:
        _log.warning(
            "%s does not say which side is left; the volumes are placed as its header is read by "
            "convention",
            job.like.name,
        )
    return place


def _planned(
    job: GenerateJob, config: "ModelConfig", *, n: int, device: str
) -> "tuple[GenerateJob, MemoryPlan]":
    """Plan the memory, say so, and resolve precision and batch.

    On the CPU volumes are drawn one by one: more at a time take more memory and save no time.

    Raises:
        MedsciError: no mode fits; its code is that of exhausted memory.
    """
    from medsci.brain.memory import plan
    from medsci.core.precision import resolve_precision

    dtype = str(resolve_precision(job.precision, device))
    precision: Literal["float32", "bfloat16"]
    precision = "bfloat16" if dtype == "torch.bfloat16" else "float32"
    found = plan(
        config,
        batch=1 if device == "cpu" else min(job.settings.batch, n),
        precision=precision,
        mode=job.memory,
        available_gib=_free_gib(device),
    )
    for line in found.lines():
        _log.info("%s", line)
    settings = dataclasses.replace(job.settings, batch=found.batch)
    return dataclasses.replace(job, settings=settings, precision=precision), found


def _free_gib(device: str) -> float | None:
    """Return the free memory of a GPU; None on the CPU, where the plan looks itself."""
    if device == "cpu":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return float(free) / 2**30


def _out_of_memory(job: GenerateJob, device: str) -> MedsciError:
    batch = job.settings.batch
    less = f"a --batch smaller than {batch}, " if batch > 1 else ""
    slabs = "" if job.memory == "sliced" else "--memory sliced, "
    low = "" if job.precision == "bfloat16" else "--precision bf16, "
    error = MedsciError(
        f"out of memory on {device}; use {less}{slabs}{low}a model of a coarser grid, or a machine "
        "with more memory"
    )
    error.exit_code = ExitCode.OUT_OF_MEMORY
    return error
