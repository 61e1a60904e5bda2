"""Run a recipe on Lightning."""

__all__ = ["TrainResult", "TrainingTerminatedError", "train"]

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from medsci.errors import ExitCode, InvalidInputError, MedsciError, OutputExistsError, UsageError
from medsci.training.assembly import build_source
from medsci.training.callbacks import (
    Checkpoints,
    MetricsLog,
    Progress,
    Samples,
    StopCleanly,
    TensorBoard,
    Validation,
)
from medsci.training.export import export_model
from medsci.training.launch import find_machines
from medsci.training.module import DenoiserModule
from medsci.training.reading import parse_recipe
from medsci.training.recipe import TrainRecipe

CHECKPOINT, METRICS, RECIPE, MODEL = "last.ckpt", "metrics.csv", "recipe.json", "model"
_FREE = (
    "max_minutes", "workers", "threads", "checkpoint_every_steps", "tensorboard", "devices",
    "nodes", "strategy", "accumulate",
)  # fmt: skip
"""Keys of the trainer that may change between two sittings of a run."""


class TrainingTerminatedError(MedsciError):
    """The run was asked to end by SIGTERM; it has saved a checkpoint to resume from."""

    exit_code = ExitCode.TERMINATED


@final
@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        folder: holds `last.ckpt`, `metrics.csv`, `recipe.json` and the folder `model`.
        model: folder that `medsci.models.load_denoiser` reads.
        steps: optimiser steps done over all sittings.
        reason: `done` or `max_minutes`.
        metrics: the rows of `metrics.csv`, known to the first process.
        is_first_process: whether this process is the one that writes.
    """

    folder: Path
    model: Path
    steps: int
    reason: str
    metrics: tuple[dict[str, float], ...]
    is_first_process: bool = True


def train(
    recipe: TrainRecipe,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: str | os.PathLike[str] | Literal["auto"] | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
    progress: bool = True,
) -> TrainResult:
    """Train, writing checkpoints, a log and the model with its card as it goes.

    Args:
        recipe: what to train on what, and for how long.
        output: folder of the run, `runs/NAME` if absent.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: a checkpoint, or `auto` to go on from `last.ckpt` in `output` if it is there.
        existing: what to do when `output` holds a run and nothing is resumed.
        progress: show where the run is, on stderr.

    Raises:
        OutputExistsError: `output` holds a run already.
        InvalidInputError: the checkpoint belongs to another recipe.
        UsageError: the device or the checkpoint does not exist.
        TrainingTerminatedError: SIGTERM came; the run was saved first.
    """
    folder = Path("runs") / recipe.name if output is None else Path(output)
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; the output of training is a folder")
    checkpoint = _checkpoint_to_resume(folder, resume)
    if checkpoint is None and (folder / CHECKPOINT).exists() and existing == "refuse":
        raise OutputExistsError(
            f"{folder} holds a run already; resume it, overwrite it or choose another output"
        )
    if checkpoint is not None:
        _check_same_recipe(checkpoint, recipe)
    machines = find_machines(recipe.trainer, device=device)
    module = DenoiserModule(
        recipe,
        train_source=build_source(recipe, split="train"),
        validation_source=build_source(recipe, split="validation"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    watch = _Watch.over(recipe, folder, progress=progress)
    with _quiet_lightning(), _threads(recipe.trainer.threads):
        trainer = Trainer(
            accelerator=machines.accelerator,
            devices=machines.devices,
            num_nodes=machines.nodes,
            strategy=machines.lightning_strategy(),
            max_steps=recipe.trainer.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=recipe.trainer.accumulate,
            callbacks=watch.callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        if trainer.is_global_zero:
            (folder / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n")
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    steps = int(trainer.global_step)
    if watch.stop.reason == "sigterm":
        raise TrainingTerminatedError(
            f"SIGTERM came after step {steps}; resume from {folder / CHECKPOINT}"
        )
    rows = tuple(watch.log.rows)
    reason = watch.stop.reason or "done"
    return TrainResult(folder, folder / MODEL, steps, reason, rows, trainer.is_global_zero)


@final
@dataclass(frozen=True)
class _Watch:
    """The callbacks of a run, in the order they act."""

    log: MetricsLog
    stop: StopCleanly
    callbacks: list[Callback]

    @classmethod
    def over(cls, recipe: TrainRecipe, folder: Path, *, progress: bool) -> "_Watch":
        config, samples = recipe.trainer, recipe.samples
        board = TensorBoard(folder / "tensorboard") if config.tensorboard else None
        log = MetricsLog(
            folder / METRICS,
            every=config.log_every_steps,
            listeners=[board.add_row] if board else [],
        )
        stop = StopCleanly(max_minutes=config.max_minutes)
        callbacks: list[Callback] = [board] if board else []
        callbacks += [log, stop, Validation(log, every=config.val_every_steps, stop=stop)]
        if samples.every_steps is not None:
            listeners = [board.add_picture] if board else []
            callbacks.append(
                Samples(folder / "samples", every=samples.every_steps, listeners=listeners)
            )
        if progress:
            callbacks.append(Progress(log, every=config.log_every_steps))
        keep = Checkpoints(
            folder / CHECKPOINT,
            every=config.checkpoint_every_steps,
            after=lambda module: export_model(module, folder / MODEL, rows=log.rows),
        )
        return cls(log, stop, [*callbacks, keep])


def _checkpoint_to_resume(folder: Path, resume: str | os.PathLike[str] | None) -> Path | None:
    if resume is None:
        return None
    if resume == "auto":
        last = folder / CHECKPOINT
        return last if last.is_file() else None
    path = Path(resume)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}; give a .ckpt file, a run folder or auto")
    return path


def _check_same_recipe(checkpoint: Path, recipe: TrainRecipe) -> None:
    try:
        content: dict[str, Any] = torch.load(
            checkpoint, map_location="meta", weights_only=True, mmap=True
        )
        stored = parse_recipe(json.loads(content["medsci"]["recipe"]))
    except (KeyError, ValueError, RuntimeError, EOFError, OSError) as error:
        raise InvalidInputError(
            f"{checkpoint} is no checkpoint of a medsci training run "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "give the last.ckpt of a run"
        ) from error
    before, now = stored.model_dump(), recipe.model_dump()
    for dump in (before, now):  # what may change between two sittings of a run
        dump["card"] = dump["samples"] = None
        for key in _FREE:
            dump["trainer"][key] = None
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise InvalidInputError(
            f"{checkpoint} was trained with another recipe: {', '.join(changed)} differ; "
            "resume with the recipe of that run, or start a new output folder"
        )


@contextlib.contextmanager
def _threads(n_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice about loaders, ours resume by sample number, and its own news."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module"
        )  # nothing here is in place
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
