"""Noise laws: Student-t noise is PFGM++, its bridge is exact, and a mask keeps what is known."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from scipy import stats
from torch.testing import assert_close

from medsci.core import Linear, Multistep, Path, Rng, grid
from medsci.core.check.dirac import DiracMixtureOracle
from medsci.core.process.noise import ComplexGaussian, Gaussian, Masked, StudentT
from medsci.core.process.process import bridge_noise

MANY, N = 4000, 8  # samples and entries


def radii(z):
    """Return |z|^2 / n per sample; of the Student-t law this follows Fisher's F(n, dof)."""
    return z.abs().flatten(1).square().mean(1).double().numpy()


@pytest.mark.parametrize("dof", [2.0, 16.0, 128.0])
def test_radii_follow_the_law(dof) -> None:
    z = StudentT(dof).sample((MANY, N), Rng(0, range(MANY)), step=0, dtype=DOUBLE)
    assert stats.kstest(radii(z), stats.f(N, dof).cdf).pvalue > 0.05  # measured .86, .76, .97
    # the controls: a heavier tail, plain noise, and one chi2 per entry instead of per sample
    assert stats.kstest(radii(z), stats.f(N, dof / 8.0).cdf).pvalue < 1e-3
    plain = Gaussian().sample((MANY, N), Rng(0, range(MANY)), step=0, dtype=DOUBLE)
    ragged = stats.t(dof).rvs((MANY, N), random_state=0)
    if dof < 100.0:
        assert stats.kstest(radii(plain), stats.f(N, dof).cdf).pvalue < 1e-3
        assert stats.kstest(radii(torch.from_numpy(ragged)), stats.f(N, dof).cdf).pvalue < 1e-3


def test_the_published_way_of_drawing_loses_most_of_the_law_at_small_dof() -> None:
    # Xu et al. draw B ~ Beta(N / 2, D / 2) and clip it to [1e-3, 1 - 1e-3]; here N = 3 x 32 x 32
    def lost(dof):
        law = stats.beta(1536.0, 0.5 * dof)
        return law.cdf(1e-3) + law.sf(1.0 - 1e-3)

    assert [lost(d) for d in (1, 2, 8)] == pytest.approx([0.92, 0.78, 0.07], abs=0.007)
    assert lost(32) < 1e-10
    z = StudentT(2.0).sample((500, 3072), Rng(1, range(500)), step=0, dtype=DOUBLE)
    beta = radii(z) * 3072 / (radii(z) * 3072 + 2.0)  # B = R^2 / (R^2 + D sigma^2)
    assert stats.kstest(beta, stats.beta(1536.0, 1.0).cdf).pvalue > 0.05
    clipped = np.clip(beta, 1e-3, 1.0 - 1e-3)
    assert stats.kstest(clipped, stats.beta(1536.0, 1.0).cdf).pvalue < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_second_moment(dtype) -> None:
    for dof in (8.0, 32.0):
        z = StudentT(dof).sample((2000, 256), Rng(2, range(2000)), step=0, dtype=dtype)
        error = 4.5 * radii(z).std() / math.sqrt(2000)
        assert float(radii(z).mean()) == pytest.approx(dof / (dof - 2.0), abs=error)
        assert float(radii(z).mean()) != pytest.approx(1.0, abs=error)  # not that of a Gaussian


@pytest.mark.parametrize("law", [Gaussian(), StudentT(3.0), Masked(torch.tensor([0, 1, 1]))])
def test_a_sample_has_its_own_stream(law) -> None:
    assert_batch_invariant(lambda ids: law.sample((len(ids), 4, 3), Rng(9, ids), step=4))
    z = draw(1, 4, 3)
    assert_batch_invariant(lambda ids: law.renew(z.expand(len(ids), 4, 3), Rng(9, ids), step=4))


