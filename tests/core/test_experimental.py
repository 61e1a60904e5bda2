"""The rules that did not keep their promise: that they are what was published, and what they do."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw, gaussian16, median_error
from contracts.guard import NoSync

from medsci.core.check import convergence_order
from medsci.core.process import Path
from medsci.core.solve import Multistep, Rng, grid
from medsci.core.steer import Hook
from medsci.core.steer.experimental import EvoDiff, Tangential, damped, tangential

VE, RF = Path.ve(), Path.rectified()
X0, EPS = Multistep("x0", order=1), Multistep("eps", order=1)
STEPS = (64, 128, 256)


def lambdas(n, path=VE):
    return grid.log_snr(path, n, sigma_max=80.0, sigma_min=0.002)


def karras(n, path=VE):
    return grid.karras(path, n, sigma_max=80.0, sigma_min=0.002)


def error(times, hooks, *, solver=EPS, path=VE):
    oracle = gaussian16(path)
    x = draw(32, 16, scale=float(path.sigma(times[0])), seed=1)
    end = solver.plan(path, times).run(oracle, x, hooks=hooks)
    return median_error(end, oracle.flow(x, float(times[0]), float(times[-1])))


def order(make, hook, *, steps=STEPS, **options):
    return convergence_order([error(make(n), [hook], **options) for n in steps], steps)


# Tangential


def test_without_history_weight_the_published_rule_is_the_base_solver():
    """kappa = 0: identical in exact arithmetic, noise in float32, at the released damping."""
    with_rule = error(lambdas(32), [Tangential(VE, legacy=(8e-4, 0.0))])
    assert with_rule == pytest.approx(error(lambdas(32), []), rel=1e-9)
    e = draw(32, 3, 32, 32, seed=2)  # |e|^2 = 3072

    def change(dtype, lam):
        low = e.to(dtype)
        d = damped(low, low, lam=lam, kappa=0.0)
        return ((d - low).double().flatten(1).norm(dim=1) / e.flatten(1).norm(dim=1)).median()

    assert change(torch.float64, 8e-4).item() == pytest.approx(2.5e-10, rel=0.5)
    assert change(torch.float32, 8e-4).item() == pytest.approx(0.15, rel=0.3)
    assert change(torch.float32, 5e-5).item() == pytest.approx(1.42, rel=0.1)
    half = change(torch.float16, 8e-4).item()
    assert math.isnan(half) or half > 0.7


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_norms_are_kept(dtype):
    e, before = (draw(4, 2, 5, seed=s, dtype=dtype) for s in (1, 2))
    for d in (tangential(e, before, weight=0.7), damped(e, before, lam=3.0, kappa=0.4)):
        torch.testing.assert_close(d.flatten(1).norm(dim=1), e.flatten(1).norm(dim=1))
        assert (d - e).abs().max() > 0.1


def test_the_first_formula_is_the_second_for_small_changes():
    """weight = kappa |m|^2 / lam, up to second order in the change of e."""
    e, change = draw(1, 50, seed=1), draw(1, 50, seed=2)
    lam, kappa = 400.0, 0.5

    def gap(size):
        before = e + size * change
        m = kappa * before + (1.0 - kappa) * e
        weight = float(kappa * m.square().sum() / lam)
        literal = damped(e, before, lam=lam, kappa=kappa) - e
        return (literal - (tangential(e, before, weight=weight) - e)).norm() / literal.norm()

    assert gap(1e-3) < 0.01
    assert gap(1e-3) < 0.2 * gap(1e-2)


@pytest.mark.parametrize("make", [lambdas, karras])
@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_the_increment_form_has_order_one(weight, make):
    assert order(make, Tangential(VE, weight)) == pytest.approx(1.0, abs=0.1)
    assert error(make(128), [Tangential(VE, weight)]) < 0.95 * error(make(128), [])


class Increments(Hook):
    """The published direction in the increment form, x0 edited."""

    def __init__(self, lam, kappa):
        self.lam, self.kappa = lam, kappa

    def denoised(self, state):
        sigma = float(VE.sigma(state.t))
        e = (state.x - state.x0) / sigma
        before = state.extra.get("e", e)
        state.extra["e"] = e
        state.x0 = state.x - sigma * damped(e, before, lam=self.lam, kappa=self.kappa)


def test_the_released_form_does_not_converge():
    """The whole sigma multiplies the turn: a plateau of 5e-2, whatever the number of steps."""
    released = [error(lambdas(n), [Tangential(VE, legacy=(16.0, 0.5))]) for n in (64, 256, 512)]
    assert released == pytest.approx([0.055, 0.052, 0.052], rel=0.1)
    assert error(lambdas(256), [Tangential(VE, legacy=(8e-4, 0.5))]) > 0.3  # as released
    # the control: the same direction, applied to the increment, is of order one
    assert order(lambdas, Increments(16.0, 0.5)) == pytest.approx(1.0, abs=0.1)


def test_the_released_step_by_hand():
    """alpha_s x0 + sigma_s d, with the direction of the step before."""
    path, times = RF, np.array([0.8, 0.6, 0.5])
    oracle, x = gaussian16(path), draw(3, 16)
    end = EPS.plan(path, times).run(oracle, x, hooks=[Tangential(path, legacy=(2.0, 0.3))])
    d0 = oracle(x, 0.8)
    e0 = (x - 0.2 * d0) / 0.8
    x1 = 0.4 * d0 + 0.6 * damped(e0, e0, lam=2.0, kappa=0.3)
    d1 = oracle(x1, 0.6)
    e1 = (x1 - 0.4 * d1) / 0.6
    expected = 0.5 * d1 + 0.5 * damped(e1, e0, lam=2.0, kappa=0.3)
    torch.testing.assert_close(end, expected)


# EvoDiff


def by_hand(oracle, x, sigmas, *, final="plain"):
    """The published algorithm in sigmas, written out once more, projections per sample."""

    def proj(u, v):
        return ((u * v).sum(1, keepdim=True) / (v * v).sum(1, keepdim=True)).clamp(-2.0, 2.0)

    def euler(x, m, new, old):
        return new / old * x + new * (1.0 / new - 1.0 / old) * m

    sigmoid, n = torch.sigmoid, len(sigmas) - 1
    level = {s: float(VE.time_at_sigma_hat(s)) for s in sigmas}
    m1 = oracle(x, level[sigmas[0]])
    x = euler(x, m1, sigmas[1], sigmas[0])
    m0 = oracle(x, level[sigmas[1]])
    for i in range(2, n):
        old, now, new = sigmas[i - 2], sigmas[i - 1], sigmas[i]
        h = 1.0 / new - 1.0 / now
        r = math.log(old / now) / math.log(now / new)
        base = math.sqrt((new / now) / (now / old))
        w = 0.5 * (1.0 - (new / sigmas[0]) ** 2)
        r1 = (1 - w) * base + w * proj(m0, m1)
        d1 = m0 - r1 * m1
        ri = torch.clamp(sigmoid(0.25 * r1.abs()), 0.25, 1.5) * r
        start = euler(x, m0, new, now)
        probe = start + 0.5 * new * h / ri * d1
        m = oracle(probe, level[new])
        d2 = m - ((1 - w) * base + w * proj(m, m0)) * m0
        ahead, behind = r / h * d2, d1 / (r * h)
        eta = 0.5 * sigmoid((0.5 * proj(ahead + behind, ahead - behind)).abs())
        bend = -eta / r * d1 + r * (1 - eta) * d2
        miss = probe - start - 0.5 * new * h / ri * bend
        zeta = (proj(miss, d1) / (h * new)).abs() - 0.5
        if n > 20:
            zeta = -zeta * sigmoid(proj(m0, (m0 - m1) / h) * (2 - (new / now) ** 2))
        x = start + 0.5 * new * h / sigmoid(zeta) * bend
        m1, m0 = m0, m
    new, now = sigmas[-1], sigmas[-2]
    end = euler(x, m0, new, now)
    if final == "released":
        ratio = new / now
        r = 1 - 0.5 * math.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
        end = (1 - math.sqrt(new * now)) * end + 0.5 * new * (1 / new - 1 / now) * (m0 - r * m1)
    return end


@pytest.mark.parametrize("final", ["plain", "released"])
@pytest.mark.parametrize("n", [2, 3, 8, 20, 21, 40])
def test_evodiff_is_the_published_algorithm(n, final):
    oracle = gaussian16(VE)
    times = karras(n)
    x = draw(5, 16, scale=80.0)
    end = X0.plan(VE, times).run(oracle, x, hooks=[EvoDiff(VE, final=final)])
    sigmas = [float(s) for s in VE.sigma(times)]
    torch.testing.assert_close(end, by_hand(oracle, x, sigmas, final=final), rtol=1e-7, atol=1e-9)


def test_evodiff_takes_one_evaluation_per_step():
    calls = []
    plan = X0.plan(VE, karras(9))
    with NoSync():
        plan.run(lambda x, t: calls.append(t) or torch.tanh(x), draw(2, 3), hooks=[EvoDiff(VE)])
    assert len(calls) == plan.nfe == 9


def test_evodiff_is_of_first_order():
    """Slopes from .5 to 1.2 between doublings; the rule behind it promises two."""
    for make in (lambdas, karras):
        errors = [error(make(n), [EvoDiff(VE)], solver=X0) for n in (32, 64, 128, 256)]
        slopes = -np.diff(np.log2(errors))
        assert 0.5 < slopes.min() < slopes.max() < 1.3
        assert errors[-1] < 0.01
        second = error(make(256), [], solver=Multistep("x0", order=2))
        assert errors[-1] > 10.0 * second
        assert errors[-1] < 0.6 * error(make(256), [], solver=X0)


def test_the_released_last_step_does_not_converge_on_ratio_grids():
    def end(n, final):
        times = grid.ratio(RF, n, sigma_max=80.0, sigma_min=0.002)
        return error(times, [EvoDiff(RF, final=final)], solver=X0, path=RF)

    released = [end(n, "released") for n in (64, 128, 256)]
    assert min(released) > 0.1
    assert max(released) / min(released) < 1.2
    assert end(256, "plain") < 0.03


def point(x, t):
    """The denoiser of a single point."""
    return (torch.arange(4, dtype=DOUBLE) - 1.5).expand_as(x)


def test_for_a_point_it_is_euler_where_the_balance_is_one():
    """D1 = D2 = 0 on a grid uniform in log-SNR; elsewhere the balance leaves a bias."""
    x = draw(3, 4, scale=80.0)
    for make, same in ((lambdas, True), (karras, False)):
        plan = X0.plan(VE, make(12))
        gap = (plan.run(point, x, hooks=[EvoDiff(VE)]) - plan.run(point, x)).abs().max().item()
        assert (gap < 1e-12) if same else (gap > 1e-4)


def test_the_gap_to_the_rule_behind_it():
    """With balances of one and the sigmoids out of the way it would be DPM-Solver++ (2M)."""
    oracle, n = gaussian16(VE), 128
    sigmas = [float(s) for s in VE.sigma(lambdas(n))]
    x = draw(32, 16, scale=80.0, seed=1)
    exact = oracle.flow(x, 1.0, float(lambdas(n)[-1]))
    y, before = x, None
    for now, new, t in zip(sigmas, sigmas[1:], lambdas(n), strict=False):
        m = oracle(y, float(t))
        bend = 0.0 if before is None else 0.5 * (m - before)  # even steps in log-SNR
        y = new / now * y + new * (1.0 / new - 1.0 / now) * (m + bend)
        before = m
    reached = error(lambdas(n), [EvoDiff(VE)], solver=X0)
    assert reached / median_error(y, exact) == pytest.approx(17.0, rel=0.5)


# Both


@pytest.mark.parametrize("path", [VE, RF, Path.vp_cosine()], ids=repr)
def test_paths_of_equal_noise_agree(path):
    """The rules depend on sigma / alpha only: any path gives the same samples."""
    oracle, reference = gaussian16(path), gaussian16(VE)
    times, x = karras(12, path), draw(3, 16, scale=80.0)
    scale = float(path.alpha(times[0]))
    for solver, make in (
        (X0, EvoDiff),
        (EPS, lambda p: Tangential(p, 0.5)),
        (EPS, lambda p: Tangential(p, legacy=(2.0, 0.3))),
    ):
        end = solver.plan(path, times).run(oracle, scale * x, hooks=[make(path)])
        other = solver.plan(VE, karras(12)).run(reference, x, hooks=[make(VE)])
        torch.testing.assert_close(end / float(path.alpha(times[-1])), other, rtol=1e-6, atol=1e-8)


HOOKS = [EvoDiff(RF), Tangential(RF, 0.5), Tangential(RF, legacy=(1.0, 0.5))]


@pytest.mark.parametrize("hook", HOOKS)
def test_samples_do_not_mix_and_nothing_waits(hook):
    plan = X0.plan(RF, grid.uniform(12))

    def run(ids):
        x = Rng(0, ids).normal((len(ids), 2, 7, 6), step=-1)
        return plan.run(lambda x, t: torch.tanh(3.0 * x), x, hooks=[hook])

    assert_batch_invariant(run)
    with NoSync():
        run([1, 2])


@pytest.mark.parametrize("hook", HOOKS)
def test_complex_states(hook):
    plan, x = X0.plan(RF, grid.uniform(8)), draw(2, 5, dtype=torch.complex128)
    end = plan.run(lambda x, t: x * torch.exp(-x.abs()), x, hooks=[hook])
    pair = plan.run(
        lambda x, t: torch.view_as_real(
            torch.view_as_complex(x) * torch.exp(-torch.view_as_complex(x).abs())
        ),
        torch.view_as_real(x),
        hooks=[hook],
    )
    torch.testing.assert_close(torch.view_as_real(end), pair)


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="finite weight or"):
        Tangential(VE, 0.5, legacy=(1.0, 0.5))
    with pytest.raises(ValueError, match="lam > 0"):
        Tangential(VE, legacy=(0.0, 0.5))
