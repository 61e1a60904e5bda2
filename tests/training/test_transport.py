"""Transport on POT: permutations along plans, and one coupling over several processes."""

import itertools
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from scipy.optimize import linear_sum_assignment

from medsci.core.check.miscibility import law_shift
from medsci.core.learn import Assignment, ConditionAware, Coupling
from medsci.core.rng import Rng
from medsci.errors import MedsciError, UsageError
from medsci.training import transport
from medsci.training.gathered import Gathered
from medsci.training.transport import Transport, TransportWarning

ALL = [
    Transport(),
    Transport("sinkhorn"),
    Transport("unbalanced", reg_marginal=10.0),
    Transport("partial", mass=0.7),
]


def paired(coupling, x, z, *, step=0, ids=None, **options):
    same, noise = coupling(x, z, rng=Rng(0, ids or range(len(x))), step=step, **options)
    assert same is x
    return noise


def order(z, noise):
    return torch.cdist(noise.flatten(1), z.flatten(1)).argmin(1)


def cost(x, noise):
    return (x - noise).flatten(1).square().sum(1).sum().item()


@pytest.mark.parametrize("coupling", ALL, ids=lambda c: c.method)
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_every_method_permutes_the_noise(coupling, n):
    assert isinstance(coupling, Coupling)
    x, z = 0.5 * draw(n, 2, 3, seed=1) + 1.0, draw(n, 2, 3, seed=2)
    noise = paired(coupling, x, z)
    index = order(z, noise)
    assert torch.equal(index.sort().values, torch.arange(n))
    assert torch.equal(z[index], noise)
    complex_z = torch.complex(z, z.flip(0))
    complex_noise = paired(coupling, torch.complex(x, x), complex_z)
    assert complex_noise.dtype == complex_z.dtype


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_the_exact_plan_is_the_best_permutation(n):
    x, z = draw(n, 2, seed=n), draw(n, 2, seed=50 + n)
    best = min(cost(x, z[list(p)]) for p in itertools.permutations(range(n)))
    assert cost(x, paired(Transport(), x, z)) == pytest.approx(best, rel=1e-12)


def test_above_the_limit_the_simplex_of_pot_finds_the_same(monkeypatch):
    x, z = draw(90, 3, seed=1), draw(90, 3, seed=2)
    dense = paired(Transport(), x, z)
    assert torch.equal(dense, paired(Assignment("l2_squared"), x, z))
    monkeypatch.setattr(transport, "_DENSE", 10)
    assert torch.equal(paired(Transport(), x, z), dense)
    assert torch.equal(paired(Transport("partial", mass=1.0), x, z), dense)


def test_entropy_runs_from_the_best_pairs_to_independent_ones():
    x, z = 0.5 * draw(128, 3, seed=1), draw(128, 3, seed=2)
    costs = [cost(x, paired(Transport("sinkhorn", reg=r), x, z)) for r in (0.05, 0.5, 2.0)]
    best, independent = cost(x, paired(Transport(), x, z)), cost(x, z)
    assert costs[0] - best < 0.1 * (independent - best)
    assert best < costs[0] < costs[1] < costs[2] < independent
    far = [cost(x, paired(Transport("sinkhorn", reg=100.0), x, z, step=s)) for s in range(20)]
    everything = 128 * torch.cdist(x, z).square().mean().item()
    assert np.mean(far) == pytest.approx(everything, rel=0.02)


def test_pairs_are_drawn_with_the_frequencies_of_the_plan():
    n, draws = 4, 3000
    x, z = 0.5 * draw(n, 2, seed=1), draw(n, 2, seed=2)
    coupling = Transport("sinkhorn", reg=1.0)
    plan = n * coupling.plan(torch.cdist(x, z).square().numpy())
    uniforms = np.random.default_rng(0).random((draws, 3, n))
    seen = np.zeros((n, n))
    for one in uniforms:
        columns = transport._permutation(plan / n, order=one[0], pick=one[1], keep=one[2])
        seen[np.arange(n), columns] += 1.0 / draws
    assert np.abs(seen - plan).max() < 0.08  # drawn without replacement: near, not equal
    assert np.abs(1.0 / n - plan).max() > 0.15  # control: independent pairs
    firsts = [one for one in uniforms if one[0].argmin() == 0]  # who draws first is exact
    picks = [transport._permutation(plan / n, order=o, pick=p, keep=k)[0] for o, p, k in firsts]
    counts = np.bincount(picks, minlength=n) / len(picks)
    assert np.abs(counts - plan[0]).max() < 4.5 * 0.5 / np.sqrt(len(picks))


