"""What a walk keeps in memory beside the network, in units of one state: no hidden copy."""

import pytest
import torch
from contracts.guard import LiveMemory

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid

PATH = Path.vp_cosine()
TIMES = grid.uniform(12, t_max=0.98, t_min=0.02)
SHAPE = (1, 1, 12, 12, 12)
ONE = 12**3 * 4

# x, x0, and one direction for each order above the first
SOLVERS = {
    "x0 1": (Multistep("x0", order=1), 2),
    "x0 2": (Multistep("x0", order=2, lower_final=False), 3),
    "x0 3": (Multistep("x0", order=3, lower_final=False), 4),
    "eps 3": (Multistep("eps", order=3, lower_final=False), 4),
    "v 2": (Multistep("v", "ratio", order=2, lower_final=False), 3),
    "x0 2 corrector": (Multistep("x0", order=2, corrector=True, lower_final=True), 4),
    "Ancestral": (Ancestral(1.0), 2),  # the noise is there when x0 no longer is
}


def network(x, t):
    return x * 0.9


def units(denoise, solver=SOLVERS["x0 2"][0], hooks=()) -> float:
    plan, x = solver.plan(PATH, TIMES), torch.ones(SHAPE)
    with LiveMemory() as memory:
        plan.run(denoise, x, rng=Rng(0, (0,)), hooks=hooks)
    return memory.peak / ONE


@pytest.mark.parametrize("name", SOLVERS)
def test_a_walk_keeps_x_and_x0_and_what_its_order_needs(name):
    solver, expected = SOLVERS[name]
    assert units(network, solver) == expected


def test_copies_are_seen():
    """The controls: a copy inside the network, one kept from step to step, a slice of one."""
    plain = units(network)
    assert units(lambda x, t: x.clone() * 0.9) == plain + 1
    kept = []
    assert units(lambda x, t: (kept.append(x.clone()), x * 0.9)[1]) == plain + 12
    kept.clear()
    assert units(lambda x, t: (kept.append(x[..., :3].clone()), x * 0.9)[1]) == plain + 12 / 4


def test_memory_by_hand():
    outside = torch.ones(8)
    with LiveMemory() as memory:
        a = outside * 2  # 1 of 32 bytes
        view = a.reshape(2, 4)[1:]
        outside.add_(1)
        outside[2:].mul_(3)
        b = a + 1  # 2
        del a
        c = b * 2  # 3: the view still holds the first
        assert memory.now == 96
        del view
        assert memory.now == 64
        (c + 1).exp_().sum()  # 3 and a scalar
        del b, c
    assert memory.now == 0
    assert memory.peak == 100
    assert [size for _, size in memory.made] == [32, 32, 32, 32, 4]
