"""Export, convert, adapters, cards: what goes out comes back, and nothing runs on the way."""

import json
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medsci.core.denoise import Denoiser
from medsci.errors import OutputExistsError, UsageError, WeightsError
from medsci.models import ModelConfig, build_path, load_denoiser, save_denoiser, write_card
from medsci.models.adapter import AdapterConfig, load_adapter_state, save_adapter
from medsci.models.convert import convert_checkpoint
from medsci.models.exporting import export_model
from medsci.models.importing import import_model
from medsci.models.store import find_model, verify_model
from medsci.nets.lora import adapter_state, add_lora
from medsci.nets.unet import build_network
from medsci.pipelines.models import Merge, merge_models, parse_adapter

CONFIG = ModelConfig.model_validate(
    {
        "name": "vector", "network": {"kind": "mlp", "width": 8, "n_layers": 1, "n_labels": 2},
        "path": {"kind": "rectified"}, "prediction": "flow", "unit_input": False,
        "labels": ("ring", "cross"), "objective": "reflow", "spectrum": "short",
        "teacher": {"name": "slow", "sha256": "ab" * 32}, "licence": "MIT",
        "sampler": {"steps": 2, "solver": "multistep"}, "weights_dtype": "float32",
        "image_channels": ("x", "y"), "training": {"steps": 10},
    }
)  # fmt: skip
X = torch.tensor([[0.3, -1.0], [2.0, 0.1]])


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "store"))
    network = build_network(CONFIG.network, seed=1)
    with torch.no_grad():
        network.last.weight.normal_(generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(network, path=build_path(CONFIG.path), pred="flow", unit_input=False)
    card, _ = write_card(CONFIG, rows=(), recipe={}, card={})
    save_denoiser(denoiser, tmp_path / "store" / "vector", config=CONFIG, card=card)
    return tmp_path / "store"


def answer(name):
    return load_denoiser(name, precision="float32")(X, 0.5, label=torch.tensor([0, 1]))


@pytest.mark.parametrize("form", ["folder", "zip", "safetensors"])
def test_what_is_exported_comes_back_bit_for_bit(store, tmp_path, form):
    there = export_model("vector", tmp_path / f"sent.{form}", format=form)
    info = import_model(there, config={"name": "again"})
    assert info.folder == store / "again"
    assert torch.equal(answer("again"), answer("vector"))
    assert info.config == verify_model("vector").config.model_copy(update={"name": "again"})
    first, second = (store / n / "model.safetensors" for n in ("vector", "again"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(OutputExistsError, match="exists"):
        export_model("vector", there, format=form)
    before = there.read_bytes() if there.is_file() else b""
    export_model("vector", there, format=form, existing="replace")
    assert (there.read_bytes() if there.is_file() else b"") == before


def test_a_changed_byte_on_the_way_is_noticed(store, tmp_path):
    for form in ("zip", "safetensors"):
        there = export_model("vector", tmp_path / form, format=form)
        content = bytearray(there.read_bytes())
        weights = (store / "vector" / "model.safetensors").read_bytes()
        content[content.find(weights[-64:]) + 60] ^= 1
        there.write_bytes(content)
        with pytest.raises(WeightsError, match=r"sha256|damaged"):
            import_model(there, config={"name": "again"})
        assert not (store / "again").exists()


def test_a_zip_writes_nowhere_else(store, tmp_path):
    there = export_model("vector", tmp_path / "sent.zip", format="zip")
    with zipfile.ZipFile(there, "a") as archive:
        archive.writestr("../../evil.png", b"x")
        archive.writestr("other.py", b"x")
    import_model(there, config={"name": "again"})
    assert not (tmp_path / "evil.png").exists()
    assert {p.name for p in (store / "again").iterdir()} == {
        "config.json", "model.safetensors", "MODEL_CARD.md", "evil.png"
    }  # fmt: skip


def test_the_single_file_is_an_ordinary_state_dict(store, tmp_path):
    there = export_model("vector", tmp_path / "a.safetensors", format="safetensors")
    build_network(CONFIG.network).load_state_dict(load_file(there))
    with safe_open(there, "pt") as opened:
        assert json.loads(opened.metadata()["medsci_config"])["licence"] == "MIT"


def test_the_licence_of_a_model_of_ours_is_its_own(store, tmp_path):
    there = export_model("vector", tmp_path / "sent")
    with pytest.raises(UsageError, match="sigma_data came"):
        import_model(there, config={"name": "b", "sigma_data": 3.0})


CHECKPOINTS = {
    "bare": (lambda s, e: s, "", 0),
    "lightning": (lambda s, e: {"state_dict": s, "epoch": 3, "optimizer": {"state": s}},
                  "state_dict", 0),
    "average first": (lambda s, e: {"model": s, "ema": e}, "ema", 1),
    "nested": (lambda s, e: {"run": {"ema": {"model": e}}, "model": s}, "run.ema.model", 1),
}  # fmt: skip


@pytest.mark.parametrize(("wrap", "part", "which"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_becomes_safetensors(tmp_path, wrap, part, which):
    weight = torch.randn(3, 2)
    states = [{"a.weight": weight, "b": weight.t()}, {"a.weight": -weight, "b": -weight.t()}]
    torch.save(wrap(*states), tmp_path / "c.pt")
    done = convert_checkpoint(tmp_path / "c.pt")
    assert (done.part, done.n_tensors, done.file) == (part, 2, tmp_path / "c.safetensors")
    found = load_file(done.file)
    assert all(torch.equal(found[key], states[which][key]) for key in states[which])
    content = done.file.read_bytes()
    convert_checkpoint(tmp_path / "c.pt", existing="replace")
    assert done.file.read_bytes() == content
    with pytest.raises(OutputExistsError):
        convert_checkpoint(tmp_path / "c.pt")


def test_the_part_can_be_named_and_what_is_no_tensor_is_told(tmp_path):
    torch.save({"model": {"w": torch.ones(1), "n": 3}, "ema": {"w": torch.zeros(1)}},
               tmp_path / "c.pth")  # fmt: skip
    done = convert_checkpoint(tmp_path / "c.pth", tmp_path / "o.safetensors", part="model")
    assert done.dropped == ("n",)
    assert load_file(done.file)["w"] == 1
    with pytest.raises(WeightsError, match="name one of ema, model"):
        convert_checkpoint(tmp_path / "c.pth", part="wrong")


class _Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("old_form", [False, True])
def test_a_checkpoint_with_code_is_refused_and_does_not_run(tmp_path, old_form):
    mark = tmp_path / "it_ran"
    torch.save({"state_dict": {"w": torch.ones(1)}, "hook": _Evil(str(mark))}, tmp_path / "c.pt",
               _use_new_zipfile_serialization=not old_form)  # fmt: skip
    with pytest.raises(WeightsError, match="code") as caught:
        convert_checkpoint(tmp_path / "c.pt")
    assert "\n" not in str(caught.value)
    assert old_form or "mkdir" in str(caught.value)
    assert not mark.exists()
    assert b"mkdir" in (tmp_path / "c.pt").read_bytes()  # the control: the call is in there,
    function, arguments = _Evil(str(mark)).__reduce__()  # and would have left its mark
    function(*arguments)
    assert mark.exists()


def adapter(store, tmp_path, name, seed):
    denoiser = load_denoiser("vector", precision="float32")
    add_lora(denoiser.net, rank=2, alpha=3.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    state = {
        k: torch.randn(v.shape, generator=generator) if k.endswith("lora_up") else v
        for k, v in adapter_state(denoiser.net).items()
    }
    config = AdapterConfig(name=name, base="vector", rank=2, alpha=3.0, licence="MIT",
                           base_sha256=verify_model("vector").config.sha256)  # fmt: skip
    return state, save_adapter(state, tmp_path / name, config=config)


def test_an_adapter_is_read_back_and_a_damaged_one_is_not(store, tmp_path):
    state, config = adapter(store, tmp_path, "style", 1)
    again, read = load_adapter_state(tmp_path / "style")
    assert read == config
    assert set(again) == set(state)
    assert all(torch.equal(again[key], state[key]) for key in state)
    with pytest.raises(OutputExistsError):
        save_adapter(state, tmp_path / "style", config=config)
    lame = {k: v for k, v in state.items() if k != "first.lora_scale"}
    with pytest.raises(ValueError, match=r"has no .*lora_scale"):
        save_adapter(lame, tmp_path / "lame", config=config)
    save_file({"w": torch.ones(1)}, tmp_path / "style" / "adapter.safetensors")
    with pytest.raises(WeightsError, match="is not the file"):
        load_adapter_state(tmp_path / "style")


def test_merging_adds_weighted_products_to_the_weights(store, tmp_path):
    """W + sum_i w_i s_i up_i down_i, computed here from the stored tensors alone."""
    states = [adapter(store, tmp_path, name, seed)[0] for name, seed in (("a", 1), ("b", 2))]
    merges = [Merge(tmp_path / "a", 0.5), parse_adapter(f"{tmp_path / 'b'}:-2")]
    merge_models("vector", merges, name="sum")
    base = load_file(find_model("vector") / "model.safetensors")
    merged = load_file(find_model("sum") / "model.safetensors")
    for key, value in base.items():
        layer = key.removesuffix(".weight")
        change = torch.zeros_like(value)
        for state, weight in zip(states, (0.5, -2.0), strict=True):
            if key.endswith(".weight") and f"{layer}.lora_up" in state:
                product = state[f"{layer}.lora_up"] @ state[f"{layer}.lora_down"]
                change += weight * state[f"{layer}.lora_scale"] * product
        torch.testing.assert_close(merged[key], value + change, rtol=1e-5, atol=1e-6)
        if key == "first.weight":
            assert change.abs().max() > 0.1
    config = verify_model("sum").config
    assert [(use.name, use.weight) for use in config.adapters] == [("a", 0.5), ("b", -2.0)]
    assert "adapter: a, sha256" in (find_model("sum") / "MODEL_CARD.md").read_text()
    with pytest.raises(WeightsError, match="was trained on"):
        merge_models("sum", merges, name="twice")
    merge_models("sum", merges, name="twice", any_base=True)
    assert len(verify_model("twice").config.adapters) == 4


def test_the_card_says_what_the_run_knew():
    run = {"n_train": 90, "n_validation": 10, "hardware": "one GPU of the class H200",
           "skipped": {"a.nii.gz": "truncated", "b.nii": "truncated", "c": "no image"}}  # fmt: skip
    text, files = write_card(CONFIG, rows=(), recipe={"data": {"kind": "nifti", "root": "x"}},
                             card={"title": "Rings"}, run=run)  # fmt: skip
    for words in (
        "# Rings", "objective: reflow", f"teacher: slow, sha256 {'ab' * 32}", "labels: ring, cross",
        "0 ring, 1 cross", "Label 2 means none", "2 evaluations by the solver `multistep`",
        "training items: 90", "skipped files: 3 (1 x no image; 2 x truncated)", "class H200",
        "data: kind nifti\n",
    ):  # fmt: skip
        assert words in text
    assert not files
    assert "a.nii.gz" not in text
    assert "skipped" not in write_card(CONFIG, rows=(), recipe={}, card={})[0]


def test_the_shipped_model_says_what_it_always_said():
    config = verify_model("brain-t1-2d").config
    assert (config.task, config.objective, config.spectrum) == ("prior", "regression", "long")
    assert (config.labels, config.teacher, config.sampler, config.adapters) == ((), None, None, ())
    x = torch.zeros(1, 2, 16, 16)
    assert load_denoiser("brain-t1-2d", precision="float32")(x, 0.5).isfinite().all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"labels": ("a",)}, "labels names 1"), ({"time_code": "row"}, "belong to the path"),
     ({"sampler": {"steps": 0}}, "steps"), ({"prediction": "noise"}, "prediction"),
     ({"spectrum": "wide"}, "spectrum")],
)  # fmt: skip
def test_a_description_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig.model_validate({**CONFIG.model_dump(), **fields})


def test_the_table_of_a_path_is_that_of_its_schedule():
    config = ModelConfig.model_validate(
        {**CONFIG.model_dump(), "path": {"kind": "tabulated"}, "time_code": "row"}
    )
    table = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)
    path = build_path(config.path)
    torch.testing.assert_close(torch.tensor(path.alphas_bar, dtype=torch.float64), table)
