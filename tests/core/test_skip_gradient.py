"""Skip-gradient guidance: what it reaches, at any resolution, and what it leaves alone."""

import pytest
import torch
from contracts.core import DOUBLE, assert_batch_invariant, draw
from contracts.guard import NoSync

from medsci.core.check import GaussianOracle
from medsci.core.process import Path
from medsci.core.solve import Ancestral, Multistep, Rng, grid
from medsci.core.steer.skip_gradient import SkipGradient, loss_gradient

RF = Path.rectified()
EULER = Multistep("v", "ratio", order=1)


def squares(y, *, weight=0.5):
    return lambda x0: weight * (x0 - y).abs().square().flatten(1).sum(1)


def inpainting(n, scale, **options):
    """Guide 16 correlated Gaussian numbers by 4 of them; everything is linear, so it is exact.

    Returns the rms residual of the measured ones, the largest bias of the others' mean, and the
    range of their spread in posterior standard deviations.
    """
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=DOUBLE))
    covariance = turn @ torch.diag(1.0 / torch.arange(1, 17, dtype=DOUBLE)) @ turn.T
    mean = torch.randn(16, generator=generator, dtype=DOUBLE)
    oracle = GaussianOracle.from_covariance(RF, mean, covariance=covariance)
    y = (mean + torch.linalg.cholesky(covariance) @ draw(16, seed=5))[:4]
    gain = covariance[4:, :4] @ torch.linalg.inv(covariance[:4, :4])
    expected = mean[4:] + gain @ (y - mean[:4])
    spread = (covariance[4:, 4:] - gain @ covariance[:4, 4:]).diagonal().sqrt()
    hook = SkipGradient(lambda x0: 0.5 * (x0[:, :4] - y).square().sum(1), scale, **options)
    # the walk is affine: its value at 0 is the mean, its values at the unit vectors the factor
    start = torch.cat([torch.zeros(1, 16, dtype=DOUBLE), torch.eye(16, dtype=DOUBLE)])
    end = EULER.plan(RF, grid.uniform(n)).run(oracle, start, hooks=[hook])
    centre, factor = end[0], end[1:] - end[0]
    found = factor.square().sum(0).sqrt()
    residual = ((centre[:4] - y).square() + found[:4] ** 2).mean().sqrt().item()
    ratio = found[4:] / spread
    bias = (centre[4:] - expected).abs().max().item()
    return residual, bias, ratio.min().item(), ratio.max().item()


def test_inpainting_of_a_gaussian():
    """Residuals .19 / .03 / .006 at scales .1 / .5 / 1 and 20 steps, 5e-3 bias, spread .91-.94."""
    found = [inpainting(20, scale) for scale in (0.1, 0.5, 1.0)]
    assert [f[0] for f in found] == pytest.approx([0.193, 0.031, 0.006], rel=0.1)
    assert found[2][1] < 0.01
    assert 0.90 < found[2][2] < found[2][3] < 0.97
    fine = [inpainting(100, scale) for scale in (0.5, 1.0)]
    assert all(f[0] < 1e-3 for f in fine)
    assert all(0.97 < f[2] < f[3] < 1.02 for f in fine)
    # the controls: a scale too small for the steps, and one beyond the stable range
    assert inpainting(20, 0.01)[0] > 0.4
    assert inpainting(100, 4.0)[0] > 10.0


def test_the_last_step_ties_the_result_to_the_data():
    assert inpainting(20, 1.0, skip_last=False)[0] < 1e-12
    assert inpainting(20, 1.0)[0] > 1e-3


def per_pixel(size, **options):
    """Inpaint images whose pixels are independent and all alike; return one measured pixel."""
    oracle = GaussianOracle(
        RF, torch.zeros(size * size, dtype=DOUBLE), variances=torch.ones(size * size, dtype=DOUBLE)
    )
    mask = (torch.arange(size * size).reshape(size, size) % 2).to(DOUBLE)
    start = draw(1, 1, 1, 1).expand(1, 1, size, size)
    hook = SkipGradient(lambda x0: ((x0 - 0.7) * mask).square().flatten(1).sum(1), **options)
    end = EULER.plan(RF, grid.uniform(20)).run(oracle, start, hooks=[hook])
    return end[..., 0, 1]


