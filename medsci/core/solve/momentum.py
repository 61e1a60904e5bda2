"""Momentum: multistep rules on a moving average of the directions, for wider stability.

With `v_n = (1 - beta) v_{n-1} + beta f_n` and `v_0 = f_0`, the heavy ball takes the Adams-Bashforth
combination of the averages, which is of first order. The generalised heavy ball chooses the weights
so that polynomials are integrated exactly in spite of the average's lag, and keeps the order.

Source: Wizadwongsa et al. 2023, sec. 4, arXiv:2307.11118 (weights on a uniform grid); the exact
weights on any grid are our own.
"""

__all__ = ["Momentum", "adams_bashforth_differences", "ghvb_weights"]

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import comb
from typing import final

import numpy as np


def adams_bashforth_differences(p: int) -> tuple[float, ...]:
    """Return the weights of the backward differences `f_n, df_n, ... d^(p-1) f_n`.

    They are `int_0^1 s (s + 1) ... (s + j - 1) / j! ds`, that is 1, 1/2, 5/12, 3/8, 251/720 ...

    Source: Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, sec. III.1.
    """
    gammas: list[float] = []
    for j in range(p):
        gammas.append(1.0 - sum(g / (j + 1 - m) for m, g in enumerate(gammas)))
    return tuple(gammas)


def ghvb_weights(p: int, beta: float) -> tuple[float, ...]:
    """Return the weights of the last `p` averages on a uniform grid, newest first.

    A direction is `f = (1 + (1 - beta) / beta d) v` in backward differences d of the averages, so
    the weight of `d^j v` is `gamma_j + gamma_(j-1) (1 - beta) / beta`; `beta = 1` is
    Adams-Bashforth. Own derivation, equal to the published weights of p = 2 to 5.

    Raises:
        ValueError: `p` is not positive, or beta is outside (0, 1].
    """
    if p < 1 or not 0.0 < beta <= 1.0:
        raise ValueError(f"p={p}, beta={beta} came; give p >= 1 and beta in (0, 1]")
    gammas, lag = adams_bashforth_differences(p), (1.0 - beta) / beta
    delta = [g + lag * (gammas[j - 1] if j else 0.0) for j, g in enumerate(gammas)]
    return tuple((-1.0) ** m * sum(comb(j, m) * delta[j] for j in range(m, p)) for m in range(p))


@final
@dataclass(frozen=True)
class Momentum:
    """A moving average with weight `beta` on the newest direction; 1 is no momentum.

    Args:
        beta: in (0, 1]. Smaller values are stabler and less accurate.
        generalised: keep the order of the solver (GHVB), instead of falling to order 1 (HB).
    """

    beta: float
    _: KW_ONLY
    generalised: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.beta <= 1.0:
            raise ValueError(f"beta={self.beta} came; give the newest direction a share in (0, 1]")

    def weights(self, p: int) -> tuple[float, ...]:
        """Return the weights of the last `p` averages on a uniform grid, newest first."""
        return ghvb_weights(p, self.beta)

    def exact_weights(
        self, nodes: Sequence[float], p: int, *, u: np.ndarray, measure: np.ndarray
    ) -> tuple[float, ...]:
        """Return the weights of the last `p` averages that integrate polynomials of degree < p.

        Args:
            nodes: where directions were taken since the average began, oldest first.
            p: averages used.
            u: quadrature points of the step.
            measure: their weights.
        """
        centre, width = nodes[-1], max(abs(float(u[-1]) - nodes[-1]), abs(float(u[0]) - nodes[-1]))
        powers = np.arange(p)
        moments = (((np.asarray(nodes) - centre) / width)[:, None]) ** powers
        averages = [moments[0]]
        for row in moments[1:]:
            averages.append((1.0 - self.beta) * averages[-1] + self.beta * row)
        newest_first = np.stack(averages[::-1][:p], 1)  # (power, average)
        wanted = ((((u - centre) / width)[:, None] ** powers) * measure[:, None]).sum(0)
        return tuple(float(w) for w in np.linalg.solve(newest_first, wanted))
