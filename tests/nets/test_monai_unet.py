"""MONAI's network as published models use it, and the small network for vectors."""

import warnings

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from medsci.nets.config import MlpConfig, MonaiUNetConfig, NetworkConfig, UNet2dConfig
from medsci.nets.unet import build_network

FLAT = MonaiUNetConfig(
    spatial_dims=2, channels=(8, 16), res_blocks=(1, 2), attention_levels=(1,), head_channels=4,
    norm_groups=4,
)  # fmt: skip


def monai(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    torch.manual_seed(3)
    network = DiffusionModelUNet(**settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def test_the_published_head_generator_has_its_weights():
    """41,245,217 numbers in 394 tensors, counted without making them."""
    with torch.device("meta"):
        from medsci.nets.monai_unet import MonaiUNet

        network = MonaiUNetConfig()
        state = MonaiUNet(network).state_dict()
    assert sum(value.numel() for value in state.values()) == 41_245_217
    assert len(state) == 394
    assert network.multiple == 16


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"resample_blocks": True}, {"resblock_updown": True}),
        ({"combined_qkv": True}, {"use_combined_linear": True}),
        ({"projection_after_attention": False}, {"include_fc": False}),
        ({"norm_eps": 1e-3}, {"norm_eps": 1e-3}),
        ({"n_labels": 4}, {"num_class_embeds": 4}),
        ({"n_labels": 4, "null_label": True}, {"num_class_embeds": 5}),
        ({"context_channels": 6}, {"with_conditioning": True, "cross_attention_dim": 6}),
        ({"head_channels": (4, 8)}, {"num_head_channels": (4, 8)}),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
def test_it_is_the_network_of_monai_with_its_plain_attention(fields, settings):
    config = MonaiUNetConfig.model_validate({**FLAT.model_dump(), **fields})
    given = {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (8, 16),
        "num_res_blocks": (1, 2), "attention_levels": (False, True), "num_head_channels": 4,
        "norm_num_groups": 4,
    }  # fmt: skip
    theirs = monai(**{**given, **settings})
    network = build_network(config).eval()
    network.unet.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 8, 12, generator=generator)
    code = torch.tensor([3.0, 640.0])
    own, their = {}, {}
    if config.n_labels:
        own["label"] = their["class_labels"] = torch.tensor([1, 3])
    if config.context_channels:
        own["context"] = their["context"] = torch.randn(2, 5, 6, generator=generator)
    expected = theirs(x, code, **their)
    torch.testing.assert_close(network(x, code, **own), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01
    assert network(x[..., :7, :], code, **own).shape == (2, 1, 7, 12)


def test_conditions_come_exactly_where_they_belong():
    x, code = torch.zeros(1, 1, 4, 4), torch.tensor([3.0])
    context = torch.zeros(1, 2, 6)
    with pytest.raises(ValueError, match="has none"):
        build_network(FLAT)(x, code, context=context)
    needs = build_network(FLAT.model_copy(update={"context_channels": 6}))
    with pytest.raises(ValueError, match="none came"):
        needs(x, code)
    with pytest.raises(ValueError, match="needs label="):
        build_network(FLAT.model_copy(update={"n_labels": 2}))(x, code)


def test_the_small_network_hears_time_and_label_and_starts_at_zero():
    network = build_network(MlpConfig(in_channels=3, out_channels=2, n_labels=2))
    x, code = torch.randn(4, 3), torch.tensor([1.0, 10.0, 100.0, 1000.0])
    assert network(x, code).shape == (4, 2)
    assert not network(x, code).any()
    with torch.no_grad():
        network.last.weight.normal_()
    assert torch.equal(network(x, code), network(x, code, label=torch.full((4,), 2)))
    assert (network(x, code) - network(x, code, label=torch.zeros(4).long())).norm() > 1e-2
    assert (network(x, code) - network(x, code.flip(0))).norm() > 1e-2


def test_the_small_network_learns_what_a_line_cannot():
    """Of y = |x| a straight line leaves a residual of 1/48 on (-1, 1); the network less."""
    network = build_network(MlpConfig(in_channels=1, out_channels=1, width=16, n_layers=2))
    x = torch.linspace(-1, 1, 64)[:, None]
    code = torch.zeros(64)
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = (network(x, code) - x.abs()).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert closure() < 2e-3 < 1 / 48


KINDS = TypeAdapter(NetworkConfig)


@pytest.mark.parametrize("kind", ["unet_2d", "unet_3d", "monai_unet", "adm", "mlp"])
def test_every_kind_is_read_back_and_says_what_it_takes(kind):
    config = KINDS.validate_python({"kind": kind})
    assert KINDS.validate_json(config.model_dump_json()) == config
    assert config.kind == kind
    assert config.multiple >= 1
    assert config.n_labels == 0
    assert config.in_channels > 0
    assert config.spatial_dims in (0, 2, 3)


def test_without_a_kind_it_is_the_first_network_there_was():
    assert KINDS.validate_python({"stem_factor": 4}) == UNet2dConfig(stem_factor=4)
    with pytest.raises(ValidationError, match="unet_7d"):
        KINDS.validate_python({"kind": "unet_7d"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": (8, 18)}, "norm_groups"),
        ({"head_channels": (4,)}, "one per level"),
        ({"head_channels": 5}, "multiple of head_channels"),
        ({"attention_levels": (9,)}, "attention_levels"),
        ({"spatial_dims": 4}, "spatial_dims"),
    ],
)
def test_a_network_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        MonaiUNetConfig.model_validate({**FLAT.model_dump(), **fields})
