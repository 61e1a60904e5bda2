"""`medsci train`: its help, its schema, its packaged recipes, a dry run and a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from medsci.cli.main import main
from medsci.pipelines import train as pipeline
from medsci.training import load_recipe
from medsci.training.recipe import TASKS

PACKAGED = sorted((Path(pipeline.__file__).parent / "recipes").glob("*.yaml"))


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        code = main(["train", *[str(word) for word in arguments]])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def recipe(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((8, 2, 16, 16), dtype=np.float32))
    content = {
        "name": "tiny",
        "data": {"kind": "arrays", "files": str(tmp_path / "a.npy")},
        "network": {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8},
        "trainer": {"max_steps": 2, "batch_size": 2, "threads": 1, "tensorboard": False},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_help_names_what_there_is(run):
    code, out, _ = run("--help")
    assert code == 0
    for option in ("--set", "--resume", "--dry-run", "--print-config", "--schema", "--device"):
        assert option in out
    assert "JSON schema" in " ".join(out.split())


def test_the_schema_knows_every_section_of_every_task(run):
    code, out, err = run("--schema")
    assert (code, err) == (0, "")
    definitions = json.loads(out)["$defs"]
    for model in TASKS.values():
        assert set(definitions[model.__name__]["properties"]) == set(model.model_fields)
    kinds = {d["properties"]["kind"]["const"] for d in definitions.values()
             if "kind" in d.get("properties", {})}  # fmt: skip
    assert {"reflow", "consistency", "arrays", "pairs", "unet_3d", "transport"} <= kinds


def test_the_schema_needs_no_recipe_and_comes_before_everything_else(run):
    assert run("nobody.yaml", "--schema")[0] == 0
    assert run()[0] == 2


@pytest.mark.parametrize("file", PACKAGED, ids=lambda file: file.stem)
def test_a_printed_recipe_reads_back_as_itself(file, run, tmp_path):
    code, out, err = run(file.stem, "--print-config")
    assert (code, err) == (0, "")
    again = tmp_path / "again.yaml"
    again.write_text(out)
    assert load_recipe(again) == load_recipe(file)
    assert run(again, "--print-config")[1] == out
    changed = run(file.stem, "--print-config", "--set", "seed=77")[1]
    assert changed != out
    assert yaml.safe_load(changed)["seed"] == 77


def test_the_packaged_recipes_are_all_there():
    named = {"prior_2d", "prior_2d_smoke", "heads_64", "reflow", "rectified_diffusion", "phased",
             "slim_reflow", "slim_flow", "consistency_lora", "mmd"}  # fmt: skip
    assert named <= {file.stem for file in PACKAGED}


def test_a_dry_run_tells_and_writes_nothing(run, recipe, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(recipe, "--dry-run", "--device", "cpu")
    assert (code, err) == (0, "")
    for word in ("parameters", "1 x cpu", "7 items, (2, 2, 16, 16)", "first loss", "2 steps"):
        assert word in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_goes_to_the_folder_of_its_name_and_is_resumed_or_overwritten(run, recipe):
    code, out, err = run(recipe, "--device", "cpu")
    assert (code, out) == (0, "")
    assert "2 steps, done; model in runs/tiny/model" in err
    assert Path("runs/tiny/model/model.safetensors").is_file()
    assert run(recipe, "--device", "cpu")[0] == 7
    code, _, err = run(recipe, "--device", "cpu", "--resume", "runs/tiny")
    assert (code, err.count("model in")) == (0, 1)
    assert run(recipe, "--device", "cpu", "--overwrite", "--set", "seed=1")[0] == 0
    code, _, err = run(recipe, "--device", "cpu", "--resume", "auto")
    assert code == 4
    assert "seed differ" in err
