"""Ending a run early, in order: after a whole step, with everything saved."""

__all__ = ["StopCleanly"]

import signal
import threading
import time
from types import FrameType
from typing import final

import torch
from pytorch_lightning import LightningModule, Trainer

from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.module import DenoiserModule

_REASONS = ("", "max_minutes", "sigterm")


@final
class StopCleanly(AbstractStepCallback):
    """End the run after the current step when time is up or SIGTERM came.

    Processes agree on it at every step, so that a signal to one of them stops all.

    Attributes:
        reason: empty, `max_minutes` or `sigterm`.
    """

    def __init__(self, *, max_minutes: float | None) -> None:
        self.max_minutes = max_minutes
        self.reason = ""
        self._started = 0.0

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.reason = "sigterm"

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Catch SIGTERM from now on, where signals can be caught: in the main thread.

        This replaces Lightning's own handler, which would raise in the middle of a step; Lightning
        puts back whatever there was before, at its end.
        """
        self._started = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Ask Lightning to stop."""
        minutes = (time.monotonic() - self._started) / 60.0
        if self.max_minutes is not None and minutes > self.max_minutes and not self.reason:
            self.reason = "max_minutes"
        if trainer.world_size > 1:
            here = torch.tensor(_REASONS.index(self.reason), device=module.device)
            self.reason = _REASONS[int(trainer.strategy.reduce(here, reduce_op="max"))]
        if self.reason:
            trainer.should_stop = True
