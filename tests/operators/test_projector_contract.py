"""Every projector: exact adjoint, derivatives of every order, and slices that do not meet."""

import math

import numpy as np
import pytest
import torch
from contracts.operators import (
    assert_adjoint,
    assert_gradient,
    assert_norm,
    assert_normal,
    ramp,
    random,
)

from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators import LinearOp
from medsci.operators.joseph_projector import JosephProjector
from medsci.operators.projector import projector

ANGLES = np.array([0.0, 0.4, math.pi / 4, 1.3, math.pi / 2, 2.0, 3.0, 4.1])
PARALLEL = ParallelBeam(ANGLES, 31, 0.9, 0.3)
FAN = FanBeam(ANGLES, 31, 1.6, 60.0, 40.0, 0.3)
ARC = FanBeam(ANGLES, 31, 1.6, 60.0, 40.0, -0.3, curved=True)
GRIDS = {"even": ImageGrid(24, 24, 1.0, 1.0), "oblong": ImageGrid(17, 22, 1.2, 0.8)}
CASES = [
    (beam, grid, backend)
    for backend in ("csr", "joseph")
    for beam in (PARALLEL, FAN, ARC)
    for grid in GRIDS
]
CASES += [(PARALLEL, grid, "fourier") for grid in GRIDS]
SINGLE = [(PARALLEL, "even", "astra"), (FAN, "even", "astra")]
EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}


def make(beam, grid: str, backend: str, dtype: torch.dtype = torch.float32):
    pytest.importorskip({"astra": "astra", "fourier": "finufft"}.get(backend, "torch"))
    return projector(beam, GRIDS[grid], backend=backend, dtype=dtype)


def pair(op, dtype: torch.dtype, n: int = 3):
    return (
        random(n, *op.image_shape, dtype=dtype),
        random(n, *op.sinogram_shape, dtype=dtype, seed=1),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("beam", "grid", "backend"), CASES)
def test_contract(beam, grid, backend, dtype):
    op = make(beam, grid, backend, dtype)
    assert op.matched
    assert (op.beam, op.grid, op.dtype) == (beam, GRIDS[grid], dtype)
    x, y = pair(op, dtype)
    assert_adjoint(op, x, y)
    for u, v in ((x, y), (ramp(*x.shape, dtype=dtype), ramp(*y.shape, dtype=dtype))):
        assert_gradient(op, u, v, tol=EXACT[dtype])
        assert_normal(op, u, tol=EXACT[dtype])


@pytest.mark.parametrize(("beam", "grid", "backend"), SINGLE)
def test_contract_of_astra(beam, grid, backend):
    op = make(beam, grid, backend)
    assert op.matched
    x, y = pair(op, torch.float32)
    assert_adjoint(op, x, y)
    assert_gradient(op, x, y, tol=1e-5)


@pytest.mark.parametrize("backend", ["csr", "joseph", "fourier"])
@pytest.mark.parametrize("beam", [PARALLEL, FAN, ARC])
def test_adjoint_at_full_size(backend, beam):
    if backend == "fourier" and beam is not PARALLEL:
        return
    pytest.importorskip("finufft" if backend == "fourier" else "torch")
    angles = np.arange(12) * math.pi / 12
    full = ParallelBeam(angles, 363, 1.0)
    if isinstance(beam, FanBeam):
        full = FanBeam(2 * angles, 363, 1.6, 500.0, 400.0, curved=beam.curved)
    op = projector(full, ImageGrid(256, 256, 1.0, 1.0), backend=backend)
    assert_adjoint(op, *pair(op, torch.float32, 2))


class _Unmatched(LinearOp):
    """A projector with the backprojection of a detector half a bin away."""

    def __init__(self, beam, grid) -> None:
        super().__init__()
        moved = ParallelBeam(beam.angles, beam.n_bins, beam.bin_mm, beam.offset_bins + 0.5)
        self.there = projector(beam, grid, dtype=torch.float64)
        self.back = projector(moved, grid, dtype=torch.float64)

    def forward(self, x):
        return self.there(x)

    def adjoint(self, y):
        return self.back.adjoint(y)


def test_an_adjoint_half_a_bin_beside_is_caught():
    op = _Unmatched(PARALLEL, GRIDS["even"])
    x, y = pair(op.there, torch.float64)
    with pytest.raises(AssertionError, match="differ by"):
        assert_adjoint(op, x, y)
    smooth = ramp(*x.shape, dtype=x.dtype), ramp(*y.shape, dtype=y.dtype)
    with pytest.raises(AssertionError, match="differ by"):
        assert_adjoint(op, *smooth)
    with pytest.raises(AssertionError):
        assert_gradient(op, x, y, tol=1e-2)


