"""Ancestral sampling: one step of DDIM that trades predicted noise for fresh noise."""

__all__ = ["Ancestral"]

from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Literal, final

import numpy as np

from medsci.core.process.path import Path
from medsci.core.solve.grid import check_grid
from medsci.core.solve.plan import Plan, Row, Step

Rule = Literal["posterior", "fraction"]


@final
@dataclass(frozen=True)
class Ancestral:
    """`x_s = alpha_s x0 + sqrt(sigma_s^2 - z^2) e + z noise`, with `e = (x - alpha x0) / sigma`.

    Args:
        eta: share of fresh noise in [0, 1]; 0 is DDIM.
        rule: how much fresh noise `eta = 1` means. `posterior`:
            `z = eta sigma_s / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)`, the
            posterior of DDPM. `fraction`: `z = eta sigma_s`, all of the noise at eta = 1.

    Source: Song et al. 2021, eq. 12 and 16, arXiv:2010.02502; `fraction` after Chung et al. 2024,
    arXiv:2303.05754.
    """

    eta: float = 1.0
    _: KW_ONLY
    rule: Rule = "posterior"

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} came; give a share of fresh noise in [0, 1]")
        if self.rule not in ("posterior", "fraction"):
            raise ValueError(f"rule {self.rule!r} came; choose posterior or fraction")

    def plan(self, path: Path, grid: np.ndarray) -> Plan:
        """Return the coefficients for a grid.

        Raises:
            ValueError: the grid does not decrease, or reaches zero noise before its end.
        """
        return _plan(self, path, check_grid(grid).tobytes())


@lru_cache(maxsize=256)
def _plan(solver: Ancestral, path: Path, grid: bytes) -> Plan:
    times = np.frombuffer(grid)
    alpha, sigma = path.alpha(times), path.sigma(times)
    if np.any(path.shift(times) != 0.0):
        raise ValueError(f"{path!r} has a conditional mean; let the denoiser work on x - mu")
    if np.any(sigma[:-1] <= 0.0):
        at = int(np.argmax(sigma[:-1] <= 0.0))
        raise ValueError(f"grid[{at}] = {times[at]} has no noise left; end the grid there")
    room = 1.0
    if solver.rule == "posterior":
        before = alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])  # noise of s seen from t
        room = np.sqrt(np.maximum(1.0 - before**2, 0.0))
    fresh = solver.eta * sigma[1:] * room
    a = np.sqrt(np.maximum(sigma[1:] ** 2 - fresh**2, 0.0)) / sigma[:-1]
    b = alpha[1:] - alpha[:-1] * a
    steps = tuple(
        Step(
            t=float(times[i]),
            s=float(times[i + 1]),
            rows=(Row(a=float(a[i]), b=float(b[i])),),
            z=float(fresh[i]),
        )
        for i in range(len(times) - 1)
    )
    return Plan(steps, history=0, nfe=len(steps))