def test_the_steps_of_a_sample_are_independent_and_its_entries_are_not() -> None:
    law, rng = StudentT(5.0), Rng(0, range(MANY))
    first, second = (law.sample((MANY, 2), rng, step=s, dtype=DOUBLE).abs().log() for s in (0, 1))
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 4.5 / math.sqrt(MANY)
    assert np.corrcoef(first[:, 0], first[:, 1])[0, 1] > 0.05  # the shared radius


def test_tiny_dof_stays_finite_and_nothing_is_clipped() -> None:
    z = StudentT(0.05).sample((MANY, 1), Rng(0, range(MANY)), step=0, dtype=DOUBLE)
    assert bool(torch.isfinite(z).all())
    assert float(z.abs().max()) > 1e30  # P(|z| > 1e30) is about 3 %
    assert stats.kstest(z[:, 0].numpy(), stats.t(0.05).cdf).pvalue > 0.05


@pytest.mark.parametrize("shape", [0.02, 0.4, 1.0, 5.5, 3000.0])
def test_gamma_variates(shape) -> None:
    rng = Rng(3, range(MANY))
    log = rng.log_gamma([shape] * MANY, step=2).numpy()
    assert stats.kstest(log, stats.loggamma(shape).cdf).pvalue > 0.05
    assert stats.kstest(log, stats.loggamma(1.15 * shape).cdf).pvalue < 0.01
    normal = rng.normal((MANY, 1), step=2, dtype=DOUBLE)[:, 0].numpy()
    assert abs(np.corrcoef(log, normal)[0, 1]) < 4.5 / math.sqrt(MANY)


