import numpy as np
import pytest
import torch
from contracts.dense_volume import DenseSweeps, small_problem
from contracts.matrix_op import MatrixOp
from torch import Tensor
from torch.testing import assert_close

from medsci.inverse.measurement import Measurement
from medsci.inverse.solvers.admm_tv import AdmmTv, AdmmTvSettings, rms_change
from medsci.operators import IdentityOp, LinearOp, SampleOp

C128, F64 = torch.complex128, torch.float64


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = C128) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def sweeps_of(op: LinearOp, y: Tensor, **settings) -> AdmmTv:
    return AdmmTv(Measurement(y, op), settings=AdmmTvSettings(**settings))


def denoised(y: np.ndarray, weights: dict[int, float], *, wrap: bool = False) -> np.ndarray:
    """Solve min 1/2 |x - y|^2 + sum_a w_a |D_a x|_1 by projected gradient on the dual, float64."""
    duals = {a: np.zeros_like(y) for a in weights}

    def image() -> np.ndarray:
        return y + sum(p - np.roll(p, 1, axis=a) for a, p in duals.items())

    step = 0.25 / len(weights)
    for _ in range(3000):
        x = image()
        for a, weight in weights.items():
            rise = np.roll(x, -1, axis=a) - x
            bound = np.full(y.shape[a], weight)
            bound[-1] = weight if wrap else 0.0
            bound = bound.reshape([-1 if a == i else 1 for i in range(y.ndim)])
            duals[a] = np.clip(duals[a] + step * rise, -bound, bound)
    return image()


def blocks() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((9, 3, 4)) + np.arange(9)[:, None, None] // 4


def denoised_by_sweeps(y: np.ndarray, dtype: torch.dtype, **settings) -> Tensor:
    data = torch.from_numpy(y).to(dtype)
    chosen = {"n_cg": 30, "n_sweeps": 150, "tol": 1e-12, **settings}
    return sweeps_of(IdentityOp(), data, **chosen).sweep(torch.zeros_like(data))


@pytest.mark.parametrize(("dtype", "rho"), [(F64, 0.4), (C128, 1.5)])
def test_identity_operator_gives_exact_total_variation_along_z(dtype, rho: float) -> None:
    y, weight = blocks(), 0.4
    x = denoised_by_sweeps(y, dtype, rho=rho, threshold=weight / rho)
    exact = denoised(y, {0: weight})
    assert np.abs(x.real.numpy() - exact).max() < 1e-6
    assert x.dtype == dtype
    if x.is_complex():
        assert float(x.imag.abs().max()) < 1e-12
    assert np.abs(exact - y).max() > 0.1  # the weight does something
    assert np.abs(exact - denoised(y, {0: weight}, wrap=True)).max() > 1e-2  # and so would a wrap
    assert np.abs(exact - denoised(y, {0: 1.1 * weight})).max() > 1e-2


def test_every_axis_has_its_own_weight() -> None:
    y, rho = blocks(), 0.8
    x = denoised_by_sweeps(y, F64, rho=rho, threshold=(0.4, 0.1), axes=(0, 2))
    assert np.abs(x.numpy() - denoised(y, {0: 0.4 * rho, 2: 0.1 * rho})).max() < 1e-6
    swapped = denoised(y, {0: 0.1 * rho, 2: 0.4 * rho})
    assert np.abs(x.numpy() - swapped).max() > 1e-2


def test_zero_data_and_equal_slices_stay_finite() -> None:
    """The shrinkage divides by |v|, which is zero wherever neighbours agree."""
    for dtype in (F64, C128):
        flat = torch.ones(5, 2, 2, dtype=dtype)
        for data in (flat, 0.0 * flat):
            x = sweeps_of(IdentityOp(), data, n_sweeps=3, axes=(0, 1, 2)).sweep(data)
            assert_close(x, data)


@pytest.mark.parametrize("prox", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [F64, C128])
def test_sweeps_with_scaled_variables_equal_dense_matrices(prox: float, dtype) -> None:
    numbers = {"n_cg": 3, "rho": 0.2, "threshold": 0.4}
    matrix, x0, y = noise(4, 6, dtype=dtype), noise(5, 6, dtype=dtype), noise(5, 4, dtype=dtype)
    ours = sweeps_of(MatrixOp(matrix, space=(6,)), y, **numbers)
    dense = DenseSweeps(matrix.numpy(), y.numpy(), 5, **numbers)
    x = x0.numpy()
    for factor in (1.0, 0.7, 1.0):
        x0, x = ours.sweep(x0, prox=prox), dense(x, prox=prox)
        ours.rescale(factor)
        dense.scale(factor)
    assert np.abs(x0.numpy().ravel() - x).max() < 1e-10


