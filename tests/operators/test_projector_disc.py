"""An off-centre disc is seen where it is: centre, half pixel, sign and scale of every projector."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators.projector import projector

CENTRE, RADIUS, VALUE = (30.3, -21.7), 60.0, 0.02
HALF_TURN = np.arange(20) * math.pi / 20 + 0.01
EVEN, ODD = ImageGrid(256, 256, 1.0, 1.0), ImageGrid(255, 255, 1.0, 1.0)
OBLONG = ImageGrid(200, 256, 1.1, 0.9)
PARALLEL = ParallelBeam(HALF_TURN, 363, 1.0)
OFFSET = ParallelBeam(HALF_TURN, 363, 0.9, 0.25)
FAN = FanBeam(2 * HALF_TURN, 363, 1.6, 500.0, 400.0)
ARC = FanBeam(2 * HALF_TURN, 363, 1.6, 500.0, 400.0, 0.25, curved=True)
SCANS = {
    "even": (PARALLEL, EVEN),
    "odd": (PARALLEL, ODD),
    "oblong": (OFFSET, OBLONG),
    "fan": (FAN, EVEN),
    "fan-odd": (FAN, ODD),
    "arc-oblong": (ARC, OBLONG),
}
CASES = [(scan, backend) for scan in SCANS for backend in ("csr", "joseph")]
CASES += [(scan, "fourier") for scan in ("even", "odd", "oblong")]
CASES += [(scan, "astra") for scan in ("even", "odd", "fan", "fan-odd")]


def drawn(grid: ImageGrid, centre=CENTRE, n: int = 8) -> torch.Tensor:
    """The disc, every pixel the mean of n x n points."""
    inside = (np.arange(n) - (n - 1) / 2) / n
    rows, cols = grid.centres()
    y = (rows[:, None] + inside * grid.row_mm).ravel()
    x = (cols[:, None] + inside * grid.col_mm).ravel()
    fine = np.hypot(x[None] - centre[0], y[:, None] - centre[1]) < RADIUS
    coarse = fine.reshape(grid.n_rows, n, grid.n_cols, n).mean(axis=(1, 3))
    return torch.from_numpy(VALUE * coarse).float()[None]


def chords(beam, centre=CENTRE, n: int = 9) -> np.ndarray:
    """The exact integrals, meaned over n rays per bin, from source and bin positions alone."""
    size = beam.bin_mm / n
    edge = (beam.n_bins - 1) / 2 - beam.offset_bins
    s = (np.arange(beam.n_bins * n) + 0.5) * size - (edge + 0.5) * beam.bin_mm
    e = np.stack([np.cos(beam.angles), np.sin(beam.angles)], axis=-1)[:, None]
    d = np.stack([-np.sin(beam.angles), np.cos(beam.angles)], axis=-1)[:, None]
    if isinstance(beam, ParallelBeam):
        away = (np.array(centre) * e).sum(-1) - s
    else:
        reach = beam.source_mm + beam.detector_mm
        gamma = s / reach if beam.curved else np.arctan(s / reach)
        ray = np.cos(gamma)[:, None] * d + np.sin(gamma)[:, None] * e
        to_disc = np.array(centre) + beam.source_mm * d
        away = ray[..., 0] * to_disc[..., 1] - ray[..., 1] * to_disc[..., 0]
    length = 2 * VALUE * np.sqrt(np.maximum(RADIUS**2 - away**2, 0.0))
    return length.reshape(beam.n_angles, beam.n_bins, n).mean(-1)


def error(sinogram: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(sinogram[0].numpy() - expected) / np.linalg.norm(expected))


def make(scan: str, backend: str):
    pytest.importorskip({"astra": "astra", "fourier": "finufft"}.get(backend, "torch"))
    return projector(SCANS[scan][0], SCANS[scan][1], backend=backend)


@pytest.mark.parametrize(("scan", "backend"), CASES)
def test_disc(scan, backend):
    beam, grid = SCANS[scan]
    y = make(scan, backend)(drawn(grid))
    assert error(y, chords(beam)) < 0.003
    half = (CENTRE[0] + 0.5 * grid.col_mm, CENTRE[1] + 0.5 * grid.row_mm)
    assert error(y, chords(beam, half)) > 0.01  # half a pixel beside would be seen
    mirrored = dataclasses.replace(beam, angles=-beam.angles)
    assert error(y, chords(mirrored)) > 0.3  # and an angle that turns the other way
    transposed = (CENTRE[1], CENTRE[0])
    assert error(y, chords(beam, transposed)) > 0.3  # and x taken for y


def centroid(sinogram: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return (sinogram * positions).sum(-1) / sinogram.sum(-1)


@pytest.mark.parametrize(
    ("scan", "backend"), [c for c in CASES if c[0] in ("even", "odd", "oblong")]
)
def test_centroid_of_a_view_is_that_of_the_disc(scan, backend):
    beam, grid = SCANS[scan]
    y = make(scan, backend)(drawn(grid))[0].numpy().astype(np.float64)
    seen = centroid(y, beam.bin_positions())
    cos, sin = np.cos(beam.angles), np.sin(beam.angles)
    assert np.abs(seen - CENTRE[0] * cos - CENTRE[1] * sin).max() < 0.02
    half = 0.5 * grid.col_mm * cos + 0.5 * grid.row_mm * sin
    assert np.abs(seen - CENTRE[0] * cos - CENTRE[1] * sin - half).max() > 0.4


# ASTRA's line kernel for fans adds whole box lengths; its centroids scatter by 0.03 px.
FANS = [c for c in CASES if isinstance(SCANS[c[0]][0], FanBeam) and c[1] != "astra"]


@pytest.mark.parametrize(("scan", "backend"), FANS)
def test_centroid_of_a_fan_view_is_that_of_the_chords(scan, backend):
    beam, grid = SCANS[scan]
    y = make(scan, backend)(drawn(grid))[0].numpy().astype(np.float64)
    expected = centroid(chords(beam), beam.bin_positions())
    magnified = (beam.source_mm + beam.detector_mm) / beam.source_mm
    assert np.abs(centroid(y, beam.bin_positions()) - expected).max() < 0.02 * magnified


def test_length_is_in_millimetres():
    small, large = ImageGrid(64, 64, 1.0, 1.0), ImageGrid(64, 64, 2.5, 2.5)
    x = torch.ones(1, 64, 64)
    y = projector(ParallelBeam(HALF_TURN, 91, 1.0), small)(x)
    scaled = projector(ParallelBeam(HALF_TURN, 91, 2.5), large)(x)
    torch.testing.assert_close(scaled, 2.5 * y, rtol=1e-5, atol=1e-4)
