"""Gated networks: `shift + gate * input`, so that noise need not pass through the features."""

import pytest
import torch
from pydantic import ValidationError

from medsci.core.denoise import Denoiser
from medsci.core.process.path import Path
from medsci.nets import UNet2dConfig, UNet3dConfig, build_network

SMALL = {"channels": (16, 32), "res_blocks": (1, 1), "norm_groups": 8, "stem_factor": 2}
KINDS = {"unet_2d": (UNet2dConfig, (8, 9)), "unet_3d": (UNet3dConfig, (4, 6, 5))}


def config_of(kind, **fields):
    return KINDS[kind][0](**{"in_channels": 3, "out_channels": 2, **SMALL, **fields})


def last_bias(network):
    return [p for name, p in network.named_parameters() if name.endswith("bias")][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_shift_plus_gate_times_the_state(kind):
    network = build_network(config_of(kind, gated=True, condition_channels=1), seed=1)
    x = torch.randn(2, 3, *KINDS[kind][1], generator=torch.Generator().manual_seed(0))
    code, image = torch.tensor([5.0, 700.0]), torch.full((2, 1, *KINDS[kind][1]), 9.0)
    assert not network(x, code, image=image).any(), "an untrained network returns zero"
    with torch.no_grad():  # first the shifts, then the gates, each with its block of pixels
        fold = 2**network.config.spatial_dims
        values = torch.tensor([3.0, -1.0, 2.0, 0.5]).repeat_interleave(fold)
        last_bias(network).copy_(values)
    out = network(x, code, image=image)
    torch.testing.assert_close(out[:, 0], 3.0 + 2.0 * x[:, 0])
    torch.testing.assert_close(out[:, 1], -1.0 + 0.5 * x[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_is_not_gated_is_what_it_was(kind):
    plain = build_network(config_of(kind), seed=2)
    gated = build_network(config_of(kind, gated=True), seed=2)
    stored = config_of(kind).model_dump(mode="json")
    del stored["gated"]
    assert KINDS[kind][0].model_validate(stored) == config_of(kind)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    wider = [n for n, value in gated.state_dict().items() if value.shape != shapes[n]]
    assert len(wider) == 2, "only the last convolution has twice the channels"
    with pytest.raises(ValidationError, match="an input channel for each output"):
        config_of(kind, gated=True, in_channels=1)


def test_noise_that_is_all_the_state_holds_is_soon_removed():
    """With as many folded numbers as features, a plain network hardly learns to pass them on."""
    losses = {}
    for gated in (False, True):
        config = UNet3dConfig(
            in_channels=4, out_channels=4, channels=(32, 32), res_blocks=(1, 1), gated=gated
        )
        network = build_network(config, seed=0)
        denoiser = Denoiser(network, path=Path.vp_cosine(0.0), pred="edm", sigma_data=0.5)
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        draw = torch.Generator().manual_seed(3)
        t = float(denoiser.path.time_at_angle(0.1))
        alpha, sigma = denoiser.coefficients(t)
        for _ in range(120):
            z = torch.randn(2, 4, 8, 8, 8, generator=draw)
            loss = (denoiser(sigma * z - alpha, t) + 1.0).square().mean() / sigma**2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[gated] = loss.item()
    assert losses[True] < 0.15
    assert losses[False] > 5.0 * losses[True], "control: not gated"
