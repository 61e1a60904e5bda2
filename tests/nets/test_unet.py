"""The U-Net: any size, zero at the start, padding that only adds what it must."""

import pytest
import torch
from pydantic import ValidationError

from medsci.nets import UNet2d, UNet2dConfig, build_network

SMALL = UNet2dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=8)


def awake(config, seed=0):
    """Build a network whose last layer is not zero."""
    network = build_network(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 19), (13, 21), (3, 5), (1, 1), (8, 40)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_size_goes_through(size, factor):
    network = awake(SMALL.model_copy(update={"stem_factor": factor}))
    x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1))
    out = network(x, torch.tensor([1.0, 900.0]))
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 1e-3


def test_an_untrained_network_returns_zero_and_a_touched_one_does_not():
    x = torch.randn(1, 2, 16, 16)
    code = torch.tensor([300.0])
    assert not build_network(SMALL)(x, code).any()
    assert awake(SMALL)(x, code).any()


def test_padding_is_the_reflection_a_caller_would_write():
    network = awake(SMALL)
    x = torch.randn(1, 2, 14, 15, generator=torch.Generator().manual_seed(2))
    code = torch.tensor([100.0])
    by_hand = torch.nn.functional.pad(x, (0, 1, 0, 2), mode="reflect")
    expected = network(by_hand, code)[..., :14, :15]
    torch.testing.assert_close(network(x, code), expected, rtol=0, atol=0)
    zeros = torch.nn.functional.pad(x, (0, 1, 0, 2))
    assert (network(zeros, code)[..., :14, :15] - expected).abs().max() > 1e-4


def test_an_image_of_fitting_size_is_not_padded_and_shifts_with_its_content():
    """A shift by the network's multiple moves the output with it, away from the border."""
    config = UNet2dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=8, head_channels=32)
    network = awake(config)
    for module in network.modules():  # attention and normalisation see the whole image
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = torch.nn.Identity().forward
        if type(module).__name__ == "SpatialAttentionBlock":
            module.forward = torch.nn.Identity().forward
    step = config.multiple
    network.double()
    x = torch.zeros(1, 2, 96, 96, dtype=torch.float64)
    x[..., 44:48, 44:48] = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    code = torch.tensor([10.0], dtype=torch.float64)
    moved = network(x.roll(step, -1), code)
    inner = (slice(None), slice(None), slice(40, 56), slice(40, 56))
    torch.testing.assert_close(
        moved[inner], network(x, code).roll(step, -1)[inner], rtol=1e-5, atol=1e-6
    )
    other = network(x.roll(1, -1), code)
    assert (other[inner] - network(x, code).roll(1, -1)[inner]).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_mix():
    network = awake(SMALL)
    x = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(4))
    code = torch.tensor([5.0, 400.0, 800.0])
    alone = torch.cat([network(x[i : i + 1], code[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, code), alone, rtol=1e-4, atol=1e-5)
    swapped = network(x, code.flip(0))
    assert (swapped - alone)[0].abs().max() > 1e-4  # the time is heard


def test_the_seed_draws_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (build_network(SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    name = "unet.conv_in.conv.weight"
    assert torch.equal(first.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_the_shipped_shape_fits_eight_megabytes_as_float16():
    network = UNet2d(UNet2dConfig())
    n_parameters = sum(p.numel() for p in network.parameters())
    assert 2 * n_parameters < 8e6
    assert UNet2dConfig().multiple == 16


def test_autocast_stays_close_to_float32():
    network = awake(SMALL)
    x = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(5))
    code = torch.tensor([10.0, 700.0])
    exact = network(x, code)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, code).float()
    error = (rough - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.05


def test_attention_can_be_asked_for_in_any_level():
    plain = build_network(SMALL)
    more = build_network(
        UNet2dConfig(channels=(32, 32), res_blocks=(1, 1), norm_groups=8, attention_levels=(0,))
    )
    count = [
        sum(type(m).__name__ == "SpatialAttentionBlock" for m in network.modules())
        for network in (plain, more)
    ]
    assert count[1] > count[0] == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": (16, 32), "res_blocks": (1,)}, "one per level"),
        ({"channels": (20, 32), "res_blocks": (1, 1)}, "norm_groups"),
        ({"channels": (16, 48), "res_blocks": (1, 1)}, "head_channels"),
        ({"attention_levels": (7,)}, "attention_levels"),
        ({"head_channels": 8}, "greater than or equal to 32"),
        ({"depth": 3}, "Extra inputs"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        UNet2dConfig(**fields)
