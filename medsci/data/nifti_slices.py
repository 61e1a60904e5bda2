"""One's own NIfTI volumes as training slices."""

__all__ = ["NiftiSlices"]

import glob
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.rng import mix64
from medsci.data.phase import smooth_phase
from medsci.errors import InvalidInputError

_log = logging.getLogger(__name__)
_SLICED_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
_SUFFIXES = (".nii", ".nii.gz")


@final
class NiftiSlices:
    """Slices of a folder, a glob pattern or a list of NIfTI volumes, as a `SliceSource`.

    Each volume is turned to the closest RAS+ orientation, divided by the 99th percentile of its
    non-zero magnitudes, cut into slices with rows towards anterior or superior and columns towards
    right (sagittal: towards anterior), and cropped or padded about its centre to `size`. Voxels
    are not resampled. Slices with little in them are left out. Volumes that cannot be read are
    skipped, reported once each in the log and kept in `skipped`.

    The slices stay in memory as float16: 86 kB each at 224 x 192.

    Args:
        files: a folder (searched in depth), a glob pattern, a file, or several of these.
        axis: the direction in which the volume is cut.
        size: rows and columns of a slice.
        channels: `complex` multiplies by a random smooth residual phase and returns real and
            imaginary part; `magnitude` returns one channel.
        min_signal: slices whose fraction of pixels above a tenth of the scale is smaller are
            left out.

    Raises:
        InvalidInputError: no file was found, or none could be read.
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        axis: Literal["axial", "coronal", "sagittal"] = "axial",
        size: tuple[int, int] = (224, 192),
        channels: Literal["complex", "magnitude"] = "complex",
        min_signal: float = 0.05,
    ) -> None:
        self.axis = axis
        self.size = size
        self.channels = channels
        self.min_signal = min_signal
        self.skipped: list[tuple[Path, str]] = []
        paths = _find(files)
        stacks = []
        for path in paths:
            try:
                stacks.append(self._read(path))
            except (OSError, EOFError, ValueError, zlib.error) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.skipped.append((path, reason))
                _log.warning("skipped %s: %s", path, reason)
        if self.skipped:
            _log.warning("%d of %d volumes skipped", len(self.skipped), len(paths))
        kept = [stack for stack in stacks if len(stack)]
        if not kept:
            first = f"; first: {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise InvalidInputError(
                f"none of {len(paths)} volumes gave a slice, {len(self.skipped)} could not be "
                f"read{first}; check the files, or lower min_signal"
            )
        self._slices = np.concatenate(kept)

    @property
    def n_items(self) -> int:
        """Return the number of slices."""
        return len(self._slices)

    def _read(self, path: Path) -> np.ndarray:
        import nibabel as nib
        from nibabel.filebasedimages import ImageFileError

        try:
            image = nib.as_closest_canonical(nib.load(path))
            data = np.asanyarray(image.dataobj)
        except ImageFileError as error:
            raise ValueError(str(error)) from error
        if data.ndim == 4 and data.shape[3] == 1:
            data = data[..., 0]
        if data.ndim != 3:
            raise ValueError(f"shape {data.shape} came, a 3D volume is needed")
        magnitude = np.abs(data).astype(np.float32)
        if not np.isfinite(magnitude).all():
            raise ValueError("it holds NaN or infinite values")
        inside = magnitude[magnitude > 0]
        if inside.size == 0:
            raise ValueError("it is zero everywhere")
        scaled = magnitude / np.percentile(inside, 99.0)
        stack = np.moveaxis(scaled, _SLICED_AXIS[self.axis], 0).transpose(0, 2, 1)
        stack = _centre(stack, self.size)
        signal = (stack > 0.1).mean(axis=(1, 2))
        return stack[signal >= self.min_signal].astype(np.float16)

    def draw(self, item: int, seed: int) -> Float[Tensor, "c h w"]:
        """Return one slice, mirrored, shifted and scaled by the seed."""
        generator = np.random.default_rng(mix64(seed, item))
        image = self._slices[item].astype(np.float32)
        if self.axis != "sagittal" and generator.random() < 0.5:
            image = image[:, ::-1]
        shift = generator.integers(-8, 9, size=2)
        image = _shifted(image, int(shift[0]), int(shift[1]))
        image = image * np.float32(np.exp(generator.uniform(np.log(0.8), np.log(1.25))))
        if self.channels == "magnitude":
            return torch.from_numpy(np.ascontiguousarray(image[None]))
        residual = 0.1 * smooth_phase(self.size, generator=generator, spacing=24.0)
        residual = (residual - residual.mean()).astype(np.float32)
        return torch.from_numpy(np.stack([image * np.cos(residual), image * np.sin(residual)]))


def _find(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    found: list[Path] = []
    for entry in given:
        path = Path(entry).expanduser()
        if path.is_dir():
            found += [f for f in path.rglob("*") if f.name.lower().endswith(_SUFFIXES)]
        elif path.is_file():
            found.append(path)
        else:
            found += [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - absolute patterns
    if not found:
        raise InvalidInputError(
            f"no NIfTI file at {', '.join(str(entry) for entry in given)}; give a folder, "
            "a glob pattern or a list of .nii or .nii.gz files"
        )
    return sorted(set(found))


def _centre(stack: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop or zero-pad the last two axes about their centre."""
    for axis, wanted in zip((1, 2), size, strict=True):
        have = stack.shape[axis]
        if have >= wanted:
            start = (have - wanted) // 2
            stack = np.take(stack, range(start, start + wanted), axis=axis)
        else:
            before = (wanted - have) // 2
            widths = [(0, 0), (0, 0), (0, 0)]
            widths[axis] = (before, wanted - have - before)
            stack = np.pad(stack, widths)
    return stack


def _shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move the image by whole pixels; zeros come in."""
    out = np.zeros_like(image)
    rows, columns = image.shape
    source = image[max(0, -down) : rows - max(0, down), max(0, -right) : columns - max(0, right)]
    out[max(0, down) : rows + min(0, down), max(0, right) : columns + min(0, right)] = source
    return out
