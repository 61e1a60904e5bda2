"""What was measured, and what a solver returns: the two ends of every inverse problem.

Solvers work on *states*, what the prior was trained on: `(n, channels, *space)`, real. Operators
work on *images*: `(n, *space)`, real or complex. A complex image has the channels real and
imaginary part, a real one has one channel. `n` counts slices of a volume, or independent images.

A prior of whole volumes has states `(1, channels, i, j, k)`. With one channel nothing changes. With
several, of which the data may show one only, the image is the state (`layout="plain"`) and the
operator begins with the choice of a channel, `W @ ChannelOp(0, n_channels=4)`; an affine scale
between data and channel goes into y.

Inner products of states are real, so `normal` and `rhs` are those of the real least-squares problem
`|A x - y|^2 / 2` on states.
"""

__all__ = ["Layout", "Measurement", "Prior", "Progress", "Solution"]

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from medsci.core import Path
from medsci.operators import LinearOp

Layout = Literal["auto", "real", "complex", "plain"]
Progress = Callable[[int, int], None]


@runtime_checkable
class Prior(Protocol):
    """A denoiser of states that knows its path."""

    @property
    def path(self) -> Path:
        """Return the path on which the states live."""
        ...

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return x0."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Measurement:
    """Data y of an image seen through a linear operator, in the units of the prior.

    Attributes:
        y: what was measured.
        op: the operator. Solvers take step sizes and weights relative to an operator of norm one;
            `normalised` divides by the norm.
        noise: standard deviation of every real number in y (of the real and of the imaginary part
            where y is complex); 0 if it is not known or there is none.
        n_data: how many real numbers were measured; all of y if None. Give it where y holds zeros
            in the place of what was not measured.
        layout: how images become states: `real` adds a channel axis, `complex` splits into two
            channels, `plain` leaves them as they are; `auto` decides by the type of `A^H y`, and
            never for `plain`.
    """

    y: Tensor
    op: LinearOp
    noise: float = 0.0
    n_data: int | None = None
    layout: Layout = "auto"

    def __post_init__(self) -> None:
        if not self.noise >= 0.0:
            raise ValueError(f"noise={self.noise} came; give a standard deviation >= 0")
        if self.n_data is not None and self.n_data < 1:
            raise ValueError(f"n_data={self.n_data} came; give the number of measured numbers")

    @cached_property
    def backprojection(self) -> Tensor:
        """The image `A^H y`."""
        return self.op.adjoint(self.y)

    @cached_property
    def rhs(self) -> Tensor:
        """The state of `A^H y`."""
        return self.state(self.backprojection)

    @property
    def count(self) -> int:
        """How many real numbers were measured."""
        if self.n_data is not None:
            return self.n_data
        return self.y.numel() * (2 if self.y.is_complex() else 1)

    def state(self, image: Tensor) -> Tensor:
        """Return an image as the prior sees it."""
        if self._kind == "complex":
            return torch.stack([image.real, image.imag], dim=1)
        return image.unsqueeze(1) if self._kind == "real" else image

    def image(self, state: Tensor) -> Tensor:
        """Return a state as the operator sees it; the inverse of `state`.

        Raises:
            ValueError: the state has another number of channels than the layout.
        """
        expected = {"complex": 2, "real": 1}.get(self._kind)
        if expected is not None and state.shape[1] != expected:
            raise ValueError(
                f"a state of shape {tuple(state.shape)} came for images of layout {self._kind}, "
                f"which have {expected} channel(s); pick one by ChannelOp and give layout='plain'"
            )
        if self._kind == "complex":
            return torch.complex(state[:, 0].contiguous(), state[:, 1].contiguous())
        return state.squeeze(1) if self._kind == "real" else state

    def normal(self, state: Tensor) -> Tensor:
        """Apply `A^H A` to a state."""
        return self.state(self.op.normal(self.image(state)))

    def gradient(self, state: Tensor) -> Tensor:
        """Return `A^H (A x - y)`, the gradient of `|A x - y|^2 / 2`, as a state."""
        return self.normal(state) - self.rhs

    @torch.no_grad()
    def misfit(self, image: Tensor) -> float:
        """Return `|A x - y|` relative to what the noise leads one to expect.

        That is `|A x - y| / (noise sqrt(count))`, about 1 for the truth and below 1 for an image
        that fits noise; or `|A x - y| / |y|` where the noise is not known.
        """
        left = _length(self.op(image) - self.y)
        scale = self.noise * self.count**0.5 if self.noise > 0.0 else _length(self.y)
        return left / scale if scale > 0.0 else left

    def normalised(self, *, n_iter: int = 30) -> tuple["Measurement", float]:
        """Divide operator, data and noise by the norm of the operator, and return the norm too.

        Raises:
            ValueError: the operator is zero.
        """
        norm = self.op.norm(self.backprojection, n_iter=n_iter)
        if not norm > 0.0:
            raise ValueError("the operator is zero; there is nothing to reconstruct from")
        scaled = dataclasses.replace(
            self, y=self.y / norm, op=self.op * (1.0 / norm), noise=self.noise / norm
        )
        return scaled, norm

    @cached_property
    def _kind(self) -> Layout:
        if self.layout != "auto":
            return self.layout
        return "complex" if self.backprojection.is_complex() else "real"


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver found.

    Attributes:
        image: in the domain of the operator and the units of the prior.
        n_calls: evaluations of the prior per slice.
        history: one number per step for every quantity the solver keeps track of, by name.
    """

    image: Tensor
    n_calls: int
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def _length(x: Tensor) -> float:
    real = torch.view_as_real(x) if x.is_complex() else x
    return float(torch.linalg.vector_norm(real, dtype=torch.float64))
