import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medsci.inverse import AdmmTv, AdmmTvSettings
from medsci.operators import IdentityOp, SampleOp

C128 = torch.complex128


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=C128, generator=torch.Generator().manual_seed(seed))


def sweep_many(op, y, x0, **settings) -> torch.Tensor:
    return AdmmTv(op, y, settings=AdmmTvSettings(**settings)).sweep(x0)


def denoised_along_z(y: np.ndarray, weight: float) -> np.ndarray:
    """Solve min 1/2 |x - y|^2 + weight |D x|_1 by projected gradient on its dual, in float64."""
    dual = np.zeros((y.shape[0] - 1, *y.shape[1:]))
    for _ in range(40000):
        x = y + np.diff(dual, axis=0, prepend=0.0, append=0.0)
        dual = np.clip(dual + 0.25 * np.diff(x, axis=0), -weight, weight)
    return y + np.diff(dual, axis=0, prepend=0.0, append=0.0)


def test_identity_operator_gives_exact_total_variation_along_z() -> None:
    y = np.random.default_rng(0).standard_normal((9, 2, 3)) + np.arange(9)[:, None, None] // 4
    rho, threshold = 0.8, 0.5
    data = torch.from_numpy(y).to(C128)
    x = sweep_many(
        IdentityOp(), data, torch.zeros_like(data),
        n_cg=30, n_sweeps=600, rho=rho, threshold=threshold, tol=1e-10,
    )  # fmt: skip
    exact = denoised_along_z(y, rho * threshold)
    assert np.abs(x.real.numpy() - exact).max() < 1e-6
    assert np.abs(exact - y).max() > 0.1  # the weight does something
    assert float(x.imag.abs().max()) < 1e-12


def dense_sweep(mask, y, x0, state, *, n_cg, rho, threshold, prox) -> tuple:
    """One sweep with explicit matrices: CG by hand on the normal equations in float64."""
    k, n = x0.shape
    difference = np.kron(np.diff(np.eye(k), axis=0), np.eye(n))
    sampling = np.diag(np.tile(mask, k).astype(float))
    normal = sampling + rho * difference.T @ difference + prox * np.eye(k * n)
    z, u = state
    right = sampling @ y.ravel() + rho * difference.T @ (z - u) + prox * x0.ravel()
    x = x0.ravel().copy()
    r = right - normal @ x
    p = r.copy()
    for _ in range(n_cg):
        step = np.vdot(r, r) / np.vdot(p, normal @ p)
        x, new = x + step * p, r - step * normal @ p
        p, r = new + np.vdot(new, new) / np.vdot(r, r) * p, new
    v = difference @ x + u
    z = v * np.maximum(1.0 - threshold / np.maximum(np.abs(v), 1e-300), 0.0)
    return x.reshape(k, n), (z, v - z)


@pytest.mark.parametrize("prox", [0.0, 0.3])
def test_three_sweeps_equal_dense_matrices(prox: float) -> None:
    numbers = {"n_cg": 3, "rho": 0.2, "threshold": 0.4}
    mask = np.array([True, False, True, True, False, True])
    x0, y = noise(5, 1, 6), noise(5, 1, 6, seed=1) * torch.from_numpy(mask)
    ours = AdmmTv(SampleOp(torch.from_numpy(mask)[None]), y, settings=AdmmTvSettings(**numbers))
    dense, state = x0[:, 0].numpy(), (np.zeros(24), np.zeros(24))
    for _ in range(3):
        x0 = ours.sweep(x0, prox=prox)
        dense, state = dense_sweep(mask, y[:, 0].numpy(), dense, state, prox=prox, **numbers)
    assert np.abs(x0[:, 0].numpy() - dense).max() < 1e-10


def test_state_is_carried_and_a_fresh_start_differs() -> None:
    y, x0 = noise(4, 2, 3), noise(4, 2, 3, seed=3)
    settings = AdmmTvSettings(n_cg=4, rho=0.5, threshold=0.3)
    carried = AdmmTv(IdentityOp(), y, settings=settings)
    carried.sweep(x0)
    second = carried.sweep(x0)
    assert not torch.allclose(second, AdmmTv(IdentityOp(), y, settings=settings).sweep(x0))


def test_without_coupling_slices_are_independent() -> None:
    y, x0 = noise(4, 2, 3), noise(4, 2, 3, seed=3)
    mask = torch.tensor([[True, False, True]])
    settings = AdmmTvSettings(n_cg=3, rho=0.0)
    together = AdmmTv(SampleOp(mask), y, settings=settings).sweep(x0)
    alone = AdmmTv(SampleOp(mask), y[1:2], settings=settings).sweep(x0[1:2])
    assert torch.equal(together[1:2], alone)
    coupled = AdmmTv(SampleOp(mask), y, settings=AdmmTvSettings(n_cg=3, rho=0.5)).sweep(x0)
    assert not torch.allclose(coupled[1:2], alone)


def test_unsampled_lines_keep_the_estimate_without_coupling() -> None:
    y, x0 = noise(2, 2, 3), noise(2, 2, 3, seed=3)
    mask = torch.tensor([[True, False, True]])
    x = sweep_many(SampleOp(mask), y * mask, x0, n_cg=2, rho=0.0)
    assert_close(x[..., 1], x0[..., 1])
    assert_close(x[..., 0], y[..., 0])


@pytest.mark.parametrize("bad", [{"n_cg": 0}, {"rho": -1.0}, {"threshold": -0.1}, {"n_sweeps": 0}])
def test_says_what_is_wrong(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdmmTvSettings(**bad)
