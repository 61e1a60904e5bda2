"""Searched grids: better on noise never seen where order is high, no better where it is one."""

import numpy as np
import pytest
import torch
from contracts.core import draw, gaussian16, median_error, mixture64

from medsci.core.process import Path
from medsci.core.solve import Evolution, Multistep, Rng, grid, search_grid

VE = Path.ve()
ENDS = {"sigma_max": 80.0, "sigma_min": 0.002}
DEIS = Multistep("eps", order=3, lower_final=False)
DDIM = Multistep("eps", order=1)
SHORT = Evolution(population=24, generations=5, parents=6, mutations=10, crossovers=8, fine=120)


def search(oracle, n, solvers, *, seed=0, size=24, **options):
    d = oracle.mean.shape[0] if hasattr(oracle, "mean") else oracle.means.shape[1]
    x = draw(size, d, scale=80.0, seed=5)
    how = options.pop("evolution", SHORT)
    return search_grid(
        oracle,
        VE,
        n,
        x=x,
        solvers=solvers,
        rng=Rng(seed, range(1)),
        ends=(80.0, 0.002),
        evolution=how,
        **options,
    )


def fresh_error(oracle, solver, times):
    """Return the error on noise that no search saw."""
    d = oracle.mean.shape[0] if hasattr(oracle, "mean") else oracle.means.shape[1]
    x = draw(24, d, scale=80.0, seed=77)
    fine = Multistep("x0", order=3, corrector=True, lower_final=False)
    end = fine.plan(VE, grid.log_snr(VE, 300, **ENDS)).run(oracle, x)
    return median_error(solver.plan(VE, times).run(oracle, x), end)


@pytest.mark.parametrize(("make", "gain"), [(gaussian16, 5.0), (mixture64, 3.0)])
def test_a_solver_of_high_order_gains_on_unseen_noise(make, gain):
    """Five evaluations of DEIS-3: published 1.0e-1 -> 3.7e-3 on G16, 1.0e-1 -> 3.5e-2 on M64."""
    oracle = make(VE)
    found = search(oracle, 5, [DEIS])
    before = fresh_error(oracle, DEIS, grid.karras(VE, 5, **ENDS))
    assert fresh_error(oracle, found.solver, found.grid) * gain < before


def test_a_solver_of_first_order_gains_little():
    """The control: published 1.2e-1 -> 1.2e-1 for DDIM, against threefold for order 3."""
    oracle = mixture64(VE)
    found = search(oracle, 5, [DDIM])
    grids = [grid.karras(VE, 5, **ENDS), grid.log_snr(VE, 5, **ENDS), grid.ratio(VE, 5, **ENDS)]
    before = min(fresh_error(oracle, DDIM, times) for times in grids)
    assert fresh_error(oracle, found.solver, found.grid) > before / 1.5


def test_the_search_finds_the_first_long_step():
    """Far above the data the flow is known: the first step leaps over most of the levels."""
    found = search(mixture64(VE), 5, [DEIS])
    assert found.levels[0] == pytest.approx(80.0)
    assert found.levels[1] < 12.0  # Karras is at 21.1, log-SNR at 9.6
    assert np.all(np.diff(found.levels) < 0.0)


def test_the_solver_is_a_gene():
    """Offered both, the search takes the one of high order, in whatever place it stands."""
    for solvers in ([DDIM, DEIS], [DEIS, DDIM]):
        assert search(gaussian16(VE), 8, solvers).solver == DEIS


def test_losses_fall_and_runs_repeat():
    one, two = (search(gaussian16(VE), 5, [DEIS], seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.grid, two.grid)
    assert one.history == two.history
    late = one.history[len(one.history) // 2 + 1 :]
    assert list(late) == sorted(late, reverse=True)  # parents survive
    other = search(gaussian16(VE), 5, [DEIS], seed=4)
    assert not np.array_equal(one.grid, other.grid)


def test_the_last_score_is_on_held_out_noise():
    """A loss that knows the rows: what is searched on never contains the last half."""
    seen = []

    def loss(end, start):
        seen.append(start)
        return end.square().mean().item()

    found = search(gaussian16(VE), 3, [DEIS], loss=loss)
    x = draw(24, 16, scale=80.0, seed=5)
    assert torch.equal(seen[-1], x[12:])
    assert all(torch.equal(rows, x[: len(rows)]) and len(rows) <= 12 for rows in seen[:-1])
    assert found.held_out == pytest.approx(
        loss(found.solver.plan(VE, found.grid).run(gaussian16(VE), x[12:]), x[12:])
    )


def test_what_cannot_be_searched():
    with pytest.raises(ValueError, match="at least four"):
        search(gaussian16(VE), 5, [DEIS], size=3)
    with pytest.raises(ValueError, match="one solver"):
        search(gaussian16(VE), 5, [])
    with pytest.raises(ValueError, match="parents <= population"):
        Evolution(population=5, parents=6)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Evolution(held_out=1.0)
