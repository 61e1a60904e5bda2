"""What happens around the steps of a run: checkpoints, the log, progress, stopping early."""

__all__ = [
    "LOG_COLUMNS",
    "Checkpoints",
    "MetricsLog",
    "Progress",
    "StopCleanly",
    "Validation",
    "read_log",
]

import csv
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, final

from pytorch_lightning import Callback, LightningModule, Trainer

from medsci.training.module import N_LEVELS, DenoiserModule

_LEVELS = range(1, N_LEVELS + 1)
LOG_COLUMNS = (
    "step", "seconds", "learning_rate",
    "train_loss", *(f"train_loss_level{i}" for i in _LEVELS),
    "val_loss", *(f"val_loss_level{i}" for i in _LEVELS),
)  # fmt: skip


@final
class Checkpoints(Callback):
    """Write `last.ckpt` every so many steps and when the run ends.

    The file is written under another name and renamed, so a kill leaves the one before. `after`
    is called once it is there.
    """

    def __init__(self, file: Path, *, every: int, after: Callable[[DenoiserModule], None]) -> None:
        self.file = file
        self.every = every
        self.after = after

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        """Write now."""
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero and isinstance(module, DenoiserModule):
            partial.replace(self.file)
            self.after(module)

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write when the step is due and is not the last, which `on_train_end` writes."""
        step = trainer.global_step
        if step % self.every == 0 and step < trainer.max_steps:
            self.save(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the end of the run."""
        self.save(trainer, module)


def read_log(file: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics file; cells that were not measured are left out."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(cell) for key, cell in row.items() if cell} for row in rows]


def _by_level(window: list[tuple[float, int]]) -> dict[str, float]:
    row = {"train_loss": sum(loss for loss, _ in window) / len(window)}
    for level in range(N_LEVELS):
        losses = [loss for loss, of in window if of == level]
        if losses:
            row[f"train_loss_level{level + 1}"] = sum(losses) / len(losses)
    return row


@final
class MetricsLog(Callback):
    """Append a row to `metrics.csv` every so many steps and at every validation.

    `seconds` is the time spent training, over all sittings of the run.
    """

    def __init__(self, file: Path, *, every: int) -> None:
        self.file = file
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._before = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the rows up to the step resumed from and drop what an interrupted run added."""
        self.rows = [row for row in read_log(self.file) if row["step"] <= trainer.global_step]
        if trainer.global_step == 0:
            self.rows = []
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._started = time.monotonic()
        with self.file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def _append(self, row: dict[str, float]) -> None:
        row["seconds"] = round(self._before + time.monotonic() - self._started, 1)
        self.rows.append(row)
        with self.file.open("a", newline="") as stream:
            csv.DictWriter(stream, LOG_COLUMNS).writerow(row)

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the mean of the window that ends here."""
        if trainer.global_step % self.every or not isinstance(module, DenoiserModule):
            return
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"step": float(trainer.global_step), "learning_rate": rate}
        self._append(row | _by_level(module.window))
        module.window = []

    def add_validation(self, step: int, losses: list[float]) -> None:
        """Write the losses of a validation."""
        row = {"step": float(step), "val_loss": sum(losses) / len(losses)}
        self._append(row | {f"val_loss_level{i + 1}": loss for i, loss in enumerate(losses)})


@final
class StopCleanly(Callback):
    """End the run after the current step when time is up or SIGTERM came.

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

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask Lightning to stop."""
        minutes = (time.monotonic() - self._started) / 60.0
        if self.max_minutes is not None and minutes > self.max_minutes and not self.reason:
            self.reason = "max_minutes"
        if self.reason:
            trainer.should_stop = True


@final
class Validation(Callback):
    """Validate every so many steps and at the end, unless the run was told to end at once."""

    def __init__(self, log: MetricsLog, *, every: int, stop: StopCleanly) -> None:
        self.log_rows = log
        self.every = every
        self.stop = stop

    def _validate(self, step: int, module: LightningModule) -> None:
        rows = self.log_rows.rows
        done = any("val_loss" in row and row["step"] == step for row in rows)
        if isinstance(module, DenoiserModule) and not done and self.stop.reason != "sigterm":
            self.log_rows.add_validation(step, module.validate())

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate when the step is due."""
        if trainer.global_step % self.every == 0:
            self._validate(trainer.global_step, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Validate what the run ends with."""
        self._validate(trainer.global_step, module)


@final
class Progress(Callback):
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
        if not sys.stderr.isatty():
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

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or write a line when a log row has appeared."""
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
