"""Pairs straighten: closed forms of Gaussians, bit-equality with `sample`, conditional mixtures."""

import numpy as np
import pytest
import torch
from contracts.affine_fit import AffineAt, solve_table
from contracts.core import DOUBLE, assert_batch_invariant, assert_marginal, draw
from torch import nn

from medsci.core.check import GaussianMixtureOracle, GaussianOracle, mmd_null
from medsci.core.check.straightness import flow_velocity, noise_drift, straightness
from medsci.core.denoise import Denoiser, Guided, from_callable
from medsci.core.learn import Regression
from medsci.core.learn.reflow import OneStep, invert_pairs, reflow_pairs
from medsci.core.process.path import Path
from medsci.core.process.shifted import Residual
from medsci.core.rng import Rng
from medsci.core.solve import Ancestral, Multistep, RungeKutta, grid, sample

VARIANCES = torch.tensor([4.0, 1.0, 0.25, 0.09], dtype=DOUBLE)
MEAN = torch.tensor([0.5, -0.7, 0.9, 0.3], dtype=DOUBLE)
SD = VARIANCES.sqrt()
RF = Path.rectified()
DDIM = Multistep("eps", order=1)
NODES = (0.5 + 0.5 * np.polynomial.legendre.leggauss(16)[0]).tolist()
PATHS = {
    "cosine": Path.vp_cosine(),
    "linear": Path.vp_linear(),
    "rectified": RF,
    "ve": Path.ve(sigma_max=80.0),
}


def oracle(path):
    return GaussianOracle(path, MEAN, variances=VARIANCES)


def make_pairs(path, n, *, steps=256, seed=0):
    return reflow_pairs(
        oracle(path), (n, 4), rng=Rng(seed, range(n)), solver=RungeKutta("rk4", "angle"),
        grid=grid.angle(path, steps, sigma_min=1e-9), dtype=DOUBLE,
    )  # fmt: skip


def fitted(path, pred, x0, z, *, times):
    """Return the affine denoiser that minimises the regression on these pairs at these times."""
    denoiser = Denoiser(
        AffineAt(times, 4), path=path, pred=pred, time_code="unit_time", unit_input=False
    )
    n = len(x0)
    t = torch.tensor(times, dtype=DOUBLE).repeat_interleave(n)
    x0, z = x0.repeat(len(times), 1), z.repeat(len(times), 1)
    rng = Rng(0, range(len(t)))
    solve_table(
        denoiser.net, lambda: Regression().at(denoiser, x0, t, rng=rng, step=0, noise=z).sum()
    )
    return denoiser.requires_grad_(requires_grad=False)


def bend(denoiser, x0, z):
    return straightness(flow_velocity(denoiser, RF), x0, z, nodes=16).item() / 4


def euler_error(denoiser, z):
    return (denoiser(z, 1.0) - (MEAN + SD * z)).square().mean().sqrt().item()


def test_the_flow_of_a_gaussian_pairs_noise_with_its_transport():
    x0, z = make_pairs(RF, 64)
    assert (x0 - (MEAN + SD * z)).abs().max().item() < 2e-8
    few, again = make_pairs(RF, 64, steps=8)
    assert torch.equal(z, again)
    assert (few - (MEAN + SD * z)).abs().max().item() > 1e-5
    _, many = make_pairs(RF, 4000, steps=2)
    assert_marginal(many, mean=torch.zeros(4, dtype=DOUBLE), covariance=torch.eye(4, dtype=DOUBLE))


@pytest.mark.parametrize("name", PATHS)
def test_the_noise_has_unit_law_and_its_walk_begins_where_sampling_does(name):
    path = PATHS[name]
    x0, z = make_pairs(path, 8, steps=48)
    start = float(path.sigma(1.0)) * z
    torch.testing.assert_close(x0, oracle(path).flow(start, 1.0, 0.0), rtol=1e-4, atol=1e-4)
    assert 0.6 < z.std().item() < 1.5  # on the exploding path too


