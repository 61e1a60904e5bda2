"""The 3D U-Net and its space-to-depth stem."""

import pytest
import torch
from pydantic import ValidationError

from medsci.nets.config import UNet2dConfig, UNet3dConfig
from medsci.nets.space import depth_to_space, pad_to_multiple, space_to_depth
from medsci.nets.unet import build_network

SMALL = UNet3dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=8, n_labels=3)


def awake(config, seed=0):
    """Build a network whose zero layers are drawn."""
    network = build_network(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def volume(*size, n=2):
    return torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_space_to_depth_gathers_cubes_and_is_undone(factor):
    x = torch.randn(2, 3, 6, 12, 6)
    folded = space_to_depth(x, factor)
    assert torch.equal(depth_to_space(folded, factor), x)
    cube = x[1, 2, factor : 2 * factor, :factor, :factor].flatten()
    assert torch.equal(folded[1, 2 * factor**3 :, 1, 0, 0], cube)


def test_one_flat_axis_is_what_torch_does_in_two_dimensions():
    x = torch.randn(1, 2, 4, 8, 6)
    flat = torch.nn.functional.pixel_unshuffle(x[:, :, 0], 2)
    both = space_to_depth(x, 2).reshape(1, 2, 2, 4, 2, 4, 3)
    assert torch.equal(both[:, :, 0, :, 0].reshape(1, 8, 4, 3), flat)


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 8, 5), (3, 4, 13), (1, 1, 1)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_size_goes_through(size, factor):
    network = awake(SMALL.model_copy(update={"stem_factor": factor}))
    x = volume(*size)
    out = network(x, torch.tensor([1.0, 900.0]))
    assert out.shape == x.shape
    assert out.std() > 1e-3


def test_padding_is_the_reflection_a_caller_would_write():
    x = torch.arange(5.0).reshape(1, 1, 5)
    assert pad_to_multiple(x, 4).flatten().tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(x[..., :2], 4).flatten().tolist() == [0, 1, 1, 1]
    network, x, code = awake(SMALL), volume(8, 7, 8), torch.tensor([5.0, 50.0])
    by_hand = torch.cat([x, x[..., -2:-1, :]], dim=-2)
    assert torch.equal(network(x, code), network(by_hand, code)[..., :7, :])


@pytest.mark.parametrize("config", [SMALL, UNet2dConfig(channels=(16, 32), res_blocks=(1, 1),
                                                        norm_groups=8, n_labels=3)])  # fmt: skip
def test_labels_change_the_answer_sample_by_sample_and_none_is_the_last(config):
    network = awake(config)
    x = torch.randn(3, config.in_channels, *(8,) * config.spatial_dims)
    code = torch.tensor([5.0, 400.0, 800.0])
    out = network(x, code, label=torch.tensor([0, 3, 2]))
    none = network(x, code)
    torch.testing.assert_close(none, network(x, code, label=torch.tensor([3, 3, 3])))
    changed = (out - none).flatten(1).norm(dim=1)
    assert changed[0] > 1e-3
    assert changed[1] < 1e-5
    assert changed[2] > 1e-3
    plain = build_network(config.model_copy(update={"n_labels": 0}))
    with pytest.raises(ValueError, match="has none"):
        plain(x, code, label=torch.tensor([0, 0, 0]))


def test_a_two_dimensional_network_without_labels_has_the_weights_it_always_had():
    """Labels off: names, shapes and the draw of the seed are those of the network alone."""
    bare = UNet2dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=8)
    with_labels = bare.model_copy(update={"n_labels": 3})
    first, second = (build_network(c, seed=4).state_dict() for c in (bare, with_labels))
    assert set(second) - set(first) == {"unet.class_embedding.weight"}
    assert second["unet.class_embedding.weight"].shape[0] == 4
    assert torch.equal(first["unet.conv_in.conv.weight"], second["unet.conv_in.conv.weight"])


def test_autocast_stays_close_and_attention_remembers_only_positions():
    network, x, code = awake(SMALL), volume(16, 16, 16), torch.tensor([10.0, 700.0])
    exact = network(x, code)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, code).float()
    assert 1e-5 < (rough - exact).norm() / exact.norm() < 0.05
    blocks = [m for m in network.modules() if type(m).__name__ == "SABlock"]
    assert blocks
    assert all(block.use_flash_attention for block in blocks)


def test_the_recipe_of_the_measurements_has_its_size():
    """32^3 behind a stem of 2, widths 64, 128, 128, attention last: 11.7 million weights."""
    config = UNet3dConfig(attention_levels=(2,))
    n_weights = sum(p.numel() for p in build_network(config).parameters())
    assert abs(n_weights / 1e6 - 11.7) < 0.15
    assert (config.multiple, config.spatial_dims) == (8, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": (16, 32), "res_blocks": (1,)}, "one per level"),
        ({"stem_factor": 3}, "stem_factor"),
        ({"n_labels": -1}, "n_labels"),
        ({"kind": "unet_2d"}, "kind"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        UNet3dConfig(**fields)
