"""Published NCSN++ files: written here by other means, and what comes of them."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, group_norm, silu

from medsci.errors import WeightsError
from medsci.models import convert_checkpoint, import_model, load_denoiser
from medsci.models.ncsnpp_keys import from_ncsnpp, infer_ncsnpp, named_average
from medsci.nets import NcsnPlusPlus, NcsnPlusPlusConfig, build_network

SMALL = NcsnPlusPlusConfig(
    width=8, channels=(8, 16), res_blocks=2, attention_levels=(1,), n_sigmas=7
)
_OURS = {
    "norm_in": "GroupNorm_0", "conv_in": "Conv_0", "time": "Dense_0", "norm_out": "GroupNorm_1",
    "conv_out": "Conv_1", "skip": "Conv_2", "conv": "Conv2d_0", "query": "NIN_0",
    "key": "NIN_1", "value": "NIN_2", "out": "NIN_3",
}  # fmt: skip


def published(state: dict) -> dict:
    """Give our weights their published names."""
    named = {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] == "layers":
            words[0] = "all_modules"
            if len(words) == 4:
                nin = words[2] in ("query", "key", "value", "out")
                words[2] = _OURS[words[2]]
                words[3] = {"weight": "W", "bias": "b"}[words[3]] if nin else words[3]
        named[".".join(words)] = value
    return named


def drawn(config=SMALL, seed=0) -> dict:
    torch.manual_seed(seed)
    net = NcsnPlusPlus(config)
    return {k: 0.3 * torch.randn_like(v) for k, v in net.state_dict().items()}


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        net = NcsnPlusPlus(NcsnPlusPlusConfig())
    assert len(net.layers) == 54
    assert len(net.state_dict()) == 522
    assert sum(p.numel() for p in net.parameters()) == 61_433_601


def test_the_first_steps_agree_with_the_published_formulas() -> None:
    config = NcsnPlusPlusConfig(width=8, channels=(8, 16), res_blocks=1, n_sigmas=3)
    net = NcsnPlusPlus(config).double().eval()
    p = published({k: v.double() for k, v in net.state_dict().items()})
    x, sigma = torch.rand(2, 1, 8, 8).double(), torch.tensor([0.1, 3.0]).double()

    angle = 2 * math.pi * sigma.log()[:, None] * p["all_modules.0.W"]
    temb = torch.cat([angle.sin(), angle.cos()], 1)
    temb = temb @ p["all_modules.1.weight"].T + p["all_modules.1.bias"]
    temb = silu(temb) @ p["all_modules.2.weight"].T + p["all_modules.2.bias"]
    h0 = conv2d(2 * x - 1, p["all_modules.3.weight"], p["all_modules.3.bias"], padding=1)

    def at(name: str) -> list:
        return [p[f"all_modules.4.{name}.{leaf}"] for leaf in ("weight", "bias")]

    h = silu(group_norm(h0, 2, *at("GroupNorm_0"), eps=1e-6))
    h = conv2d(h, *at("Conv_0"), padding=1)
    weight, bias = at("Dense_0")
    h = h + (silu(temb) @ weight.T + bias)[:, :, None, None]
    h = conv2d(silu(group_norm(h, 2, *at("GroupNorm_1"), eps=1e-6)), *at("Conv_1"), padding=1)
    expected = (h0 + h) / math.sqrt(2.0)

    seen = {}
    net.layers[4].register_forward_hook(lambda _, __, out: seen.update(out=out))
    out = net(x, sigma)
    assert torch.allclose(seen["out"], expected, atol=1e-12)
    assert torch.allclose(out * sigma[:, None, None, None], _undivided(net, x, sigma), atol=1e-12)


def _undivided(net, x, sigma):
    seen = {}
    net.layers[-1].register_forward_hook(lambda _, __, out: seen.update(out=out))
    net(x, sigma)
    return seen["out"]


def test_filters_keep_constants_and_average_them() -> None:
    from medsci.nets.ncsnpp import _doubled, _halved

    ones = torch.ones(1, 2, 8, 8)
    assert torch.allclose(_halved(ones)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert torch.allclose(_doubled(ones)[..., 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    # a binomial filter is centred: means of pixel pairs, halfway between them
    assert torch.allclose(_halved(ramp)[0, 0, 1, 1:-1], torch.tensor([2.5, 4.5]))
    assert torch.allclose(_doubled(ramp)[0, 0, 4, 4:6], torch.tensor([1.75, 2.25]))


def test_names_go_there_and_back() -> None:
    state = drawn()
    assert {from_ncsnpp(key) for key in published(state)} == set(state)
    assert from_ncsnpp("all_modules.3.Conv_9.weight") is None
    assert from_ncsnpp("input_blocks.0.0.weight") is None


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        NcsnPlusPlusConfig(width=8, channels=(8, 16, 24), res_blocks=1, n_sigmas=3),
        NcsnPlusPlusConfig(
            in_channels=2, out_channels=2, width=16, channels=(16, 16), res_blocks=3,
            attention_levels=(0, 1), n_sigmas=2,
        ),
    ],
)  # fmt: skip
def test_shapes_tell_the_network(config) -> None:
    found = NcsnPlusPlusConfig(**infer_ncsnpp(published(drawn(config))))
    assert found == config


def test_an_average_in_a_list_is_named_and_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "store"))
    model, average = drawn(seed=1), drawn(seed=2)
    fixed = {"sigmas", "layers.0.W"}
    listed = [value for key, value in average.items() if key not in fixed]
    content = {
        "model": {f"module.{key}": value for key, value in published(model).items()},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": listed},
        "optimizer": {"state": {}},
        "step": 5,
    }
    torch.save(content, tmp_path / "checkpoint_5.pth")
    written = convert_checkpoint(tmp_path / "checkpoint_5.pth")
    assert written.part == "ema"
    import_model(written.file, kind="ncsnpp", config={"name": "score-ct", "licence": "MIT"})
    denoiser = load_denoiser("score-ct", precision="float32")
    expected = average | {key: model[key] for key in fixed}
    for key, value in denoiser.net.state_dict().items():
        assert torch.equal(value, expected[key]), key

    # score to clean image: x0 = x + sigma^2 s
    x, sigma = torch.rand(1, 1, 16, 16), 2.0
    t = _time_of(denoiser.path, sigma)
    direct = build_network(denoiser.net.config)
    direct.load_state_dict(expected)
    level = torch.tensor([float(denoiser.path.sigma(t))])
    with torch.no_grad():
        assert torch.allclose(denoiser(x, t), x + level**2 * direct(x, level), rtol=1e-4, atol=1e-4)


def _time_of(path, sigma: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(path.sigma(middle)) < sigma else (low, middle)
    return low


def test_what_is_no_ncsnpp_is_told(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"is missing; check where the weights come from"):
        infer_ncsnpp({"input_blocks.0.0.weight": torch.zeros(1)})
    state = published(drawn())
    with pytest.raises(WeightsError, match="fit no weight of the model"):
        named_average([torch.zeros(5)], state)
