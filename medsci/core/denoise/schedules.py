"""Discrete schedules of published checkpoints: their cumulative products, for `Path.tabulated`."""

__all__ = ["Schedule", "alphas_bar_of", "zero_terminal_snr"]

import math
from typing import Literal, get_args

import numpy as np

Schedule = Literal["linear", "scaled_linear", "sigmoid", "cosine"]

_ALIASES = {  # as MONAI and diffusers call them
    "linear_beta": "linear",
    "scaled_linear_beta": "scaled_linear",
    "sigmoid_beta": "sigmoid",
    "squaredcos_cap_v2": "cosine",
}


def alphas_bar_of(
    schedule: str = "linear",
    n_rows: int = 1000,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 2e-2,
) -> np.ndarray:
    """Return `cumprod(1 - beta)` of a schedule, float64, of shape (n_rows,).

    Args:
        schedule: `linear` (Ho et al. 2020, arXiv:2006.11239), `scaled_linear` (linear in the square
            root, as in latent diffusion), `sigmoid` (over -6 to 6), or `cosine` (Nichol and
            Dhariwal 2021, eq. 17, arXiv:2102.09672, betas up to 0.999, without a start and end).
            MONAI's and diffusers' names of these are understood.
        n_rows: number of training steps T.
        beta_start: first beta.
        beta_end: last beta.

    Raises:
        ValueError: the schedule is unknown or the betas leave (0, 1).
    """
    name = _ALIASES.get(schedule, schedule)
    if name not in get_args(Schedule):
        raise ValueError(f"schedule {schedule!r} came; choose one of {get_args(Schedule)}")
    if n_rows < 2:
        raise ValueError(f"n_rows={n_rows} came; give the number of training steps, at least 2")
    if not 0.0 < beta_start < 1.0 or not 0.0 < beta_end < 1.0:
        raise ValueError(f"betas {beta_start} to {beta_end} came; give two inside (0, 1)")
    if name == "cosine":
        squares = np.cos((np.arange(n_rows + 1) / n_rows + 0.008) / 1.008 * 0.5 * math.pi) ** 2
        betas = np.minimum(1.0 - squares[1:] / squares[:-1], 0.999)
    elif name == "linear":
        betas = np.linspace(beta_start, beta_end, n_rows)
    elif name == "scaled_linear":
        betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), n_rows) ** 2
    else:
        betas = beta_start + (beta_end - beta_start) / (1.0 + np.exp(-np.linspace(-6, 6, n_rows)))
    return np.cumprod(1.0 - betas)


def zero_terminal_snr(alphas_bar: np.ndarray) -> np.ndarray:
    """Stretch `sqrt(alphas_bar)` so that the first row is kept and the last one is pure noise.

    Source: Lin et al. 2024, algorithm 1, arXiv:2305.08891.
    """
    roots = np.sqrt(alphas_bar)
    return ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
