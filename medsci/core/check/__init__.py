"""How to know: closed-form oracles and the numbers that judge a solver."""

__all__ = [
    "GaussianMixtureOracle",
    "GaussianOracle",
    "convergence_order",
    "local_orders",
    "relative_error",
]

from medsci.core.check.diagnose import convergence_order, local_orders, relative_error
from medsci.core.check.oracle import GaussianMixtureOracle, GaussianOracle
