"""Replacement: the held part is held exactly, and cycles bring the free part to the right law."""

import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw, gaussian16, median_error
from contracts.guard import NoSync

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Cycle, Multistep, Rng, RungeKutta, grid
from medsci.core.steer import Hook
from medsci.core.steer.replace import Bank, Recorded, Renoised, Replace, record_inversion

RF = Path.rectified()
TIMES = grid.uniform(50)
DDIM = Multistep("x0", order=1)

# Two numbers of unit variance and correlation 0.8; the first is held at 1.5.
MEAN = torch.tensor([0.3, -0.2], dtype=DOUBLE)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=DOUBLE)
ORACLE = GaussianOracle.from_covariance(RF, MEAN, covariance=COVARIANCE)
HELD = torch.tensor([True, False])
CLEAN = torch.tensor([1.5, 0.0], dtype=DOUBLE)
WANTED = -0.2 + 0.8 * (1.5 - 0.3), 0.6  # mean and sd of the other, given the first


def denoise(x, t):
    """The oracle on a cloud: one sample with many pairs in it, which share a stream."""
    return ORACLE(x.reshape(-1, 2), t).reshape(x.shape)


def off(plan, bank, *, hooks=(), seed=1, points=8000):
    """Walk a cloud; return bias and spread of the free number, in conditional sd."""
    rng = Rng(seed, [0])
    x = rng.normal((1, points, 2), step=-1, dtype=DOUBLE)
    end = plan.run(denoise, x, rng=rng, hooks=[Replace(HELD, bank), *hooks])
    assert torch.equal(end[..., 0], CLEAN[0].expand(1, points))  # no error at all
    free = end[..., 1]
    return ((free.mean() - WANTED[0]) / WANTED[1]).item(), (free.std() / WANTED[1]).item()


def inverted(solver):
    return record_inversion(ORACLE, CLEAN[None], solver=solver, path=RF, grid=TIMES)


BANKS = {"renoised": Renoised(RF, CLEAN), "recorded": inverted(Multistep("eps", order=1))}


@pytest.mark.parametrize("bank", BANKS)
def test_cycles_bring_the_free_part_to_the_conditional_law(bank):
    """0, 1, 10 and 30 cycles where the held part is nearly clean: bias and spread fall."""
    found = [
        off(Cycle(DDIM, high=0.3, low=0.04, n=n).plan(RF, TIMES), BANKS[bank]) for n in (0, 1, 10)
    ]
    biases, spreads = zip(*found, strict=True)
    assert abs(biases[0]) > 0.4
    assert abs(biases[1]) < abs(biases[0])
    assert abs(biases[2]) < 0.3
    assert spreads[0] > 1.2
    assert 0.95 < spreads[2] < 1.08
    bias, spread = off(Cycle(DDIM, high=0.3, low=0.04, n=30).plan(RF, TIMES), BANKS[bank])
    assert abs(bias) < 0.2
    assert 0.95 < spread < 1.08


def test_cycles_under_much_noise_cannot_do_it():
    """The published window, .7 to .5: the held part is hidden there, and ten cycles gain little."""
    bias, spread = off(Cycle(DDIM, high=0.7, low=0.5, n=10).plan(RF, TIMES), BANKS["renoised"])
    assert bias < -0.6
    assert spread > 1.15


def test_without_replacement_the_cycles_do_nothing():
    """The control: the free part keeps its own law."""
    rng = Rng(1, [0])
    plan = Cycle(Ancestral(1.0), high=0.3, low=0.04, n=10).plan(RF, TIMES)
    end = plan.run(denoise, rng.normal((1, 8000, 2), step=-1, dtype=DOUBLE), rng=rng)
    assert abs(end[..., 1].mean().item() + 0.2) < 0.05
    assert end[..., 1].std().item() > 0.9


class Follow(Hook):
    """Look at what the denoiser is shown."""

    def __init__(self):
        self.held, self.noise = [], []

    def denoised(self, state):
        self.held.append(state.x[..., HELD].clone())
        self.noise.append((state.x[..., HELD] - (1 - state.t) * 1.5) / state.t)


@pytest.mark.parametrize("solver", [DDIM, Ancestral(1.0), Multistep("eps", order=3)], ids=repr)
def test_the_denoiser_always_sees_the_bank(solver):
    """From the first call on, and on the way up of a cycle too."""
    look, plan = Follow(), Cycle(solver, high=0.6, low=0.2, n=2).plan(RF, TIMES)
    off(plan, BANKS["renoised"], hooks=[look])
    assert len(look.held) == plan.nfe
    for noise in look.noise:
        assert abs(noise.mean().item()) < 0.05
        assert abs(noise.std().item() - 1.0) < 0.03
    assert not torch.equal(look.noise[0], look.noise[1])
    look, bank = Follow(), BANKS["recorded"]
    off(plan, bank, hooks=[look])
    times = [step.t for step in plan.steps if step.evaluate]
    for t, held in zip(times, look.held, strict=True):
        assert torch.equal(held, bank.values[t][..., HELD].expand_as(held))


