"""Search at sampling time: what it costs, what it leaves alone, what it gains."""

import pytest
import torch
from contracts.core import (
    DOUBLE,
    assert_batch_invariant,
    assert_marginal,
    draw,
    gaussian16,
    mixture2,
)

from medsci.core.process import Path
from medsci.core.solve import Ancestral, Cycle, Multistep, Rng, RungeKutta, Sde, grid
from medsci.core.steer.rollover import Rollover
from medsci.core.steer.search import BestOf, Particles

RF = Path.rectified()
TIMES = grid.uniform(8)
PLAN = Ancestral(1.0).plan(RF, TIMES)
SOLVERS = [Ancestral(1.0), Ancestral(0.5), Sde(1.0), Sde(0.7, order=2), Multistep("v", "ratio")]


def start(*shape, dtype=DOUBLE):
    """Return the prior: noise from the streams it is given."""
    return lambda rng: rng.normal((len(rng.ids), *shape), step=-1, dtype=dtype)


def bend(x, t):
    return torch.tanh(2.0 * x) * (1.0 - 0.3 * t)


def first_entry(x0, rows):
    return x0.flatten(1)[:, 0].real


def constant(x0, rows):
    return torch.zeros(len(x0))


def searches(reward, n):
    """Every kind of search, with `n` proposals where there is a choice."""
    budget = lambda plan: plan.nfe + (n - 1) * sum(step.z > 0 for step in plan.steps)  # noqa: E731
    return {
        "best of": lambda plan: BestOf(reward, n),
        "particles": lambda plan: Particles(reward, n),
        "rollover": lambda plan: Rollover(reward, budget(plan)),
    }


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_one_proposal_is_the_plain_walk(kind, solver):
    """Bit for bit, whatever the reward; solvers with a memory walk at order one."""
    plan, rng = solver.plan(RF, TIMES), Rng(3, range(5))
    found = searches(first_entry, 1)[kind](plan).run(plan, bend, start=start(4), rng=rng)
    x = start(4)(rng)
    if kind == "best of":
        x = plan.run(bend, x, rng=rng)
    else:
        for i in range(len(plan.steps)):
            x = plan.run(bend, x, rng=rng, start=i, stop=i + 1)
    assert torch.equal(found.x, x)
    assert found.nfe.tolist() == [plan.nfe] * 5


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
def test_a_constant_reward_keeps_the_samples(kind):
    """Nothing beats anything, so every choice is the first proposal: the plain walk again."""
    rng = Rng(3, range(5))
    found = searches(constant, 4)[kind](PLAN).run(PLAN, bend, start=start(4), rng=rng)
    assert torch.equal(found.x, PLAN.run(bend, start(4)(rng), rng=rng))
    assert (found.nfe > PLAN.nfe).all()


@pytest.mark.parametrize("kind", ["particles", "rollover"])
def test_marginals_are_kept_without_a_reward_and_moved_by_one(kind):
    oracle, times = gaussian16(RF), grid.angle(RF, 12)
    plan, rng = Sde(1.0).plan(RF, times), Rng(1, range(900))
    free = plan.run(oracle, start(16)(Rng(2, range(900))), rng=Rng(2, range(900)))
    choose = searches(constant, 3)[kind](plan)
    found = choose.run(plan, oracle, start=start(16), rng=rng).x
    assert_marginal(found, mean=oracle.mean, covariance=free.T.cov(), limit=6.0)
    choose = searches(first_entry, 3)[kind](plan)
    moved = choose.run(plan, oracle, start=start(16), rng=rng).x
    with pytest.raises(AssertionError, match="mean is off"):
        assert_marginal(moved, mean=oracle.mean, covariance=free.T.cov(), limit=6.0)


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
def test_more_evaluations_find_more_reward(kind):
    """On the grid of Gaussians: close to a corner mode, on average over 200 searches."""
    corner = torch.tensor([1.41, 1.41], dtype=DOUBLE)
    oracle, plan = mixture2(RF), Ancestral(1.0).plan(RF, grid.angle(RF, 10, sigma_max=80.0))

    def reward(x0, rows):
        return -(x0 - corner).square().sum(1)

    found = [
        searches(reward, n)[kind](plan)
        .run(plan, oracle, start=start(2), rng=Rng(0, range(200)))
        .reward.mean()
        .item()
        for n in (1, 3, 9)
    ]
    assert found[0] < found[1] - 0.3
    assert found[1] < found[2] - 0.1
    # the control: the search knows nothing about another reward
    chosen = searches(lambda x0, rows: -reward(x0, rows), 9)[kind](plan)
    worst = chosen.run(plan, oracle, start=start(2), rng=Rng(0, range(200)))
    assert reward(worst.x, None).mean() < found[0]


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
def test_the_account_is_what_the_denoiser_saw(kind):
    seen = [0]

    def denoise(x, t):
        seen[0] += len(x)
        return bend(x, t)

    plan = PLAN
    found = searches(first_entry, 3)[kind](plan).run(
        plan, denoise, start=start(4), rng=Rng(0, range(6))
    )
    assert found.nfe.sum().item() == seen[0]
    expected = 3 * plan.nfe if kind == "best of" else plan.nfe + 2 * 7
    assert found.nfe.tolist() == [expected] * 6


