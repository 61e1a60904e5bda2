"""Run a recipe on Lightning."""

__all__ = ["TrainResult", "TrainingTerminatedError", "resolve_device", "train"]

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from medsci.errors import ExitCode, InvalidInputError, MedsciError, OutputExistsError, UsageError
from medsci.models.card import write_card
from medsci.models.store import save_denoiser
from medsci.training.build import build_source
from medsci.training.callbacks import Checkpoints, MetricsLog, Progress, StopCleanly, Validation
from medsci.training.module import DenoiserModule
from medsci.training.recipe import TrainRecipe

CHECKPOINT, METRICS, RECIPE, MODEL = "last.ckpt", "metrics.csv", "recipe.json", "model"


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
        metrics: the rows of `metrics.csv`.
    """

    folder: Path
    model: Path
    steps: int
    reason: str
    metrics: tuple[dict[str, float], ...]


def train(
    recipe: TrainRecipe,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: str | os.PathLike[str] | Literal["auto"] | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
) -> TrainResult:
    """Train, writing checkpoints, a log and the model with its card as it goes.

    Args:
        recipe: what to train on what, and for how long.
        output: folder of the run, `runs/NAME` if absent.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: a checkpoint, or `auto` to go on from `last.ckpt` in `output` if it is there.
        existing: what to do when `output` holds a run and nothing is resumed.

    Raises:
        OutputExistsError: `output` holds a run already.
        InvalidInputError: the checkpoint belongs to another recipe.
        UsageError: the device or the checkpoint does not exist.
        TrainingTerminatedError: SIGTERM came; the run was saved first.
    """
    folder = Path("runs") / recipe.name if output is None else Path(output)
    checkpoint = _checkpoint_to_resume(folder, resume)
    if checkpoint is None and (folder / CHECKPOINT).exists() and existing == "refuse":
        raise OutputExistsError(
            f"{folder} holds a run already; resume it, overwrite it or choose another output"
        )
    if checkpoint is not None:
        _check_same_recipe(checkpoint, recipe)
    accelerator, devices = resolve_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n")
    module = DenoiserModule(
        recipe,
        train_source=build_source(recipe, split="train"),
        validation_source=build_source(recipe, split="validation"),
    )
    config = recipe.trainer
    log = MetricsLog(folder / METRICS, every=config.log_every_steps)
    stop = StopCleanly(max_minutes=config.max_minutes)
    validation = Validation(log, every=config.val_every_steps, stop=stop)
    progress = Progress(log, every=config.log_every_steps)
    keep = Checkpoints(
        folder / CHECKPOINT,
        every=config.checkpoint_every_steps,
        after=lambda trained: _export(trained, folder / MODEL, log.rows),
    )
    with _quiet_lightning(), _threads(config.threads):
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            max_steps=config.max_steps,
            max_epochs=-1,
            gradient_clip_val=recipe.optimiser.gradient_clip,
            callbacks=[log, stop, validation, progress, keep],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    steps = int(trainer.global_step)
    if stop.reason == "sigterm":
        raise TrainingTerminatedError(
            f"SIGTERM came after step {steps}; resume from {folder / CHECKPOINT}"
        )
    return TrainResult(folder, folder / MODEL, steps, stop.reason or "done", tuple(log.rows))


def _export(module: DenoiserModule, folder: Path, rows: list[dict[str, float]]) -> None:
    steps = int(module.global_step)
    recipe = module.recipe
    last = next((row for row in reversed(rows) if "val_loss" in row), {})
    config = recipe.stored_config().model_copy(
        update={
            "training": {
                "steps": steps,
                "batch_size": recipe.trainer.batch_size,
                "seed": recipe.seed,
                "val_loss": last.get("val_loss"),
                "torch": torch.__version__,
            }
        }
    )
    card, attachments = write_card(
        config, rows=rows, recipe=recipe.model_dump(mode="json"), card=recipe.card.model_dump()
    )
    save_denoiser(
        module.average, folder, config=config, card=card, attachments=attachments,
        existing="replace",
    )  # fmt: skip


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
        stored = TrainRecipe.model_validate_json(content["medsci"]["recipe"])
    except (KeyError, ValueError, RuntimeError, EOFError, OSError) as error:
        raise InvalidInputError(
            f"{checkpoint} is no checkpoint of a medsci training run "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "give the last.ckpt of a run"
        ) from error
    before, now = stored.model_dump(), recipe.model_dump()
    for dump in (before, now):  # what may change between two sittings of a run
        dump["card"] = None
        for key in ("max_minutes", "workers", "threads", "checkpoint_every_steps"):
            dump["trainer"][key] = None
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise InvalidInputError(
            f"{checkpoint} was trained with another recipe: {', '.join(changed)} differ; "
            "resume with the recipe of that run, or start a new output folder"
        )


def resolve_device(device: str) -> tuple[str, int | list[int]]:
    """Return the accelerator and devices of Lightning for `auto`, `cpu`, `cuda` or `cuda:N`."""
    kind, _, number = device.partition(":")
    cuda = torch.cuda.is_available()
    if kind == "auto":
        return ("cuda", 1) if cuda else ("cpu", 1)
    if device == "cpu":
        return "cpu", 1
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UsageError(f"device {device!r} came; choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if cuda else 0
    if int(number or 0) >= count:
        raise UsageError(f"device {device!r} was asked for, this machine has {count} CUDA devices")
    return "cuda", [int(number)] if number else 1


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
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
