"""The volume solvers over again with explicit float64 matrices, and small problems to run both on.

Volumes are flattened, slice by slice. Nothing here shares code with the library but the random
numbers.
"""

import numpy as np
import torch
from contracts.matrix_op import MatrixOp
from torch import Tensor, nn

from medsci.core import Path, Rng
from medsci.inverse.measurement import Measurement

__all__ = ["DensePrior", "DenseSweeps", "line_sums", "small_problem", "smooth_covariance"]


def line_sums(n: int, n_angles: int) -> np.ndarray:
    """Return sums of an n x n image along lines at a few angles, linear in between, unit norm."""
    centre, bins = (n - 1) / 2, 2 * n
    y, x = np.mgrid[:n, :n] - centre
    rows = []
    for angle in np.arange(n_angles) * np.pi / n_angles + 0.1:
        place = x * np.cos(angle) + y * np.sin(angle) + (bins - 1) / 2
        low = np.floor(place).astype(int)
        block = np.zeros((bins, n * n))
        block[low.ravel(), np.arange(n * n)] = (1 - place + low).ravel()
        block[low.ravel() + 1, np.arange(n * n)] += (place - low).ravel()
        rows.append(block)
    matrix = np.concatenate(rows)
    return matrix / np.linalg.norm(matrix, 2)


def smooth_covariance(n: int, *, sd: float = 0.3, width: float = 2.0) -> np.ndarray:
    """Return the covariance of n x n images, a Gaussian of the distance, with a little white."""
    y, x = np.mgrid[:n, :n].reshape(2, -1)
    gap = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    return sd**2 * (0.98 * np.exp(-gap / (2 * width**2)) + 0.02 * np.eye(n * n))


class DensePrior(nn.Module):
    """Exact denoiser of slices from N(mean, C), by matrices, on any path; counts its calls."""

    def __init__(self, path: Path, covariance: np.ndarray, mean: float = 0.0) -> None:
        super().__init__()
        self.path, self.mean, self.calls = path, mean, 0
        values, self.basis = torch.linalg.eigh(torch.from_numpy(covariance))
        self.values = values

    def forward(self, x: Tensor, t: float) -> Tensor:
        self.calls += 1
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        seen = (x.flatten(1).double() - alpha * self.mean) @ self.basis * gain
        return (self.mean + seen @ self.basis.mT).reshape(x.shape).to(x.dtype)


class DenseSweeps:
    """ADMM sweeps on flattened volumes, the CG steps written out."""

    def __init__(self, matrix, y, n_slices, *, n_cg, rho, threshold, wrap=False):
        self.a = np.kron(np.eye(n_slices), matrix)
        n = matrix.shape[1]
        self.d = np.kron(np.diff(np.eye(n_slices), axis=0), np.eye(n))
        if wrap:
            first_minus_last = np.eye(n_slices)[:1] - np.eye(n_slices)[-1:]
            self.d = np.concatenate([self.d, np.kron(first_minus_last, np.eye(n))])
        self.y, self.n_cg, self.rho, self.threshold = y.ravel(), n_cg, rho, threshold
        self.z = self.u = np.zeros(len(self.d))

    def scale(self, factor):
        self.z, self.u = factor * self.z, factor * self.u

    def __call__(self, x0: np.ndarray, *, prox: float = 0.0) -> np.ndarray:
        """Return the volume after one sweep from x0, flat."""
        x0 = x0.ravel()
        identity = np.eye(self.a.shape[1])
        h = self.a.conj().T @ self.a + self.rho * self.d.T @ self.d + prox * identity
        right = self.a.conj().T @ self.y + prox * x0
        right = right + self.rho * self.d.T @ (self.z - self.u)
        x, r = x0.copy(), right - h @ x0
        p = r.copy()
        for _ in range(self.n_cg):
            step = np.vdot(r, r) / np.vdot(p, h @ p)
            x, new = x + step * p, r - step * h @ p
            p, r = new + np.vdot(new, new) / np.vdot(r, r) * p, new
        v = self.d @ x + self.u
        self.z = v * np.maximum(1.0 - self.threshold / np.maximum(np.abs(v), 1e-300), 0.0)
        self.u = v - self.z
        return x


def small_problem(
    n_slices: int = 4, n: int = 8, n_angles: int = 3, *, noise: float = 0.01
) -> tuple[np.ndarray, Tensor, Measurement]:
    """Return the matrix of a slice, a volume that varies along z, and its data, in float64."""
    matrix = line_sums(n, n_angles)
    covariance = smooth_covariance(n)
    draw = Rng(7, range(n_slices)).normal((n_slices, n * n), step=0, dtype=torch.float64)
    mixing = 0.9 ** np.abs(np.subtract.outer(np.arange(n_slices), np.arange(n_slices)))
    root = torch.from_numpy(np.linalg.cholesky(mixing))
    volume = root @ draw @ torch.from_numpy(np.linalg.cholesky(covariance)).mT
    op = MatrixOp(torch.from_numpy(matrix), space=(n, n))
    volume = volume.reshape(n_slices, n, n)
    y = op(volume)
    errors = Rng(8, range(n_slices)).normal(y.shape, step=0, dtype=torch.float64)
    return matrix, volume, Measurement(y + noise * errors, op, noise=noise)
