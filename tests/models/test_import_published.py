"""Published weights into the store: the function that comes out is the one that was saved."""

import warnings

import pytest
import torch
from nets.adm_names import SMALL, drawn, published_names
from safetensors.torch import save_file

from medsci.core.process import Path as DiffusionPath
from medsci.errors import OutputExistsError, UsageError, WeightsError
from medsci.models import load_denoiser
from medsci.models.importing import import_model
from medsci.models.key_maps import from_monai, strip_prefixes
from medsci.nets.config import MonaiUNetConfig

HEAD = MonaiUNetConfig(
    channels=(8, 16), res_blocks=(1, 1), attention_levels=(1,), head_channels=8, norm_groups=4
)
PLAIN = {"name": "head", "licence": "Apache-2.0", "network": HEAD.model_dump()}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def published():
    """A network of MONAI as a training script of others would hold it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=1, out_channels=1, channels=(8, 16), num_res_blocks=1,
        attention_levels=(False, True), num_head_channels=8, norm_num_groups=4,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def states():
    return torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))


def written(tmp_path, state):
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def alpha_bar(row):
    return torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)[row].item()


ROW = 399
A, S = alpha_bar(ROW) ** 0.5, (1 - alpha_bar(ROW)) ** 0.5
INVERSIONS = {  # published word -> x0 from the state x and the output o, at row 399
    "noise": lambda x, o: (x - S * o) / A,
    "clean": lambda x, o: o,
    "velocity": lambda x, o: A * x - S * o,
    "flow": lambda x, o: (x - S * o) / (A + S),
}


@pytest.mark.parametrize("word", INVERSIONS)
def test_a_head_generator_denoises_as_its_table_says(tmp_path, published, word):
    file = written(tmp_path, published.state_dict())
    import_model(file, kind="medforj", config={**PLAIN, "prediction": word})
    denoiser = load_denoiser("head", precision="float32")
    output = published(states(), torch.tensor([float(ROW)]))
    expected = INVERSIONS[word](states(), output)
    got = denoiser(states(), (ROW + 1) / 1000)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    wrong = (states() - S * output) / (A if word != "noise" else A + S)
    assert (got - wrong).norm() > 1e-2 * got.norm()


def test_rectified_flow_comes_with_its_sign_turned(tmp_path, published):
    file = written(tmp_path, published.state_dict())
    import_model(file, kind="medforj", config={**PLAIN, "prediction": "rflow"})
    denoiser = load_denoiser("head", precision="float32")
    output = published(states(), torch.tensor([250.0]))  # data minus noise
    torch.testing.assert_close(denoiser(states(), 0.25), states() + 0.25 * output,
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    assert denoiser.path == DiffusionPath.rectified()
    assert (denoiser(states(), 0.25) - states() + 0.25 * output).norm() > 1e-2


WRAPPINGS = {
    "bare": lambda s: s,
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "unet": lambda s: {f"unet.{k}": v for k, v in s.items()},
    "average beside model": lambda s: {
        **{f"online_model.{k}": torch.zeros_like(v) for k, v in s.items()},
        **{f"ema_model.model.{k}": v for k, v in s.items()},
        "step": torch.tensor(3),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappings_come_off(published, wrap):
    state = published.state_dict()
    found = strip_prefixes(wrap(state))
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_names_of_the_predecessor_are_understood(tmp_path, published):
    """Attention projections in the block itself, `conv` after a doubling."""
    old = {}
    for key, value in published.state_dict().items():
        key = key.replace(".attn.to_", ".to_").replace(".attn.out_proj.", ".proj_attn.")
        old[key.replace("upsampler.postconv.", "upsampler.conv.")] = value
    assert set(old) != set(published.state_dict())
    assert {from_monai(key) for key in old} == {f"unet.{key}" for key in published.state_dict()}
    import_model(written(tmp_path, old), kind="monai", config={**PLAIN, "prediction": "x0"})
    got = load_denoiser("head", precision="float32")(states(), (ROW + 1) / 1000)
    expected = published(states(), torch.tensor([float(ROW)]))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_guided_diffusion_file_needs_no_description_of_its_shape(tmp_path):
    state = drawn(published_names(SMALL))
    file = written(tmp_path, {f"module.{k}": v for k, v in state.items()})
    network = {"head_channels": 8, "norm_groups": 8}
    info = import_model(
        file, kind="guided_diffusion",
        config={"name": "adm", "licence": "MIT", "network": network, "labels": ()},
    )  # fmt: skip
    assert info.config.network == SMALL
    assert (info.config.licence, info.config.image_channels) == ("MIT", ("red", "green", "blue"))
    denoiser = load_denoiser("adm", precision="float32")
    x = torch.randn(1, 3, 8, 8)
    output = denoiser.net(x, torch.tensor([float(ROW)]))
    torch.testing.assert_close(denoiser(x, (ROW + 1) / 1000), (x - S * output) / A,
                               rtol=1e-3, atol=1e-3)  # fmt: skip
    assert "imported from: guided_diffusion" in (info.folder / "MODEL_CARD.md").read_text()


def test_what_does_not_fit_is_told_in_one_line(tmp_path, published):
    state = dict(published.state_dict())
    del state["conv_in.conv.weight"]
    state["extra.weight"] = torch.zeros(2)
    state["out.2.conv.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        import_model(written(tmp_path, state), kind="monai", config={**PLAIN, "prediction": "v"})
    message = str(caught.value)
    assert "\n" not in message
    assert "1 weights are missing (unet.conv_in.conv.weight)" in message
    assert "1 have no place in the network (unet.extra.weight)" in message
    assert "unet.out.2.conv.bias is (7,) and not (1,)" in message


def test_a_taken_name_is_kept_unless_asked(tmp_path, published):
    file = written(tmp_path, published.state_dict())
    config = {**PLAIN, "prediction": "v"}
    import_model(file, kind="monai", config=config)
    with pytest.raises(OutputExistsError, match="taken"):
        import_model(file, kind="monai", config=config)
    with pytest.raises(OutputExistsError, match="taken"):
        import_model(file, kind="monai", config={**config, "name": "brain-t1-2d"})
    import_model(file, kind="monai", config=config, existing="replace")
    with pytest.raises(UsageError, match="no licence"):
        import_model(file, kind="monai", config={**config, "licence": ""})