def test_a_restart_begins_at_the_differences_of_the_estimate() -> None:
    matrix, volume, measured = small_problem()
    numbers = {"n_cg": 3, "rho": 0.2, "threshold": 0.4}
    ours = AdmmTv(measured, settings=AdmmTvSettings(**numbers))
    dense = DenseSweeps(matrix, measured.y.numpy(), 4, **numbers)
    ours.sweep(volume)
    ours.restart()
    dense.z = dense.d @ volume.numpy().ravel()
    for _ in range(2):  # restarted once, carried after
        expected = dense(volume.numpy())
        assert np.abs(ours.sweep(volume).numpy().ravel() - expected).max() < 1e-10


def test_state_is_carried_and_a_fresh_start_differs() -> None:
    y, x0 = noise(4, 2, 3), noise(4, 2, 3, seed=3)
    settings = {"n_cg": 4, "rho": 0.5, "threshold": 0.3}
    carried = sweeps_of(IdentityOp(), y, **settings)
    carried.sweep(x0)
    second = carried.sweep(x0)
    assert not torch.allclose(second, sweeps_of(IdentityOp(), y, **settings).sweep(x0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_arguments_are_not_changed_and_any_number_of_slices_will_do(n: int) -> None:
    """IdentityOp hands its argument through, which nothing may then write into."""
    y, x0 = noise(n, 2, 3), noise(n, 2, 3, seed=3)
    kept = y.clone(), x0.clone()
    sweeps = sweeps_of(IdentityOp(), y, n_cg=2, rho=0.5, prox=0.1)
    for _ in range(3):
        assert sweeps.sweep(x0).shape == x0.shape
    assert torch.equal(y, kept[0])
    assert torch.equal(x0, kept[1])
    assert torch.equal(sweeps.backprojection, kept[0])


def test_without_coupling_slices_are_independent() -> None:
    y, x0 = noise(4, 2, 3), noise(4, 2, 3, seed=3)
    op = SampleOp(torch.tensor([[True, False, True]]))
    for alone_too in ({"rho": 0.0}, {"rho": 0.5, "axes": (1, 2)}):
        together = sweeps_of(op, y, n_cg=3, **alone_too).sweep(x0)
        alone = sweeps_of(op, y[1:2], n_cg=3, **alone_too).sweep(x0[1:2])
        assert torch.equal(together[1:2], alone)
    coupled = sweeps_of(op, y, n_cg=3, rho=0.5).sweep(x0)
    assert not torch.allclose(coupled[1:2], alone)


def test_unsampled_lines_keep_the_estimate_without_coupling() -> None:
    y, x0 = noise(2, 2, 3), noise(2, 2, 3, seed=3)
    mask = torch.tensor([[True, False, True]])
    x = sweeps_of(SampleOp(mask), y * mask, n_cg=2, rho=0.0).sweep(x0)
    assert_close(x[..., 1], x0[..., 1])
    assert_close(x[..., 0], y[..., 0])


def test_first_and_last_slice_do_not_pull_at_each_other() -> None:
    """A ramp keeps its ends: only the mean step is shortened. A wrap would join the ends."""
    y = torch.arange(6, dtype=F64)[:, None, None] ** 2
    numbers = {"n_sweeps": 60, "n_cg": 8, "rho": 1.0, "threshold": 0.1, "tol": 1e-12}
    moved = (sweeps_of(IdentityOp(), y, **numbers).sweep(y) - y).flatten()
    assert_close(moved[0], torch.tensor(0.1, dtype=F64), rtol=0.0, atol=1e-6)
    assert_close(moved[-1], torch.tensor(-0.1, dtype=F64), rtol=0.0, atol=1e-6)
    assert float(moved[1:-1].abs().max()) < 1e-6


def test_change_is_a_root_mean_square() -> None:
    a, b = noise(3, 2, 4), noise(3, 2, 4, seed=1)
    assert float(rms_change(a, b)) == pytest.approx(float((a - b).abs().square().mean()) ** 0.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_cg": 0}, {"rho": -1.0}, {"threshold": -0.1}, {"n_sweeps": 0}, {"prox": float("nan")},
        {"axes": (0, 0)}, {"axes": (-1,)}, {"threshold": (0.1, 0.2)},
    ],
)  # fmt: skip
def test_says_what_is_wrong(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdmmTvSettings(**bad)


def test_an_axis_that_the_image_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="name axes below 3"):
        sweeps_of(IdentityOp(), noise(2, 2, 2), axes=(3,))
