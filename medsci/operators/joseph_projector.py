"""A projector without a matrix: Joseph's weights are made when they are needed."""

__all__ = ["JosephProjector"]

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from medsci.imaging.beam import Beam, ImageGrid
from medsci.operators.abstract_projector import AbstractProjector
from medsci.operators.joseph import joseph_lines

_SLICES_PER_PASS = 32
_CPU_BLOCK = 2**16  # weights at a time; they stay in a core's cache
_DEVICE_BLOCK = 2**22
_MARGIN = 2  # zeros on both sides of a line of pixels, where rays enter and leave


@final
class JosephProjector(AbstractProjector):
    """Gather along the rays, and scatter back the same way, by blocks of rays.

    Needs no set-up and little memory: images, sinograms and one block of weights. For geometries
    whose matrix is too large, and for accelerators. Exact adjoint. On a CPU equal runs give equal
    bits; on CUDA the order of the sums in `adjoint` is not fixed.

    Args:
        beam: The rays.
        grid: The pixels of a slice.
        dtype: float32 or float64.

    Source: Joseph 1982, doi:10.1109/TMI.1982.4307572.
    """

    def __init__(self, beam: Beam, grid: ImageGrid, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(beam, grid)
        lines = joseph_lines(beam, grid)
        values = np.stack([lines.middle, lines.slope, lines.step_mm], axis=-1)
        for name, chosen in (("row", lines.along_rows), ("column", ~lines.along_rows)):
            rays = torch.from_numpy(np.flatnonzero(chosen))
            kept = torch.from_numpy(values[chosen]).to(dtype)
            self.register_buffer(f"{name}_rays", rays, persistent=False)
            self.register_buffer(f"{name}_lines", kept, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The number type of images and sinograms."""
        return self.get_buffer("row_lines").dtype

    def subset(self, views: Integer[np.ndarray, " n_kept"] | list[int]) -> "JosephProjector":
        """Return the projector of some views, in the order given."""
        part = JosephProjector(self.beam.subset(views), self.grid, dtype=self.dtype)
        return part.to(self.get_buffer("row_lines").device)

    def _project(self, x: Tensor) -> Tensor:
        return torch.cat([self._gather(part) for part in x.split(_SLICES_PER_PASS)])

    def _backproject(self, y: Tensor) -> Tensor:
        return torch.cat([self._scatter(part) for part in y.split(_SLICES_PER_PASS)])

    def _gather(self, x: Tensor) -> Tensor:
        y = x.new_zeros(self.beam.n_angles * self.beam.n_bins, len(x))
        for name, image in (("row", x), ("column", x.transpose(1, 2))):
            padded = pad(image, (_MARGIN, _MARGIN)).flatten(1)
            flat = padded.T.flatten().unflatten(0, (-1, len(x)))  # strides without a doubt
            change = torch.diff(flat, dim=0, append=flat[:1])
            for rays, pixels, fraction, step_mm in self._blocks(name):
                total = embedding_bag(pixels, flat, mode="sum")
                total += embedding_bag(pixels, change, per_sample_weights=fraction, mode="sum")
                y[rays] = total * step_mm
        return y.T.unflatten(1, self.sinogram_shape)

    def _scatter(self, y: Tensor) -> Tensor:
        n_rows, n_cols = self.image_shape
        flat = y.flatten(1)
        row = self._scatter_axis("row", flat, (n_rows, n_cols))
        return row + self._scatter_axis("column", flat, (n_cols, n_rows)).transpose(1, 2)

    def _scatter_axis(self, name: str, y: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return what the rays of one major axis add to the images, that axis first."""
        n_major, n_minor = shape
        total = y.new_zeros(len(y), n_major * (n_minor + 2 * _MARGIN))
        for rays, pixels, fraction, step_mm in self._blocks(name):
            low = pixels.flatten().long()
            high = low + 1
            scaled = y[:, rays] * step_mm[:, 0]
            for image, values in zip(total, scaled, strict=True):
                upper = fraction * values[:, None]
                image.scatter_add_(0, high, upper.flatten())
                image.scatter_add_(0, low, (values[:, None] - upper).flatten())
        return total.unflatten(1, (n_major, -1))[..., _MARGIN:-_MARGIN]

    def _blocks(self, name: str) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield for blocks of rays: their indices, lower pixels, fractions and steps."""
        rays, lines = self.get_buffer(f"{name}_rays"), self.get_buffer(f"{name}_lines")
        n_major, n_minor = self.image_shape if name == "row" else self.image_shape[::-1]
        m = torch.arange(n_major, device=rays.device)
        centred = m.to(lines.dtype) - (n_major - 1) / 2
        line_start = (m * (n_minor + 2 * _MARGIN) + _MARGIN).int()
        size = max(1, (_CPU_BLOCK if rays.device.type == "cpu" else _DEVICE_BLOCK) // n_major)
        for start in range(0, len(rays), size):
            middle, slope, step_mm = lines[start : start + size, :, None].unbind(1)
            q = torch.addcmul(middle, slope, centred).clamp_(-_MARGIN, n_minor)
            low = q.floor()
            yield rays[start : start + size], low.int().add_(line_start), q.sub_(low), step_mm
