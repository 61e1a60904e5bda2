"""The ASTRA toolbox as a projector, where it is installed.

ASTRA lets y grow upwards, with row 0 on top; its angle is minus ours. Here its geometry is given as
vectors, y turned round, so that the same array gives the same sinogram.

Source: van Aarle et al. 2016, doi:10.1364/OE.24.025129.
"""

__all__ = ["AstraProjector"]

from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64, Integer
from torch import Tensor

from medsci.errors import UsageError
from medsci.imaging.beam import Beam, FanBeam, ImageGrid
from medsci.operators.abstract_projector import AbstractProjector


@final
class AstraProjector(AbstractProjector):
    """Call ASTRA slice by slice, in float32; parallel beams and flat fans, square pixels.

    On the CPU it uses ASTRA's `linear` kernel (Joseph) for parallel beams and its `line` kernel
    (exact intersection lengths) for fans, both with the exact transpose. On CUDA (`cuda=True`)
    its backprojection is another discretisation than its projection: `matched` is then False and
    gradients are as approximate as `adjoint`.

    Args:
        beam: The rays.
        grid: The pixels of a slice.
        dtype: float32; ASTRA has no other.
        cuda: Compute on a CUDA device; data still come from and go to the host.

    Raises:
        UsageError: If ASTRA is not installed, or cannot do this geometry or number type.
    """

    def __init__(
        self,
        beam: Beam,
        grid: ImageGrid,
        *,
        dtype: torch.dtype = torch.float32,
        cuda: bool = False,
    ) -> None:
        super().__init__(beam, grid)
        astra = _astra()
        _check(astra, beam, grid, dtype=dtype, cuda=cuda)
        self.matched = not cuda
        self._kind = _kernel(beam, cuda=cuda)

    @property
    def dtype(self) -> torch.dtype:
        """The number type of images and sinograms."""
        return torch.float32

    def subset(self, views: Integer[np.ndarray, " n_kept"] | list[int]) -> "AstraProjector":
        """Return the projector of some views, in the order given."""
        return AstraProjector(self.beam.subset(views), self.grid, cuda=not self.matched)

    def _project(self, x: Tensor) -> Tensor:
        return self._run(x, "FP", self.sinogram_shape)

    def _backproject(self, y: Tensor) -> Tensor:
        return self._run(y, "BP", self.image_shape)

    def _run(self, data: Tensor, direction: str, shape: tuple[int, int]) -> Tensor:
        """Apply one direction to every slice; ASTRA's objects live as long as this call."""
        astra = _astra()
        arrays = np.ascontiguousarray(data.numpy(force=True))
        result = np.empty((len(arrays), *shape), np.float32)
        geometries = _projection_geometry(astra, self.beam), _volume_geometry(astra, self.grid)
        handle = astra.create_projector(self._kind, *geometries)
        try:
            op = astra.OpTomo(handle)
            for array, target in zip(arrays, result, strict=True):
                getattr(op, direction)(array, out=target)
        finally:
            astra.projector.delete(handle)
        return torch.from_numpy(result).to(data.device)


def _kernel(beam: Beam, *, cuda: bool) -> str:
    if cuda:
        return "cuda"
    return "line_fanflat" if isinstance(beam, FanBeam) else "linear"


def _projection_geometry(astra: ModuleType, beam: Beam) -> dict[str, Any]:
    e = np.stack([np.cos(beam.angles), -np.sin(beam.angles)], axis=-1)
    d = np.stack([-np.sin(beam.angles), -np.cos(beam.angles)], axis=-1)
    middle, pitch = beam.offset_bins * beam.bin_mm * e, beam.bin_mm * e
    if isinstance(beam, FanBeam):
        vectors = np.hstack([-beam.source_mm * d, beam.detector_mm * d + middle, pitch])
        return _named(astra, "fanflat_vec", beam.n_bins, vectors)
    return _named(astra, "parallel_vec", beam.n_bins, np.hstack([d, middle, pitch]))


def _named(
    astra: ModuleType, kind: str, n_bins: int, vectors: Float64[np.ndarray, "n_angles 6"]
) -> dict[str, Any]:
    geometry: dict[str, Any] = astra.create_proj_geom(kind, n_bins, vectors)
    return geometry


def _volume_geometry(astra: ModuleType, grid: ImageGrid) -> dict[str, Any]:
    x, y = grid.n_cols * grid.col_mm / 2, grid.n_rows * grid.row_mm / 2
    geometry: dict[str, Any] = astra.create_vol_geom(grid.n_rows, grid.n_cols, -x, x, -y, y)
    return geometry


def _check(
    astra: ModuleType, beam: Beam, grid: ImageGrid, *, dtype: torch.dtype, cuda: bool
) -> None:
    if dtype != torch.float32:
        raise UsageError(f"ASTRA computes in float32 but {dtype} was asked for; use backend='csr'")
    if isinstance(beam, FanBeam) and beam.curved:
        raise UsageError("ASTRA has no curved detector; use backend='csr' or 'joseph'")
    if not np.isclose(grid.row_mm, grid.col_mm, rtol=1e-6):
        raise UsageError(
            f"ASTRA needs square pixels but they are {grid.row_mm} by {grid.col_mm} mm; "
            "use backend='csr' or 'joseph'"
        )
    if cuda and not astra.use_cuda():
        raise UsageError("this ASTRA finds no CUDA device; use backend='astra' or 'joseph'")


def _astra() -> ModuleType:
    try:
        import astra
    except ImportError as error:
        raise UsageError(
            "backend='astra' needs the package astra-toolbox, which is not installed; "
            "pip install astra-toolbox, or use backend='auto'"
        ) from error
    return astra
