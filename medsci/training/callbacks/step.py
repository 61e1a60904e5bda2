"""A callback that is told of optimiser steps rather than of batches."""

__all__ = ["AbstractStepCallback"]

from abc import abstractmethod
from typing import Any, final

from pytorch_lightning import Callback, LightningModule, Trainer

from medsci.training.module import DenoiserModule


class AbstractStepCallback(Callback):
    """Call `on_step` after every optimiser step; a batch that only accumulates is none."""

    @final
    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass the end of a step on."""
        ended = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if ended and isinstance(module, DenoiserModule):
            self.on_step(trainer, module)

    @abstractmethod
    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Do what is due after step `trainer.global_step`; called by every process."""
