"""Networks that recompute, or work in slabs: the same numbers in less memory."""

import copy

import pytest
import torch
from contracts.guard import LiveMemory
from torch.nn import functional

from medsci.nets.checkpointing import checkpoint_activations, residual_blocks
from medsci.nets.config import (
    AdmConfig,
    MlpConfig,
    MonaiUNetConfig,
    NcsnPlusPlusConfig,
    UNet2dConfig,
    UNet3dConfig,
)
from medsci.nets.sliced import slice_activations
from medsci.nets.unet import build_network

SMALL = {"channels": (8, 16), "res_blocks": (1, 1), "norm_groups": 4}
NETWORKS = {
    "unet_3d": (UNet3dConfig(channels=(16, 32), res_blocks=(1, 1), norm_groups=4), (24, 8, 8)),
    "unet_2d": (
        UNet2dConfig(
            in_channels=1, out_channels=1, channels=(16, 32), res_blocks=(1, 1), norm_groups=4
        ),
        (24, 16),
    ),
    "published": (MonaiUNetConfig(**SMALL, attention_levels=(1,), head_channels=8), (24, 8, 8)),
}
OTHERS = {
    "adm": AdmConfig(
        in_channels=1, out_channels=1, embedding_channels=8, channels=(8, 16), res_blocks=1,
        attention_levels=(1,), head_channels=8, norm_groups=4, dropout=0.2,
    ),
    "ncsnpp": NcsnPlusPlusConfig(width=8, channels=(8, 16), res_blocks=1, n_sigmas=4),
}  # fmt: skip


def network(config):
    """A network whose layers, the zero ones too, hold random numbers."""
    net = build_network(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05, generator=generator)
    return net


def state(size, batch=2, channels=1):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1)) + 0.5


