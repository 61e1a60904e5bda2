"""The U-Net of guided diffusion against a forward pass written from the published names alone."""

import pytest
import torch
from nets.adm_names import SMALL, Published, drawn, published_names

from medsci.models.key_maps import from_guided_diffusion, infer_adm
from medsci.nets.config import AdmConfig
from medsci.nets.unet import build_network

VARIANTS = {
    "published": {},
    "new order": {"qkv_order": "new"},
    "convolutions, no scale, one sigma": {
        "resample_blocks": False, "scale_shift": False, "learned_sigma": False,
    },
    "classes": {"n_labels": 5, "res_blocks": 1},
    "four heads": {"n_heads": 4, "in_channels": 1, "out_channels": 1},
}  # fmt: skip


def small(fields):
    return AdmConfig.model_validate({**SMALL.model_dump(), **fields})


def ours(config, state):
    network = build_network(config).eval()
    renamed = {from_guided_diffusion(k, res_blocks=config.res_blocks): v for k, v in state.items()}
    network.load_state_dict(renamed)
    return network


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_published_weights_give_the_published_function(fields):
    config = small(fields)
    state = drawn(published_names(config))
    x = torch.randn(2, config.in_channels, 8, 12, generator=torch.Generator().manual_seed(1))
    row = torch.tensor([7.0, 640.0])
    label = torch.tensor([4, 1]) if config.n_labels else None
    expected = Published(state, config)(x, row, label)
    got = ours(config, state)(x, row, label=label)
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-4)
    assert expected.std() > 0.05


def test_swapped_query_and_key_give_another_function():
    """The control: a map that mixes up q and k fits every shape and fails here."""
    state = drawn(published_names(SMALL))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    row = torch.tensor([300.0])
    right = ours(SMALL, state)(x, row)

    def swapped(value):
        heads = value.reshape(-1, 3, SMALL.head_channels, *value.shape[1:])
        return heads[:, [1, 0, 2]].reshape(value.shape)

    wrong = {k: swapped(v) if ".qkv." in k else v for k, v in state.items()}
    expected = Published(state, SMALL)(x, row)
    torch.testing.assert_close(right, expected, rtol=2e-4, atol=2e-4)
    assert (ours(SMALL, wrong)(x, row) - expected).norm() > 1e-2 * expected.norm()
    other = ours(small({"qkv_order": "new"}), state)(x, row)
    assert (other - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_shapes_tell_the_network(fields):
    config = small(fields)
    state = {k: torch.empty(shape) for k, shape in published_names(config).items()}
    given = {
        k: getattr(config, k) for k in ("head_channels", "n_heads", "qkv_order", "norm_groups")
    }
    assert AdmConfig.model_validate({**infer_adm(state), **given}) == config


def test_every_published_name_has_one_place_and_no_place_is_left():
    for fields in VARIANTS.values():
        config = small(fields)
        names = published_names(config)
        mapped = [from_guided_diffusion(name, res_blocks=config.res_blocks) for name in names]
        network = {k: tuple(v.shape) for k, v in build_network(config).state_dict().items()}
        assert dict(zip(mapped, names.values(), strict=True)) == network


@pytest.mark.parametrize(
    "name",
    ["decoder.0.weight", "input_blocks.1.2.norm.weight", "out.5.bias", "middle_block.3.qkv.bias",
     "output_blocks.0.0.mystery.weight", "input_blocks.3.1.qkv.weight"],
)  # fmt: skip
def test_a_name_that_was_never_published_has_no_place(name):
    assert from_guided_diffusion(name, res_blocks=2) is None


def test_untrained_it_returns_zero_at_any_size_and_dropout_sleeps_in_evaluation():
    network = build_network(small({"dropout": 0.3})).eval()
    x = torch.randn(1, 3, 7, 9)
    assert network(x, torch.tensor([3.0])).shape == x.shape
    assert not network(x, torch.tensor([3.0])).any()


def test_a_label_is_asked_for_and_none_has_a_row_only_if_trained_so():
    network = build_network(small({"n_labels": 3}))
    x, row = torch.zeros(2, 3, 4, 4), torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="needs label="):
        network(x, row)
    with pytest.raises(ValueError, match="has none"):
        build_network(SMALL)(x, row, label=torch.tensor([0, 0]))
    free = build_network(small({"n_labels": 3, "null_label": True}))
    assert torch.equal(free(x, row), free(x, row, label=torch.tensor([3, 3])))


@pytest.mark.slow
def test_it_agrees_with_the_same_network_of_a_peer():
    """Weights of the peer, renamed by its rule of naming, give the peer's output."""
    diffusers = pytest.importorskip("diffusers")
    config = small({"resample_blocks": True, "learned_sigma": False, "qkv_order": "new",
                    "attention_levels": (1,), "res_blocks": 1, "channels": (16, 32)})  # fmt: skip
    torch.manual_seed(0)
    peer = diffusers.UNet2DModel(
        in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
        attention_head_dim=8, norm_num_groups=8, attn_norm_num_groups=8, norm_eps=1e-5,
        freq_shift=0, flip_sin_to_cos=True,
    ).eval()  # fmt: skip
    theirs = peer.state_dict()
    state = _named_as_published(theirs)
    x = torch.randn(2, 3, 8, 8)
    row = torch.tensor([5.0, 700.0])
    with torch.no_grad():
        expected = peer(x, row).sample
        torch.testing.assert_close(ours(config, state)(x, row), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


def _named_as_published(theirs):
    res = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
           "norm2": "out_layers.0", "conv2": "out_layers.3",
           "conv_shortcut": "skip_connection"}  # fmt: skip
    down, mid, up = "input_blocks", "middle_block", "output_blocks"
    homes = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": f"{down}.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    blocks = {
        "down_blocks.0.resnets.0": f"{down}.1.0", "down_blocks.0.downsamplers.0": f"{down}.2.0",
        "down_blocks.1.resnets.0": f"{down}.3.0", "mid_block.resnets.0": f"{mid}.0",
        "mid_block.resnets.1": f"{mid}.2", "up_blocks.0.resnets.0": f"{up}.0.0",
        "up_blocks.0.resnets.1": f"{up}.1.0", "up_blocks.0.upsamplers.0": f"{up}.1.2",
        "up_blocks.1.resnets.0": f"{up}.2.0", "up_blocks.1.resnets.1": f"{up}.3.0",
    }  # fmt: skip
    attentions = {
        "down_blocks.1.attentions.0": f"{down}.3.1", "mid_block.attentions.0": f"{mid}.1",
        "up_blocks.0.attentions.0": f"{up}.0.1", "up_blocks.0.attentions.1": f"{up}.1.1",
    }  # fmt: skip
    state = {}
    for end in ("weight", "bias"):
        state |= {f"{new}.{end}": theirs[f"{old}.{end}"] for old, new in homes.items()}
        for old, new in blocks.items():
            state |= {f"{new}.{b}.{end}": theirs[f"{old}.{a}.{end}"] for a, b in res.items()
                      if f"{old}.{a}.{end}" in theirs}  # fmt: skip
        for old, new in attentions.items():
            state[f"{new}.norm.{end}"] = theirs[f"{old}.group_norm.{end}"]
            qkv = torch.cat([theirs[f"{old}.to_{p}.{end}"] for p in "qkv"])
            out = theirs[f"{old}.to_out.0.{end}"]
            state[f"{new}.qkv.{end}"] = qkv[..., None] if end == "weight" else qkv
            state[f"{new}.proj_out.{end}"] = out[..., None] if end == "weight" else out
    return state
