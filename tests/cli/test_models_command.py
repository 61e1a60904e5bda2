"""`medsci models`: in, out, and one line for everything that cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medsci.cli.main import main
from medsci.core.denoise import Denoiser
from medsci.models import ModelConfig, build_path, save_denoiser, verify_model
from medsci.models.adapter import AdapterConfig, save_adapter
from medsci.nets.unet import build_network

CONFIG = ModelConfig.model_validate(
    {"name": "vector", "network": {"kind": "mlp", "width": 8, "n_layers": 1},
     "path": {"kind": "rectified"}, "prediction": "flow", "weights_dtype": "float32"}
)  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSCI_MODELS", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    network = build_network(CONFIG.network, seed=1)
    with torch.no_grad():
        network.last.weight.normal_(generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(network, path=build_path(CONFIG.path), pred="flow")
    save_denoiser(denoiser, tmp_path / "store" / "vector", config=CONFIG, card="# vector\n")
    return tmp_path / "store"


@pytest.fixture
def run(capfd):
    def call(*arguments):
        capfd.readouterr()
        code = main([str(word) for word in arguments])
        return code, *capfd.readouterr()

    return call


def write_adapter(folder, **fields):
    sha256 = verify_model("vector").config.sha256
    config = {"name": "style", "base": "vector", "base_sha256": sha256, "rank": 1, "alpha": 1.0,
              "licence": "MIT", **fields}  # fmt: skip
    up, down = torch.ones(8, 1), torch.ones(1, 2)
    state = {"first.lora_up": up, "first.lora_down": down, "first.lora_scale": torch.tensor(2.0)}
    save_adapter(state, folder, config=AdapterConfig(**config))


def test_list_says_kind_and_task(run, store):
    code, out, _ = run("models", "list")
    assert code == 0
    assert next(line for line in out.splitlines() if "vector" in line).split()[1:3] == [
        "prior",
        "mlp",
    ]
    _, out, _ = run("models", "list", "--json")
    records = {record["name"]: record for record in map(json.loads, out.splitlines())}
    assert records["vector"]["kind"] == "mlp"
    assert records["brain-t1-2d"]["kind"] == "unet_2d"


def test_out_and_in_again(run, store, tmp_path):
    code, out, _ = run("models", "export", "vector", "-o", tmp_path / "v.zip", "--format", "zip")
    assert (code, out) == (0, f"vector: {tmp_path / 'v.zip'}\n")
    code, out, _ = run("models", "import", tmp_path / "v.zip", "--name", "twin", "--json")
    assert code == 0
    assert json.loads(out)["sha256"] == verify_model("vector").config.sha256
    assert run("models", "verify", "twin")[0] == 0
    assert run("models", "import", tmp_path / "v.zip", "--name", "twin")[0] == 7
    assert run("models", "import", tmp_path / "v.zip", "--name", "twin", "--overwrite")[0] == 0


def test_convert_then_import_with_a_configuration(run, store, tmp_path):
    from medsci.nets.config import MonaiUNetConfig
    from medsci.nets.monai_unet import MonaiUNet

    network = {"spatial_dims": 2, "channels": [8], "res_blocks": [1], "attention_levels": [],
               "head_channels": 8, "norm_groups": 4}  # fmt: skip
    net = MonaiUNet(MonaiUNetConfig.model_validate({"kind": "monai_unet", **network}))
    torch.save({"ema": net.unet.state_dict(), "epoch": 3}, tmp_path / "c.pth")
    (tmp_path / "c.json").write_text(json.dumps({"network": network, "task": "generation"}))
    code, out, _ = run("models", "convert", tmp_path / "c.pth", "--json")
    assert code == 0
    assert json.loads(out)["part"] == "ema"
    words = ("--kind", "monai", "--name", "net", "--licence", "MIT", "--prediction", "eps")
    code, out, err = run("models", "import", tmp_path / "c.safetensors", *words,
                         "--config", tmp_path / "c.json")  # fmt: skip
    assert code == 0, err
    assert verify_model("net").config.task == "generation"
    assert verify_model("net").config.path.kind == "tabulated"


def test_merge(run, store, tmp_path):
    write_adapter(tmp_path / "style")
    code, out, err = run("models", "merge", "vector", f"{tmp_path / 'style'}:0.5", "--name", "both")
    assert code == 0, err
    assert out == f"both: {store / 'both'}\n"
    assert verify_model("both").config.adapters[0].weight == 0.5


def _truncated(root):
    content = (root / "store" / "vector" / "model.safetensors").read_bytes()
    (root / "w.safetensors").write_bytes(content[: len(content) // 2])


def _code(root):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(root / "ran"),)

    torch.save({"a": Evil()}, root / "c.pt")


def _tensors(**shapes):
    def make(root):
        save_file(
            {name: torch.zeros(shape) for name, shape in shapes.items()}, root / "w.safetensors"
        )

    return make


def _no_weights(root):
    torch.save({"epoch": 3}, root / "c.pt")


def _text(name, text):
    return lambda root: (root / name).write_text(text)


def _nothing(root):
    pass


def _folder(name):
    return lambda root: (root / name).mkdir()


def _adapter(root):
    write_adapter(root / "a")


def _adapter_of_another(root):
    write_adapter(root / "a", base_sha256="0" * 64)


def _both(root):
    _no_weights(root)
    _tensors()(root)


ONE = _tensors(a=(2,))
MERGE = ["merge", "vector", "a", "--name"]
BARE = ["import", "w.safetensors", "--kind", "monai"]
C_PT = ["convert", "c.pt"]
EXPORT = ["export", "vector", "-o", "x"]
PUBLISHED = ["import", "w.safetensors", "--name", "n", "--licence", "MIT", "--kind"]
MONAI = [*PUBLISHED, "monai", "--prediction", "eps"]
WRONG = {
    "truncated weights": (_truncated, MONAI, 6, "not a whole safetensors file"),
    "text as weights": (_text("w.safetensors", "hello"), MONAI, 6, "not a whole safetensors file"),
    "no tensors": (_tensors(), MONAI, 6, "holds no tensors"),
    "missing keys": (ONE, MONAI, 6, "weights are missing"),
    "no guided diffusion": (ONE, [*PUBLISHED, "guided_diffusion"], 6, "read from the names"),
    "no configuration": (ONE, ["import", "w.safetensors"], 6, "not what they are of"),
    "no licence": (ONE, [*BARE, "--name", "n"], 2, "no licence came"),
    "no name": (ONE, [*BARE, "--licence", "MIT"], 2, "no name came"),
    "an empty licence": (ONE, [*BARE, "--name", "n", "--licence", " "], 2, "no licence came"),
    "a name elsewhere": (ONE, [*MONAI, "--name", "../n"], 2, "name"),
    "no prediction": (ONE, [*PUBLISHED, "monai"], 2, "no prediction came"),
    "odd prediction": (ONE, [*PUBLISHED, "monai", "--prediction", "sound"], 2, "prediction"),
    "medforj's own words": (ONE, [*PUBLISHED, "medforj", "--prediction", "eps"], 2, "noise"),
    "unknown kind": (ONE, [*PUBLISHED, "keras"], 2, "keras"),
    "name taken": (ONE, [*MONAI, "--name", "vector"], 7, "taken"),
    "impossible name": (ONE, [*MONAI, "--name", "Big Name"], 2, "name"),
    "a folder as weights": (_folder("w.safetensors"), MONAI, 4, "is a folder"),
    "nothing there": (_nothing, MONAI, 4, "does not exist"),
    "a checkpoint of torch": (_no_weights, ["import", "c.pt", *MONAI[2:]], 6, "models convert"),
    "a checkpoint as ours": (_no_weights, ["import", "c.pt"], 6, "models convert"),
    "an empty folder": (_folder("f"), ["import", "f"], 6, "config.json"),
    "configuration no JSON": (_text("c.json", "{"), [*MONAI, "--config", "c.json"], 4, "JSON"),
    "configuration a list": (_text("c.json", "[]"), [*MONAI, "--config", "c.json"], 4, "a list"),
    "a network as a list": (
        lambda root: (ONE(root), _text("c.json", '{"network": [1]}')(root)),
        [*MONAI, "--config", "c.json"], 2, "network",
    ),
    "a network of a wrong size": (
        lambda root: (ONE(root), _text("c.json", '{"network": {"in_channels": "many"}}')(root)),
        [*MONAI, "--config", "c.json"], 2, "in_channels",
    ),
    "weights of one axis": (
        _tensors(**{"output_blocks.1.0.w": (2,), "input_blocks.1.0.out_layers.3.weight": (2,),
                    "input_blocks.0.0.weight": (2,)}),
        [*PUBLISHED, "guided_diffusion"], 6, "read from the names",
    ),
    "code in a checkpoint": (_code, C_PT, 6, "asks to run code"),
    "no weights in a checkpoint": (_no_weights, C_PT, 6, "no tensors by name"),
    "text as a checkpoint": (_text("c.pt", "hello world"), C_PT, 6, "no checkpoint"),
    "convert a folder": (_folder("c.pt"), C_PT, 4, "is a folder"),
    "convert nothing": (_nothing, C_PT, 4, "does not exist"),
    "convert over a file": (_both, [*C_PT, "-o", "w.safetensors"], 7, "exists"),
    "export what is not there": (_nothing, ["export", "absent", "-o", "x"], 6, "no model"),
    "export over a file": (_text("x", ""), EXPORT, 7, "exists"),
    "export a folder over a file": (_text("x", ""), [*EXPORT, "--overwrite"], 2, "no folder"),
    "an adapter that is not there": (_nothing, [*MERGE, "m"], 4, "is no folder"),
    "an adapter undescribed": (_folder("a"), [*MERGE, "m"], 6, "adapter.json"),
    "a weight that is no number": (_nothing, [*MERGE, "m", "a:much"], 2, "FOLDER:WEIGHT"),
    "an adapter of another base": (_adapter_of_another, [*MERGE, "m"], 6, "was trained on"),
    "an adapter over a model": (_adapter, [*MERGE, "vector"], 7, "exists"),
    "an impossible name for the sum": (_adapter, [*MERGE, "A B"], 2, "name"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words", "expected", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_gets_one_line_and_its_code(
    run, store, tmp_path, make, words, expected, said
):
    make(tmp_path)
    before = {path.name for path in store.iterdir()}
    code, out, err = run("models", *words)
    assert (code, out) == (expected, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert said in err
    assert "Traceback" not in err
    assert {path.name for path in store.iterdir()} == before
    assert not Path("ran").exists()


@pytest.mark.parametrize("action", ["--help", "import --help", "merge --help", "list --json"])
def test_help_and_listing_import_no_torch(store, action):
    code = (
        "import sys\nfrom medsci.cli.main import main\n"
        "code = main(['models', *sys.argv[1:]])\n"
        "sys.exit(code or ('torch' in sys.modules) or ('monai' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *action.split()], capture_output=True)
    assert done.returncode == 0, done.stderr
    control = f"import torch\n{code}"
    if action == "--help":
        done = subprocess.run([sys.executable, "-c", control, "--help"], capture_output=True)
        assert done.returncode == 1
