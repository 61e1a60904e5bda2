"""Pictures of what the model draws while it learns."""

__all__ = ["Samples", "tile"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float
from pytorch_lightning import Trainer
from torch import Tensor

from medsci.training.callbacks.step import AbstractStepCallback
from medsci.training.module import DenoiserModule

Picture = Float[np.ndarray, "rows columns"]


def _planes(sample: np.ndarray, *, is_complex: bool) -> np.ndarray:
    """Return the image (h, w) of a sample (c, *spatial): of a volume its middle axial slice."""
    image = np.hypot(sample[0], sample[1]) if is_complex else sample[0]
    if image.ndim == 1:
        return image[None]
    return image if image.ndim == 2 else np.rot90(image[..., image.shape[-1] // 2])


def tile(samples: Tensor, *, is_complex: bool) -> Picture:
    """Lay the images of samples (n, c, *spatial) out on a sheet about twice as wide as high.

    Volumes are shown by their middle axial slice, complex channels by their magnitude.
    """
    images = [_planes(one, is_complex=is_complex) for one in samples.float().cpu().numpy()]
    columns = min(len(images), int(np.ceil(np.sqrt(2.0 * len(images)))))
    blank = np.zeros_like(images[0])
    images += [blank] * (-len(images) % columns)
    rows = [np.hstack(images[start : start + columns]) for start in range(0, len(images), columns)]
    sheet: np.ndarray = np.vstack(rows)
    return sheet


@final
class Samples(AbstractStepCallback):
    """Write `STEP.png` every so many steps, drawn from the average with one seed throughout.

    Args:
        folder: of the pictures.
        every: steps between them.
        listeners: are given the step and the picture, scaled to [0, 1], by the first process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        listeners: Sequence[Callable[[int, Picture], None]] = (),
    ) -> None:
        self.folder = folder
        self.every = every
        self.listeners = tuple(listeners)

    def on_step(self, trainer: Trainer, module: DenoiserModule) -> None:
        """Draw; every process does, since a sharded model needs them all."""
        step = trainer.global_step
        if step % self.every:
            return
        drawn = module.draw_samples()
        if not trainer.is_global_zero:
            return
        names = module.recipe.card.image_channels
        picture = tile(drawn, is_complex=names == ("real", "imaginary"))
        low, high = np.quantile(picture, [0.005, 0.995])
        picture = ((picture - low) / max(float(high - low), 1e-6)).clip(0.0, 1.0)
        self._write(self.folder / f"{step:07d}.png", picture)
        for listener in self.listeners:
            listener(step, picture)

    @staticmethod
    def _write(file: Path, picture: Picture) -> None:
        from matplotlib.image import imsave

        file.parent.mkdir(parents=True, exist_ok=True)
        imsave(file, picture, cmap="gray", vmin=0.0, vmax=1.0)
