"""Latents: heard by every sample alone, refused where there are none, and absent by default."""

import pytest
import torch

from medsci.models.config import ModelConfig, VpLinearConfig
from medsci.nets import MlpConfig, UNet2dConfig, UNet3dConfig, build_network

SMALL = {"channels": (8, 32), "res_blocks": (1, 1), "norm_groups": 8, "stem_factor": 2}
KINDS = {
    "unet_2d": (UNet2dConfig, SMALL, (2, 8, 9)),
    "unet_3d": (UNet3dConfig, SMALL, (1, 4, 6, 5)),
    "mlp": (MlpConfig, {"width": 16}, (2,)),
}


def config_of(kind, **fields):
    config, own, _ = KINDS[kind]
    return config(**own, **fields)


def awake(config):
    """Build a network whose last layer is not zero."""
    network = build_network(config, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(kind, n=3, n_latent=5):
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(n, *KINDS[kind][2], generator=draw)
    return x, torch.linspace(10.0, 900.0, n), torch.randn(n, n_latent, generator=draw)


@pytest.mark.parametrize("n_labels", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_is_heard_by_its_own_sample_alone(kind, n_labels):
    network = awake(config_of(kind, latent_dim=5, n_labels=n_labels))
    x, code, latent = inputs(kind)
    whole = network(x, code, latent=latent)
    assert torch.equal(whole, network(x, code, latent=latent)), "it draws nothing itself"
    other = latent.clone()
    other[1] += 1.0
    changed = (network(x, code, latent=other) - whole).abs().flatten(1).amax(1)
    assert changed[1] > 1e-3
    assert changed[[0, 2]].max() < 1e-5
    whole.square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in silent if "latent" in name]
    if n_labels:
        named = network(x, code, latent=latent, label=torch.tensor([0, 1, 2]))
        assert (named - whole).abs().flatten(1).amax(1)[:2].min() > 1e-4
        torch.testing.assert_close(named[2], whole[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_latent_the_network_and_its_weights_are_what_they_were(kind):
    plain, drawing = (build_network(config_of(kind, latent_dim=n), seed=7) for n in (0, 5))
    assert not [name for name in plain.state_dict() if "latent" in name]
    assert not [name for name in plain.state_dict() if "class_embedding" in name]
    states = drawing.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, states[name]), name
    assert len(states) == len(plain.state_dict()) + 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_that_does_not_fit_is_refused(kind):
    x, code, latent = inputs(kind)
    with pytest.raises(ValueError, match="latent_dim is 0"):
        build_network(config_of(kind))(x, code, latent=latent)
    drawing = build_network(config_of(kind, latent_dim=5))
    with pytest.raises(ValueError, match=r"no latent came.*\(3, 5\)"):
        drawing(x, code)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) came"):
        drawing(x, code, latent=latent[:, :4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_configuration_keeps_it_and_an_older_one_has_none(kind):
    stored = ModelConfig(name="drawn", network=config_of(kind, latent_dim=5), path=VpLinearConfig())
    again = ModelConfig.model_validate_json(stored.model_dump_json())
    assert again == stored
    assert again.network.latent_dim == 5
    older = stored.model_dump(mode="json")
    del older["network"]["latent_dim"]
    assert ModelConfig.model_validate(older).network.latent_dim == 0