def test_pairs_are_those_of_sample_in_any_batch():
    teacher = oracle(PATHS["cosine"])

    def run(ids):
        pair = reflow_pairs(
            teacher, (len(ids), 4), rng=Rng(5, ids), steps=6, dtype=DOUBLE, cond=None
        )
        return torch.stack(pair, 1)

    assert_batch_invariant(run)
    drawn = sample(teacher, (3, 4), steps=6, seed=5, ids=[2, 0, 7], dtype=DOUBLE)
    assert torch.equal(drawn, run([2, 0, 7])[:, 0])


def test_one_reflow_makes_the_fitted_flow_straight():
    """`S` per coordinate: 1.5 for independent pairs, rounding errors for those of the flow."""
    times = [*NODES, 1.0]
    x0, z = MEAN + SD * draw(2000, 4, seed=1), draw(2000, 4, seed=2)
    first = fitted(RF, "flow", x0, z, times=times)
    assert bend(first, x0, z) == pytest.approx(1.496, rel=0.06)
    assert euler_error(first, z) == pytest.approx(1.145, rel=0.04)
    x0, z = MEAN + SD * draw(64, 4, seed=2), draw(64, 4, seed=2)
    second = fitted(RF, "flow", x0, z, times=times)
    assert bend(second, x0, z) < 6e-27
    assert euler_error(second, z) < 4e-16
    # the pairs that a solver makes are as good as the solver
    x0, z = make_pairs(RF, 64)
    made = fitted(RF, "flow", x0, z, times=times)
    assert bend(made, x0, z) < 1e-14
    assert euler_error(made, z) < 1e-8


def test_control_shuffled_pairs_do_not_straighten():
    x0, z = make_pairs(RF, 1000, steps=32)
    shuffled = fitted(RF, "flow", x0.roll(1, 0), z, times=[*NODES, 1.0])
    assert bend(shuffled, x0.roll(1, 0), z) > 1.3
    assert euler_error(shuffled, z) > 1.0


def test_pairs_on_a_bent_path_make_one_step_exact_and_not_straight():
    """Rectified diffusion: the noise estimate does not drift, one DDIM step is exact, S = 4.2."""
    path = PATHS["cosine"]
    z = draw(4000, 4, seed=2)
    x0 = MEAN + SD * z
    times = [0.999, *np.linspace(0.9, 0.1, 9).tolist()]
    student = fitted(path, "eps", x0[:64], z[:64], times=times)
    states = [path.perturb(x0, t, z) for t in times]
    assert noise_drift(student, path, times=times, states=states).item() < 2e-15
    ends = np.array([0.999, 1e-6])
    end = DDIM.plan(path, ends).run(student, states[0])
    assert (end - path.perturb(x0, 1e-6, z)).abs().max().item() < 2e-12
    nodes = fitted(path, "v", x0[:64], z[:64], times=NODES)
    curved = straightness(flow_velocity(nodes, path), x0, z, path=path, nodes=16)
    assert curved.item() == pytest.approx(4.2, abs=0.1)
    # control: fitted on pairs that no flow has made
    wrong = fitted(path, "eps", x0[:64].roll(1, 0), z[:64], times=times)
    assert noise_drift(wrong, path, times=times, states=states).item() > 0.1


@pytest.mark.parametrize("name", PATHS)
def test_one_step_learns_the_map_of_the_pairs(name):
    path = PATHS[name]
    x0, z = make_pairs(path, 64, steps=16)

    def learned(noise):
        student = Denoiser(
            AffineAt([1.0], 4), path=path, pred="x0", time_code="unit_time", unit_input=False
        )
        objective = OneStep()
        rng = Rng(0, range(64))
        solve_table(student.net, lambda: objective(student, x0, rng=rng, step=0, noise=noise)[0])
        return sample(
            student.requires_grad_(requires_grad=False), (64, 4), solver=DDIM,
            grid=np.array([1.0, 0.0]), seed=0, dtype=DOUBLE,
        )  # fmt: skip

    torch.testing.assert_close(learned(z), x0, rtol=0, atol=1e-7)
    assert (learned(z.roll(1, 0)) - x0).square().mean().sqrt() > 0.9  # control: shuffled pairs