def test_the_scale_does_not_depend_on_the_resolution():
    small, large = per_pixel(8, scale=0.2), per_pixel(64, scale=0.2)
    torch.testing.assert_close(small, large, rtol=1e-12, atol=1e-12)
    assert (small - 0.7).abs().max() < 0.1
    # the control: the published mean over pixels
    small, large = (per_pixel(n, scale=0.2 * 64, reduce="mean") for n in (8, 64))
    torch.testing.assert_close(small, per_pixel(8, scale=0.2), rtol=1e-12, atol=1e-12)
    assert (large - 0.7).abs().max() > 5 * (small - 0.7).abs().max()


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
def test_the_curvature_makes_the_scale_a_number(size):
    """|A x - y|^2 with |A| of any size: the same walk, and the stable range ends at 2."""
    x, y = draw(3, 6), draw(6, seed=4)
    plan = EULER.plan(RF, grid.uniform(30))

    def end(scale):
        loss = squares(size * y, weight=1.0)
        hook = SkipGradient(lambda x0: loss(size * x0), scale, curvature=2.0 * size**2)
        return plan.run(lambda x, t: x * (1 - t), x, hooks=[hook])

    torch.testing.assert_close(
        end(0.8), plan.run(lambda x, t: x * (1 - t), x, hooks=[SkipGradient(squares(y), 0.8)])
    )
    assert (end(1.0) - y).abs().max() < 0.1
    assert (end(5.0) - y).abs().max() > 1e2


def test_x_and_x0_move_by_the_same_vector():
    """The velocity of the rectified flow survives, so no direction is forgotten."""
    seen = []
    plan = Multistep("v", "ratio", order=2).plan(RF, grid.uniform(4))
    y = draw(3, seed=2)
    hook = SkipGradient(squares(y), 0.3)
    original = hook.denoised

    def spy(state):
        before = state.x.clone(), state.x0.clone()
        original(state)
        seen.append((state.x - before[0], state.x0 - before[1], before[1], state.reset))

    hook.denoised = spy
    plan.run(lambda x, t: torch.tanh(x), draw(2, 3), hooks=[hook])
    for moved, moved0, x0, reset in seen[:-1]:
        torch.testing.assert_close(moved, -0.3 * (x0 - y))
        torch.testing.assert_close(moved, moved0)
        assert not reset
    assert not seen[-1][0].any()  # the last step is left alone


def test_until_ends_the_guidance():
    y, x = draw(3, seed=2), draw(2, 3)
    plan = EULER.plan(RF, grid.uniform(10))

    def end(**options):
        return plan.run(lambda x, t: torch.tanh(x), x, hooks=[SkipGradient(squares(y), **options)])

    free = plan.run(lambda x, t: torch.tanh(x), x)
    early = plan.run(
        lambda x, t: torch.tanh(x), x, stop=5, hooks=[SkipGradient(squares(y), scale=0.3)]
    )
    assert torch.equal(
        end(scale=0.3, until=0.55), plan.run(lambda x, t: torch.tanh(x), early, start=5)
    )
    assert torch.equal(end(scale=0.3, until=1.0), free)
    assert not torch.equal(end(scale=0.3), free)


def test_the_network_is_not_differentiated():
    def denoise(x, t):
        assert not torch.is_grad_enabled()
        return torch.tanh(x)

    with NoSync():
        EULER.plan(RF, grid.uniform(3)).run(
            denoise, draw(2, 3), hooks=[SkipGradient(squares(0.5), 0.3)]
        )


def test_complex_states_descend():
    """The gradient is d/dRe + i d/dIm: a full step reaches a complex target."""
    x0, y = draw(2, 4, dtype=torch.complex128), draw(4, seed=3, dtype=torch.complex128)
    torch.testing.assert_close(loss_gradient(squares(y), x0), x0 - y)
    pair = torch.view_as_real(x0)
    loss = squares(torch.view_as_real(y))
    torch.testing.assert_close(
        torch.view_as_real(loss_gradient(squares(y), x0)), loss_gradient(loss, pair)
    )


def test_samples_do_not_mix():
    plan = Ancestral(1.0).plan(RF, grid.uniform(8))
    hook = SkipGradient(squares(0.3), 0.2)

    def run(ids):
        rng = Rng(0, ids)
        x = rng.normal((len(ids), 2, 5), step=-1)
        return plan.run(lambda x, t: torch.tanh(x), x, rng=rng, hooks=[hook])

    assert_batch_invariant(run)


def test_says_what_is_wrong():
    plan = EULER.plan(RF, grid.uniform(3))
    for loss, words in (
        (lambda x0: x0.square().sum(), "one real number per sample"),
        (lambda x0: x0.square(), "one real number per sample"),
        (lambda x0: x0.detach().square().sum(1), "no gradient"),
    ):
        with pytest.raises(ValueError, match=words):
            plan.run(lambda x, t: x * 0.5, draw(2, 3), hooks=[SkipGradient(loss, 0.1)])
    with pytest.raises(ValueError, match="positive curvature"):
        SkipGradient(squares(0.0), 0.1, curvature=0.0)
    with pytest.raises(ValueError, match="time in"):
        SkipGradient(squares(0.0), 0.1, until=2.0)
