"""Published head generators: from the file to the denoiser, in every layout, or a clear refusal."""

import pytest
import torch
from safetensors.torch import save_file

from medsci.errors import InvalidInputError, UsageError, WeightsError
from medsci.models import load_denoiser
from medsci.models.importing import import_model
from medsci.models.medforj import load_medforj
from medsci.models.store import read_config
from medsci.nets.config import MonaiUNetConfig
from medsci.nets.unet import build_network

SMALL = MonaiUNetConfig(
    channels=(8, 16), res_blocks=(1, 1), attention_levels=(1,), head_channels=8, norm_groups=4
)
X = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
T = 0.4  # row 399


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def state():
    """Weights under the names of the published files, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    named = build_network(SMALL).unet.state_dict()
    return {
        name: value if value.any() else 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in named.items()
    }


def layouts(state, folder):
    prefixed = {f"module.{name}": value for name, value in state.items()}
    save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / "bare.safetensors")
    save_file({f"model.{k}": v.contiguous().clone() for k, v in state.items()},
              folder / "model.safetensors")  # fmt: skip
    torch.save({"model": state, "epoch": 3, "epoch_loss": 0.1}, folder / "epoch.pt")
    torch.save({"model": prefixed}, folder / "parallel.pt")
    return ["bare.safetensors", "model.safetensors", "epoch.pt", "parallel.pt"]


def test_every_layout_gives_the_network_that_was_saved(tmp_path, state, store):
    direct = build_network(SMALL)
    direct.unet.load_state_dict(state)
    output = direct.eval()(X, torch.tensor([399.0])).detach()
    files = layouts(state, tmp_path)
    for name in files:
        denoiser = load_medforj(
            tmp_path / name, prediction="velocity", network=SMALL, precision="float32"
        )
        loaded = denoiser.net.unet.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items()), name
        assert torch.equal(denoiser.predict(X, T), output)
        assert not denoiser.training
        assert not any(p.requires_grad for p in denoiser.parameters())
    assert not store.exists()  # nothing was installed


def test_the_prediction_decides_what_an_output_means(tmp_path, state):
    layouts(state, tmp_path)
    answers = [
        load_medforj(tmp_path / "bare.safetensors", prediction=word, network=SMALL)(X, T)
        for word in ("noise", "clean", "velocity", "flow", "rflow")
    ]
    for i, one in enumerate(answers):
        for other in answers[i + 1 :]:
            assert (one - other).norm() > 1e-2 * one.norm()


FAULTS = {
    "missing": (lambda s: s.pop("conv_in.conv.weight"), "weights are missing"),
    "shape": (lambda s: s.update({"out.2.conv.bias": torch.zeros(7)}), "another shape"),
    "extra": (lambda s: s.update({"extra.weight": torch.zeros(7)}), "no place in the network"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_every_weight_must_be_there(tmp_path, state, fault, kind):
    spoil, words = FAULTS[fault]
    broken = dict(state)
    spoil(broken)
    file = tmp_path / f"w.{kind}"
    if kind == "pt":
        torch.save({"model": broken}, file)
    else:
        save_file({k: v.contiguous().clone() for k, v in broken.items()}, file)
    with pytest.raises(WeightsError, match=words):
        load_medforj(file, prediction="flow", network=SMALL)


def test_a_file_of_another_network_or_none_is_refused(tmp_path, state):
    layouts(state, tmp_path)
    wider = SMALL.model_copy(update={"channels": (16, 16)})
    with pytest.raises(WeightsError, match="another shape"):
        load_medforj(tmp_path / "bare.safetensors", prediction="flow", network=wider)
    with pytest.raises(InvalidInputError, match="does not exist"):
        load_medforj(tmp_path / "none.safetensors", prediction="flow")

    torch.save({"model": state, "code": print}, tmp_path / "code.pt")
    with pytest.raises(WeightsError, match="run code"):
        load_medforj(tmp_path / "code.pt", prediction="flow", network=SMALL)


def test_an_installed_one_says_where_its_axes_point_and_its_range(tmp_path, state):
    layouts(state, tmp_path)
    config = {"name": "head", "licence": "Apache-2.0", "prediction": "flow",
              "network": SMALL.model_dump()}  # fmt: skip
    info = import_model(tmp_path / "bare.safetensors", kind="medforj", config=config)
    stored = read_config(info.folder)
    assert (stored.orientation, stored.value_range) == ("LPS", (-1.0, 1.0))
    assert stored.training_size == (192, 224, 192)
    same = load_medforj(tmp_path / "bare.safetensors", prediction="flow", network=SMALL)
    installed = load_denoiser("head")
    assert torch.equal(installed(X, T), same(X, T))
    with pytest.raises(UsageError, match="prediction"):
        import_model(tmp_path / "bare.safetensors", kind="medforj",
                     config={**config, "prediction": "score", "name": "other"})  # fmt: skip


def test_the_published_network_is_counted_and_starts_at_zero():
    """41,245,217 numbers in 394 tensors; untrained, it answers zero exactly."""
    network = build_network(MonaiUNetConfig()).eval()
    state = network.unet.state_dict()
    assert (sum(v.numel() for v in state.values()), len(state)) == (41_245_217, 394)
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not network(x, torch.tensor([700.0])).any()
        network.unet.out[2].conv.bias.fill_(0.5)
        assert network(x, torch.tensor([700.0])).any()  # control