def test_one_step_knows_the_conditional_mean_of_a_shifted_path():
    path = Residual()
    x0, mu, z = draw(3, 4), draw(3, 4, seed=1), draw(3, 4, seed=2)
    start = OneStep().start(path, z, cond={"mu": mu})
    torch.testing.assert_close(start, float(path.sigma(1.0)) * z + mu)
    with pytest.raises(ValueError, match="conditional mean"):
        OneStep().start(path, z)

    def teacher(x, t, *, mu):  # point masses: every walk ends at them
        return x0

    made, _ = reflow_pairs(
        from_callable(teacher, path=path), (3, 4), rng=Rng(0, range(3)), solver=DDIM,
        grid=grid.uniform(4), cond={"mu": mu}, dtype=DOUBLE,
    )  # fmt: skip
    torch.testing.assert_close(made, x0, rtol=0, atol=1e-6)


def test_inverted_pairs_end_at_the_noise_their_walk_began_with():
    teacher, times = oracle(RF), grid.angle(RF, 64, sigma_min=1e-3)
    solver = RungeKutta("rk4", "angle")
    x0, z = make_pairs(RF, 64, steps=64)
    same, found = invert_pairs(
        teacher, x0, rng=Rng(0, range(64)), solver=solver, grid=times[::-1].copy()
    )
    assert torch.equal(same, x0)
    assert (found - z).abs().max().item() < 0.02  # the noise of the first level, over sd .3
    wrong, _ = invert_pairs(
        teacher, x0.roll(1, 0), rng=Rng(0, range(64)), solver=solver, grid=times[::-1].copy()
    )
    assert (wrong - x0).abs().max().item() > 1.0
    with pytest.raises(ValueError, match="increases from a little noise"):
        invert_pairs(teacher, x0, rng=Rng(0, range(64)), solver=solver, grid=times)


def test_flat_data_keep_the_law_of_the_noise_only_if_they_are_lifted():
    """Data without a second dimension: clean samples know nothing of the noise along it."""
    flat = GaussianOracle(RF, torch.zeros(2, dtype=DOUBLE), variances=torch.eye(2, dtype=DOUBLE)[0])
    times = np.linspace(0.02, 1.0, 65)
    x0 = draw(4000, 2) * torch.tensor([1.0, 0.0], dtype=DOUBLE)
    solver = RungeKutta("rk4", "angle")
    _, z = invert_pairs(flat, x0, rng=Rng(1, range(4000)), solver=solver, grid=times)
    assert_marginal(z, mean=torch.zeros(2, dtype=DOUBLE), covariance=torch.eye(2, dtype=DOUBLE))
    plain = solver.plan(RF, times).run(flat, float(RF.alpha(0.02)) * x0)
    assert plain[:, 1].abs().max().item() < 1e-6  # the control: no noise at all


class ByClass:
    """Two classes of two modes each on a line, label 2 for both: exact denoisers and flows."""

    path = RF

    def __init__(self):
        means = torch.tensor([[-2.0], [-1.0], [0.8], [2.2]], dtype=DOUBLE)
        self.laws = [
            GaussianMixtureOracle(
                RF,
                torch.ones(len(rows), dtype=DOUBLE),
                means=means[rows],
                covariances=torch.full((len(rows), 1), 0.04, dtype=DOUBLE),
            )
            for rows in ([0, 1], [2, 3], [0, 1, 2, 3])
        ]

    def __call__(self, x, t, *, label):
        every = torch.stack([law(x, t) for law in self.laws])
        return every[label, torch.arange(len(x))]


