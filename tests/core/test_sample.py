"""Sampling in one call: noise belongs to samples, not to batches."""

import numpy as np
import pytest
import torch
from contracts.core import (
    DOUBLE,
    assert_batch_invariant,
    assert_marginal,
    draw,
    gaussian16,
    median_error,
)

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Plan, Rng, grid, sample

RF = Path.rectified()


def elementwise(x, t):
    return torch.tanh(1.3 * x) * (1.0 - 0.4 * t)


@pytest.mark.parametrize(
    "solver",
    [
        Multistep("x0", order=1),
        Multistep("angle", "ratio", order=3, corrector=True),
        Ancestral(1.0),
        Ancestral(0.8, rule="fraction"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 5), ()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_sample_is_the_same_in_any_batch(solver, shape, dtype):
    def run(ids):
        return sample(
            elementwise,
            (len(ids), *shape),
            solver=solver,
            path=RF,
            grid=grid.uniform(7),
            seed=3,
            ids=ids,
            dtype=dtype,
        )

    assert_batch_invariant(run)


def test_the_check_catches_noise_drawn_per_batch(monkeypatch):
    def batch_first(self, shape, *, step, tag=0, dtype=torch.float32, device="cpu"):
        generator = torch.Generator().manual_seed(step + 1)
        return torch.randn(tuple(shape), generator=generator, dtype=dtype)

    def run(ids):
        return sample(
            elementwise, (len(ids), 9), solver=Ancestral(), path=RF, grid=grid.uniform(4), ids=ids
        )

    assert_batch_invariant(run)
    monkeypatch.setattr(Rng, "normal", batch_first)
    with pytest.raises(AssertionError, match=r"differs alone|depend on their place"):
        assert_batch_invariant(run)


def test_it_draws_from_the_data():
    oracle = gaussian16(RF)
    x = sample(
        oracle,
        (5000, 16),
        solver=Multistep("v", "ratio", order=3),
        grid=grid.uniform(40),
        dtype=DOUBLE,
    )
    mean, covariance = oracle.moments(0.0)
    assert_marginal(x, mean=mean, covariance=covariance)


def test_it_is_the_walk_from_the_prior():
    path = Path.ve(sigma_max=10.0)
    oracle = gaussian16(path)
    solver = Multistep("eps", order=2)
    times = grid.karras(path, 12, sigma_max=5.0, sigma_min=0.01)
    ours = sample(oracle, (3, 16), solver=solver, grid=times, seed=4, dtype=DOUBLE)
    z = Rng(4, (0, 1, 2)).normal((3, 16), step=-1, dtype=DOUBLE)
    by_hand = solver.plan(path, times).run(oracle, z * float(path.sigma(times[0])))
    torch.testing.assert_close(ours, by_hand, rtol=1e-14, atol=1e-14)
    exact = oracle.flow(z * float(path.sigma(times[0])), float(times[0]), float(times[-1]))
    assert median_error(ours, exact) < 0.05


def test_seeds_and_ids():
    def run(seed, ids=None):
        return sample(
            elementwise,
            (2, 6),
            solver=Ancestral(),
            path=RF,
            grid=grid.uniform(4),
            seed=seed,
            ids=ids,
        )

    assert torch.equal(run(0), run(0))
    assert torch.equal(run(0), run(0, (0, 1)))
    assert not torch.equal(run(0), run(1))
    assert not torch.equal(run(0), run(0, (2, 3)))
    assert torch.equal(run(0, (5, 5))[0], run(0, (5, 5))[1])


def test_a_given_state_is_used_and_kept():
    x = draw(2, 6)
    kept = x.clone()
    out = sample(
        elementwise, (2, 6), solver=Multistep(), path=RF, grid=grid.uniform(5), x=x, dtype=DOUBLE
    )
    plan: Plan = Multistep().plan(RF, grid.uniform(5))
    assert torch.equal(out, plan.run(elementwise, x))
    assert torch.equal(x, kept)


def test_noise_of_a_step_does_not_depend_on_where_the_walk_began():
    plan = Ancestral().plan(RF, grid.uniform(6))
    rng = Rng(0, (0, 1))
    x = draw(2, 3)
    whole = plan.run(elementwise, x, rng=rng)
    half = plan.run(elementwise, x, rng=rng, stop=3)
    assert torch.equal(plan.run(elementwise, half, rng=rng, start=3), whole)


def test_what_is_refused():
    options = {"solver": Multistep(), "grid": np.array([1.0, 0.0])}
    with pytest.raises(ValueError, match="pass path="):
        sample(elementwise, (2, 3), **options)
    with pytest.raises(ValueError, match="one per"):
        sample(elementwise, (2, 3), path=RF, ids=(1,), **options)
    with pytest.raises(ValueError, match="ids came for 2 samples"):
        sample(elementwise, (2, 3), path=RF, ids=(1,), x=draw(2, 3), **options)
    with pytest.raises(ValueError, match=r"\(2, 4\) but \(2, 3\)"):
        sample(elementwise, (2, 3), path=RF, x=draw(2, 4), **options)
