"""Frames: the probability-flow equation written so that one direction changes slowly.

With `e = (x - alpha x0) / sigma`, `d` the standard deviation of the data, `alpha' = d alpha`,
`x0' = x0 / d` and `r = sqrt(alpha'^2 + sigma^2)`, the flow of every affine Gaussian path reads
`d(x / C) = f dtau` in each of four bases:

    basis   C               tau                       f
    eps     alpha'          sigma / alpha'            e
    x0      sigma           alpha' / sigma            x0'
    v       alpha' + sigma  sigma / (alpha' + sigma)  e - x0'
    angle   r               atan2(sigma, alpha')      (alpha' e - sigma x0') / r

so `x_s = C_s / C_t x_t + C_s int f dtau` holds exactly. A solver replaces f by a polynomial in a
variable u and integrates it here, on the host, in float64. `v` and `angle` are finite from pure
noise to clean data.

Source: own derivation; the four columns are DDIM / DEIS, DPM-Solver++, rectified flow and the
angle of Salimans and Ho 2022, arXiv:2202.00512.
"""

__all__ = [
    "Basis",
    "Frame",
    "Variable",
    "check_choices",
    "ddim",
    "direction",
    "frame_of",
    "lagrange",
]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from medsci.core.process.path import Path

Basis = Literal["x0", "eps", "v", "angle"]
Variable = Literal["log_snr", "log_ratio", "sigma", "ratio", "angle", "index"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(96)  # 1e-13 on one step from sigma_hat 80 to .002


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """The points a solver visits, in native coordinates; `alpha` is the scaled `alpha'`."""

    basis: Basis
    variable: Variable
    times: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    sigma_data: float
    lam: np.ndarray
    phi: np.ndarray
    u: np.ndarray
    tau: np.ndarray
    scale: np.ndarray  # C

    @property
    def bounded(self) -> np.ndarray:
        """Tell at which points tau is finite."""
        return self.scale > 0.0

    def quadrature(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return u and `C_end dtau` at the Gauss points between pairs of points, (pairs, points).

        An interval is parametrised by lambda, or by the angle if an end has no finite lambda.
        """
        if self.variable == "index":  # the measure of a uniform grid, whatever the grid is
            fraction = 0.5 * (NODES + 1.0)
            u = self.u[start][:, None] + fraction * (self.u[end] - self.u[start])[:, None]
            rise = self.scale[end] * (self.tau[end] - self.tau[start])
            return u, 0.5 * WEIGHTS * rise[:, None]
        finite = np.isfinite(self.lam)
        smooth = (finite[start] & finite[end])[:, None]
        first = np.where(smooth, self.lam[start][:, None], self.phi[start][:, None])
        last = np.where(smooth, self.lam[end][:, None], self.phi[end][:, None])
        half = 0.5 * (last - first)
        p = 0.5 * (last + first) + half * NODES
        p_lam, p_phi = np.where(smooth, p, 0.0), np.where(smooth, 0.25 * np.pi, p)
        h = np.where(smooth, np.exp(-p_lam), np.tan(p_phi))
        slope = np.where(smooth, *_slopes(self.basis, h, p_phi))
        u = _variable(self.variable, phi=np.arctan(h), lam=-np.log(h), h=h)
        return u, half * WEIGHTS * slope * self.scale[end][:, None]


def frame_of(
    path: Path, times: np.ndarray, *, basis: Basis, variable: Variable, sigma_data: float = 1.0
) -> Frame:
    """Return the frame of a path at the given times, in any order.

    Raises:
        ValueError: the path has a conditional mean.
    """
    if np.any(path.shift(times) != 0.0):
        raise ValueError(
            f"{path!r} has a conditional mean; wrap the denoiser in Shift(denoiser, mu), which "
            "lets the solver work on x - shift mu"
        )
    alpha, sigma = sigma_data * path.alpha(times), path.sigma(times)
    phi = np.arctan2(sigma, alpha)
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
        h = sigma / alpha
        total = {"eps": alpha, "x0": sigma, "v": alpha + sigma, "angle": np.hypot(alpha, sigma)}
        scale = total[basis]
        tau = {"eps": h, "x0": alpha / sigma, "v": sigma / (alpha + sigma), "angle": phi}[basis]
    index = np.arange(len(times), dtype=np.float64)
    u = index if variable == "index" else _variable(variable, phi=phi, lam=lam, h=h)
    return Frame(
        basis=basis,
        variable=variable,
        times=times,
        alpha=alpha,
        sigma=sigma,
        sigma_data=sigma_data,
        lam=lam,
        phi=phi,
        u=u,
        tau=tau,
        scale=scale,
    )


def direction(frame: Frame, i: int) -> tuple[float, float]:
    """Return `(f_x, f_d)` with `f = f_x x + f_d x0` at point `i`."""
    alpha, sigma, d = float(frame.alpha[i]), float(frame.sigma[i]), frame.sigma_data
    if frame.basis == "eps":
        return 1.0 / sigma, -alpha / sigma / d
    if frame.basis == "x0":
        return 0.0, 1.0 / d
    if frame.basis == "v":
        return 1.0 / sigma, -(alpha + sigma) / sigma / d
    norm = float(frame.scale[i])
    return alpha / (sigma * norm), -norm / sigma / d


def ddim(frame: Frame, i: int, j: int) -> tuple[float, float]:
    """Return `(a, b)` of the step `a x + b x0` from point `i` to point `j`, finite at both ends."""
    a = float(frame.sigma[j] / frame.sigma[i])
    return a, float(frame.alpha[j] - frame.alpha[i] * a) / frame.sigma_data


def lagrange(u: np.ndarray, measure: np.ndarray, at: Sequence[float]) -> tuple[float, ...]:
    """Return the integrals of the Lagrange polynomials of the nodes `at` against a measure."""
    from_node = [u - value for value in at]
    weights = []
    for j, own in enumerate(at):
        polynomial = measure
        for m, other in enumerate(at):
            if m != j:
                polynomial = polynomial * (from_node[m] / (own - other))
        weights.append(float(polynomial.sum()))
    return tuple(weights)


def check_choices(basis: Basis, variable: Variable, sigma_data: float) -> None:
    """Reject a basis, variable or data scale that does not exist.

    Raises:
        ValueError: one of them is unknown.
    """
    if basis not in get_args(Basis):
        raise ValueError(f"basis {basis!r} came; choose one of {get_args(Basis)}")
    if variable not in get_args(Variable):
        raise ValueError(f"variable {variable!r} came; choose one of {get_args(Variable)}")
    if not 0.0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data={sigma_data} came; give the positive sd of the data")


def _slopes(basis: Basis, h: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `dtau / dlambda` and `dtau / dphi`, the latter without the poles of the former."""
    if basis == "eps":
        return -h, np.cos(phi) ** -2
    if basis == "x0":
        return 1.0 / h, -(np.sin(phi) ** -2)
    if basis == "v":
        return -h * (1.0 + h) ** -2, (np.cos(phi) + np.sin(phi)) ** -2
    return -h / (1.0 + h * h), np.ones_like(h)


def _variable(variable: Variable, *, phi: np.ndarray, lam: np.ndarray, h: np.ndarray) -> np.ndarray:
    if variable == "log_snr":
        return lam
    if variable == "log_ratio":
        with np.errstate(divide="ignore"):
            return -np.log1p(1.0 / h)
    if variable == "sigma":
        return h
    if variable == "ratio":
        return np.sin(phi) / (np.sin(phi) + np.cos(phi))
    return phi
