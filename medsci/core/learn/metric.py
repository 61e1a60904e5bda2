"""Metrics: how far a prediction is from its target, one number per sample.

Element by element `SquaredError`, `PseudoHuber`; by the norm of a sample `PseudoHuberNorm`; by the
features of a network `Perceptual`. `Mapped`, `Differences` and `Sum` make metrics of metrics: joint
positions by forward kinematics, velocities along a time axis, and what these count together.
"""

__all__ = [
    "Differences",
    "Mapped",
    "Metric",
    "Perceptual",
    "PseudoHuber",
    "PseudoHuberNorm",
    "SquaredError",
    "Sum",
]

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, Protocol, final, runtime_checkable

import torch
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


@final
@dataclass(frozen=True)
class PseudoHuberNorm:
    """The norm of the difference of a whole sample, rounded off near zero.

    `sqrt(|d|^2 + c^2) - c`: `|d|^2 / (2 c)` near zero, `|d| - c` far away. `n` real numbers in a
    sample set the width, `c = scale sqrt(n)` or `c = scale n`. At n = 3072 these are 0.03, where
    most errors are far, and 1.66, where most are near.

    Args:
        scale: factor of the width.
        width: `sqrt` of the consistency models, or `linear` of rf++.

    Source: Song and Dhariwal 2023, sec. 3.4, arXiv:2310.14189; Lee et al. 2024, arXiv:2405.20320.
    """

    scale: float = 0.00054
    width: Literal["sqrt", "linear"] = "sqrt"

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"scale={self.scale} came; give a positive one")
        if self.width not in ("sqrt", "linear"):
            raise ValueError(f"width {self.width!r} came; choose sqrt or linear")

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the rounded norm of each sample."""
        square = _square(prediction, target)
        n = square.shape[1] * (2 if prediction.is_complex() else 1)
        c = self.scale * (math.sqrt(n) if self.width == "sqrt" else n)
        return (square.sum(1) + c**2).sqrt() - c


@final
@dataclass(frozen=True)
class Perceptual:
    """Squared error between the features that a network finds in both, layer by layer.

    Features are scaled to unit norm over the channels at every place; their squared distance, in
    [0, 4], is averaged over the places and summed over the layers.

    Args:
        features: `x -> feature maps`, each of shape `(b, c, *places)`; a trained network that is
            not trained on. Gradients reach the prediction through it.
        weights: of the layers; one for each if left out.

    Source: after Zhang et al. 2018, eq. 1, arXiv:1801.03924, without learnt channel weights.
    """

    features: Callable[[Tensor], Sequence[Tensor]]
    _: KW_ONLY
    weights: tuple[float, ...] | None = None

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum over layers, of each sample.

        Raises:
            ValueError: the number of layers is not that of the weights, or there is none.
        """
        found = self.features(prediction)
        with torch.no_grad():
            wanted = self.features(target)
        weights = (1.0,) * len(found) if self.weights is None else self.weights
        if len(found) == 0 or len(weights) != len(found):
            raise ValueError(
                f"{len(found)} feature maps came for {len(weights)} weights; give one weight each"
            )
        total = prediction.real.new_zeros(len(prediction))
        for weight, one, other in zip(weights, found, wanted, strict=True):
            distance = (_unit(one) - _unit(other)).square().sum(1)
            total = total + weight * distance.reshape(len(distance), -1).mean(1)
        return total


@final
@dataclass(frozen=True)
class Mapped:
    """A metric after a fixed map of both, row by row: forward kinematics, a Fourier transform."""

    function: Callable[[Tensor], Tensor]
    metric: Metric = field(default_factory=SquaredError)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the metric of the mapped prediction and target."""
        return self.metric(self.function(prediction), self.function(target))


@final
@dataclass(frozen=True)
class Differences:
    """A metric on the differences of neighbours along one dimension: velocities of a motion.

    Args:
        dim: the dimension, not 0, which counts the samples.
        metric: of the differences.
    """

    dim: int
    metric: Metric = field(default_factory=SquaredError)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the metric of the differences.

        Raises:
            ValueError: the dimension counts the samples, or has fewer than two places.
        """
        shape = tuple(prediction.shape)
        if self.dim % prediction.ndim == 0 or shape[self.dim] < 2:
            raise ValueError(
                f"dim={self.dim} came for shape {shape}; choose a dimension of at least two places"
                " after the first"
            )
        return self.metric(prediction.diff(dim=self.dim), target.diff(dim=self.dim))


@final
@dataclass(frozen=True)
class Sum:
    """Metrics added up, each times its weight: `Sum(((1.0, SquaredError()), (0.5, other)))`."""

    parts: tuple[tuple[float, Metric], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("no metric came; give pairs (weight, metric)")

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum."""
        losses = [weight * metric(prediction, target) for weight, metric in self.parts]
        return torch.stack(losses).sum(0)


def _unit(features: Tensor) -> Tensor:
    """Return features of unit norm over the channels; those of zero stay zero."""
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
