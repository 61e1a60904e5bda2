"""The projectors that `bench/operators.py` compares, and an object whose projections are known.

Every method takes images (n_slices, rows, columns) and gives sinograms (n_slices, views, bins),
both float32 arrays in its own layout, and back. What a library does not batch is looped over. A
library that does not import raises ImportError.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from medsci.imaging.beam import ImageGrid, ParallelBeam
from medsci.operators.projector import projector

# value, semi-axes, centre (mm), turn (rad): a body, two lungs, a spine, a vessel, all off centre
ELLIPSES = (
    (1.0, 105.0, 78.0, 3.3, -4.7, 0.1),
    (-0.7, 32.0, 50.0, -42.0, 1.0, 0.3),
    (-0.7, 30.0, 46.0, 49.0, -6.0, -0.2),
    (0.6, 14.0, 11.0, 5.0, 45.0, 0.0),
    (0.4, 8.0, 8.0, 30.3, -21.7, 0.0),
)


def drawn(grid: ImageGrid, n: int = 8) -> np.ndarray:
    """Return the object, every pixel the mean of n x n points."""
    inside = (np.arange(n) - (n - 1) / 2) / n
    rows, cols = grid.centres()
    y = (rows[:, None] + inside * grid.row_mm).ravel()[:, None]
    x = (cols[:, None] + inside * grid.col_mm).ravel()[None]
    fine = np.zeros((len(y), x.shape[1]))
    for value, a, b, cx, cy, turn in ELLIPSES:
        along = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        across = (y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)
        fine += value * ((along / a) ** 2 + (across / b) ** 2 < 1)
    return fine.reshape(grid.n_rows, n, grid.n_cols, n).mean(axis=(1, 3)).astype(np.float32)


def projected(beam: ParallelBeam) -> np.ndarray:
    """Return the exact sinogram of the object, integrated over the width of every bin."""
    total = np.zeros((beam.n_angles, beam.n_bins))
    theta = beam.angles[:, None]
    for value, a, b, cx, cy, turn in ELLIPSES:
        r = np.hypot(a * np.cos(theta - turn), b * np.sin(theta - turn))
        s = beam.bin_positions() - cx * np.cos(theta) - cy * np.sin(theta)
        edges = [np.clip((s + sign * beam.bin_mm / 2) / r, -1, 1) for sign in (1, -1)]
        upper, lower = (u * np.sqrt(1 - u**2) + np.arcsin(u) for u in edges)
        total += value * a * b * (upper - lower) / beam.bin_mm
    return total


@dataclass
class Method:
    """A pair of maps, and what to multiply `back` by to make it the transpose of `there`.

    `image` and `sinogram` turn our arrays into the method's own, before the clock runs.
    """

    there: Callable[[Any], Any]
    back: Callable[[Any], Any]
    image: Callable[[np.ndarray], Any] = torch.from_numpy
    sinogram: Callable[[np.ndarray], Any] = torch.from_numpy
    image_back: Callable[[Any], np.ndarray] = np.asarray
    sinogram_back: Callable[[Any], np.ndarray] = np.asarray
    scale: float = 1.0
    note: dict[str, float] = field(default_factory=dict)


def ours(beam: ParallelBeam, grid: ImageGrid, backend: str) -> Method:
    op = projector(beam, grid, backend=backend, memory_gib=8.0)
    note = {"MiB": op.n_bytes / 2**20} if backend == "csr" else {}
    return Method(op, op.adjoint, note=note)


def astra(beam: ParallelBeam, grid: ImageGrid) -> Method:
    """One projector made once, slices in a loop; ASTRA's theta is minus ours."""
    import astra

    volume = astra.create_vol_geom(grid.n_rows, grid.n_cols)
    rays = astra.create_proj_geom("parallel", beam.bin_mm, beam.n_bins, -beam.angles)
    op = astra.OpTomo(astra.create_projector("linear", rays, volume))

    def loop(single: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.stack([single(part) for part in x])

    return Method(loop(op.FP), loop(op.BP), image=np.asarray, sinogram=np.asarray)


def scikit_image(beam: ParallelBeam, grid: ImageGrid) -> Method:
    """`radon` and the unfiltered `iradon`, (bins, views), rows from below."""
    from skimage.transform import iradon, radon

    degrees = np.rad2deg(beam.angles)

    def there(x: np.ndarray) -> np.ndarray:
        return np.stack([radon(part, degrees, circle=False) for part in x])

    def back(y: np.ndarray) -> np.ndarray:
        options = {"filter_name": None, "circle": False, "output_size": grid.n_rows}
        return np.stack([iradon(part, degrees, **options) for part in y])

    return Method(
        there,
        back,
        image=lambda x: np.ascontiguousarray(x[:, ::-1]),
        sinogram=lambda y: np.ascontiguousarray(y.swapaxes(1, 2)),
        image_back=lambda x: x[:, ::-1],
        sinogram_back=lambda y: y.swapaxes(1, 2),
        scale=2 * beam.n_angles / math.pi,
    )


def deepinv(beam: ParallelBeam, grid: ImageGrid) -> Method:
    """`Tomography` with its defaults, (1, bins, views), rows from below."""
    from deepinv.physics import Tomography

    degrees = torch.from_numpy(np.rad2deg(beam.angles)).float()
    op = Tomography(angles=degrees, img_width=grid.n_rows, circle=False, normalize=False)
    return Method(
        op.A,
        op.A_adjoint,
        image=lambda x: torch.from_numpy(np.ascontiguousarray(x[:, None, ::-1])),
        sinogram=lambda y: torch.from_numpy(np.ascontiguousarray(y.swapaxes(1, 2)[:, None])),
        image_back=lambda x: x.detach().numpy()[:, 0, ::-1],
        sinogram_back=lambda y: y.detach().numpy()[:, 0].swapaxes(1, 2),
    )


METHODS: dict[str, Callable[[ParallelBeam, ImageGrid], Method]] = {
    "medsci csr": lambda beam, grid: ours(beam, grid, "csr"),
    "medsci joseph": lambda beam, grid: ours(beam, grid, "joseph"),
    "medsci fourier": lambda beam, grid: ours(beam, grid, "fourier"),
    "ASTRA CPU linear": astra,
    "scikit-image": scikit_image,
    "deepinv": deepinv,
}
