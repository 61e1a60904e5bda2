"""Where a run is: a bar on a terminal, a plain line elsewhere."""

__all__ = ["Progress"]

import sys
import time
from typing import Any, final

from pytorch_lightning import LightningModule, Trainer

from medsci.training.callbacks.log import MetricsLog
from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.module import DenoiserModule


@final
class Progress(AbstractStepCallback):
    """Show where the run is: a bar on a terminal, a plain line per log row elsewhere, on stderr."""

    def __init__(self, log: MetricsLog, *, every: int) -> None:
        self.log_rows = log
        self.every = every
        self._bar: Any = None
        self._task: Any = None
        self._first = 0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open the bar."""
        self._first = trainer.global_step
        self._started = time.monotonic()
        if not (sys.stderr.isatty() and trainer.is_global_zero):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=Console(stderr=True),
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=self._first, note="")

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Move the bar, or write a line when a log row has appeared."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        rows = self.log_rows.rows
        if self._bar is not None:
            note = f"loss {rows[-1]['train_loss']:.4f}" if rows and "train_loss" in rows[-1] else ""
            self._bar.update(self._task, completed=step, note=note)
        elif step % self.every == 0:
            pace = (time.monotonic() - self._started) / max(1, step - self._first)
            left = pace * (trainer.max_steps - step) / 60.0
            words = "".join(
                f"  {name} {row[key]:.4f}"
                for name, key in (("loss", "train_loss"), ("validation", "val_loss"))
                for row in [next((r for r in reversed(rows) if key in r), None)]
                if row is not None
            )
            sys.stderr.write(
                f"step {step}/{trainer.max_steps}{words}  {pace:.3f} s/step  {left:.1f} min left\n"
            )
            sys.stderr.flush()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Close the bar, whatever ended the run."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
