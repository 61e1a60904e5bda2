"""Couplings: assignments are optimal permutations, and conditions keep their own noise."""

import itertools
import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from scipy import stats
from scipy.optimize import linear_sum_assignment

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn import Independent, Regression
from medsci.core.learn.assignment import assign
from medsci.core.learn.coupling import KNN, Assignment, ConditionAware, Coupling
from medsci.core.process.path import Path
from medsci.core.rng import Rng


def total(x, z, power=1):
    return (x - z).flatten(1).square().sum(1).sqrt().pow(power).sum().item()


def run(coupling, x, z, **options):
    same, paired = coupling(x, z, rng=Rng(0, range(len(x))), **options)
    assert same is x
    return paired


def is_permutation(z, paired):
    order = torch.cdist(paired.flatten(1), z.flatten(1)).argmin(1)
    assert torch.equal(order.sort().values, torch.arange(len(z)))
    assert torch.equal(z[order], paired)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
@pytest.mark.parametrize(("cost", "power"), [("l2", 1), ("l2_squared", 2)])
def test_the_assignment_is_the_best_of_all_permutations(n, cost, power):
    x, z = draw(n, 2, 2, seed=n), draw(n, 2, 2, seed=50 + n)
    paired = run(Assignment(cost), x, z)
    is_permutation(z, paired)
    best = min(total(x, z[list(order)], power) for order in itertools.permutations(range(n)))
    assert total(x, paired, power) == pytest.approx(best, rel=1e-12)


def test_the_two_costs_are_not_the_same():
    x, z = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    x, z = x.double(), z.double()
    for cost in ("l2", "l2_squared"):  # on a line l2 is indifferent, the square is not
        assert total(x, run(Assignment(cost), x, z)) == 5.0
    assert run(Assignment("l2_squared"), x, z).tolist() == [[1.0], [5.0]]


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("normal", np.random.default_rng(0).normal(size=(60, 60))),
        ("ties", np.random.default_rng(1).integers(0, 3, (40, 40)).astype(float)),
        ("constant", np.ones((9, 9))),
        ("far apart", np.exp(10 * np.random.default_rng(2).normal(size=(30, 30)))),
        ("product", np.outer(np.arange(25.0), np.arange(25.0))),
    ],
)
def test_the_solver_agrees_with_scipy(name, cost):
    rows, columns = assign(cost)
    assert sorted(columns) == list(range(len(cost)))
    assert rows.tolist() == list(range(len(cost)))
    best = cost[linear_sum_assignment(cost)].sum()
    assert cost[rows, columns].sum() == pytest.approx(best, rel=1e-12)


def test_another_solver_may_be_brought():
    x, z = draw(64, 5, seed=1), draw(64, 5, seed=2)
    ours, theirs = run(Assignment(), x, z), run(Assignment(solver=linear_sum_assignment), x, z)
    assert torch.equal(ours, theirs)


def test_the_cost_never_rises_and_chunks_lie_in_between():
    x, z = draw(96, 6, seed=1), draw(96, 6, seed=2)
    costs = [total(x, run(Assignment(chunk=c), x, z)) for c in (1, 8, 32, 96, 500)]
    assert costs[0] == pytest.approx(total(x, z))
    assert all(a > b for a, b in itertools.pairwise(costs[:4]))
    assert costs[3] == costs[4]
    for seed in range(20):
        x, z = draw(5, 3, seed=seed), draw(5, 3, seed=100 + seed)
        assert total(x, run(Assignment(), x, z)) <= total(x, z) + 1e-12
    is_permutation(z, run(Assignment(chunk=3), x, z))


@pytest.mark.parametrize("coupling", [Assignment(chunk=3), KNN(5)])
def test_complex_and_half_filled_chunks_are_coupled(coupling):
    x = torch.complex(draw(7, 2, 3, seed=1), draw(7, 2, 3, seed=2))
    z = torch.complex(draw(7, 2, 3, seed=3), draw(7, 2, 3, seed=4)) / math.sqrt(2)
    paired = run(coupling, x, z)
    assert paired.dtype == z.dtype
    gaps = [(x - noise).abs().square().flatten(1).sum(1).sqrt().sum() for noise in (paired, z)]
    assert gaps[0] < gaps[1]


def test_nearest_of_k_is_the_nearest():
    x, z = draw(200, 4, seed=1), draw(200, 4, seed=2)
    assert run(KNN(1), x, z) is z
    gaps = [(x - run(KNN(k), x, z)).square().sum(1) for k in (1, 2, 8, 40)]
    for farther, nearer in itertools.pairwise(gaps):
        assert (nearer <= gaps[0]).all()  # never farther than the noise that came
        assert nearer.mean() < farther.mean()
    # the first of k equal in law wins once in k
    kept = [(run(KNN(4), x, noise) == noise).all(1).double().mean() for noise in (z, draw(200, 4))]
    assert np.mean(kept) == pytest.approx(0.25, abs=0.07)


