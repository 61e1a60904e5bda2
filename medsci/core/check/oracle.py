"""What every oracle answers: a law of the data, seen through a path, in closed form.

Oracles judge solvers, hooks, couplings and objectives. Use them in float64 (or complex128, where
noise is circular, `E|z|^2 = 1`). They work on the device and in the dtype of their parameters.
"""

__all__ = ["Oracle"]

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor

from medsci.core.process.path import Path

DRAW = 0x0D4A  # the tag of posterior draws, so that they share no stream with a solver's noise


@runtime_checkable
class Oracle(Protocol):
    """Anything that knows the law of `x_t` at every time.

    With `D(x, t) = E[x0 | x_t = x]` the answers hang together: Tweedie says
    `alpha D = x + sigma^2 score`, and `jacobian` is the derivative of D.
    """

    @property
    def path(self) -> Path:
        """The path of the states."""
        ...

    def __call__(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, " b *d"]:
        """Return `E[x0 | x_t = x]`."""
        ...

    def score(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, " b *d"]:
        """Return the gradient of `ln p_t` with respect to x."""
        ...

    def log_density(self, x: Shaped[Tensor, " b *d"], t: float) -> Float[Tensor, " b"]:
        """Return `ln p_t(x)`."""
        ...

    def jacobian(self, x: Shaped[Tensor, " b *d"], t: float) -> Shaped[Tensor, "b n n"]:
        """Return the derivative of D with respect to x, flattened: `n` numbers per sample."""
        ...


def coefficients(path: Path, t: float) -> tuple[float, float]:
    """Return `(alpha, sigma)` of a path as Python floats."""
    return float(path.alpha(t)), float(path.sigma(t))
