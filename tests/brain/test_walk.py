"""Which solver walks which model, and what clipping does to a step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from brain.tiny_generator import Normal, TwoModes, area_under_curve, config, published

from medsci.brain.walk import Walk, clip_hooks, walk_of
from medsci.core.denoise.schedules import alphas_bar_of
from medsci.core.process import Path
from medsci.core.rng import Rng
from medsci.core.solve import Ancestral, Multistep, RungeKutta, auto, sample
from medsci.core.steer.hallucination import Hallucination
from medsci.errors import UsageError
from medsci.models import SamplerHint


def rows_of(walk):
    return np.round(walk.grid * 1000).astype(int) - 1


def test_a_published_generator_takes_256_rows_of_its_table():
    walk = walk_of(published())
    assert (walk.name, walk.n_evaluations) == ("ddim", 256)
    expected = np.round(np.linspace(0, 999, 256)).astype(int)[::-1]
    assert np.abs(rows_of(walk)[:-1] - expected).max() <= 1, "ties of rounding"
    assert (rows_of(walk)[0], rows_of(walk)[-2], rows_of(walk)[-1]) == (999, 0, -1)
    assert walk_of(published(), steps=64).n_evaluations == 64


def test_its_rectified_flow_is_walked_by_euler():
    flow = published(path={"kind": "rectified"}, time_code="time")
    walk = walk_of(flow, steps=50)
    assert walk.name == "ddim"
    np.testing.assert_allclose(np.diff(walk.grid), -0.999 / 50)
    t, s = walk.grid[3:5]
    x, o = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    step = walk.solver.plan(walk.path, walk.grid).run(
        lambda state, time: state - time * o, x, start=3, stop=4
    )
    torch.testing.assert_close(step, x + (s - t) * o)


def test_our_own_take_the_general_choice_at_20():
    walk = walk_of(config())
    solver, times = auto(Path.vp_cosine(), 20, sigma_data=0.5)
    assert walk.solver == solver
    np.testing.assert_array_equal(walk.grid, times)
    assert walk.n_evaluations == 20


def test_the_model_may_ask_for_its_own():
    hinted = config(sampler=SamplerHint(steps=12))
    assert walk_of(hinted).n_evaluations == 12
    assert walk_of(hinted, solver="dpmpp2m").n_evaluations == 12
    few = walk_of(config(sampler=SamplerHint(steps=4, solver="ddim")))
    assert (few.name, few.n_evaluations, few.is_first_order) == ("ddim", 4, True)


@pytest.mark.parametrize(
    ("name", "kind", "n"),
    [
        ("ddim", Multistep("eps", order=1), 8),
        ("dpmpp2m", Multistep("x0", order=2), 8),
        ("ancestral", Ancestral(1.0), 8),
        ("heun", RungeKutta("heun", sigma_data=0.5), 8),
    ],
)
def test_a_named_solver_is_that_one(name, kind, n):
    walk = walk_of(config(), solver=name, steps=8)
    assert (walk.solver, walk.name) == (kind, name)
    assert walk.n_evaluations == n
    assert [walk_of(config(), solver=name, steps=k).n_evaluations for k in (1, 2)] == [1, 2]


@pytest.mark.parametrize(
    "path",
    [
        {"kind": "rectified"},
        {"kind": "vp_linear"},
        {"kind": "ve"},
        {"kind": "ve", "sigma_min": 0.01},
    ],
    ids=lambda path: "-".join(map(str, path.values())),
)
def test_heun_never_takes_more_evaluations_than_asked(path):
    """Whether the ends of the path hold noise without bound, none, or a little."""
    for n in (1, 2, 3, 8, 19):
        taken = walk_of(config(path=path), solver="heun", steps=n).n_evaluations
        assert n - 1 <= taken <= n
        assert taken >= 1


def test_first_order_steps_visit_rows_and_others_need_none():
    for name in ("ddim", "ancestral"):
        walk = walk_of(published(), solver=name, steps=10)
        np.testing.assert_allclose(walk.grid * 1000, np.round(walk.grid * 1000), atol=1e-9)
    assert len(walk_of(published(), solver="dpmpp2m", steps=10).grid) == 11


def test_noise_prediction_does_not_begin_where_it_says_nothing():
    """At alpha = 0 the noise is the state, and the volume could be anything."""
    eps = config(prediction="eps")
    for name in ("auto", "ddim", "dpmpp2m", "heun", "ancestral"):
        walk = walk_of(eps, solver=name, steps=8)
        assert walk.grid[0] < 1.0
        x = sample(Normal.of(eps, sd=0.5), (1, 4, 12, 14, 10), solver=walk.solver, grid=walk.grid)
        assert x.isfinite().all()
    assert walk_of(config(), steps=8).grid[0] == 1.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": 0}, "1 or more"),
        ({"solver": "ddim", "steps": 1001}, "cannot be sampled so"),
    ],
)
def test_says_what_is_wrong(fields, says):
    with pytest.raises(UsageError, match=says):
        walk_of(published(), **fields)


# Clipping


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_published_clipping_keeps_the_raw_noise(solver):
    """Beside the update as the authors write it, with the same fresh noise; n = 12."""
    description = published()
    walk = walk_of(description, solver=solver, steps=12)
    sober, shape = Normal.of(description, mean=0.8, sd=0.5), (1, 1, 12, 14, 10)

    def network(x, t):
        return sober(x, t) * (1.6 if t > 0.3 else 1.0)  # overshoots while it is early

    network.path = sober.path
    hooks = clip_hooks("ddim", (-1.0, 1.0), walk)
    got = sample(network, shape, solver=walk.solver, grid=walk.grid, seed=5, hooks=hooks)

    bar = np.append(np.array(alphas_bar_of("linear", 1000)), 1.0)  # row -1 is clean
    rows = rows_of(walk)
    rng = Rng(5, [0])
    x = rng.normal(shape, step=-1) * (1.0 - bar[rows[0]]) ** 0.5
    clipped = 0
    for i, (row, after) in enumerate(pairwise(rows.tolist())):
        a, s, a2, s2 = (bar[row] ** 0.5, (1 - bar[row]) ** 0.5, bar[after] ** 0.5,
                        (1 - bar[after]) ** 0.5)  # fmt: skip
        raw = network(x, (row + 1) / 1000)
        eps, x0 = (x - a * raw) / s, raw.clamp(-1.0, 1.0)
        clipped += int((raw != x0).sum())
        eta = 1.0 if solver == "ancestral" else 0.0
        fresh = eta * (s2 / s) * max(1.0 - bar[row] / bar[after], 0.0) ** 0.5
        x = a2 * x0 + max(s2**2 - fresh**2, 0.0) ** 0.5 * eps
        if fresh:
            x = x + fresh * rng.normal(shape, step=i)
    assert clipped > 1000, "something was clipped"
    torch.testing.assert_close(got, x, rtol=0, atol=2e-5)
    other = sample(network, shape, solver=walk.solver, grid=walk.grid, seed=5,
                   hooks=clip_hooks("consistent", (-1.0, 1.0), walk))  # fmt: skip
    assert (got - other).abs().max() > 0.01, "the two kinds of clipping differ"


def test_both_kinds_agree_where_nothing_is_clipped():
    description = published()
    walk = walk_of(description, steps=12)
    network = Normal.of(description, sd=0.05)
    ends = [
        sample(network, (1, 1, 12, 14, 10), solver=walk.solver, grid=walk.grid,
               hooks=clip_hooks(kind, (-1.0, 1.0), walk))
        for kind in ("ddim", "consistent", "none")
    ]  # fmt: skip
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[1], ends[2])


def test_clipping_that_means_nothing_is_refused():
    with pytest.raises(UsageError, match="use consistent"):
        clip_hooks("ddim", (-1.0, 1.0), walk_of(config()))
    assert clip_hooks("none", (-1.0, 1.0), walk_of(config())) == ()
    assert clip_hooks("consistent", None, walk_of(config())) == ()


# The window of the map of doubt


@pytest.mark.parametrize(
    ("kind", "n", "least"),
    [("auto", 10, 0.8), ("auto", 20, 0.95), ("auto", 64, 0.97), ("rows", 64, 0.95)],
)
def test_the_window_finds_values_between_the_modes_and_twice_the_window_does_not(kind, n, least):
    """Areas .87, .99, 1.0 and .98; over twice as many evaluations 0, .49, .44 and .87."""
    path = Path.vp_cosine()
    solver, times = auto(path, n, sigma_data=0.6)
    if kind == "rows":
        rows = walk_of(published(), solver="ddim", steps=n)
        path, solver, times = rows.path, rows.solver, rows.grid
    walk = Walk(path, solver, times, kind)
    window = walk.n_settled(0.6)
    hooks = [Hallucination(window), Hallucination(2 * window)]
    network = TwoModes(path, width=0.1)
    x = sample(network, (1, 1, 20, 25, 20), solver=solver, grid=times, seed=1, hooks=hooks)
    between = network.between((x.numpy() + 1.0) / 2.0).ravel()
    assert 20 < between.sum() < 600
    near, wide = (area_under_curve(hook.map().numpy().ravel(), between) for hook in hooks)
    assert near > least
    assert wide < near - 0.05
