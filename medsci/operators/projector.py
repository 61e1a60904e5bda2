"""The right CT projector for a geometry and the memory there is."""

__all__ = ["BACKENDS", "Backend", "projector"]

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from medsci.errors import UsageError
from medsci.imaging.beam import Beam, ImageGrid
from medsci.operators.abstract_projector import AbstractProjector
from medsci.operators.astra_projector import AstraProjector
from medsci.operators.csr_projector import CsrProjector, csr_bytes
from medsci.operators.fourier_projector import FourierProjector
from medsci.operators.joseph_projector import JosephProjector
from medsci.operators.projector_cache import cached_matrices

Backend = Literal["auto", "csr", "joseph", "fourier", "astra", "astra-cuda"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def projector(
    beam: Beam,
    grid: ImageGrid,
    *,
    backend: str = "auto",
    memory_gib: float = 1.0,
    cache_dir: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> AbstractProjector:
    """Return a projector of images (n_slices, n_rows, n_cols) to (n_slices, n_angles, n_bins).

    Args:
        beam: The rays; conventions in `medsci.imaging.beam`.
        grid: The pixels of a slice.
        backend: `csr` stores the matrix, `joseph` computes the same weights each time, `fourier`
            needs finufft and parallel beams, `astra` and `astra-cuda` need ASTRA. `auto` takes
            `csr` where its two matrices fit into `memory_gib`, otherwise `joseph`.
        memory_gib: Memory for the matrices that `auto` may use, GiB.
        cache_dir: Folder in which to keep matrices for the next time; None keeps none.
        dtype: torch.float32 or torch.float64, of images, sinograms and weights.

    Raises:
        UsageError: For an unknown backend or type, a package that is not installed, or a backend
            that cannot do this geometry.
        InvalidInputError: If the source of a fan lies within the image.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r} came; choose one of {', '.join(BACKENDS)}")
    if dtype not in (torch.float32, torch.float64):
        raise UsageError(f"dtype={dtype} came; projectors compute in torch.float32 or float64")
    if not memory_gib > 0.0:
        raise UsageError(f"memory_gib={memory_gib} came; give a positive number of GiB")
    if backend == "auto":
        fits = csr_bytes(beam, grid, dtype=dtype) <= memory_gib * 2**30
        backend = "csr" if fits else "joseph"
    if backend == "csr":
        return _csr_projector(beam, grid, cache_dir=cache_dir, dtype=dtype)
    if backend == "joseph":
        return JosephProjector(beam, grid, dtype=dtype)
    if backend == "fourier":
        return FourierProjector(beam, grid, dtype=dtype)
    return AstraProjector(beam, grid, dtype=dtype, cuda=backend == "astra-cuda")


def _csr_projector(
    beam: Beam, grid: ImageGrid, *, cache_dir: str | Path | None, dtype: torch.dtype
) -> CsrProjector:
    matrices = None
    if cache_dir is not None:
        precision = np.float64 if dtype == torch.float64 else np.float32
        matrices = cached_matrices(beam, grid, dtype=precision, folder=cache_dir)
    return CsrProjector(beam, grid, dtype=dtype, matrices=matrices)
