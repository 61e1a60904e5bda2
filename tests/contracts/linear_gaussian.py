"""A small linear-Gaussian inverse problem, as the solvers see it and as dense matrices.

Every slice has a truth of its own, drawn from the prior, and data of its own. The dense side is
numpy in float64 and knows nothing of paths: states are divided by alpha, levels are sigma / alpha.
"""

import numpy as np
import torch
from contracts.matrix_op import MatrixOp
from torch import Tensor

from medsci.core import Path, Rng
from medsci.core.check import GaussianOracle
from medsci.inverse.measurement import Measurement

__all__ = ["PATHS", "LinearGaussian", "karras"]

PATHS = {
    "vp": Path.vp_linear(),
    "ve": Path.ve(),
    "flow": Path.rectified(),
}
SPACE = (2, 3)


class LinearGaussian:
    """Data `y = A x + noise` of images from `N(mean, C)`, A of unit norm, with its posterior."""

    def __init__(
        self,
        *,
        n: int = 4,
        m: int = 4,
        noise: float = 0.05,
        simulated: float | None = None,
        isotropic: float | None = None,
        is_complex: bool = False,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        pixels = int(np.prod(SPACE))
        matrix = rng.standard_normal((m, pixels))
        if is_complex:
            matrix = matrix + 1j * rng.standard_normal((m, pixels))
        matrix = matrix / np.linalg.norm(matrix, 2)
        self.n, self.noise, self.is_complex = n, noise, is_complex
        self.shape = (n, 2 if is_complex else 1, *SPACE)
        self.a = matrix
        if is_complex:
            self.a = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
        d = self.d = self.a.shape[1]
        turn, _ = np.linalg.qr(rng.standard_normal((d, d)))
        self.cov = turn @ np.diag(np.geomspace(1.0, 0.01, d)) @ turn.T
        if isotropic is not None:
            self.cov = isotropic**2 * np.eye(d)
        self.mean = 0.3 * rng.standard_normal(d)
        root = np.linalg.cholesky(self.cov)
        self.truth = self.mean + rng.standard_normal((n, d)) @ root.T
        sd = noise if simulated is None else simulated
        self.y = self.truth @ self.a.T + sd * rng.standard_normal((n, len(self.a)))
        self.op = MatrixOp(torch.from_numpy(matrix), space=SPACE)

    def measured(self, y: np.ndarray | None = None) -> Measurement:
        y = self.y if y is None else y
        half = y.shape[1] // 2
        data = y[:, :half] + 1j * y[:, half:] if self.is_complex else y
        return Measurement(torch.from_numpy(np.ascontiguousarray(data)), self.op, noise=self.noise)

    def prior(self, path: Path) -> GaussianOracle:
        return GaussianOracle.from_covariance(
            path, torch.from_numpy(self.mean), covariance=torch.from_numpy(self.cov)
        )

    def rng(self, seed: int = 0) -> Rng:
        return Rng(seed, range(self.n))

    def draw(self, step: int, seed: int = 0) -> np.ndarray:
        """The noise that a solver draws at a step, flattened."""
        z = self.rng(seed).normal(self.shape, step=step, dtype=torch.float64)
        return z.reshape(self.n, -1).numpy()

    def flat(self, image: Tensor) -> np.ndarray:
        """An image as rows of real numbers, in the order of the state."""
        if image.is_complex():
            image = torch.stack([image.real, image.imag], dim=1)
        return image.reshape(self.n, -1).numpy()

    def gain(self, level: float) -> np.ndarray:
        """The derivative of the denoiser with respect to the state, `C (C + level^2)^-1`."""
        return self.cov @ np.linalg.inv(self.cov + level**2 * np.eye(self.d))

    def denoise(self, u: np.ndarray, level: float) -> np.ndarray:
        return self.mean + (u - self.mean) @ self.gain(level).T

    def posterior(
        self, *, noise: float | None = None, extra: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (one row per slice) and covariance, with `extra` added to the prior's variance."""
        sd = self.noise if noise is None else noise
        cov = self.cov + extra * np.eye(self.d)
        inside = self.a @ cov @ self.a.T + sd**2 * np.eye(len(self.a))
        gain = cov @ self.a.T @ np.linalg.inv(inside)
        return self.mean + (self.y - self.mean @ self.a.T) @ gain.T, cov - gain @ self.a @ cov


def karras(n: int, high: float, low: float, rho: float = 7.0) -> np.ndarray:
    """`n + 1` levels from `high` by way of `low` to zero."""
    roots = np.linspace(high ** (1 / rho), low ** (1 / rho), n)
    return np.append(roots**rho, 0.0)
