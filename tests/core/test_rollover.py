"""Rollover budget forcing: the account balances, what is saved is used later, flows can search."""

import pytest
import torch
from contracts.core import DOUBLE, draw, mixture2, mixture64

from medsci.core.denoise.on_path import OnPath
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, Sde, grid
from medsci.core.steer.rollover import Rollover
from medsci.core.steer.search import Particles

RF, VP = Path.rectified(), Path.vp_linear()
PLAN = Ancestral(1.0).plan(RF, grid.uniform(10))  # nine stochastic steps and the last one


def start(rng):
    return rng.normal((len(rng.ids), 2), step=-1, dtype=DOUBLE)


def bend(x, t):
    return torch.tanh(2.0 * x) * (1.0 - 0.3 * t)


def first_entry(x0, rows):
    return x0[:, 0]


class Rising:
    """A reward that every judgement beats, or that none does."""

    def __init__(self, step):
        self.step, self.value = step, 0.0

    def __call__(self, x0, rows):
        self.value += self.step
        return torch.full((len(x0),), self.value)


@pytest.mark.parametrize(
    ("budget", "n_start"), [(10, 1), (11, 1), (60, 1), (137, 1), (13, 4), (17, 4), (60, 4)]
)
def test_the_budget_is_spent_to_the_last_evaluation(budget, n_start):
    """Per sample, all included, whatever was accepted; and the denoiser saw no more."""
    seen = [0]

    def denoise(x, t):
        seen[0] += len(x)
        return bend(x, t)

    found = Rollover(first_entry, budget, n_start=n_start).run(
        PLAN, denoise, start=start, rng=Rng(0, range(7))
    )
    assert found.nfe.tolist() == [budget] * 7
    assert seen[0] == 7 * budget
    assert found.spent[:, 0].tolist() == [n_start] * 7
    assert (found.spent[:, 1:-1] >= 1).all()


def test_what_is_saved_rolls_over_to_the_end():
    """Accepted at once everywhere: one per step, and all the rest at the last stochastic step."""
    found = Rollover(Rising(1.0), 60, n_start=3).run(PLAN, bend, start=start, rng=Rng(0, [5]))
    assert found.spent.tolist() == [[3, *[1] * 8, 60 - 3 - 8, 0]]
    # the control: nothing is ever accepted, so every step spends its quota
    search = Rollover(Rising(-1.0), 60, n_start=3)
    found = search.run(PLAN, bend, start=start, rng=Rng(0, [5]))
    assert found.spent.tolist() == [[3, *search.quotas(PLAN)]]
    assert search.quotas(PLAN) == [7, 7, 7, 6, 6, 6, 6, 6, 6, 0]


def test_an_accepted_proposal_ends_the_step():
    """Replayed: proposals of a step rise above the present reward only with the last one."""
    judged = []

    def reward(x0, rows):
        judged.append(x0[0, 0].item())
        return x0[:, 0]

    found = Rollover(reward, 80).run(PLAN, bend, start=start, rng=Rng(2, [1]))
    present, place = judged[0], 1
    for spent in found.spent[0, 1:-2].tolist():
        values = judged[place : place + spent]
        assert all(value <= present for value in values[:-1])
        present = max(values)
        place += spent
    assert max(judged[place:]) == found.reward.item()
    assert found.spent[0, 1:-2].unique().numel() > 1


def test_samples_have_budgets_of_their_own():
    """A sample spends what it spends alone, whatever its neighbours do."""
    together = Rollover(first_entry, 70).run(PLAN, bend, start=start, rng=Rng(0, range(6)))
    for j in range(6):
        alone = Rollover(first_entry, 70).run(PLAN, bend, start=start, rng=Rng(0, [j]))
        assert torch.equal(together.spent[j], alone.spent[0])
        assert torch.equal(together.x[j], alone.x[0])
    assert len({tuple(row) for row in together.spent.tolist()}) > 3


def test_quotas_fit_the_plan():
    """Steps without noise get one evaluation each, the end of the walk none."""
    assert Rollover(first_entry, 10).quotas(PLAN) == [*[1] * 9, 0]
    assert sum(Rollover(first_entry, 48, n_start=8).quotas(PLAN)) == 40
    open_end = Ancestral(1.0).plan(RF, grid.uniform(4, t_min=0.2))
    assert Rollover(first_entry, 9).quotas(open_end) == [2, 2, 2, 2]
    found = Rollover(first_entry, 9).run(open_end, bend, start=start, rng=Rng(0, [1]))
    assert found.nfe.tolist() == [9]
    flat = Multistep("x0", order=1).plan(RF, grid.uniform(4))
    assert Rollover(first_entry, 4).quotas(flat) == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="adds noise"):
        Rollover(first_entry, 5).quotas(flat)
    with pytest.raises(ValueError, match="give at least 10"):
        Rollover(first_entry, 9).quotas(PLAN)
    with pytest.raises(ValueError, match="budget=0"):
        Rollover(first_entry, 0)


# A flow model, searched: the path of another process and noise on the way


def test_a_denoiser_on_another_path_says_the_same():
    """At equal signal-to-noise, to rounding; at equal time it does not."""
    flow, native = mixture64(RF), mixture64(VP)
    moved = OnPath(flow, VP)
    for t in (0.05, 0.3, 0.6, 0.9):
        x = draw(5, 64, seed=3)
        torch.testing.assert_close(moved(x, t), native(x, t), rtol=1e-9, atol=1e-11)
        assert (flow(x, t) - native(x, t)).abs().max() > 1e-3


def quadratic(t):
    return 3.0 * t**2


def spread_of_estimates(plan, oracle, x, t_index):
    """Return the spread of x0 estimates over proposals of one step, which a search chooses from."""
    ends = []
    for seed in range(60):
        y = plan.run(oracle, x, rng=Rng(seed, [0]), start=t_index, stop=t_index + 1)
        ends.append(oracle(y, plan.steps[t_index].s))
    return torch.cat(ends).std(0).norm().item()


def test_noise_is_what_makes_the_proposals_differ():
    oracle, x = OnPath(mixture2(RF), VP), draw(1, 2)
    times = grid.uniform(10, t_max=0.95, t_min=0.01)
    noisy = Sde(diffusion=quadratic).plan(VP, times)
    still = Multistep("x0", order=1).plan(VP, times)
    assert spread_of_estimates(noisy, oracle, x, 2) > 0.05
    assert spread_of_estimates(still, oracle, x, 2) == 0.0


def test_the_reward_rises_with_the_budget_and_levels_off():
    """Monte Carlo over 200 searches of the converted flow: -5.5, -.13, -.09, -.09."""
    corner = torch.tensor([1.41, 1.41], dtype=DOUBLE)
    times = grid.angle(VP, 10, sigma_max=80.0, sigma_min=0.01)
    oracle, plan = OnPath(mixture2(RF), VP), Sde(1.0).plan(VP, times)

    def reward(x0, rows):
        return -(x0 - corner).square().sum(1)

    def reached(search):
        return search.run(plan, oracle, start=start, rng=Rng(0, range(200))).reward.mean().item()

    found = [reached(Rollover(reward, budget)) for budget in (11, 33, 99)]
    assert found[0] < -4.0
    assert found[0] < found[1] < found[2]
    assert -0.2 < found[2] < -0.03
    # the same number at every step does better: nine proposals, 91 evaluations
    assert reached(Particles(reward, 9)) > 0.1 * found[2]
