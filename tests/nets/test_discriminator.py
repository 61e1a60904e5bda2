"""Discriminators: shapes, no dependence on the batch, and pairs that can be told apart."""

import pytest
import torch
from torch import nn

from medsci.nets.discriminator import ConvDiscriminator, MlpDiscriminator, _fold


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "vector": (lambda: MlpDiscriminator(5, context_dim=3), (5,)),
    "2d": (lambda: ConvDiscriminator(in_channels=2, channels=(16, 32), context_dim=3), (2, 9, 12)),
    "2d stem": (
        lambda: ConvDiscriminator(channels=(16, 24), stem_factor=2, context_dim=3),
        (1, 12, 8),
    ),
    "3d": (
        lambda: ConvDiscriminator(spatial_dims=3, channels=(8, 16), stem_factor=2, context_dim=3),
        (1, 6, 4, 8),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_verdict_each_that_depends_on_all_it_sees_and_on_no_neighbour(case):
    build, shape = CASES[case]
    net = seeded(build)
    x_s, x_t, context = draw(3, *shape), draw(3, *shape, seed=1), draw(3, 3, seed=2)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    verdict = net(x_s, x_t, t, context=context)
    assert verdict.shape == (3,)
    for changed in (
        net(x_s + 0.1, x_t, t, context=context),
        net(x_s, x_t + 0.1, t, context=context),
        net(x_s, x_t, t - 0.1, context=context),
        net(x_s, x_t, t, context=context + 1.0),
    ):
        assert (changed - verdict).abs().min() > 1e-6
    alone = net(x_s[1:2], x_t[1:2], t[1:2], context=context[1:2])
    torch.testing.assert_close(alone, verdict[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_slope_of_the_verdict_has_a_gradient(case):
    """The penalty on real pairs differentiates twice."""
    build, shape = CASES[case]
    net = seeded(build)
    x_s = draw(2, *shape).requires_grad_()
    verdict = net(x_s, draw(2, *shape, seed=1), torch.ones(2), context=draw(2, 3))
    (slope,) = torch.autograd.grad(verdict.sum(), x_s, create_graph=True)
    slope.square().sum().backward()
    assert sum(p.grad.abs().sum() for p in net.parameters() if p.grad is not None) > 0.0


@pytest.mark.parametrize("related", [True, False])
def test_it_learns_to_see_whether_two_images_belong_together(related):
    """Real pairs share their picture. If the fake ones do too, there is nothing to be learnt."""
    net = seeded(lambda: ConvDiscriminator(channels=(16, 24)))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator, t = torch.Generator().manual_seed(0), torch.full((32,), 0.5)

    def batch():
        x = torch.randn(32, 1, 8, 8, generator=generator)
        y, z = (x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(2))
        return (x, y), (x, z) if related else (x.roll(1, 0), y)

    found = []
    for _ in range(60):
        real, fake = (net(*pair, t) for pair in batch())
        found.append(((real > 0).float().mean() + (fake < 0).float().mean()).item() / 2.0)
        loss = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = sum(found[-10:]) / 10.0
    assert (right < 0.6) if related else (right > 0.8)


def test_folding_moves_pixels_and_loses_none():
    x = draw(2, 3, 8, 6)
    torch.testing.assert_close(_fold(x, 2), nn.functional.pixel_unshuffle(x, 2), rtol=0, atol=0)
    y = draw(1, 1, 4, 4, 2)
    folded = _fold(y, 2)
    assert folded.shape == (1, 8, 2, 2, 1)
    torch.testing.assert_close(folded[0, 0b101, 1, 0, 0], y[0, 0, 3, 0, 1], rtol=0, atol=0)


def test_what_is_refused():
    net = ConvDiscriminator(stem_factor=4, channels=(8,))
    t = torch.ones(1)
    with pytest.raises(ValueError, match="multiples of stem_factor=4"):
        net(draw(1, 1, 8, 6), draw(1, 1, 8, 6), t)
    with pytest.raises(ValueError, match="takes 1 channels and 2 dimensions"):
        net(draw(1, 2, 8, 8), draw(1, 2, 8, 8), t)
    with pytest.raises(ValueError, match="context_dim"):
        net(draw(1, 1, 8, 8), draw(1, 1, 8, 8), t, context=draw(1, 2))
    with pytest.raises(ValueError, match="give 2 or 3"):
        ConvDiscriminator(spatial_dims=4)
