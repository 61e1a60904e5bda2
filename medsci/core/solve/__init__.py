"""How to walk back from noise to data: grids, solvers, the plan that runs them, and randomness.

multistep     Multistep: DDIM, DEIS, DPM-Solver++, UniPC, PNDM, GHVB
runge_kutta   RungeKutta: Heun, midpoint, RK4, DPM-Solver-2 and -3
stochastic    Sde, Ancestral: with noise; Cycle: with the way back up; renoise: for flow maps
adaptive      Adaptive: steps by error control
bridge        bridge_walk: processes that are not linear; interpolate, staircase
auto          the default solver and grid for a number of evaluations; search_grid
"""

__all__ = [
    "AbstractSolver",
    "Adaptive",
    "AdaptiveResult",
    "Ancestral",
    "Butcher",
    "Cycle",
    "Evolution",
    "Exponential",
    "Found",
    "Momentum",
    "Multistep",
    "OnPart",
    "Plan",
    "Rng",
    "Row",
    "RungeKutta",
    "Sde",
    "SkipTable",
    "Step",
    "auto",
    "bridge_walk",
    "check_grid",
    "grid",
    "interpolate",
    "renoise",
    "sample",
    "search_grid",
    "skip_table",
    "staircase",
    "stairs",
    "teleport",
]

from medsci.core.rng import Rng
from medsci.core.solve import grid
from medsci.core.solve.adaptive import Adaptive, AdaptiveResult
from medsci.core.solve.ancestral import Ancestral
from medsci.core.solve.auto import auto
from medsci.core.solve.bridge import OnPart, bridge_walk
from medsci.core.solve.cycle import Cycle
from medsci.core.solve.evolution import Evolution
from medsci.core.solve.grid import check_grid
from medsci.core.solve.interpolate import interpolate
from medsci.core.solve.momentum import Momentum
from medsci.core.solve.multistep import Multistep
from medsci.core.solve.plan import AbstractSolver, Plan, Row, Step
from medsci.core.solve.renoise import renoise
from medsci.core.solve.runge_kutta import Butcher, Exponential, RungeKutta
from medsci.core.solve.sample import sample
from medsci.core.solve.search import Found, search_grid
from medsci.core.solve.staircase import staircase, stairs
from medsci.core.solve.stochastic import Sde
from medsci.core.solve.teleport import SkipTable, skip_table, teleport
