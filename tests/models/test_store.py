"""The model store: what is saved is what is loaded, and tampering is noticed."""

import json
import subprocess
import sys

import pytest
import torch

from medsci.core.denoise.denoiser import Denoiser
from medsci.errors import OutputExistsError, WeightsError
from medsci.models import (
    ModelConfig,
    build_path,
    find_model,
    list_models,
    load_denoiser,
    save_denoiser,
    search_folders,
    untrained_like,
    verify_model,
)
from medsci.nets import UNet2dConfig, build_network

NETWORK = UNet2dConfig(channels=(8, 32), res_blocks=(1, 1), norm_groups=8)


def config(**fields):
    given = {
        "name": "tiny", "network": NETWORK, "path": {"kind": "vp_linear"}, "prediction": "v",
        "sigma_data": 0.3, "training_size": (16, 16), "data": "noise",
    }  # fmt: skip
    return ModelConfig.model_validate(given | fields)


def denoiser_for(description, seed=0):
    network = build_network(description.network, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return Denoiser(
        network,
        path=build_path(description.path),
        pred=description.prediction,
        sigma_data=description.sigma_data,
    )


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "models"


@pytest.fixture
def stored(models):
    description = config(weights_dtype="float32")
    denoiser = denoiser_for(description)
    save_denoiser(denoiser, models / "tiny", config=description, card="# tiny\n")
    return denoiser


def states(n=2):
    return torch.randn(n, 2, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "path",
    [
        {"kind": "vp_linear", "beta_min": 0.2},
        {"kind": "vp_cosine", "offset": 0.008},
        {"kind": "ve", "sigma_max": 50.0},
        {"kind": "rectified"},
    ],
    ids=lambda path: path["kind"],
)
def test_a_float32_round_trip_is_exact(models, path):
    description = config(path=path, prediction="edm", weights_dtype="float32")
    denoiser = denoiser_for(description)
    filled = save_denoiser(denoiser, models / "a", config=description, card="")
    loaded = load_denoiser("a", precision="float32")
    assert torch.equal(loaded(states(), 0.6), denoiser(states(), 0.6))
    assert loaded.path == denoiser.path
    assert filled.n_parameters == sum(p.numel() for p in denoiser.net.parameters())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


def test_float16_halves_the_file_and_moves_the_output_less_than_bfloat16_arithmetic(models):
    exact = denoiser_for(config())
    sizes, errors = {}, {}
    for dtype in ("float16", "float32"):
        save_denoiser(exact, models / dtype, config=config(weights_dtype=dtype), card="")
        sizes[dtype] = (models / dtype / "model.safetensors").stat().st_size
        loaded = load_denoiser(dtype, precision="float32")
        assert all(p.dtype == torch.float32 for p in loaded.parameters())
        errors[dtype] = (loaded(states(), 0.3) - exact(states(), 0.3)).norm()
    rough = load_denoiser("float32", precision="bfloat16")
    arithmetic = (rough(states(), 0.3) - exact(states(), 0.3)).norm()
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert errors["float32"] == 0
    assert 0 < errors["float16"] < 0.5 * arithmetic


def test_saving_what_was_loaded_gives_the_same_bytes(models, stored):
    description = config()
    save_denoiser(stored, models / "half", config=description, card="")
    again = load_denoiser("half")
    save_denoiser(again, models / "twice", config=description, card="")
    first, second = ((models / n / "model.safetensors").read_bytes() for n in ("half", "twice"))
    assert first == second


@pytest.mark.parametrize("where", [0.05, 0.5, 0.999])
def test_one_changed_byte_is_noticed(models, stored, where):
    weights = models / "tiny" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[int(where * len(content))] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=r"records .*damaged or was exchanged"):
        load_denoiser("tiny")
    with pytest.raises(WeightsError, match="sha256"):
        verify_model("tiny")


def test_an_untouched_model_verifies(models, stored):
    info = verify_model("tiny")
    assert info.folder == models / "tiny"
    assert info.size_bytes > 1000
    assert len(info.config.sha256) == 64