@pytest.mark.parametrize(
    ("coupling", "least"),
    [(Transport("partial", mass=0.75), 1.0), (Transport("unbalanced", reg_marginal=2.0), 0.8)],
    ids=["partial", "unbalanced"],
)
def test_outliers_are_not_forced_into_the_plan(coupling, least):
    """A quarter of the samples lies far away in one direction; the rest is paired as if alone."""
    n, far = 64, 16
    x, z = 0.5 * draw(n, 2, seed=1), draw(n, 2, seed=2)
    x[:far] += 8.0
    plan = coupling.plan(torch.cdist(x, z).square().numpy()) * n
    assert plan[:far].sum(1).max() < 1e-6 if coupling.method == "partial" else 0.2
    assert plan[far:].sum(1).min() > least - 1e-9
    forced = Transport("sinkhorn").plan(torch.cdist(x, z).square().numpy()) * n
    assert forced[:far].sum(1).min() > 0.99  # control
    upper = z.sum(1).argsort()[-far:]  # the noise on the side of the outliers
    taken = [
        np.isin(order(z, paired(c, x, z, step=s))[:far].numpy(), upper.numpy()).mean()
        for c in (coupling, Transport())
        for s in range(10)
    ]
    assert np.mean(taken[10:]) > 0.9  # the exact plan gives it to them
    assert np.mean(taken[:10]) < 0.6


@pytest.mark.parametrize("coupling", ALL, ids=lambda c: c.method)
def test_labels_keep_their_noise_when_pairs_stay_within(coupling):
    n = 60
    label = torch.arange(n) % 3
    x, z = 3.0 * label[:, None] + draw(n, 2, seed=1), draw(n, 2, seed=2)
    inside = Transport(
        coupling.method, mass=0.7, reg_marginal=10.0, within="label"
    )  # the same, by class
    noise = paired(inside, x, z, cond={"label": label})
    for c in range(3):
        ours, theirs = (order(z, v)[label == c].sort().values for v in (noise, z))
        assert torch.equal(ours, theirs)
    if coupling.method == "exact":
        strict = ConditionAware(float("inf"), Assignment("l2_squared"))
        assert torch.equal(noise, paired(strict, x, z, cond={"label": label}))
        skewed = paired(coupling, x, z, cond={"label": label})
        assert skewed[label == 2].mean() - skewed[label == 0].mean() > 1.0  # control


def test_the_law_of_the_noise_does_not_shift():
    x, z = 0.5 * draw(512, 8, seed=1), draw(512, 8, seed=2)
    for coupling in ALL:
        shift = law_shift(z, paired(coupling, x, z), x)
        torch.testing.assert_close(shift.variance, torch.ones(8, dtype=DOUBLE))
        assert shift.correlation > 0.3


def test_draws_depend_on_ids_and_step_and_not_on_the_place():
    x, z = draw(32, 2, seed=1), draw(32, 2, seed=2)
    ids, coupling = list(range(32)), Transport("sinkhorn", reg=1.0)
    first = paired(coupling, x, z, ids=ids)
    assert torch.equal(first, paired(coupling, x, z, ids=ids))
    assert not torch.equal(first, paired(coupling, x, z, ids=ids, step=1))
    back = paired(Transport("partial", mass=0.5), x.flip(0), z.flip(0), ids=ids[::-1]).flip(0)
    assert torch.equal(back, paired(Transport("partial", mass=0.5), x, z, ids=ids))


def test_unfinished_plans_are_told():
    x, z = draw(90, 3, seed=1), draw(90, 3, seed=2)
    with pytest.raises(MedsciError, match="in 3 iterations"):
        paired(Transport("partial", max_iterations=3), x, z)
    for method in ("sinkhorn", "unbalanced"):
        short = Transport(method, reg=0.05, reg_marginal=5.0, max_iterations=2)
        with pytest.warns(TransportWarning, match="raise reg"):
            paired(short, x, z)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            paired(Transport(method), x, z)


def test_the_simplex_above_the_limit_tells_too(monkeypatch):
    monkeypatch.setattr(transport, "_DENSE", 10)
    x, z = draw(90, 3, seed=1), draw(90, 3, seed=2)
    with pytest.raises(MedsciError, match="raise max_iterations"):
        paired(Transport(max_iterations=3), x, z)
    big = np.random.default_rng(0).random((90, 90))
    plan = Transport().plan(big)
    assert (plan * big).sum() * 90 == pytest.approx(big[linear_sum_assignment(big)].sum())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reg": 0.0}, "reg=0"),
        ({"reg_marginal": -1.0}, "reg_marginal=-1"),
        ({"mass": 1.5}, "mass=1"),
        ({"max_iterations": 0}, "max_iterations=0"),
    ],
)
def test_bad_options_say_what_to_do(options, words):
    with pytest.raises(UsageError, match=words):
        Transport(**options)