def test_a_chain_of_runs_is_one_run():
    plan, x = Ancestral(0.5).plan(RF, grid.uniform(10)), draw(3, 2)
    hook, rng = Replace(HELD, BANKS["renoised"]), Rng(4, range(3))
    half = plan.run(ORACLE, x, rng=rng, hooks=[hook], stop=4)
    whole = plan.run(ORACLE, x, rng=rng, hooks=[hook])
    assert torch.equal(plan.run(ORACLE, half, rng=rng, hooks=[hook], start=4), whole)


def test_the_inversion_follows_the_flow():
    """Recorded states are those of the probability flow, to the order of the solver."""
    oracle = gaussian16(RF)
    clean = oracle.mean + draw(6, 16) / torch.arange(1, 17, dtype=DOUBLE).sqrt()

    def error(n, solver):
        times = grid.uniform(n, t_max=0.9)
        bank = record_inversion(oracle, clean, solver=solver, path=RF, grid=times)
        # the inversion leaves from a thousandth of the last noise level
        exact = oracle.flow(clean, 1e-3 / (n + 1e-3), 0.9)
        assert bank.values[times[-1]] is clean
        assert list(bank.values) == times.tolist()[::-1]
        return median_error(bank.values[0.9], exact)

    first, second = Multistep("eps", order=1), RungeKutta("heun", "v")
    assert error(160, first) < 0.6 * error(80, first)
    assert error(160, second) < 0.35 * error(80, second)
    assert error(80, second) < 0.1 * error(80, first)


def test_the_way_up_and_down_closes():
    """Everything held, or started at the top of the inversion: the sample comes back."""
    bank = inverted(Multistep("eps", order=1))
    plan = DDIM.plan(RF, TIMES)
    everything = Replace(torch.tensor([True, True]), bank)
    assert torch.equal(plan.run(ORACLE, draw(3, 2), hooks=[everything]), CLEAN.expand(3, 2))
    top = bank.values[1.0]
    back = plan.run(ORACLE, top)
    assert (back - CLEAN).abs().max() < 0.1
    assert (plan.run(ORACLE, -top) - CLEAN).abs().max() > 0.5


def test_directions_are_forgotten():
    """A multistep solver behind it walks at order 1: its history is of replaced values."""
    x = draw(3, 2)
    hook = Replace(HELD, BANKS["recorded"])
    second = Multistep("x0", order=2, lower_final=False).plan(RF, TIMES)
    first = Multistep("x0", order=1).plan(RF, TIMES)
    torch.testing.assert_close(
        second.run(ORACLE, x, hooks=[hook]), first.run(ORACLE, x, hooks=[hook])
    )
    assert not torch.allclose(second.run(ORACLE, x), first.run(ORACLE, x), rtol=1e-3)


def test_samples_do_not_mix_and_nothing_waits():
    plan = Cycle(Ancestral(1.0), high=0.6, low=0.2, n=1).plan(RF, grid.uniform(10))
    mask = torch.tensor([True, False, False])

    def run(ids):
        rng = Rng(0, ids)
        hook = Replace(mask, Renoised(RF, torch.full((3,), 0.4)))
        x = rng.normal((len(ids), 2, 3), step=-1)
        return plan.run(lambda x, t: torch.tanh(x), x, rng=rng, hooks=[hook])

    assert_batch_invariant(run)
    with NoSync():
        run([3, 4])


def test_complex_states_and_dtypes():
    plan = Ancestral(1.0).plan(RF, grid.uniform(6))
    clean = draw(4, dtype=torch.complex128)
    rng = Rng(0, range(2))
    for dtype in (torch.complex64, torch.complex128):
        end = plan.run(
            lambda x, t: 0.5 * x,
            rng.normal((2, 4), step=-1, dtype=dtype),
            rng=rng,
            hooks=[Replace(torch.arange(4) < 2, Renoised(RF, clean))],
        )
        assert end.dtype == dtype
        assert torch.equal(end[:, :2], clean[:2].to(dtype).expand(2, 2))


def test_says_what_is_wrong():
    plan = DDIM.plan(RF, grid.uniform(4))
    assert all(isinstance(bank, Bank) for bank in BANKS.values())
    with pytest.raises(ValueError, match="grid of the walk"):
        plan.run(ORACLE, draw(1, 2), hooks=[Replace(HELD, Recorded([0.3], [CLEAN]))])
    with pytest.raises(ValueError, match="pass rng="):
        plan.run(ORACLE, draw(1, 2), hooks=[Replace(HELD, BANKS["renoised"])])
    with pytest.raises(ValueError, match=r"fit a state of shape \(1, 2\)"):
        plan.run(
            ORACLE,
            draw(1, 2),
            hooks=[Replace(torch.ones(5, 2, dtype=torch.bool), BANKS["recorded"])],
        )
    with pytest.raises(ValueError, match="one for each"):
        Recorded([0.3, 0.1], [CLEAN])


def test_an_inversion_is_told_the_grid_of_the_walk():
    path = Path.rectified()
    clean, options = torch.ones(2, 3), {"solver": Multistep("v", "ratio"), "path": path}
    with pytest.raises(ValueError, match="must decrease; pass the grid of the walk"):
        record_inversion(lambda x, t: clean, clean, grid=grid.uniform(4)[::-1], **options)
    bank = record_inversion(lambda x, t: clean, clean, grid=grid.uniform(4, t_min=0.2), **options)
    torch.testing.assert_close(
        bank.values[min(bank.values)], 0.8 * clean
    )  # a state, not the sample
