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

from medsci.core.process import Centred, Path, Residual
from medsci.core.solve import Ancestral, Multistep, Plan, Rng, auto, grid, sample

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


def test_a_grid_that_starts_at_data_needs_a_state():
    """Noise alone is no state of the middle of a path; at the end of a path it always is."""
    path = Path.rectified()

    def denoise(x, t):
        return torch.tanh(x)

    options = {"solver": Multistep(), "path": path}
    with pytest.raises(ValueError, match=r"starts at t=0\.5"):
        sample(denoise, (2, 3), grid=grid.uniform(4, t_max=0.5), **options)
    sample(denoise, (2, 3), grid=grid.uniform(4, t_max=0.5), x=torch.ones(2, 3), **options)
    sample(denoise, (2, 3), grid=grid.uniform(4, t_max=0.9), **options)
    short = Path.ve(1.0, 0.01)
    sample(denoise, (2, 3), solver=Multistep(), grid=grid.uniform(4), path=short)


def test_a_conditional_mean_is_walked_around():
    """On a path around mu the walk is that of the centred state, with the same noise."""
    path, mu = Residual(1.0), 3.0 + torch.arange(3.0)

    def denoise(x, t, *, mu):
        return torch.tanh(x - float(path.shift(t)) * mu)

    options = {"solver": Multistep("v", "ratio"), "grid": grid.uniform(6, t_min=0.3)}
    out = sample(denoise, (2, 3), path=path, cond={"mu": mu}, **options)
    plain = sample(lambda y, t: torch.tanh(y), (2, 3), path=Centred(path), **options)
    torch.testing.assert_close(out, plain + float(path.shift(0.3)) * mu)
    with pytest.raises(ValueError, match="conditional mean; pass it as cond"):
        sample(denoise, (2, 3), path=path, **options)
    start = torch.ones(2, 3)
    moved = sample(denoise, (2, 3), path=path, x=start, cond={"mu": mu}, **options)
    begun = sample(lambda y, t: torch.tanh(y), (2, 3), path=Centred(path), x=start - mu, **options)
    torch.testing.assert_close(moved, begun + float(path.shift(0.3)) * mu)


def test_steps_or_a_grid_must_come():
    def denoise(x, t):
        return torch.tanh(x)

    path = Path.rectified()
    with pytest.raises(ValueError, match="neither steps nor grid"):
        sample(denoise, (2, 3), path=path)
    with pytest.raises(ValueError, match="pass one of them"):
        sample(denoise, (2, 3), path=path, steps=3, grid=grid.uniform(4))
    by_steps = sample(denoise, (2, 3), path=path, steps=4)
    solver, times = auto(path, 4, spectrum="short")
    torch.testing.assert_close(
        by_steps, sample(denoise, (2, 3), path=path, solver=solver, grid=times), rtol=0, atol=0
    )


def test_the_default_knows_the_scale_of_the_data():
    """Data ten times as large, noise levels ten times as high: the same walk, scaled."""
    small, large = Path.ve(80.0, 0.002), Path.ve(800.0, 0.02)

    class Known:
        def __init__(self, path, scale):
            self.path, self.sigma_data = path, scale

        def __call__(self, x, t):
            return self.sigma_data * torch.tanh(x / self.sigma_data)

    one = sample(Known(small, 1.0), (3, 4), steps=10, dtype=DOUBLE)
    ten = sample(Known(large, 10.0), (3, 4), steps=10, dtype=DOUBLE)
    torch.testing.assert_close(ten, 10.0 * one, rtol=1e-9, atol=1e-9)
    forgot = sample(
        Known(large, 10.0), (3, 4), grid=auto(large, 10, spectrum="short")[1], dtype=DOUBLE
    )
    assert (forgot - ten).abs().max() > 1e-6


def test_the_default_takes_states_of_space_for_images():
    """Four dimensions or more are images, whose spectrum is long; fewer are vectors."""
    path = Path.vp_cosine()

    def denoise(x, t):
        return torch.tanh(x)

    for shape, spectrum in {
        (2, 1, 4, 4): "long",
        (2, 1, 4, 4, 4): "long",
        (2, 16): "short",
    }.items():
        solver, times = auto(path, 8, spectrum=spectrum)
        expected = sample(denoise, shape, path=path, solver=solver, grid=times)
        torch.testing.assert_close(sample(denoise, shape, path=path, steps=8), expected)
