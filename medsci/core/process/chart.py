"""Charts: the coordinates in which noise is added.

A process lives in chart space, `u = forward(x)`: noise is added there, denoisers and solvers work
there, and `inverse` returns to the space of the data. With `Log`, additive noise on u is
multiplicative noise on x, and every state stays positive whatever the solver does.
"""

__all__ = ["Chart", "Identity", "Latent", "Log", "Logit", "RealView"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor


@runtime_checkable
class Chart(Protocol):
    """A pair of maps between data x and coordinates u, sample by sample."""

    def forward(self, x: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *e"]:
        """Return the coordinates of data."""
        ...

    def inverse(self, u: Shaped[Tensor, " b *e"]) -> Shaped[Tensor, " b *d"]:
        """Return the data at coordinates."""
        ...


@final
@dataclass(frozen=True)
class Identity:
    """The data are their own coordinates."""

    def forward(self, x: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *d"]:
        """Return x."""
        return x

    def inverse(self, u: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *d"]:
        """Return u."""
        return u


@final
@dataclass(frozen=True)
class Log:
    """`u = ln(x + shift)`: geometric Brownian motion, positive by construction.

    With the path `sigma = v sqrt(t)` this is `dX = v^2 / 2 X dt + v X dW` on `X = x + shift`, and
    the scores are tied by `grad_u ln p = 1 + X grad_X ln p`.

    Args:
        shift: added before the logarithm; 1 sends images in [0, 1] to [1, 2].
    """

    shift: float = 0.0

    def forward(self, x: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Return `ln(x + shift)`.

        Raises:
            ValueError: an entry is not above `-shift`.
        """
        if not bool((x > -self.shift).all()):
            raise ValueError(
                f"the smallest entry is {x.min():g} but ln(x + {self.shift:g}) needs every "
                "x + shift above 0, and no NaN; raise shift= or rescale the data"
            )
        return torch.log(x + self.shift)

    def inverse(self, u: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Return `exp(u) - shift`."""
        return torch.exp(u) - self.shift


@final
@dataclass(frozen=True)
class Logit:
    """`u = ln((x - low) / (high - x))`: data that never leave an open interval.

    Args:
        low: lower end, below all data.
        high: upper end, above all data.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high} came; give low < high")

    def forward(self, x: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Return the logit of the position in the interval.

        Raises:
            ValueError: an entry is not strictly inside.
        """
        if not bool(((x > self.low) & (x < self.high)).all()):
            raise ValueError(
                f"entries from {x.min():g} to {x.max():g} came but the logit needs all strictly "
                f"inside ({self.low:g}, {self.high:g}); choose low and high a little outside"
            )
        return torch.log(x - self.low) - torch.log(self.high - x)

    def inverse(self, u: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
        """Return the point of the interval."""
        return self.low + (self.high - self.low) * torch.sigmoid(u)


@final
@dataclass(frozen=True)
class RealView:
    """Complex data as real numbers, real and imaginary part on a new last axis.

    Unit noise on both parts has `E|z|^2 = 2` as a complex number, twice that of a complex state.
    """

    def forward(self, x: Complex[Tensor, " b *d"]) -> Float[Tensor, " b *d 2"]:
        """Return the real view; it shares memory with x."""
        return torch.view_as_real(x)

    def inverse(self, u: Float[Tensor, " b *d 2"]) -> Complex[Tensor, " b *d"]:
        """Return complex numbers."""
        return torch.view_as_complex(u.contiguous())


@final
@dataclass(frozen=True)
class Latent:
    """The coordinates of a trained autoencoder.

    Args:
        encode: data to latents, for instance `lambda x: vae.encode(x) * scale`.
        decode: latents to data.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]

    def forward(self, x: Shaped[Tensor, " b *d"]) -> Shaped[Tensor, " b *e"]:
        """Return the latents."""
        return self.encode(x)

    def inverse(self, u: Shaped[Tensor, " b *e"]) -> Shaped[Tensor, " b *d"]:
        """Return the decoded data."""
        return self.decode(u)
