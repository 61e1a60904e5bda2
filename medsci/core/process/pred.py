"""Predictions: what a network outputs, as rows of one 2x2 linear map.

Every output is `f = p x0 + q z`, and the state is `x_t = alpha x0 + sigma z`. The two rows
determine `x0` and `z`, so all predictions convert into one another exactly:

    x0        p = 1                 q = 0
    eps       p = 0                 q = 1
    v         p = -sigma            q = alpha           Salimans and Ho 2022, arXiv:2202.00512
    flow      p = -1                q = 1               velocity of the rectified flow
    score     p = 0                 q = -1 / sigma
    edm       p = sigma / (d n)     q = -d alpha / n    n = sqrt(sigma^2 + d^2 alpha^2), d = data sd

`edm` is the raw output F of Karras et al. 2022 (eq. 7, arXiv:2206.00364), written without the
detour through sigma / alpha, so it is finite at pure noise as well. The residual `mu - x0` of a
path with a conditional mean is no row, as it holds mu: see `FromResidual`.
"""

__all__ = ["PREDICTIONS", "Coefficient", "Prediction", "convert", "row", "x0_weights"]

from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["x0", "eps", "v", "flow", "score", "edm"]
Coefficient = float | Tensor
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def data_norm(alpha: Coefficient, sigma: Coefficient, sigma_data: float) -> Coefficient:
    """Return `sqrt(sigma^2 + sigma_data^2 alpha^2)`, the sd of a state with data of that sd."""
    square = sigma * sigma + (sigma_data * sigma_data) * (alpha * alpha)
    return torch.sqrt(square) if isinstance(square, Tensor) else square**0.5


def row(
    pred: Prediction, alpha: Coefficient, sigma: Coefficient, *, sigma_data: float = 1.0
) -> tuple[Coefficient, Coefficient]:
    """Return `(p, q)` of a prediction at the given coefficients.

    Raises:
        ValueError: the prediction is not one of the table above.
    """
    if pred == "x0":
        return 1.0, 0.0
    if pred == "eps":
        return 0.0, 1.0
    if pred == "v":
        return -sigma, alpha
    if pred == "flow":
        return -1.0, 1.0
    if pred == "score":
        return 0.0, -1.0 / sigma
    if pred == "edm":
        norm = data_norm(alpha, sigma, sigma_data)
        return sigma / (sigma_data * norm), -sigma_data * alpha / norm
    raise ValueError(f"prediction {pred!r} came; choose one of {', '.join(PREDICTIONS)}")


def x0_weights(
    pred: Prediction, alpha: Coefficient, sigma: Coefficient, *, sigma_data: float = 1.0
) -> tuple[Coefficient, Coefficient]:
    """Return `(on_x, on_f)` with `x0 = on_x x_t + on_f f`.

    Finite wherever the prediction determines the data: everywhere for `x0`, `v`, `flow` and `edm`,
    and at every `alpha > 0` for `eps` and `score`.
    """
    if pred == "x0":
        return 0.0, 1.0
    if pred == "score":  # q = -1 / sigma is infinite at sigma = 0; multiply through by sigma
        return 1.0 / alpha, sigma * sigma / alpha
    p, q = row(pred, alpha, sigma, sigma_data=sigma_data)
    determinant = p * sigma - q * alpha
    return -q / determinant, sigma / determinant


def convert(
    f: Tensor,
    x: Tensor,
    *,
    source: Prediction,
    target: Prediction,
    alpha: Coefficient,
    sigma: Coefficient,
    sigma_data: float = 1.0,
) -> Tensor:
    """Turn a prediction `f` at state `x` into another one.

    Coefficients are floats, or tensors that broadcast over `f`. The noise is recovered from the
    state, `z = (x - alpha x0) / sigma`, unless source and target are the same.
    """
    if source == target:
        return f
    on_x, on_f = x0_weights(source, alpha, sigma, sigma_data=sigma_data)
    x0 = on_x * x + on_f * f
    p, q = row(target, alpha, sigma, sigma_data=sigma_data)
    if target == "x0":
        return x0
    z = f if source == "eps" else (x - alpha * x0) / sigma
    return p * x0 + q * z