def gradients_of(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def step(net, x, *, low=False):
    """Return loss and gradients by name."""
    net.zero_grad()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = net(x, torch.full((len(x),), 300.0)).float().square().mean()
    loss.backward()
    return loss.item(), gradients_of(net)


@pytest.mark.parametrize("name", [*NETWORKS, *OTHERS])
def test_loss_and_gradients_are_equal_to_the_bit(name):
    config, size = NETWORKS[name] if name in NETWORKS else (OTHERS[name], (16, 16))
    plain = network(config).train()
    again = copy.deepcopy(plain)
    n_blocks = checkpoint_activations(again)
    assert n_blocks == len(residual_blocks(plain)) >= 5
    assert list(again.state_dict()) == list(plain.state_dict())
    loss, gradients = step(plain, state(size))
    other, others = step(again, state(size))
    assert other == loss
    assert all(torch.equal(others[k], gradients[k]) for k in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())


def test_the_same_in_bfloat16():
    config, size = NETWORKS["published"]
    plain = network(config)
    again = copy.deepcopy(plain)
    checkpoint_activations(again)
    loss, gradients = step(plain, state(size), low=True)
    other, others = step(again, state(size), low=True)
    assert other == loss
    assert all(torch.equal(others[k], gradients[k]) for k in gradients)


def test_dropout_is_drawn_alike_in_the_second_run():
    """The control: without the state of the generator, gradients are of another loss."""
    plain = network(OTHERS["adm"]).train()
    careless = copy.deepcopy(plain)
    checkpoint_activations(careless)
    for block in residual_blocks(careless):
        forward = vars(block)["forward"]
        vars(block)["forward"] = type(forward)(forward.func, forward.args[0], False)
    _, right = step(plain, state((16, 16)))
    _, wrong = step(careless, state((16, 16)))
    assert any(not torch.equal(wrong[k], right[k]) for k in right)


@pytest.mark.parametrize("name", ["unet_3d", "published"])
def test_less_is_kept_and_less_is_alive(name):
    """Bytes alive between forward and backward, and at the worst moment; the saved-tensor hooks of
    torch would see nothing inside a block, nor the inputs that are kept for the second run."""
    config, _ = NETWORKS[name]
    x = state((24, 24, 24))
    kept, peak = {}, {}
    for mode in ("plain", "checkpointed"):
        net = network(config)
        if mode == "checkpointed":
            assert checkpoint_activations(net) > 0
        with LiveMemory() as memory:
            loss = net(x, torch.zeros(2)).square().mean()
            kept[mode] = memory.now
            loss.backward()
        peak[mode] = memory.peak
    assert kept["checkpointed"] < 0.5 * kept["plain"]
    assert peak["checkpointed"] < 0.7 * peak["plain"]


def test_twice_is_once_and_sampling_is_untouched():
    config, size = NETWORKS["unet_3d"]
    net = network(config).eval()
    x, code = state(size), torch.full((2,), 300.0)
    with torch.no_grad():
        expected = net(x, code)
        checkpoint_activations(net)
        forwards = [vars(block)["forward"] for block in residual_blocks(net)]
        checkpoint_activations(net)
        assert all(
            vars(block)["forward"] is forward
            for block, forward in zip(residual_blocks(net), forwards, strict=True)
        )
        assert torch.equal(net(x, code), expected)
        assert torch.equal(copy.deepcopy(net)(x, code), expected)


def test_a_copy_has_its_own_blocks():
    """An average of the weights is often a deep copy: it must not run the original's blocks."""
    config, size = NETWORKS["unet_3d"]
    net = network(config)
    checkpoint_activations(net)
    average = copy.deepcopy(net)
    with torch.no_grad():
        before = average(state(size), torch.zeros(2))
        for parameter in net.parameters():
            parameter.zero_()
        assert torch.equal(average(state(size), torch.zeros(2)), before)
        assert not torch.equal(net(state(size), torch.zeros(2)), before)


def test_a_network_without_blocks_is_told_so():
    with pytest.raises(ValueError, match="no residual block"):
        checkpoint_activations(build_network(MlpConfig()))
    with pytest.raises(ValueError, match="can be sliced"):
        slice_activations(build_network(OTHERS["adm"]))
    with pytest.raises(ValueError, match="MiB"):
        slice_activations(network(NETWORKS["unet_3d"][0]), slab_mib=0.0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("slab_kib", [1, 40])
def test_slabs_give_the_same_result(name, slab_kib, monkeypatch):
    """Exactly what tiles do not: statistics are of the whole volume, edges are padded once."""
    monkeypatch.setattr("medsci.nets.sliced.FAST_CONV", 0)
    config, size = NETWORKS[name]
    whole = network(config).eval()
    sliced = copy.deepcopy(whole)
    assert slice_activations(sliced, slab_mib=slab_kib / 1024) >= 5
    x, code = state(size), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        expected = whole(x, code)
        torch.testing.assert_close(sliced(x, code), expected, rtol=1e-5, atol=1e-5)
        halves = torch.cat([whole(part, code) for part in x.chunk(2, dim=2)], dim=2)
    assert (halves - expected).abs().max() > 0.05  # the control: tiles without overlap
    assert expected.std() > 0.02


def test_slabs_take_less_memory_and_leave_gradients_alone(monkeypatch):
    monkeypatch.setattr("medsci.nets.sliced.FAST_CONV", 0)
    config, _ = NETWORKS["published"]
    net = network(config).eval()
    x, code = state((32, 16, 16), batch=1), torch.zeros(1)
    peak = {}
    for mode in ("plain", "sliced"):
        if mode == "sliced":
            slice_activations(net, slab_mib=0.02)
        with torch.no_grad(), LiveMemory() as memory:
            net(x, code)
        peak[mode] = memory.peak
    assert peak["sliced"] < 0.8 * peak["plain"]
    _, gradients = step(net, state((8, 8, 8)))
    _, expected = step(network(config), state((8, 8, 8)))
    assert all(torch.equal(gradients[k], expected[k]) for k in expected)


def test_norms_of_slabs_are_right_where_the_mean_is_large():
    """Sums of squares minus the square of the mean would lose all digits at mean 3000, sd 1."""
    from medsci.nets.sliced import _affine

    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 8, 30, 6, 6, generator=generator) + 3000.0
    norm = torch.nn.GroupNorm(4, 8)
    scale, shift = _affine(x, norm, 7)
    exact = functional.group_norm(x.double(), 4)
    torch.testing.assert_close((x * scale + shift).double(), exact, rtol=0, atol=2e-3)
    flat = x.reshape(2, 4, -1)
    naive = flat.square().mean(-1) - flat.mean(-1).square()
    assert (naive - 1.0).abs().max() > 0.2  # the control