def test_particles_spend_n_at_every_stochastic_step():
    found = Particles(first_entry, 4, n_start=5).run(
        PLAN, bend, start=start(3), rng=Rng(0, range(2))
    )
    assert found.spent.tolist() == [[5, *[4] * 7, 0]] * 2  # the end is not evaluated
    plan = Multistep("x0", order=1).plan(RF, TIMES)  # no noise, no choice
    found = Particles(first_entry, 4, n_start=5).run(
        plan, bend, start=start(3), rng=Rng(0, range(2))
    )
    assert found.spent.tolist() == [[5, *[1] * 7, 0]] * 2


def test_the_best_of_the_proposals_is_taken():
    """One stochastic step by hand: three draws from the bridge, judged by their x0."""
    plan, rng = Ancestral(1.0).plan(RF, grid.uniform(2)), Rng(5, [7])
    x = start(3)(rng)
    ends = [
        plan.run(lambda x, t: bend(start(3)(rng), 1.0), x, rng=own, stop=1)
        for own in (rng, rng.spawn(1), rng.spawn(2))
    ]
    estimates = [bend(y, 0.5) for y in ends]
    best = max(estimates, key=lambda x0: x0[0, 0].item())
    found = Particles(first_entry, 3).run(plan, bend, start=start(3), rng=rng)
    assert torch.equal(found.x, best)  # the last step goes to x0
    assert found.reward.item() == best[0, 0].item()
    assert len({x0[0, 0].item() for x0 in estimates}) == 3


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
def test_samples_do_not_mix(kind):
    def run(ids):
        search = searches(first_entry, 3)[kind](PLAN)
        return search.run(PLAN, bend, start=start(2, 3), rng=Rng(0, ids)).x

    assert_batch_invariant(run)


@pytest.mark.parametrize("kind", ["particles", "rollover"])
def test_conditions_and_rewards_follow_their_sample(kind):
    """Samples that still search are a part of the batch; what belongs to them goes along."""
    shift, target = draw(6, 1, seed=1), draw(6, seed=2)
    scale = torch.tensor(0.8)

    def denoise(x, t, shift, scale):
        return scale * torch.tanh(x + shift)

    def reward(x0, rows):
        return -(x0[:, 0] - target[rows]).abs()

    def run(ids, shift):
        rows_of = torch.tensor(ids)
        search = searches(lambda x0, rows: reward(x0, rows_of[rows]), 3)[kind](PLAN)
        cond = {"shift": shift, "scale": scale}
        return search.run(PLAN, denoise, start=start(3), rng=Rng(0, ids), cond=cond).x

    together = run(range(6), shift)
    for j in range(6):
        assert torch.equal(together[j], run([j], shift[j : j + 1])[0])
    assert not torch.equal(together, run(range(6), shift.flip(0)))


@pytest.mark.parametrize("kind", ["best of", "particles", "rollover"])
def test_complex_states_and_other_ranks(kind):
    search = searches(first_entry, 2)[kind](PLAN)
    begin = start(2, 3, 2, dtype=torch.complex64)
    found = search.run(PLAN, lambda x, t: 0.5 * x, start=begin, rng=Rng(0, range(3)))
    assert found.x.shape == (3, 2, 3, 2)
    assert found.x.dtype == torch.complex64


def test_rewards_that_are_not_numbers_are_never_preferred():
    def reward(x0, rows):
        value = first_entry(x0, rows)
        return torch.where(value > 0.3, float("nan"), value)

    rng = Rng(0, range(40))
    found = Particles(reward, 6).run(PLAN, bend, start=start(3), rng=rng)
    plain = PLAN.run(bend, start(3)(rng), rng=rng)
    assert found.x.isfinite().all()
    assert (found.x[:, 0] > 0.3).double().mean() < (plain[:, 0] > 0.3).double().mean()


def test_says_what_is_wrong():
    rng = Rng(0, range(2))
    for solver in (RungeKutta("heun"), Cycle(Ancestral(1.0), high=0.7, low=0.3, n=1)):
        with pytest.raises(ValueError, match="evaluates once per step"):
            Particles(constant, 2).run(solver.plan(RF, TIMES), bend, start=start(3), rng=rng)
    for reward in (lambda x0, rows: x0.sum(), lambda x0, rows: rows):
        with pytest.raises(ValueError, match="one real number per sample"):
            Particles(reward, 2).run(PLAN, bend, start=start(3), rng=rng)
    with pytest.raises(ValueError, match="n=0"):
        Particles(constant, 0)
    with pytest.raises(ValueError, match="n_start=0"):
        Particles(constant, 1, n_start=0)