@pytest.mark.parametrize("backend", ["csr", "joseph", "fourier"])
def test_derivatives_of_second_order(backend):
    pytest.importorskip("finufft" if backend == "fourier" else "torch")
    beam, grid = ParallelBeam(ANGLES[1:3], 5, 0.9, 0.3), ImageGrid(3, 4, 1.2, 0.8)
    op = projector(beam, grid, backend=backend, dtype=torch.float64)
    x = random(2, 3, 4, dtype=torch.float64).requires_grad_()
    y = random(2, 2, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradcheck(op.adjoint, y)
    assert torch.autograd.gradgradcheck(lambda u: op(u) ** 2, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: op.adjoint(v) ** 2, y, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda u: op.normal(u) ** 2, x, fast_mode=True)


@pytest.mark.parametrize("beam", [PARALLEL, FAN, ARC])
def test_scatter_is_what_torch_derives_from_the_gather(beam):
    op = JosephProjector(beam, GRIDS["oblong"], dtype=torch.float64)
    x, y = pair(op, torch.float64)
    x.requires_grad_()
    (derived,) = torch.autograd.grad((op._gather(x) * y).sum(), x)
    assert (derived - op.adjoint(y)).norm() < 1e-12 * derived.norm()


@pytest.mark.parametrize("backend", ["csr", "joseph"])
@pytest.mark.parametrize("beam", [PARALLEL, FAN, ARC])
def test_both_josephs_are_one_operator(beam, backend):
    first = make(beam, "oblong", "csr", torch.float64)
    second = make(beam, "oblong", backend, torch.float32)
    x, y = pair(first, torch.float64)
    tol = 1e-6
    assert (second(x.float()) - first(x)).norm() < tol * first(x).norm()
    expected = first.adjoint(y)
    assert (second.adjoint(y.float()) - expected).norm() < tol * expected.norm()


@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_norm(backend):
    op = projector(PARALLEL, ImageGrid(6, 5, 1.2, 0.8), backend=backend, dtype=torch.float64)
    assert_norm(op, torch.zeros(1, 6, 5, dtype=torch.float64), n_iter=300)


@pytest.mark.parametrize(("beam", "grid", "backend"), [*CASES[::2], *SINGLE])
def test_a_slice_does_not_see_the_others(beam, grid, backend):
    op = make(beam, grid, backend)
    x, y = pair(op, torch.float32, 35)  # more than one pass
    for s in (0, 31, 32, 34):
        torch.testing.assert_close(op(x[s : s + 1])[0], op(x)[s], rtol=1e-5, atol=1e-4)
        back = op.adjoint(y[s : s + 1])[0]
        torch.testing.assert_close(back, op.adjoint(y)[s], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("beam", "grid", "backend"), CASES[::2])
def test_equal_runs_give_equal_bits(beam, grid, backend):
    op = make(beam, grid, backend)
    x, y = pair(op, torch.float32)
    kept = x.clone(), y.clone()
    assert torch.equal(op(x), op(x))
    assert torch.equal(op.adjoint(y), op.adjoint(y))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize(("beam", "grid", "backend"), [*CASES[::2], *SINGLE])
def test_subset_is_the_rows_of_its_views(beam, grid, backend):
    op = make(beam, grid, backend)
    views = [6, 1, -3]
    part = op.subset(views)
    assert part.beam == beam.subset(views)
    assert type(part) is type(op)
    x, y = pair(op, torch.float32)
    torch.testing.assert_close(part(x), op(x)[:, views], rtol=1e-5, atol=1e-4)
    placed = torch.zeros_like(y)
    placed[:, views] = y[:, :3]
    expected = op.adjoint(placed)
    torch.testing.assert_close(part.adjoint(y[:, :3].contiguous()), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_moves_like_a_module_and_keeps_files_small(backend):
    op = make(PARALLEL, "even", backend)
    assert op.state_dict() == {}  # weights follow from the geometry and are not saved
    assert len(list(op.buffers())) > 0
    exact = make(PARALLEL, "even", backend, torch.float64)
    x, _ = pair(exact, torch.float64)
    moved = op.to(torch.float64)
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved(x), exact(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_autocast_of_the_network_around_it_changes_nothing(backend):
    op = make(PARALLEL, "even", backend)
    x, y = pair(op, torch.float32)
    expected = op(x), op.adjoint(y), op(x[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = op(x), op.adjoint(y), op(x[:1])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(("beam", "grid", "backend"), CASES[::2])
def test_results_lie_plainly_in_memory(beam, grid, backend):
    op = make(beam, grid, backend)
    x, y = pair(op, torch.float32)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(op(turned), op(x))
    for n in (1, 3):
        assert op(x[:n]).is_contiguous()
        assert op.adjoint(y[:n]).is_contiguous()
    assert op(x[:0]).shape == (0, *op.sinogram_shape)
    assert op.adjoint(y[:0]).shape == (0, *op.image_shape)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["csr", "joseph"])
def test_same_on_cuda(backend):
    op = make(FAN, "oblong", backend)
    x, y = pair(op, torch.float32)
    expected = op(x), op.adjoint(y)
    op = op.cuda()
    torch.testing.assert_close(op(x.cuda()).cpu(), expected[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(op.adjoint(y.cuda()).cpu(), expected[1], rtol=1e-5, atol=1e-4)
    assert_adjoint(op, x.cuda(), y.cuda())
