"""`metrics.csv`: a row every so many steps and at every validation."""

__all__ = ["LOG_COLUMNS", "MetricsLog", "read_log"]

import csv
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from pytorch_lightning import LightningModule, Trainer

from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.module import DenoiserModule
from medsci.training.window import N_LEVELS

_LEVELS = range(1, N_LEVELS + 1)
LOG_COLUMNS = (
    "step", "seconds", "learning_rate",
    "train_loss", *(f"train_loss_level{i}" for i in _LEVELS),
    "val_loss", *(f"val_loss_level{i}" for i in _LEVELS),
)  # fmt: skip
Row = dict[str, float]


def read_log(file: Path) -> list[Row]:
    """Return the rows of a metrics file; cells that were not measured are left out."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(cell) for key, cell in row.items() if cell} for row in rows]


def _named(kind: str, mean: float, levels: Sequence[float]) -> Row:
    row = {f"{kind}_loss": mean}
    measured = {f"{kind}_loss_level{i + 1}": loss for i, loss in enumerate(levels)}
    return row | {name: loss for name, loss in measured.items() if not math.isnan(loss)}


@final
class MetricsLog(AbstractStepCallback):
    """Append a row to `metrics.csv`; the first process writes, all take part in the sums.

    `seconds` is the time spent training, over all sittings of the run.

    Args:
        file: the CSV file.
        every: steps between two rows.
        listeners: are given every new row, by the first process.
    """

    def __init__(
        self, file: Path, *, every: int, listeners: Sequence[Callable[[Row], None]] = ()
    ) -> None:
        self.file = file
        self.every = every
        self.listeners = tuple(listeners)
        self.rows: list[Row] = []
        self._writes = False
        self._before = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the rows up to the step resumed from and drop what an interrupted run added."""
        self._writes = trainer.is_global_zero
        self._started = time.monotonic()
        if not self._writes:
            return
        self.rows = [row for row in read_log(self.file) if row["step"] <= trainer.global_step]
        if trainer.global_step == 0:
            self.rows = []
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        with self.file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def _append(self, row: Row) -> None:
        if not self._writes:
            return
        row["seconds"] = round(self._before + time.monotonic() - self._started, 1)
        self.rows.append(row)
        with self.file.open("a", newline="") as stream:
            csv.DictWriter(stream, LOG_COLUMNS).writerow(row)
        for listener in self.listeners:
            listener(row)

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Write the mean of the window that ends here."""
        if trainer.global_step % self.every:
            return
        mean, levels = module.window.means(trainer.strategy)
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"step": float(trainer.global_step), "learning_rate": rate}
        self._append(row | _named("train", mean, levels))
        module.window.clear()

    def add_validation(self, step: int, levels: Sequence[float]) -> None:
        """Write the losses of a validation."""
        measured = [loss for loss in levels if not math.isnan(loss)]
        mean = sum(measured) / max(1, len(measured))
        self._append({"step": float(step)} | _named("val", mean, levels))

    def has_validation(self, step: int) -> bool:
        """Return whether step `step` was validated; the first process knows."""
        return any("val_loss" in row and row["step"] == step for row in self.rows)
