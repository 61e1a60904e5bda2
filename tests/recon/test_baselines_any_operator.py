"""Classical reconstructions with any operator: real images, any norm, weights, a bound below."""

import itertools

import numpy as np
import pytest
import pywt
import torch
from contracts.operators import random

from medsci.errors import UsageError
from medsci.operators import CartesianMriOp, LinearOp
from medsci.recon.baselines import (
    l1_wavelet,
    least_squares_cg,
    sense_cg,
    total_variation,
    weighted,
)
from medsci.recon.masks import cartesian_mask


def error(estimate, truth):
    return float((estimate - truth).norm() / truth.norm())


def kspace():
    maps = random(2, 3, 16, 20, dtype=torch.complex64)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    op = CartesianMriOp(maps, cartesian_mask(20, acceleration=2.0, center_fraction=0.2))
    return op, op(random(2, 16, 20, dtype=torch.complex64, seed=1))


def penalty_tv(x):
    d_r, d_p = (torch.diff(x, dim=d, append=x.narrow(d, -1, 1)) for d in (1, 2))
    return float((d_r.square() + d_p.square()).sqrt().sum())


def penalty_wavelet(x):
    coefficients = pywt.wavedec2(x.numpy(), "haar", mode="periodization", level=4)
    return sum(float(np.abs(d).sum()) for details in coefficients[1:] for d in details)


class MatrixOp(LinearOp):
    """A real matrix on every slice, of any norm, that does not give its slices."""

    def __init__(self, matrix, shape):
        super().__init__()
        self.matrix, self.shape = matrix, shape

    def forward(self, x):
        return x.flatten(1) @ self.matrix.mT

    def adjoint(self, y):
        return (y @ self.matrix).reshape(-1, *self.shape)


def rays(*, n_views=6, shape=(12, 10), seed=0):
    """Return an operator of norm far from one, a real image with edges, and data."""
    n = shape[0] * shape[1]
    matrix = random(n_views * 12, n, dtype=torch.float64, seed=seed)
    op = MatrixOp(matrix, shape)
    image = torch.zeros(2, *shape, dtype=torch.float64)
    image[:, 3:9, 2:7] = 0.7
    image[1, 5:7, 3:5] = 0.2
    noise = random(2, len(matrix), dtype=torch.float64, seed=3)
    return op, image, op(image) + 0.2 * noise


REAL = {"least_squares": least_squares_cg, "l1_wavelet": l1_wavelet, "tv": total_variation}


@pytest.mark.parametrize("name", REAL)
def test_the_norm_of_the_operator_does_not_matter(name):
    op, _, y = rays()
    result = REAL[name](y, op)
    torch.testing.assert_close(REAL[name](7.0 * y, 7.0 * op), result, rtol=1e-6, atol=1e-9)
    assert not result.is_complex()
    halved = REAL[name](y, 2.0 * op)  # control: other data of the same image
    assert (halved - result).norm() > 0.1 * result.norm()


@pytest.mark.parametrize("name", ["l1_wavelet", "tv"])
def test_a_norm_that_is_too_small_diverges(name):
    op, _, y = rays()
    right = float(torch.linalg.matrix_norm(op.matrix, 2))
    fine = REAL[name](y, op, norm=right)
    torch.testing.assert_close(fine, REAL[name](y, op), rtol=2e-2, atol=2e-2)
    wild = REAL[name](y, op, norm=0.5 * right)
    assert not float(wild.abs().max()) < 1e3


def test_least_squares_is_the_closed_form_with_a_ridge_relative_to_the_norm():
    op, _, y = rays()
    a = op.matrix
    ridge = 0.01 * float(torch.linalg.matrix_norm(a, 2)) ** 2
    gram = a.mT @ a
    eye = torch.eye(len(gram), dtype=gram.dtype)
    expected = torch.linalg.solve(gram + ridge * eye, a.mT @ y.mT).mT.reshape(2, 12, 10)
    exact = float(torch.linalg.matrix_norm(a, 2))
    found = least_squares_cg(y, op, n_iter=400, ridge=0.01, norm=exact)
    assert error(found, expected) < 1e-4  # residual 1e-6, condition 100
    assert error(least_squares_cg(y, op, n_iter=400, ridge=0.01), expected) < 2e-2  # measured norm
    absolute = least_squares_cg(y, op, n_iter=400, ridge=0.01, norm=1.0)
    assert error(absolute, expected) > 0.05  # control


def test_sense_is_least_squares():
    op, y = kspace()
    assert torch.equal(sense_cg(y, op), least_squares_cg(y, op))


