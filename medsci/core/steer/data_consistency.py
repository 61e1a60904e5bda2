"""Data consistency: pull the clean estimate towards the measurement at every step.

`DataConsistency` takes any projection of x0. Two are here, for a linear measurement `y = A x0`
known by `normal = A^H A` and `rhs = A^H y`:

    Proximal   argmin_x |A x - y|^2 / 2 + rho / 2 |x - x0|^2
    Admm       the same plus a penalty g(D x), known by its proximal map

Both leave one linear system to a solver that you pass, such as `conjugate_gradient` of
`medsci.operators` with a fixed number of iterations:

    solve = partial(conjugate_gradient, n_iter=5, batched=True)
    hook = DataConsistency(Proximal(op.normal, op.adjoint(y), rho=0.1, solve=solve))
"""

__all__ = ["Admm", "DataConsistency", "LinearSolve", "Proximal", "Rho"]

from collections.abc import Callable
from typing import Protocol, final, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor

from medsci.core.steer.hook import Hook, StepState

Operator = Callable[[Tensor], Tensor]
Rho = float | Callable[[StepState], float]


@final
class DataConsistency(Hook):
    """Replace x0 by `project(x0, state)`, for instance a few steps of conjugate gradients.

    The noise estimate is formed from the state and the projected x0 afterwards, so the walk stays
    on its path. Source: Chung et al. 2024, algorithm 1, arXiv:2303.05754.
    """

    def __init__(self, project: Callable[[Tensor, StepState], Tensor]) -> None:
        self.project = project

    def denoised(self, state: StepState) -> None:
        """Project x0."""
        state.x0 = self.project(state.x0, state)


@runtime_checkable
class LinearSolve(Protocol):
    """Anything that solves `normal(x) = b` for a Hermitian positive definite `normal`."""

    def __call__(self, normal: Operator, b: Tensor, *, x0: Tensor) -> Tensor:
        """Return the solution, starting from `x0`; solve every sample on its own."""
        ...


@final
class Proximal:
    """Return `argmin_x |A x - y|^2 / 2 + rho / 2 |x - x0|^2`, to be given to `DataConsistency`.

    With measurement noise of variance `s^2` and x0 of variance `r^2` about the truth,
    `rho = s^2 / r^2` gives the posterior mean, exactly for Gaussian data of variance `d^2`:

        rho = lambda state: s**2 / tweedie_variance(path, state.t, sigma_data=d)

    Args:
        normal: apply `A^H A`.
        rhs: `A^H y`, shaped like the state or broadcasting against it.
        rho: weight of x0 against the data, or a function of the state that gives it. At 0 x0 acts
            as the starting point only, and an early stop of the solver is what keeps it.
        solve: solver of the linear system.

    Source: Zhu et al. 2023, eq. 11, arXiv:2305.08995; Chung et al. 2024, arXiv:2303.05754.
    """

    def __init__(self, normal: Operator, rhs: Tensor, *, rho: Rho, solve: LinearSolve) -> None:
        self.normal = normal
        self.rhs = rhs
        self.rho = _checked(rho)
        self.solve = solve

    def __call__(self, x0: Shaped[Tensor, " b *d"], state: StepState) -> Shaped[Tensor, " b *d"]:
        """Return the minimiser."""
        rho = self.rho(state) if callable(self.rho) else self.rho
        return self.solve(lambda v: self.normal(v) + rho * v, self.rhs + rho * x0, x0=x0)


@final
class Admm:
    """Minimise `|A x - y|^2 / 2 + rho / 2 |x - x0|^2 + g(D x)` over the steps of a walk.

    Every step takes `n` sweeps of the scaled form and hands its split and dual variables `z, u` to
    the next one, which starts where this one stopped:

        (A^H A + rho + beta D^H D) x = A^H y + rho x0 + beta D^H (z - u)
        z <- prox(D x + u),    u <- u + D x - z

    The variables live in the state of the walk, so one `Admm` may serve several walks.

    Args:
        normal: apply `A^H A`.
        rhs: `A^H y`.
        prox: the proximal map of `g / beta`, `argmin_z g(z) / beta + |z - v|^2 / 2`. For
            `g = weight |z|_1` it is soft thresholding by `weight / beta`.
        rho: weight of x0, or a function of the state that gives it.
        solve: solver of the linear system.
        beta: penalty of the split; it changes the speed and not the limit.
        analysis: apply D, for instance differences along an axis; the identity if left out.
        synthesis: apply `D^H`.
        n: sweeps per step.

    Raises:
        ValueError: a number is out of range, or only one of `analysis` and `synthesis` came.

    Source: Boyd et al. 2011, sec. 3.1.1, doi:10.1561/2200000016; carried from step to step after
    Chung et al. 2023, arXiv:2211.10655.
    """

    def __init__(
        self,
        normal: Operator,
        rhs: Tensor,
        *,
        prox: Operator,
        rho: Rho,
        solve: LinearSolve,
        beta: float = 1.0,
        analysis: Operator | None = None,
        synthesis: Operator | None = None,
        n: int = 1,
    ) -> None:
        if not beta > 0.0 or n < 1:
            raise ValueError(f"beta={beta}, n={n} came; give beta > 0 and at least one sweep")
        if (analysis is None) != (synthesis is None):
            raise ValueError("analysis and synthesis are D and its adjoint; give both or neither")
        self.normal = normal
        self.rhs = rhs
        self.prox = prox
        self.rho = _checked(rho)
        self.solve = solve
        self.beta = float(beta)
        self.analysis = _identity if analysis is None else analysis
        self.synthesis = _identity if synthesis is None else synthesis
        self.n = n

    def __call__(self, x0: Shaped[Tensor, " b *d"], state: StepState) -> Shaped[Tensor, " b *d"]:
        """Return x after the sweeps of this step."""
        rho = self.rho(state) if callable(self.rho) else self.rho
        key = f"admm-{id(self)}"
        x, right = x0, self.rhs + rho * x0
        z, u = state.extra.get(key) or (self.analysis(x0), 0.0)

        def normal(v: Tensor) -> Tensor:
            return self.normal(v) + rho * v + self.beta * self.synthesis(self.analysis(v))

        for _ in range(self.n):
            x = self.solve(normal, right + self.beta * self.synthesis(z - u), x0=x)
            moved = self.analysis(x) + u
            z = self.prox(moved)
            u = moved - z
        state.extra[key] = (z, u)
        return x


def _identity(v: Tensor) -> Tensor:
    return v


def _checked(rho: Rho) -> Rho:
    if not callable(rho) and not rho >= 0.0:
        raise ValueError(f"rho={rho} came; give a weight >= 0 or a function of the state")
    return rho
