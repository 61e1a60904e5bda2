"""How to walk back from noise to data: grids, solvers, the plan that runs them, and randomness."""

__all__ = [
    "AbstractSolver",
    "Adaptive",
    "AdaptiveResult",
    "Ancestral",
    "Butcher",
    "Cycle",
    "Exponential",
    "Momentum",
    "Multistep",
    "Plan",
    "Rng",
    "Row",
    "RungeKutta",
    "Sde",
    "Step",
    "check_grid",
    "grid",
    "sample",
]

from medsci.core.solve import grid
from medsci.core.solve.adaptive import Adaptive, AdaptiveResult
from medsci.core.solve.ancestral import Ancestral
from medsci.core.solve.cycle import Cycle
from medsci.core.solve.grid import check_grid
from medsci.core.solve.momentum import Momentum
from medsci.core.solve.multistep import Multistep
from medsci.core.solve.plan import AbstractSolver, Plan, Row, Step
from medsci.core.solve.rng import Rng
from medsci.core.solve.runge_kutta import Butcher, Exponential, RungeKutta
from medsci.core.solve.sample import sample
from medsci.core.solve.stochastic import Sde
