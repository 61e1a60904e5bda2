"""`models`, `data`, `doctor` and `train`: each says what it found and exits by what it found."""

import json
from types import SimpleNamespace

import pytest

import medsci
import medsci.models
from medsci.cli.main import main
from medsci.errors import WeightsError


@pytest.fixture
def run(capfd):
    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def two_models(monkeypatch, tmp_path):
    """One sound model and one whose weights were exchanged."""
    config = SimpleNamespace(sha256="a" * 64, licence="Apache-2.0", image_channels=("x",))
    infos = {
        name: SimpleNamespace(
            name=name,
            folder=tmp_path / name,
            config=config,
            size_bytes=2_000_000,
            kind="mlp",
            task="prior",
        )
        for name in ("sound", "damaged")
    }

    def verify(name):
        if name == "damaged":
            raise WeightsError("damaged was exchanged; fetch it again")
        return infos[name]

    monkeypatch.setattr(medsci.models, "list_models", lambda: list(infos.values()))
    monkeypatch.setattr(medsci.models, "verify_model", verify)
    monkeypatch.setattr(medsci.models, "find_model", lambda name: tmp_path / name)
    return tmp_path


def test_version(run):
    assert run("--version") == (0, f"medsci {medsci.__version__}\n", "")


def test_models_list(run, two_models):
    code, out, _ = run("models", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["sound", "damaged"]
    assert "2.0 MB" in out
    _, out, _ = run("models", "list", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["sound", "damaged"]


def test_no_model_is_said(run, monkeypatch):
    monkeypatch.setattr(medsci.models, "list_models", list)
    code, out, err = run("models", "list")
    assert (code, out) == (0, "")
    assert "no model" in err


def test_models_verify(run, two_models):
    code, out, err = run("models", "verify")
    assert code == 6
    assert "sound: ok" in out
    assert err == "error: damaged was exchanged; fetch it again\n"
    assert run("models", "verify", "sound")[0] == 0
    _, out, _ = run("models", "verify", "--json")
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [True, False]


def test_models_card(run, two_models):
    (two_models / "sound").mkdir()
    (two_models / "sound" / "MODEL_CARD.md").write_text("# Sound\n")
    assert run("models", "card", "sound") == (0, "# Sound\n", "")
    code, _, err = run("models", "card", "damaged")
    assert code == 6
    assert "MODEL_CARD.md is missing" in err


def test_models_speed(run, monkeypatch):
    import medsci.pipelines.speed as job

    def network_speed(name, *, batch, device):
        return job.Speed("cpu", batch, (217, 181), 300.0, 120.0, "bfloat16")

    monkeypatch.setattr(job, "network_speed", network_speed)
    code, out, _ = run("models", "speed", "any", "--batch", 2)
    assert code == 0
    assert "2 images of 217 x 181: float32 300 ms, bfloat16 120 ms" in out
    assert "2.5 times" in out
    _, out, _ = run("models", "speed", "any", "--json")
    assert json.loads(out)["speed_up"] == 2.5


def test_data_list_names_origin_and_licence(run):
    code, out, _ = run("data", "list")
    assert code == 0
    assert out.count("licence") == out.count("from  ") > 3
    _, out, _ = run("data", "list", "--json")
    assert all(json.loads(line)["licence"] for line in out.splitlines())


def test_data_check(run, monkeypatch):
    import medsci.data

    states = {"good": "ok", "odd": "changed"}
    monkeypatch.setattr(medsci.data, "check_data", lambda name: states[name])
    assert run("data", "check", "good")[0] == 0
    code, out, err = run("data", "check", "good", "odd")
    assert code == 4
    assert out.split() == ["good", "ok", "odd", "changed"]
    assert "odd" in err


def test_data_check_of_an_unknown_name(run):
    code, _, err = run("data", "check", "nothing-of-that-name")
    assert code == 4
    assert "nothing-of-that-name" in err


def test_doctor(run):
    code, out, _ = run("doctor")
    assert code == 0
    assert medsci.__version__ in out
    assert "torch" in out
    _, out, _ = run("doctor", "--json")
    assert json.loads(out)["medsci"] == medsci.__version__


@pytest.mark.parametrize("answer", ["resolved: yes\n", None])
def test_train_passes_everything_on(run, monkeypatch, answer):
    import medsci.pipelines.train as job

    calls = []

    def train_from_recipe(recipe, **options):
        calls.append((recipe, options))
        return answer

    monkeypatch.setattr(job, "train_from_recipe", train_from_recipe)
    words = "prior_2d --set a.b=1 --set c=2 --resume auto --dry-run --device cpu -o runs/x"
    code, out, _ = run("train", *words.split(), "--print-config", "--overwrite")
    assert code == 0
    assert out == (answer or "")
    ((recipe, options),) = calls
    assert recipe == "prior_2d"
    assert options["overrides"] == ("a.b=1", "c=2")
    assert (options["resume"], options["device"]) == ("auto", "cpu")
    assert options["dry_run"] is options["print_config"] is options["overwrite"] is True
    assert str(options["output"]) == "runs/x"


def test_a_recipe_that_is_not_there(run):
    code, _, err = run("train", "no-such-recipe")
    assert code == 4
    assert "prior_2d" in err, "names those that are"
