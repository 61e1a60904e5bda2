"""The bars of the benchmark on small heads: real heads pass, and what is not one misses."""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from medsci.core import Rng

BENCH = Path(__file__).parents[2] / "bench"


@cache
def bench(name="brain_phantoms_problem"):
    """Import a file from where the benchmark has it."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def heads(seed, n=128):
    return bench().phantoms(n, generator=torch.Generator().manual_seed(seed))


def judge(made):
    return bench().figures(made, heads(0, 256), unseen=heads(1))


def test_the_measures_are_those_of_the_ball():
    """Volumes of tissue and ventricle against the radii that were drawn."""
    x = heads(0, 256)
    found = bench().measures(x)
    draws = torch.rand(4, 256, 1, 1, 1, generator=torch.Generator().manual_seed(0))[:2].flatten(1)
    radius = 4.4 + 2.4 * draws[0]
    inner = radius * (0.3 + 0.35 * draws[1])
    ball = 4.0 / 3.0 * torch.pi * (radius**3 - inner**3)
    assert torch.corrcoef(torch.stack([found["head"].float(), ball]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([found["ventricle"].float(), inner**3]))[0, 1] > 0.98
    assert x.min() == -1.0
    assert bool((x.flatten(1).min(1).values == -1.0).all())
    assert x.max() < 1.0
    solid = torch.where(x < 2 * bench().CLEAR - 1, -1.0, x)
    dark = bench().measures(torch.full_like(x[:2], -1.0))
    assert float(dark["ventricle"].sum() + dark["head"].sum() + dark["mean"].sum()) == 0.0
    assert float(bench().measures(solid)["head"].sum()) == float(found["head"].sum())


def test_real_heads_pass_and_their_copies_do_not():
    assert judge(heads(2)).missed == ()
    assert judge(heads(0, 256)[:128]).missed == ("nearest neighbours",)


MISTAKES = {
    "blurred": lambda x: torch.nn.functional.avg_pool3d(x, 3, 1, 1),
    "noisy": lambda x: (x + 0.2 * torch.randn(x.shape, generator=torch.Generator())).clamp(-1, 1),
    "one image": lambda x: x.mean(0, keepdim=True).expand_as(x),
    "one size": lambda x: x[(x > 0).sum((1, 2, 3, 4)).sub(500).abs().argsort()[:16]].repeat(
        8, 1, 1, 1, 1
    ),
    "no ventricle": lambda x: torch.where(
        (x < -0.3) & (heads_inside(x)), torch.full_like(x, 0.4), x
    ),
    "bright air": lambda x: 0.5 * (x + 1.0),
}


def heads_inside(x):
    axis = torch.arange(16) - 7.5
    i, j, k = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (i**2 + j**2 + k**2) < 16.0


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_wrong_with_heads_is_seen(name):
    assert judge(MISTAKES[name](heads(2)).contiguous()).missed


def test_an_untrained_network_misses_every_bar():
    made = script().drawn(script().untrained("flow"), n=32, steps=6)
    assert len(judge(made).missed) == 8


def script():
    """Import the script, after the two files that it imports by name."""
    bench()
    bench("brain_phantoms_net")
    return bench("brain_phantoms")


def test_the_network_starts_at_zero_and_is_told_the_time():
    network = script().untrained("flow").net
    x, rows = heads(3, 2), torch.tensor([10.0, 900.0])
    assert not network(x, rows).any()
    with torch.no_grad():
        for layer in (network.last[-1], network.gates):
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert (network(x, rows) - network(x, rows.flip(0))).abs().max() > 1e-3
    again = script().untrained("flow").net
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(),
               script().untrained("flow").net.parameters(), strict=True))  # fmt: skip


def test_the_times_are_rows_of_the_table():
    path, law = script().untrained("flow").path, script().Rows()
    t = torch.cat([law(path, Rng(seed, range(400)), step=0) for seed in range(3)])
    rows = t * 1000 - 1
    torch.testing.assert_close(rows, rows.round(), rtol=0.0, atol=1e-9)
    assert rows.min() >= -1e-9
    assert rows.max() <= 999 + 1e-9
    assert abs(float(rows.mean()) - 499.5) < 4 * 289 / 1200**0.5


@pytest.fixture(scope="module")
def flow():
    """Some four minutes on one core."""
    return script().trained("flow", iterations=800)


@pytest.mark.slow
def test_a_short_training_misses_no_bar_but_the_spread_of_ventricles(flow):
    assert set(judge(script().drawn(flow)).missed) <= {"sd ratio of ventricle"}
    assert len(judge(script().drawn(flow, low=0.0)).missed) > 1, "control: clipped to [0, 1]"


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="ventricles vary by 0.51 of the truth; 0.6 is asked for")
def test_a_short_training_meets_every_bar(flow):
    assert judge(script().drawn(flow)).missed == ()
