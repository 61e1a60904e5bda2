"""Validation on a fixed set of samples and noise levels."""

__all__ = ["Validation"]

from typing import final

from pytorch_lightning import LightningModule, Trainer

from medsci.training.callbacks.log import MetricsLog
from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.callbacks.stop import StopCleanly
from medsci.training.module import DenoiserModule


@final
class Validation(AbstractStepCallback):
    """Validate every so many steps and at the end, unless the run was told to end at once."""

    def __init__(self, log: MetricsLog, *, every: int, stop: StopCleanly) -> None:
        self.log_rows = log
        self.every = every
        self.stop = stop

    def _validate(self, trainer: Trainer, module: DenoiserModule) -> None:
        step = trainer.global_step
        skip = self.log_rows.has_validation(step) or self.stop.reason == "sigterm"
        if not trainer.strategy.broadcast(skip):
            self.log_rows.add_validation(step, module.validate())

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Validate when the step is due."""
        if trainer.global_step % self.every == 0:
            self._validate(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Validate what the run ends with."""
        if isinstance(module, DenoiserModule):
            self._validate(trainer, module)