LAWS = {
    "t3": (StudentT(3.0), stats.f(N, 3.0)),
    "t3_complex": (StudentT(3.0), stats.f(2 * N, 3.0)),
    "t3_masked": (Masked(torch.arange(N) % 2, StudentT(3.0)), stats.f(N // 2, 3.0)),
    "gaussian": (Gaussian(), stats.chi2(N, scale=1.0 / N)),
    "complex": (ComplexGaussian(), stats.chi2(2 * N, scale=0.5 / N)),
}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", LAWS)
def test_the_bridge_keeps_the_law_of_the_noise(name, eta) -> None:
    noise, law = LAWS[name]
    path, t, s = Path.rectified(), 0.8, 0.5
    x0 = torch.full((MANY, N), 0.3, dtype=torch.complex128 if "compl" in name else DOUBLE)
    process, rng = Linear(path, noise), Rng(4, range(MANY))
    x_t, _ = process.perturb(x0, t, rng)
    x_s = process.bridge(x_t, x0, t=t, s=s, rng=rng, step=1, eta=eta)
    found = radii((x_s - path.alpha(s) * x0) / path.sigma(s)) * (2.0 if "masked" in name else 1.0)
    assert stats.kstest(found, law.cdf).pvalue > 0.01


@pytest.mark.parametrize("wrong", [StudentT(3.0), Gaussian()], ids=["independent", "gaussian"])
def test_fresh_noise_that_ignores_the_radius_breaks_the_law(wrong) -> None:
    path, rng, t, s = Path.rectified(), Rng(4, range(MANY)), 0.8, 0.5
    z = StudentT(3.0).sample((MANY, N), rng, step=0, dtype=DOUBLE)
    levels = [float(c) for c in (path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s))]
    fresh = bridge_noise(*levels, eta=1.0)
    kept = math.sqrt(levels[3] ** 2 - fresh**2)
    broken = kept * z + fresh * wrong.sample((MANY, N), rng, step=1, dtype=DOUBLE)
    assert stats.kstest(radii(broken / levels[3]), stats.f(N, 3.0).cdf).pvalue < 1e-4


def test_the_denoiser_tends_to_the_gaussian_one_as_one_over_dof() -> None:
    path, atoms = Path.ve(), draw(5, N)
    t = float(path.time_at_sigma_hat(1.0))
    x = atoms[torch.arange(2000) % 5] + draw(2000, N, seed=1)
    limit = DiracMixtureOracle(path, atoms)(x, t)
    gaps = [
        float((DiracMixtureOracle(path, atoms, dof=dof)(x, t) - limit).abs().max())
        for dof in (1e1, 1e2, 1e3, 1e4)
    ]
    # the study's .48, .11, .013, .0013 on atoms of its own
    assert gaps == pytest.approx([0.48, 0.11, 0.013, 0.0013], rel=0.3)
    assert np.diff(np.log10(gaps))[1:] == pytest.approx([-1.0, -1.0], abs=0.12)


def test_the_noise_law_tends_to_the_gaussian_one_as_one_over_dof() -> None:
    rng, shape = Rng(0, range(200)), (200, 16)
    plain = Gaussian().sample(shape, rng, step=0, dtype=DOUBLE)
    gaps = [radii(StudentT(d).sample(shape, rng, step=0, dtype=DOUBLE) - plain).mean() ** 0.5
            for d in (1e2, 1e4, 1e6)]  # fmt: skip
    assert np.diff(np.log10(gaps)) == pytest.approx([-1.0, -1.0], abs=0.1)  # in steps of 100: sqrt


def test_the_flow_lands_on_the_atoms_in_their_proportions() -> None:
    atoms = torch.tensor([[3.0, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=DOUBLE)
    weights, dof, n = torch.tensor([0.6, 0.3, 0.1], dtype=DOUBLE), 1.0, 3000
    path = Path.ve(4.0, 0.002)
    chosen = torch.multinomial(
        weights, n, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    z = StudentT(dof).sample((n, 2), Rng(1, range(n)), step=0, dtype=DOUBLE)
    x = atoms[chosen] + 4.0 * z
    plan = Multistep("eps", order=3).plan(
        path, grid.karras(path, 40, sigma_max=4.0, sigma_min=2e-3)
    )

    def shares(dof):
        oracle = DiracMixtureOracle(path, atoms, weights=weights, dof=dof)
        distance, nearest = torch.cdist(plan.run(oracle, x), atoms).min(1)
        return float(distance.median()), nearest.bincount(minlength=3) / n

    distance, found = shares(dof)
    assert distance < 0.01  # sigma ends at .002
    error = 4.5 * (weights * (1.0 - weights) / n).sqrt()
    assert bool(((found - weights).abs() < error).all())
    assert not bool(((shares(None)[1] - weights).abs() < error).all())  # the Gaussian denoiser


def test_masked_noise_leaves_the_known_part_alone() -> None:
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    process, x0 = Linear(Path.rectified(), Masked(mask)), draw(3, 2, 2)
    rng = Rng(0, range(3))
    x_t, z = process.perturb(x0, 0.6, rng)
    assert_close(x_t[:, mask == 0], 0.4 * x0[:, mask == 0])
    plain = Gaussian().sample((3, 2, 2), rng, step=0, dtype=DOUBLE)
    assert_close(z[:, mask == 1], plain[:, mask == 1])
    assert_close(process.bridge(x_t, x0, t=0.6, s=0.2, rng=rng, step=1)[:, mask == 0],
                 0.8 * x0[:, mask == 0])  # fmt: skip


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StudentT(0.0), "positive finite degrees"),
        (lambda: StudentT(math.inf), "use Gaussian"),
        (lambda: Masked(torch.tensor([0.0, 0.5])), "zeros and ones only"),
        (
            lambda: Masked(torch.ones(3)).sample((2, 4), Rng(0, [0, 1]), step=0),
            "broadcasts over one sample",
        ),
        (lambda: Rng(0, [0, 1]).log_gamma([1.0], step=0), "one positive finite number per id"),
        (lambda: Rng(0, [0]).log_gamma([-1.0], step=0), "positive"),
    ],
)
def test_says_how_to_fix(build, words) -> None:
    with pytest.raises(ValueError, match=words):
        build()