class Spline(nn.Module):
    """A piecewise linear function of a line for each of two classes."""

    def __init__(self):
        super().__init__()
        self.knots = torch.linspace(-3.2, 3.2, 65, dtype=DOUBLE)
        self.table = nn.Parameter(torch.zeros(2, 65, dtype=DOUBLE))

    def forward(self, x, code, *, label):
        hats = (1.0 - (x - self.knots).abs() / 0.1).clamp_min(0.0)
        return (hats * self.table[label]).sum(1, keepdim=True)


def learned_by_class(x0, z, label):
    student = Denoiser(Spline(), path=RF, pred="x0", unit_input=False)
    rng = Rng(0, range(len(z)))
    solve_table(
        student.net,
        lambda: OneStep()(student, x0, rng=rng, step=0, noise=z, cond={"label": label})[0],
    )
    return student.requires_grad_(requires_grad=False)


def class_pairs(teacher, ids):
    label = torch.tensor([i % 2 for i in ids])
    x0, z = reflow_pairs(
        teacher, (len(ids), 1), rng=Rng(3, ids), solver=RungeKutta("rk4", "angle"),
        grid=grid.angle(RF, 24, sigma_min=1e-3), cond={"label": label}, dtype=DOUBLE,
    )  # fmt: skip
    return x0, z, label


def test_pairs_of_a_condition_keep_its_law_and_make_one_step_enough():
    teacher = ByClass()
    x0, z, label = class_pairs(teacher, range(3000))
    student = learned_by_class(x0, z, label)
    shuffled = learned_by_class(x0.roll(2, 0), z, label)  # within the classes
    x0, z, label = class_pairs(teacher, range(3000, 4000))  # fresh noise

    def error(denoise):
        inside = z.abs() < 2.5  # where there were pairs to learn from
        return (denoise(z, 1.0, label=label) - x0)[inside].square().mean().sqrt().item()

    assert error(teacher) > 0.5  # its one step gives the mean of the class
    assert error(student) < 0.06
    assert error(shuffled) > 0.5  # the control
    drawn = student(z, 1.0, label=label)
    for k in (0, 1):
        truth = teacher.laws[k].sample(500, 0.0, generator=torch.Generator().manual_seed(k))
        for law in (x0[label == k], drawn[label == k]):
            assert mmd_null(law, truth, rng=Rng(0, range(200))).p_value > 0.01
        other = mmd_null(drawn[label != k], truth, rng=Rng(0, range(200)))
        assert other.p_value < 0.01  # the control: the other class


def test_guided_pairs_carry_the_guidance_into_a_student_that_knows_none():
    teacher = ByClass()
    guided = Guided(teacher, scale=2.0, null={"label": torch.tensor([2])})
    plain, _, _ = class_pairs(teacher, range(3000))
    x0, z, label = class_pairs(guided, range(3000))
    student = learned_by_class(x0, z, label)
    drawn = student(z, 1.0, label=label)
    for k, sign in ((0, -1.0), (1, 1.0)):
        mine = label == k
        shift = sign * (x0[mine].mean() - plain[mine].mean()).item()
        assert shift > 0.1  # guidance moves a class away from the other
        assert drawn[mine].mean().item() == pytest.approx(x0[mine].mean().item(), abs=0.01)


def test_what_makes_no_pairs_is_refused():
    teacher = oracle(PATHS["cosine"])
    with pytest.raises(ValueError, match="Ancestral adds noise"):
        reflow_pairs(
            teacher, (2, 4), rng=Rng(0, range(2)), solver=Ancestral(), grid=grid.uniform(4)
        )
    student = Denoiser(AffineAt([1.0], 4), path=PATHS["cosine"], pred="eps")
    x0 = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="pass the noise"):
        OneStep()(student, x0, rng=Rng(0, range(2)), step=0)
    with pytest.raises(ValueError, match="does not determine x0"):
        OneStep()(student, x0, rng=Rng(0, range(2)), step=0, noise=x0)
    with pytest.raises(ValueError, match=r"t=0\.0 came"):
        OneStep(t=0.0)
