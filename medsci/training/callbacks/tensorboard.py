"""The same numbers and pictures for TensorBoard."""

__all__ = ["TensorBoard"]

from pathlib import Path
from typing import Any, final

from pytorch_lightning import Callback, LightningModule, Trainer

from medsci.training.callbacks.samples import Picture


@final
class TensorBoard(Callback):
    """Write scalars and sample sheets to `tensorboard/`; the first process does.

    A run that resumes hides what an interrupted sitting wrote after its checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open the file."""
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            first = trainer.global_step + 1
            self._writer = SummaryWriter(str(self.folder), purge_step=first if first > 1 else None)

    def add_row(self, row: dict[str, float]) -> None:
        """Write the numbers of a row of the log."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in ("step", "seconds"):
                group, _, level = name.partition("_level")
                tag = f"{group}_by_noise/{level}" if level else f"loss/{group}"
                self._writer.add_scalar(tag, value, int(row["step"]))

    def add_picture(self, step: int, picture: Picture) -> None:
        """Write a sheet of samples."""
        if self._writer is not None:
            self._writer.add_image("samples", picture, step, dataformats="HW")

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Close the file, whatever ended the run."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
