"""Features: deterministic, frozen but differentiable, and able to see spoilt pictures."""

import pytest
import torch
from torch import nn

from medsci.core.denoise.denoiser import Denoiser
from medsci.core.process.path import Path
from medsci.metrics.distribution import feature_energy
from medsci.nets import UNet2dConfig, build_network
from medsci.nets.features import DenoiserFeatures, RandomFeatures

SMALL = UNet2dConfig(channels=(32, 64), res_blocks=(1, 1))


def denoiser(seed=0):
    return Denoiser(build_network(SMALL, seed=seed), path=Path.vp_cosine(), sigma_data=0.3)


def pictures(n, *, seed=0, channels=1, size=32):
    """Discs of random place, size and brightness with sharp edges."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 4, generator=generator)[..., None, None]
    axis = torch.linspace(-1, 1, size)
    x, y = axis[:, None] - 0.6 * (u[:, 0] - 0.5), axis - 0.6 * (u[:, 1] - 0.5)
    disc = (x.square() + y.square()).sqrt() < 0.3 + 0.4 * u[:, 2]
    inner = ((8.0 * x).sin() * (8.0 * y).sin()).sign()
    return (disc * (0.6 + 0.2 * u[:, 3] + 0.1 * inner))[:, None].expand(-1, channels, -1, -1)


def blurred(x):
    return nn.functional.avg_pool2d(x, 5, stride=1, padding=2)


def noisy(x):
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))


BUILDS = {
    "denoiser": lambda: DenoiserFeatures(denoiser(), levels=(0.1, 0.5)),
    "denoiser, noise": lambda: DenoiserFeatures(denoiser(), noise="fixed"),
    "random": RandomFeatures,
}


@pytest.mark.parametrize("name", BUILDS)
def test_they_are_deterministic_and_do_not_depend_on_the_batch(name):
    x, state = pictures(4), torch.get_rng_state()
    first, second = BUILDS[name](), BUILDS[name]()
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    rows = first(x)
    torch.testing.assert_close(first.train()(x), rows, rtol=0, atol=0)
    torch.testing.assert_close(second(x), rows, rtol=0, atol=0)
    torch.testing.assert_close(first(x[2:3]), rows[2:3], rtol=1e-4, atol=1e-5)
    assert rows.ndim == 2
    assert (rows[0] - rows[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", BUILDS)
def test_gradients_reach_the_image_and_no_weight(name):
    features = BUILDS[name]()
    x = pictures(2).clone().requires_grad_()
    maps = features.maps(x)
    sum(m.square().mean() for m in maps).backward()
    assert x.grad.abs().sum() > 0.0
    assert not any(p.requires_grad for p in features.parameters())
    flat = torch.zeros(1, 1, 32, 32, requires_grad=True)
    features(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("spoil", [blurred, noisy])
def test_spoilt_pictures_stand_out_and_others_do_not(name, spoil):
    features = BUILDS[name]()
    real = features(pictures(32, seed=0))
    mean, sd = real.mean(0), real.std(0) + 1e-6
    real, other, worse = (
        ((rows - mean) / sd).double()
        for rows in (real, features(pictures(32, seed=1)), features(spoil(pictures(32, seed=1))))
    )
    same, spoilt = feature_energy(real, other), feature_energy(real, worse)
    assert same.p_value > 0.05
    assert spoilt.p_value < 0.01
    assert spoilt.value > 2.0 * spoilt.level


def test_maps_come_level_by_level_and_are_the_activations():
    net = denoiser()
    features = DenoiserFeatures(net, levels=(0.1, 0.5))
    x = pictures(2, channels=2)
    maps = features.maps(x)
    assert [tuple(m.shape[1:]) for m in maps] == 2 * [(32, 8, 8), (64, 8, 8), (64, 8, 8)]
    kept = []
    handle = net.net.unet.middle_block.register_forward_hook(lambda m, i, o: kept.append(o))
    t = float(net.path.time_at_sigma_hat(0.5))
    net(float(net.path.alpha(t)) * x, t)
    handle.remove()
    torch.testing.assert_close(maps[-1], kept[0])
    assert (maps[2] - maps[5]).abs().max() > 1e-4, "levels differ"


def test_the_network_is_left_alone_and_the_way_up_does_not_run():
    net = denoiser()
    features = DenoiserFeatures(net)
    ran = []
    features.denoiser.net.unet.out.register_forward_hook(lambda m, i, o: ran.append(1))
    features(pictures(1))
    assert not ran
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())
    before = features(pictures(1))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    torch.testing.assert_close(features(pictures(1)), before, rtol=0, atol=0)
    assert sum(len(m._forward_hooks) for m in features.denoiser.modules()) == 1


def test_a_magnitude_is_a_complex_image_without_imaginary_part():
    features, x = DenoiserFeatures(denoiser()), pictures(2)
    full = torch.cat([x, torch.zeros_like(x)], 1)
    torch.testing.assert_close(features(x), features(full), rtol=0, atol=0)
    assert (features(torch.cat([x, x], 1)) - features(x)).abs().max() > 1e-3


def test_random_filters_in_three_dimensions_keep_their_scale():
    features = RandomFeatures(spatial_dims=3, widths=(16, 16, 16))
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = features.maps(x)
    assert [tuple(m.shape) for m in maps] == [(2, 16, n, n, n) for n in (16, 8, 4)]
    assert 0.3 < maps[0].square().mean() < 3.0
    assert (RandomFeatures(seed=1)(pictures(2)) - RandomFeatures()(pictures(2))).abs().max() > 0.01


def test_what_is_refused():
    with pytest.raises(ValueError, match="no layers"):
        DenoiserFeatures(denoiser(), layers=["unet.nothing"])
    with pytest.raises(ValueError, match="name the layers"):
        DenoiserFeatures(Denoiser(nn.Conv2d(1, 1, 3), path=Path.vp_cosine()))
    with pytest.raises(ValueError, match="levels above 0"):
        DenoiserFeatures(denoiser(), levels=())
    with pytest.raises(ValueError, match="pass those only"):
        DenoiserFeatures(denoiser())(pictures(1, channels=3))
    with pytest.raises(ValueError, match="one width per level"):
        RandomFeatures(widths=())
