"""Checkpoints, written so that a kill at any moment leaves one that is whole."""

__all__ = ["Checkpoints"]

import os
from collections.abc import Callable
from pathlib import Path
from typing import final

from pytorch_lightning import LightningModule, Trainer

from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.module import DenoiserModule


@final
class Checkpoints(AbstractStepCallback):
    """Write `last.ckpt` every so many steps and when the run ends.

    The file is written under another name and renamed, so a kill leaves the one before. `after`
    is called by every process once it is there.
    """

    def __init__(self, file: Path, *, every: int, after: Callable[[DenoiserModule], None]) -> None:
        self.file = file
        self.every = every
        self.after = after

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}.partial")
        partial = Path(trainer.strategy.broadcast(str(partial)))
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.file)
        if isinstance(module, DenoiserModule):
            self.after(module)

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Write when the step is due and is not the last, which `on_train_end` writes."""
        step = trainer.global_step
        if step % self.every == 0 and step < trainer.max_steps:
            self._save(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the end of the run."""
        self._save(trainer, module)
