"""Level weights: how much each noise level counts in a loss.

Given the state, every prediction is affine in x0, so errors of different predictions differ by a
factor that depends on the time alone. With `D = p sigma - q alpha` of a row `(p, q)`,

    f_hat - f = (D / sigma) (x0_hat - x0),

and a squared error on `f`, weighted with `(D_other / D)^2`, is the squared error on the other
prediction. That is how weights published for one prediction serve all of them. Metrics that are
not quadratic take these factors as they are.

What a level counts for is the weight times the density of the time law.
"""

__all__ = ["AsPredicted", "MinSnr", "On", "Sigmoid", "TimePower", "Weight"]

import math
from dataclasses import dataclass
from typing import Protocol, final, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medsci.core.denoise import Denoiser
from medsci.core.process.pred import Prediction, row


@runtime_checkable
class Weight(Protocol):
    """Anything that weighs noise levels."""

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the factors of the losses of samples at times `t`."""
        ...


@final
@dataclass(frozen=True)
class AsPredicted:
    """Count every level once, in units of what the network predicts."""

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return ones."""
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class On:
    """Weigh as if the squared error were taken on another prediction.

    `On("x0")`, `On("eps")` and `On("flow")` are the losses on data, noise and velocity.
    `On("edm")` is the published weight of Karras et al. for the denoiser,
    `(h^2 + d^2) / (h d)^2` with `h = sigma / alpha` and `d` the data's standard deviation.

    Where the other prediction is not determined by the data, the weight is infinite: `On("eps")`
    for a network that predicts x0, at `sigma = 0`.

    Source: Karras et al. 2022, table 1, arXiv:2206.00364, for `edm`; own derivation.
    """

    pred: Prediction

    def __post_init__(self) -> None:
        if self.pred not in get_args(Prediction):
            choices = ", ".join(get_args(Prediction))
            raise ValueError(f"prediction {self.pred!r} came; choose one of {choices}")

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return `(D_other / D)^2`, exactly one if the network predicts the same."""
        if denoiser.pred == self.pred:
            return torch.ones_like(t)
        return (_scale(denoiser, t, pred=self.pred) / _scale(denoiser, t)).square()


@final
@dataclass(frozen=True)
class MinSnr:
    """Weigh the squared error on x0 by `min(SNR, gamma)` with `SNR = (alpha / sigma)^2`.

    In units of the noise that is `min(1, gamma / SNR)`: the loss on noise, with levels that are
    nearly clean held down.

    Source: Hang et al. 2023, arXiv:2303.09556.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0.0:
            raise ValueError(f"gamma={self.gamma} came; give a positive signal-to-noise ratio")

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return `min(alpha^2, gamma sigma^2) / D^2`, finite at both ends for `v` and `flow`."""
        alpha, sigma = _coefficients(denoiser, t)
        least = torch.minimum(alpha.square(), self.gamma * sigma.square())
        return least / _scale(denoiser, t).square()


@final
@dataclass(frozen=True)
class Sigmoid:
    """Weigh the squared error on the noise by `sigmoid(bias - ln SNR)`.

    A smooth relative of `MinSnr(exp(bias))`: one at the noise end and falling as `e^bias / SNR`
    where the data show. Published for times uniform in `ln SNR`; another time law multiplies it
    by its own density.

    Source: Kingma and Gao 2023, arXiv:2303.00848; Hoogeboom et al. 2024, arXiv:2410.19324.
    """

    bias: float = 0.0

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return `sigmoid(bias - ln SNR) (alpha / D)^2`."""
        alpha, sigma = _coefficients(denoiser, t)
        scaled = math.exp(self.bias) * sigma.square()
        share = scaled / (scaled + alpha.square())
        return share * (alpha / _scale(denoiser, t)).square()


@final
@dataclass(frozen=True)
class TimePower:
    """Weigh by `t^on_t (1 - t)^on_rest`, whatever the network predicts.

    rf++ takes `TimePower(0.0, 1.0)` for its error on the velocity and `TimePower(-1.0)` for its
    perceptual error on x0.

    Source: Lee et al. 2024, arXiv:2405.20320.
    """

    on_t: float = 0.0
    on_rest: float = 0.0

    def __call__(self, denoiser: Denoiser, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the power."""
        return t.pow(self.on_t) * (1.0 - t).pow(self.on_rest)


def _coefficients(denoiser: Denoiser, t: Tensor) -> tuple[Tensor, Tensor]:
    return denoiser.path.alpha(t), denoiser.path.sigma(t)


def _scale(denoiser: Denoiser, t: Tensor, *, pred: Prediction | None = None) -> Tensor:
    """Return `D = p sigma - q alpha` of a prediction, the network's own if none is named."""
    alpha, sigma = _coefficients(denoiser, t)
    p, q = row(pred or denoiser.pred, alpha, sigma, sigma_data=denoiser.sigma_data)
    return p * sigma - q * alpha