def test_weights_solve_the_weighted_problem():
    op, _, y = rays(n_views=20)
    weights = 0.1 + torch.linspace(0.0, 2.0, y.shape[1], dtype=torch.float64)

    def slope(x):  # of the weighted problem, from its definition
        return ((op(x) - y) * weights) @ op.matrix

    start = slope(torch.zeros(2, 12, 10, dtype=torch.float64)).norm()
    found = least_squares_cg(*weighted(y, op, weights=weights), n_iter=2000, ridge=0.0)
    assert slope(found).norm() < 3e-6 * start
    plain = least_squares_cg(y, op, n_iter=2000, ridge=0.0)
    assert slope(plain).norm() > 1e-4 * start  # control
    with pytest.raises(UsageError, match="not negative"):
        weighted(y, op, weights=-weights)
    with pytest.raises(UsageError, match="finite"):
        weighted(y, op, weights=weights / 0.0)


def test_non_negative_tv_is_the_constrained_dual_solution():
    shape = (9, 7)
    op = MatrixOp(torch.eye(63, dtype=torch.float64), shape)
    image = random(1, *shape, dtype=torch.float64)
    weight = 0.05
    found = total_variation(
        op(image), op, weight=weight, n_iter=150, n_inner=6, non_negative=True, norm=1.0
    )
    absolute = weight * float(image.abs().max())
    z = np.zeros((2, *shape))
    v = image[0].numpy()
    for _ in range(2500):
        back = np.zeros(shape)
        back[:-1] += z[0, :-1]
        back[1:] -= z[0, :-1]
        back[:, :-1] += z[1, :, :-1]
        back[:, 1:] -= z[1, :, :-1]
        x = np.maximum(v + back, 0.0)
        z[0, :-1] += (x[1:] - x[:-1]) / 8
        z[1, :, :-1] += (x[:, 1:] - x[:, :-1]) / 8
        z *= absolute / np.maximum(np.sqrt((z**2).sum(0)), absolute)
    np.testing.assert_allclose(found[0].numpy(), x, atol=1e-6)
    free = total_variation(op(image), op, weight=weight, n_iter=150, n_inner=6, norm=1.0)
    assert float(found.min()) == 0.0
    assert float(free.min()) < -0.1  # control
    assert (free.clamp_min(0.0) - found).abs().max() > 1e-3  # it is not merely clipped


def test_non_negative_needs_real_images():
    op, y = kspace()
    with pytest.raises(UsageError, match="no sign"):
        total_variation(y, op, non_negative=True)


def test_weight_zero_and_flat_images_stay_finite():
    op = MatrixOp(torch.eye(63, dtype=torch.float64), (9, 7))
    flat = torch.full((1, 9, 7), 0.3, dtype=torch.float64)
    for weight in (0.0, 0.1):
        found = total_variation(op(flat), op, weight=weight, norm=1.0, n_iter=20)
        torch.testing.assert_close(found, flat)  # no gradient, nothing to divide by


def test_wavelets_of_many_slices_are_those_of_each():
    op, _, y = rays()
    norm = float(torch.linalg.matrix_norm(op.matrix, 2))
    y = torch.cat([y[:1], y[:1]])  # the same largest value together and alone
    both = l1_wavelet(y, op, norm=norm, n_iter=20)
    torch.testing.assert_close(both[:1], l1_wavelet(y[:1], op, norm=norm, n_iter=20))


def test_zero_operators_are_refused():
    op = MatrixOp(torch.zeros(5, 63, dtype=torch.float64), (9, 7))
    with pytest.raises(UsageError, match="operator is zero"):
        total_variation(torch.zeros(1, 5, dtype=torch.float64), op)


@pytest.mark.parametrize(
    ("method", "penalty", "options"),
    [
        (total_variation, penalty_tv, {"n_inner": 6, "dims": 2}),
        (l1_wavelet, penalty_wavelet, {"wavelet": "haar", "seed": None}),
    ],
)
def test_objective_of_a_raw_operator_falls_and_settles(method, penalty, options):
    op, _, y = rays(shape=(16, 16))
    weight = 0.003
    threshold = weight * float(op.adjoint(y).abs().max())

    def objective(n_iter):
        x = method(y, op, weight=weight, n_iter=n_iter, **options)
        return 0.5 * float((op(x) - y).abs().square().sum()) + threshold * penalty(x)

    values = [objective(n) for n in (1, 8, 60, 300)]
    assert all(b < a for a, b in itertools.pairwise(values))
    assert values[-2] - values[-1] < 0.02 * (values[0] - values[-1])


def test_tv_finds_edges_that_least_squares_blurs():
    op, image, y = rays()
    assert error(total_variation(y, op, weight=0.002, non_negative=True), image) < 0.5 * error(
        least_squares_cg(y, op), image
    )