def test_the_gap_to_the_nearest_of_k_has_its_law():
    """The squared gap to one noise is noncentral chi-square; the least of k has 1 - (1 - F)^k."""
    x = torch.ones(4000, 3, dtype=DOUBLE)
    z = draw(4000, 3, seed=5)

    def fits(k, claimed):
        gap = (x - run(KNN(k), x, z)).square().sum(1).numpy()
        single = stats.ncx2(3, 3.0).cdf(gap)
        return stats.kstest(1 - (1 - single) ** claimed, "uniform").pvalue

    assert fits(6, 6) > 0.01
    assert fits(20, 20) > 0.01
    assert fits(6, 7) < 1e-4  # control


def test_nearest_of_k_depends_on_the_sample_and_its_noise_only():
    def paired(ids):
        z = Rng(4, ids).normal((len(ids), 6), step=3)
        x = torch.stack([draw(6, seed=i, dtype=torch.float32) for i in ids])
        return KNN(12)(x, z, rng=Rng(4, ids))[1]

    assert_batch_invariant(paired)
    x, rng = draw(5, 6), Rng(0, range(5))
    first, second = draw(5, 6, seed=1), draw(5, 6, seed=2)
    repeated = KNN(50)(x, first, rng=rng)[1]
    assert torch.equal(repeated, KNN(50)(x, first, rng=rng)[1])
    assert not (repeated == KNN(50)(x, second, rng=rng)[1]).any()  # fresh at every step


def classes(n=400):
    """Return two classes far apart, their labels and noise."""
    label = (torch.arange(n) % 2).long()
    x = draw(n, 2, seed=1) + 3.0 * (2.0 * label[:, None] - 1.0)
    return x, label, draw(n, 2, seed=2)


def test_plain_assignment_skews_the_noise_of_a_class_and_awareness_does_not():
    x, label, z = classes()
    skewed = run(Assignment(), x, z)
    assert abs(skewed[label == 1].mean().item()) > 0.5  # the published failure
    for infinite in (float("inf"), 1e6):
        fair = run(ConditionAware(infinite), x, z, cond={"label": label})
        is_permutation(z, fair)
        for c in (0, 1):  # the class keeps the very noises that it had
            ours, theirs = (noise[label == c].sort(0).values for noise in (fair, z))
            assert torch.equal(ours, theirs)
        assert total(x, skewed) < total(x, fair) < total(x, z)


def test_the_weight_runs_from_plain_to_strict():
    x, label, z = classes(120)
    cond = {"label": label}
    costs = [total(x, run(ConditionAware(w), x, z, cond=cond)) for w in (0.0, 0.5, 2.0, 1e6)]
    assert costs[0] == total(x, run(Assignment(), x, z))
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_conditions_may_be_numbers_and_several():
    x, z = draw(60, 2, seed=1), draw(60, 2, seed=2)
    age, site = draw(60, 3, seed=3), (torch.arange(60) % 3).long()
    kept = run(ConditionAware(float("inf")), x, z, cond={"age": age, "site": site})
    assert torch.equal(kept, z)  # no two samples share a continuous condition
    by_site = run(ConditionAware(float("inf")), x, z, cond={"site": site})
    assert not torch.equal(by_site, z)
    assert run(ConditionAware(1.0), x, z, cond={"age": age}).shape == z.shape


def test_every_coupling_fits_the_objective():
    class Gain(torch.nn.Module):
        def forward(self, x, code):
            return 0.5 * x

    denoiser = Denoiser(Gain(), path=Path.vp_cosine(), pred="eps")
    x0 = draw(8, 3, dtype=torch.float32)
    losses = []
    for coupling in (Independent(), Assignment(), KNN(3)):
        assert isinstance(coupling, Coupling)
        loss, _ = Regression(coupling=coupling)(denoiser, x0, rng=Rng(0, range(8)), step=0)
        losses.append(loss.item())
    assert len(set(losses)) == 3
    x0, z = draw(2, 3), draw(2, 3)
    assert Independent()(x0, z, rng=Rng(0, range(2)), cond={"label": torch.arange(2)}) == (x0, z)


def test_bad_choices_say_what_to_do():
    x, z = draw(4, 2), draw(4, 2)
    with pytest.raises(ValueError, match="chunk=0"):
        Assignment(chunk=0)
    with pytest.raises(ValueError, match="k=0"):
        KNN(0)
    with pytest.raises(ValueError, match="no condition"):
        run(ConditionAware(1.0), x, z)
    with pytest.raises(ValueError, match="weight=-1"):
        ConditionAware(-1.0)
    with pytest.raises(ValueError, match="finite square"):
        assign(np.full((3, 3), np.nan))
