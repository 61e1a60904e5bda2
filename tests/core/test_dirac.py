"""Point masses under Gaussian and Student-t noise: laws by scipy, derivatives by autograd."""

import math

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16
from scipy import stats
from torch.func import jacrev, vmap

from medsci.core.check.dirac import DiracMixtureOracle
from medsci.core.check.oracle import Oracle
from medsci.core.process import Path
from medsci.core.solve import Multistep, Rng, grid

VE = Path.ve(sigma_max=40.0)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
DOFS = [None, 3.0, 64.0]


def atoms(m=3, d=4):
    return draw(m, d, scale=1.5, seed=6)


def oracle_of(dof, path=VE):
    return DiracMixtureOracle(path, atoms(), weights=WEIGHTS, dof=dof)


def scipy_log_kernels(oracle, x, t):
    """ln p(x | atom), by scipy, shape (b, m)."""
    alpha, sigma = float(oracle.path.alpha(t)), float(oracle.path.sigma(t))
    rows = []
    for atom in oracle.atoms:
        centre, shape = (alpha * atom).numpy(), sigma**2 * np.eye(len(atom))
        if oracle.dof is None:
            law = stats.multivariate_normal(centre, shape)
        else:
            law = stats.multivariate_t(centre, shape, df=oracle.dof)
        rows.append(torch.as_tensor(law.logpdf(x.numpy())))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("path", [VE, Path.rectified(), Path.vp_cosine()])
@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("t", [0.9, 0.4, 0.1])
def test_density_and_denoiser_are_bayes_with_the_law_of_scipy(path, dof, t):
    oracle = oracle_of(dof, path)
    x = draw(6, 4, scale=2.0, seed=2)
    log_joint = WEIGHTS.log() + scipy_log_kernels(oracle, x, t)
    torch.testing.assert_close(oracle.log_density(x, t), torch.logsumexp(log_joint, 1))
    share = torch.softmax(log_joint, 1)
    torch.testing.assert_close(oracle.responsibilities(x, t), share)
    torch.testing.assert_close(oracle(x, t), share @ oracle.atoms)


@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("t", [0.9, 0.55])
def test_score_and_jacobian_are_derivatives(dof, t):
    oracle = oracle_of(dof)
    x = draw(5, 4, scale=3.0, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)
    x = x.detach()
    found = vmap(jacrev(lambda row: oracle(row[None], t)[0]))(x)
    torch.testing.assert_close(oracle.jacobian(x, t), found)
    sigma = float(VE.sigma(t))
    tweedie = (oracle(x, t) - x) / sigma**2
    if dof is None:
        torch.testing.assert_close(tweedie, gradient)
        torch.testing.assert_close(found, found.mT)
    else:  # the control: neither Tweedie nor symmetry hold for heavy tails
        assert ((tweedie - gradient).norm() / gradient.norm()).item() > 0.01
        assert (found - found.mT).norm() > 1e-6 * found.norm()


def test_many_degrees_of_freedom_tend_to_gaussian_noise_as_one_over_dof():
    """Published: .48, .11, .013, .0013 for D = 10 to 10^4 on eight atoms."""
    points = draw(8, 16, seed=5)
    x = draw(64, 16, scale=2.0, seed=9)
    t = float(VE.time_at_sigma_hat(1.5))
    gaussian = DiracMixtureOracle(VE, points)(x, t)
    dofs = [10.0, 1e2, 1e3, 1e4]
    gaps = [
        (DiracMixtureOracle(VE, points, dof=dof)(x, t) - gaussian).abs().max().item()
        for dof in dofs
    ]
    assert gaps[0] > 0.1
    slopes = np.diff(np.log10(gaps))
    assert slopes[-1] == pytest.approx(-1.0, abs=0.02)
    assert slopes[-2] == pytest.approx(-1.0, abs=0.15)


def student(n, d, dof, seed):
    chi2 = np.random.default_rng(seed).chisquare(dof, size=(n, 1))
    return draw(n, d, seed=seed) * torch.as_tensor(np.sqrt(dof / chi2))


