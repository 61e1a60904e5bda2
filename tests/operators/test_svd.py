"""The known decompositions are those that a dense matrix has."""

import pytest
import torch
from contracts.operators import random

from medsci.errors import UsageError
from medsci.operators import CartesianMriOp, DifferenceOp, FourierOp, IdentityOp, SampleOp
from medsci.operators.blur import BlurOp
from medsci.operators.diagonal import DiagonalOp
from medsci.operators.downsample import DownsampleOp
from medsci.operators.mask import MaskOp
from medsci.operators.svd import SUPPORTED, Spectrum, spectrum_of

F64, C128 = torch.float64, torch.complex128
MASK = random(4, 6, dtype=F64) > 0
LINE = torch.tensor([True, False, True, True, False, True])
PHASE = torch.polar(torch.ones(2, 1, 4, 6, dtype=F64), random(2, 1, 4, 6, dtype=F64))
LOPSIDED = random(3, 4, dtype=F64, seed=5)
FLAT = torch.ones(1, 3, dtype=F64) / 3  # its transfer function has zeros at size 6

CASES = {
    "identity": (IdentityOp(), F64),
    "mask": (MaskOp(MASK), F64),
    "mask of slices": (MaskOp(torch.stack([MASK, ~MASK])), F64),
    "mask of slices, complex": (MaskOp(torch.stack([MASK, ~MASK])), C128),
    "weights": (DiagonalOp(random(4, 6, dtype=F64)), F64),
    "complex weights": (DiagonalOp(random(2, 4, 6, dtype=C128)), C128),
    "boxes": (DownsampleOp((2, 3)), F64),
    "boxes, complex": (DownsampleOp((2, 2)), C128),
    "thick slices": (DownsampleOp((2,), (-3,)), F64),
    "blur": (BlurOp(LOPSIDED, (4, 6)), F64),
    "blur, complex": (BlurOp(LOPSIDED, (4, 6)), C128),
    "blur with zeros": (BlurOp(FLAT, (4, 6)), F64),
    "blur in 3D": (BlurOp(random(1, 3, 3, dtype=F64), (2, 4, 6)), F64),
    "mri": (CartesianMriOp(PHASE, LINE), C128),
    "mri, 2D mask": (CartesianMriOp(PHASE, MASK), C128),
    "fourier": (FourierOp(), C128),
    "sampled fourier": (SampleOp(MASK) @ FourierOp(), C128),
    "negative multiple": ((-0.5) * MaskOp(MASK), F64),
    "multiple of a blur": (2.0 * BlurOp(LOPSIDED, (4, 6)), F64),
}


def basis(dtype: torch.dtype) -> torch.Tensor:
    """Return the real unit images of `(2, 4, 6)`, imaginary ones too for complex images."""
    real = torch.eye(48, dtype=F64).reshape(48, 2, 4, 6).to(dtype)
    return torch.cat([real, 1j * real]) if dtype.is_complex else real


def as_real(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x).flatten() if x.is_complex() else x.flatten()


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request):
    op, dtype = CASES[request.param]
    return op, dtype, spectrum_of(op)


def test_satisfies_the_protocol(case):
    assert isinstance(case[2], Spectrum)


def test_the_factors_make_the_operator(case):
    op, dtype, spectrum = case
    x = random(2, 4, 6, dtype=dtype)
    c = spectrum.to_coefficients(x)
    assert c.dtype == F64
    assert c.numel() == x.numel() * (2 if x.is_complex() else 1)
    s = spectrum.singular_values
    assert bool((s >= 0).all())
    expected = s * c
    assert expected.shape == c.shape, "s must broadcast to the coefficients, not the other way"
    torch.testing.assert_close(spectrum.data_coefficients(op(x)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(spectrum.from_coefficients(c), x, rtol=0, atol=1e-12)
    # A^H A = V s^2 V^T: the adjoint sees the same factors
    again = spectrum.from_coefficients(s**2 * c)
    torch.testing.assert_close(again, op.normal(x), rtol=0, atol=1e-12)


def test_v_is_orthonormal_and_u_too(case):
    op, dtype, spectrum = case
    units = basis(dtype)
    v = torch.stack([spectrum.to_coefficients(e).flatten() for e in units])
    torch.testing.assert_close(v @ v.T, torch.eye(len(v), dtype=F64), rtol=0, atol=1e-12)
    seen = (spectrum.singular_values * torch.ones_like(spectrum.to_coefficients(units[0]))) > 0
    y = random(*op(units[0]).shape, dtype=dtype, seed=3)
    in_range = op(op.adjoint(y))
    c = spectrum.data_coefficients(in_range)
    assert not c[~seen].any(), "there are no data where s is zero"
    torch.testing.assert_close(c.norm(), as_real(in_range).norm(), rtol=1e-12, atol=0)


def test_singular_values_are_those_of_the_dense_matrix(case):
    op, dtype, spectrum = case
    units = basis(dtype)
    matrix = torch.stack([as_real(op(e)) for e in units], dim=1)
    dense = torch.linalg.svdvals(matrix)
    ones = torch.ones_like(spectrum.to_coefficients(units[0]))
    ours = (spectrum.singular_values * ones).flatten().sort(descending=True).values
    torch.testing.assert_close(ours[: len(dense)], dense, rtol=0, atol=1e-12)
    assert not ours[len(dense) :].any()


def test_the_wrong_basis_would_be_seen():
    op = BlurOp(LOPSIDED, (4, 6))
    x = random(2, 4, 6, dtype=F64)
    other = spectrum_of(BlurOp(LOPSIDED.flip(0), (4, 6)))
    left = other.data_coefficients(op(x))
    assert (left - other.singular_values * other.to_coefficients(x)).abs().max() > 0.1


@pytest.mark.parametrize(
    "op",
    [
        DifferenceOp(0),
        BlurOp(LOPSIDED, (4, 6), boundary="reflect"),
        CartesianMriOp(2.0 * PHASE, LINE),
        CartesianMriOp(PHASE.expand(2, 2, 4, 6), LINE),
        MaskOp(MASK) @ BlurOp(LOPSIDED, (4, 6)),
    ],
)
def test_lists_what_it_knows(op):
    with pytest.raises(UsageError, match="known") as caught:
        spectrum_of(op)
    assert all(name in str(caught.value) for name in SUPPORTED)
