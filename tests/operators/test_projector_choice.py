"""`projector` picks a backend, and says what to do where it cannot."""

import math
import sys

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators.astra_projector import AstraProjector
from medsci.operators.csr_projector import CsrProjector, csr_bytes
from medsci.operators.joseph_projector import JosephProjector
from medsci.operators.projector import projector

ANGLES = np.arange(8) * math.pi / 8
BEAM = ParallelBeam(ANGLES, 91, 1.0)
FAN = FanBeam(ANGLES, 91, 1.6, 120.0, 80.0)
GRID = ImageGrid(64, 64, 1.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beam", [BEAM, FAN])
def test_estimated_memory_is_the_memory_taken(beam, dtype):
    built = projector(beam, GRID, backend="csr", dtype=dtype)
    assert isinstance(built, CsrProjector)
    assert built.n_bytes <= csr_bytes(beam, GRID, dtype=dtype) < 1.05 * built.n_bytes


def test_figures_of_the_specification():
    full = ImageGrid(256, 256, 1.0, 1.0)
    eight = csr_bytes(ParallelBeam(np.arange(8) * math.pi / 8, 363, 1.0), full)
    assert 13e6 < eight < 16e6
    many = csr_bytes(ParallelBeam(np.arange(180) * math.pi / 180, 363, 1.0), full)
    assert many == pytest.approx(16 * 21.2e6, rel=0.03)


def test_auto_takes_the_matrix_within_its_memory():
    gib = csr_bytes(BEAM, GRID) / 2**30
    assert isinstance(projector(BEAM, GRID), CsrProjector)
    assert isinstance(projector(BEAM, GRID, memory_gib=1.01 * gib), CsrProjector)
    assert isinstance(projector(BEAM, GRID, memory_gib=0.99 * gib), JosephProjector)
    assert isinstance(projector(BEAM, GRID, backend="csr", memory_gib=0.99 * gib), CsrProjector)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "tigre"}, "choose one of auto, csr"),
        ({"dtype": torch.float16}, "float32 or float64"),
        ({"memory_gib": 0.0}, "positive number of GiB"),
        ({"memory_gib": math.nan}, "positive number of GiB"),
    ],
)
def test_wrong_options_are_usage_errors(options, words):
    with pytest.raises(UsageError, match=words):
        projector(BEAM, GRID, **options)


@pytest.mark.parametrize(
    ("backend", "package"),
    [("fourier", "finufft"), ("astra", "astra"), ("astra-cuda", "astra")],
)
def test_absent_packages_are_named(backend, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"pip install {package}"):
        projector(BEAM, GRID, backend=backend)


def test_fourier_refuses_a_fan():
    pytest.importorskip("finufft")
    with pytest.raises(UsageError, match="parallel rays"):
        projector(FAN, GRID, backend="fourier")


def test_astra_says_what_it_cannot_do():
    astra = pytest.importorskip("astra")
    curved = FanBeam(ANGLES, 91, 1.6, 120.0, 80.0, curved=True)
    with pytest.raises(UsageError, match="no curved detector"):
        projector(curved, GRID, backend="astra")
    with pytest.raises(UsageError, match="square pixels"):
        projector(BEAM, ImageGrid(64, 64, 1.0, 1.2), backend="astra")
    with pytest.raises(UsageError, match="float32"):
        projector(BEAM, GRID, backend="astra", dtype=torch.float64)
    if not astra.use_cuda():
        with pytest.raises(UsageError, match="no CUDA"):
            projector(BEAM, GRID, backend="astra-cuda")


def test_astra_on_cuda_is_not_matched(monkeypatch):
    astra = pytest.importorskip("astra")
    monkeypatch.setattr(astra, "use_cuda", lambda: True)
    op = projector(BEAM, GRID, backend="astra-cuda")
    assert isinstance(op, AstraProjector)
    assert not op.matched
    assert not op.H.matched
    assert not op.subset([0]).matched
    assert projector(BEAM, GRID, backend="astra").matched


@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_a_source_within_the_image_is_refused(backend):
    near = FanBeam(ANGLES, 91, 1.0, 45.0, 80.0)
    with pytest.raises(InvalidInputError, match="source to rotation centre"):
        projector(near, GRID, backend=backend)
    projector(near, ImageGrid(56, 56, 1.0, 1.0), backend=backend)


@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_wrong_data_are_refused_with_the_right_size(backend):
    op = projector(BEAM, GRID, backend=backend)
    with pytest.raises(InvalidInputError, match=r"image is \(2, 64, 63\).*\(any, 64, 64\)"):
        op(torch.zeros(2, 64, 63))
    with pytest.raises(InvalidInputError, match=r"sinogram is \(1, 9, 91\).*\(any, 8, 91\)"):
        op.adjoint(torch.zeros(1, 9, 91))
    with pytest.raises(InvalidInputError, match=r"dtype=torch\.float64"):
        op(torch.zeros(1, 64, 64, dtype=torch.float64))


def beside_ours(op, theta_sign: float = 1.0) -> float:
    """The error of `op` against our matrix, for white noise and the mirrored angles if asked."""
    beam = ParallelBeam(theta_sign * op.beam.angles, op.beam.n_bins, op.beam.bin_mm, 0.25)
    ours = projector(beam, op.grid, backend="csr")
    x = torch.rand(2, *op.image_shape, generator=torch.Generator().manual_seed(0))
    return float((op(x) - ours(x)).norm() / ours(x).norm())


@pytest.mark.parametrize("grid", [GRID, ImageGrid(63, 60, 0.8, 0.8)])
def test_astra_sees_what_we_see(grid):
    pytest.importorskip("astra")
    beam = ParallelBeam(np.arange(11) * 0.29 + 0.05, 101, 0.7, 0.25)
    op = projector(beam, grid, backend="astra")
    assert beside_ours(op) < 2e-4
    assert beside_ours(op, -1.0) > 0.02
    y = torch.rand(1, 11, 101, generator=torch.Generator().manual_seed(1))
    ours = projector(beam, grid, backend="csr").adjoint(y)
    assert (op.adjoint(y) - ours).norm() < 2e-3 * ours.norm()


@pytest.mark.parametrize("backend", ["csr", "joseph", "fourier"])
def test_one_view_is_enough(backend):
    pytest.importorskip("finufft" if backend == "fourier" else "torch")
    op = projector(BEAM.subset([3]), GRID, backend=backend)
    x = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = projector(BEAM, GRID)(x)[:, 3:4]
    assert (op(x) - expected).norm() < 0.03 * expected.norm()
    assert op.adjoint(op(x)).isfinite().all()