@pytest.mark.parametrize("dof", DOFS)
def test_flows_land_on_the_atoms_in_their_proportions(dof):
    """Whatever the radial law; a denoiser of another law, or of none, does not."""
    n, oracle = 600, oracle_of(dof)
    z = draw(n, 4, seed=7) if dof is None else student(n, 4, dof, 7)
    times = grid.karras(VE, 120, sigma_max=40.0, sigma_min=2e-3, final_zero=True)
    plan = Multistep("angle", order=2).plan(VE, times)
    end = plan.run(oracle, 40.0 * z + oracle.atoms.mean(0))
    distance, nearest = torch.cdist(end, oracle.atoms).min(1)
    assert distance.max() < 1e-4
    share = torch.bincount(nearest, minlength=3).double() / n
    error = (WEIGHTS * (1.0 - WEIGHTS) / n).sqrt()
    assert ((share - WEIGHTS).abs() / error).max() < 4.5
    equal = DiracMixtureOracle(VE, oracle.atoms, dof=dof)  # the control: other weights
    nearest = torch.cdist(plan.run(equal, 40.0 * z + oracle.atoms.mean(0)), oracle.atoms).argmin(1)
    share = torch.bincount(nearest, minlength=3).double() / n
    assert ((share - WEIGHTS).abs() / error).max() > 4.5


def test_a_flow_without_knowledge_of_the_atoms_misses_them():
    plan = Multistep("angle", order=2).plan(VE, grid.karras(VE, 60, sigma_max=40.0, sigma_min=2e-3))
    end = plan.run(gaussian16(VE), draw(50, 16, scale=40.0, seed=7))
    assert torch.cdist(end, draw(8, 16, seed=5)).min() > 0.5


@pytest.mark.parametrize("dof", DOFS)
def test_log_weights_are_stable_and_no_noise_means_the_nearest_atom(dof):
    oracle = oracle_of(dof)
    for t in (1.0, 1e-3, 1e-12):
        for scale in (1e-8, 1.0, 1e8):
            x = draw(5, 4, scale=scale, seed=1)
            assert oracle(x, t).isfinite().all()
    x = draw(5, 4, seed=1)
    nearest = torch.cdist(x, oracle.atoms).argmin(1)
    assert torch.equal(oracle(x, 0.0), oracle.atoms[nearest])
    assert torch.equal(oracle(oracle.atoms, 0.0), oracle.atoms)


@pytest.mark.parametrize("dof", DOFS)
def test_posterior_samples_are_atoms_in_the_posterior_proportions(dof):
    oracle, n = oracle_of(dof), 8000
    t = float(VE.time_at_sigma_hat(2.0))
    x = draw(1, 4, seed=1)
    drawn = oracle.posterior_sample(x.expand(n, 4), t, rng=Rng(0, range(n)))
    distance, nearest = torch.cdist(drawn, oracle.atoms).min(1)
    assert distance.max() == 0.0
    share = oracle.responsibilities(x, t)[0]
    error = (share * (1.0 - share) / n).sqrt()
    found = torch.bincount(nearest, minlength=3).double() / n
    assert ((found - share).abs() / error).max() < 4.5
    assert ((found - WEIGHTS).abs() / error).max() > 4.5, "the prior would have passed"


def test_shapes_and_what_is_refused():
    images = DiracMixtureOracle(Path.rectified(), draw(5, 1, 3, 3))
    assert images(draw(2, 1, 3, 3), 0.5).shape == (2, 1, 3, 3)
    assert images.score(draw(2, 1, 3, 3), 0.5).shape == (2, 1, 3, 3)
    assert isinstance(images, Oracle)
    assert images(draw(2, 9), 1.0)[0] == pytest.approx(images.atoms.mean(0)), "no signal, no news"
    with pytest.raises(ValueError, match="positive finite degrees of freedom"):
        DiracMixtureOracle(VE, atoms(), dof=0.0)
    with pytest.raises(ValueError, match="must be positive"):
        DiracMixtureOracle(VE, atoms(), weights=0.0 * WEIGHTS)
    with pytest.raises(ValueError, match="no density at t=0"):
        images.log_density(draw(2, 9), 0.0)
    assert math.isfinite(images.log_density(draw(2, 9), 0.1).sum().item())