def test_weights_of_another_shape_with_a_matching_hash_are_refused(models, stored):
    wide = config(network=NETWORK.model_copy(update={"channels": (16, 32)}))
    save_denoiser(denoiser_for(wide), models / "wide", config=wide, card="")
    fields = json.loads((models / "wide" / "config.json").read_text())
    fields["network"]["channels"] = [8, 32]
    (models / "wide" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match="does not fit the network"):
        load_denoiser("wide")


@pytest.mark.parametrize(
    ("content", "words"), [("{", "cannot be read"), ('{"name": "x"}', "cannot be read")]
)
def test_a_broken_configuration_is_a_weights_error(models, stored, content, words):
    (models / "tiny" / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=words):
        load_denoiser("tiny")
    assert [info.name for info in list_models() if info.folder.parent == models] == []


def test_missing_weights_and_missing_models_say_where_they_were_looked_for(models, stored):
    (models / "tiny" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        load_denoiser("tiny")
    with pytest.raises(WeightsError) as caught:
        find_model("absent")
    message = str(caught.value)
    assert all(str(folder) in message for folder in search_folders())
    assert "tiny" in message


def test_a_path_beats_a_name_and_earlier_folders_beat_later_ones(tmp_path, models, monkeypatch):
    for root, sigma in ((tmp_path / "first", 0.1), (tmp_path / "second", 0.2)):
        description = config(sigma_data=sigma)
        save_denoiser(denoiser_for(description), root / "same", config=description, card="")
    order = f"{tmp_path / 'first'}:{tmp_path / 'second'}"
    monkeypatch.setenv("MEDSCI_MODELS", order)
    assert load_denoiser("same").sigma_data == 0.1
    assert load_denoiser(tmp_path / "second" / "same").sigma_data == 0.2
    assert [info.name for info in list_models()].count("same") == 1


def test_a_model_is_not_overwritten_unless_asked(models, stored):
    before = (models / "tiny" / "model.safetensors").read_bytes()
    other = denoiser_for(config(), seed=1)
    with pytest.raises(OutputExistsError, match="already holds a model"):
        save_denoiser(other, models / "tiny", config=config(), card="")
    assert (models / "tiny" / "model.safetensors").read_bytes() == before
    save_denoiser(other, models / "tiny", config=config(), card="", existing="replace")
    assert (models / "tiny" / "model.safetensors").read_bytes() != before
    verify_model("tiny")


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"sigma_data": 0.9}, "sigma_data"), ({"prediction": "eps"}, "prediction"),
     ({"path": {"kind": "rectified"}}, "path"), ({"time_code": "time"}, "time_code")],
)  # fmt: skip
def test_a_description_that_does_not_fit_the_denoiser_is_refused(models, fields, word):
    with pytest.raises(ValueError, match=f"has {word}"):
        save_denoiser(denoiser_for(config()), models / "a", config=config(**fields), card="")
    assert not (models / "a").exists()


def test_weights_that_overflow_float16_are_refused(models):
    denoiser = denoiser_for(config())
    with torch.no_grad():
        next(denoiser.net.parameters())[0] = 1e6
    with pytest.raises(ValueError, match="not finite as float16"):
        save_denoiser(denoiser, models / "a", config=config(), card="")


def test_the_untrained_control_has_the_shape_but_not_the_answers(models, stored):
    control = untrained_like(stored, seed=1)
    assert torch.equal(control(states(), 0.5), untrained_like(stored, seed=1)(states(), 0.5))
    assert control(states(), 0.5).shape == states().shape
    difference = (control(states(), 0.5) - stored(states(), 0.5)).norm()
    assert difference > 0.1 * stored(states(), 0.5).norm()
    assert torch.equal(load_denoiser("tiny", precision="float32")(states(), 0.5),
                       stored(states(), 0.5))  # fmt: skip


def test_listing_models_needs_no_torch(models, stored):
    code = (
        "import sys\n"
        "from medsci.models import list_models\n"
        "assert 'tiny' in [info.name for info in list_models()]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "from medsci.training.reading import load_recipe\n"
        "assert 'torch' not in sys.modules, 'reading a recipe imported torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_leftovers_of_a_write_are_cleaned_up(models, stored):
    names = {file.name for file in (models / "tiny").iterdir()}
    assert names == {"config.json", "model.safetensors", "MODEL_CARD.md"}