def test_a_label_that_is_none_is_refused():
    x, z = draw(4, 2), draw(4, 2)
    for cond in (None, {"age": torch.arange(4)}, {"label": draw(4)}):
        with pytest.raises(UsageError, match="whole number"):
            paired(Transport(within="label"), x, z, cond=cond)


def run_python(code, *, folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


PROCESS = """
import os
import torch
from datetime import timedelta
from torch import distributed
from medsci.core.learn import Assignment, ConditionAware
from medsci.core.rng import Rng
from medsci.training.gathered import Gathered
from medsci.training.transport import Transport

rank = int(os.environ["RANK_HERE"])
distributed.init_process_group(
    "gloo",
    init_method=os.environ["MEET_HERE"],
    rank=rank,
    world_size=2,
    timeout=timedelta(seconds=60),
)
batch = torch.load("batch.pt", weights_only=True)
rows = batch["rows"][rank]
local = {k: batch[k][rows] for k in ("x", "z", "label", "on", "wave")}
rng = Rng(0, rows.tolist())
cond = {"label": local["label"], "on": local["on"]}
couplings = {
    "assignment": Assignment(chunk=8),
    "aware": ConditionAware(1.0),
    "exact": Transport(),
    "sinkhorn": Transport("sinkhorn"),
    "within": Transport("partial", within="label"),
}
out = {}
for name, coupling in couplings.items():
    x, z = Gathered(coupling)(local["x"], local["z"], rng=rng, step=3, cond=cond)
    assert torch.equal(x, local["x"])
    out[name] = z
out["wave"] = Gathered(Transport())(local["wave"], local["wave"].flip(1), rng=rng)[1]
torch.save(out, f"out{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_pair_as_one_does(tmp_path):
    """Rows dealt out in turn and unequally; pairs are those of the whole batch in one process.

    POT loads none of the libraries that it could use.
    """
    n = 21
    x, z, wave = draw(n, 2, seed=1), draw(n, 2, seed=2), draw(n, 3, seed=3)
    label, on = torch.arange(n) % 3, torch.arange(n) % 2 == 0
    wave = torch.complex(wave, wave.square())
    rows = [torch.tensor([i for i in range(n) if i % 3 < 2]), torch.arange(2, n, 3)]
    torch.save(
        {"x": x, "z": z, "label": label, "on": on, "wave": wave, "rows": rows},
        tmp_path / "batch.pt",
    )
    for name in ("jax", "cupy", "tensorflow"):  # stand-ins that betray their import by POT
        (tmp_path / f"{name}.py").write_text(f"print('loaded {name}')\nraise ImportError\n")
    common = {"PYTHONPATH": str(tmp_path), "MEET_HERE": (tmp_path / "meet").as_uri()}
    processes = [run_python(PROCESS, folder=tmp_path, RANK_HERE=str(r), **common) for r in (0, 1)]
    control = run_python("import ot", folder=tmp_path, POT_BACKEND_DISABLE_PYTORCH="1", **common)
    said = [finished(process) for process in (*processes, control)]
    assert said[:2] == ["", ""]
    assert "loaded jax" in said[2]
    parts = [torch.load(tmp_path / f"out{r}.pt", weights_only=True) for r in (0, 1)]
    cond = {"label": label, "on": on}
    for name, coupling in {
        "assignment": Assignment(chunk=8),
        "aware": ConditionAware(1.0),
        "exact": Transport(),
        "sinkhorn": Transport("sinkhorn"),
        "within": Transport("partial", within="label"),
    }.items():
        whole = paired(Gathered(coupling), x, z, step=3, cond=cond)
        assert torch.equal(whole, paired(coupling, x, z, step=3, cond=cond))
        for r in (0, 1):
            assert torch.equal(parts[r][name], whole[rows[r]]), name
    alone = paired(Transport(), x[rows[1]], z[rows[1]])  # control: a process on its own
    assert not torch.equal(alone, parts[1]["exact"])
    both = paired(Transport(), wave, wave.flip(1))
    assert torch.equal(torch.cat([p["wave"] for p in parts]), both[torch.cat(rows)])


def test_gathering_alone_is_the_coupling_itself():
    from medsci.core.learn import KNN

    z = draw(8, 3, seed=2, dtype=torch.float32)
    x = draw(8, 3, seed=1, dtype=torch.float32)
    assert_batch_invariant(
        lambda ids: Gathered(KNN(4))(x[list(ids)], z[list(ids)], rng=Rng(0, ids))[1]
    )
