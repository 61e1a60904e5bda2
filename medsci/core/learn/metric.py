"""Metrics: how far a prediction is from its target, one number per sample."""

__all__ = ["Metric", "PseudoHuber", "SquaredError"]

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from torch import Tensor


@runtime_checkable
class Metric(Protocol):
    """Anything that turns two batches into one loss per sample."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the losses, of shape `(b,)`."""
        ...


def _square(prediction: Tensor, target: Tensor) -> Tensor:
    difference = (prediction - target).flatten(1)
    if difference.is_complex():
        return difference.real.square() + difference.imag.square()
    return difference.square()


@final
@dataclass(frozen=True)
class SquaredError:
    """Mean squared error; its minimiser is the conditional mean."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return `mean |prediction - target|^2` of each sample."""
        return _square(prediction, target).mean(1)


@final
@dataclass(frozen=True)
class PseudoHuber:
    """Squared error for small differences, absolute error for large ones, element by element.

    `width (sqrt(|d|^2 + width^2) - width)`: `d^2 / 2` near zero, `width |d|` far away.

    Source: Song and Dhariwal 2023, sec. 3.4, arXiv:2310.14189, here per element.
    """

    width: float = 0.1

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean of each sample."""
        square = _square(prediction, target)
        return (self.width * ((square + self.width**2).sqrt() - self.width)).mean(1)
