"""The training pipeline: one recipe file in, one model folder out."""

import nibabel as nib
import numpy as np
import pytest
import yaml

from medsci.errors import InvalidInputError, OutputExistsError
from medsci.models import load_denoiser
from medsci.nets.unet import build_network
from medsci.pipelines.train import packaged_recipe, train_from_recipe
from medsci.training import PriorRecipe, load_recipe
from medsci.training.assembly import stored_config


@pytest.fixture
def recipe_file(tmp_path):
    generator = np.random.default_rng(0)
    data = generator.random((16, 16, 4)).astype(np.float32) + 0.5
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "one.nii.gz")
    volume = str(tmp_path / "one.nii.gz")
    content = {
        "name": "tiny",
        "data": {"kind": "nifti_slices", "train": volume, "validation": volume, "size": [16, 16]},
        "network": {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8},
        "trainer": {"max_steps": 4, "batch_size": 2, "log_every_steps": 2, "threads": 1},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_recipe_becomes_a_model_and_is_not_run_over(recipe_file, tmp_path, capsys):
    out = tmp_path / "run"
    result = train_from_recipe(recipe_file, overrides=["seed=5"], device="cpu", output=out)
    assert load_denoiser(result.model).path is not None
    assert PriorRecipe.model_validate_json((out / "recipe.json").read_bytes()).seed == 5
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "step 4/4" in streams.err
    with pytest.raises(OutputExistsError):
        train_from_recipe(recipe_file, device="cpu", output=out)
    again = train_from_recipe(
        recipe_file, overrides=["seed=6"], device="cpu", output=out, overwrite=True
    )
    assert again.steps == 4
    assert PriorRecipe.model_validate_json((out / "recipe.json").read_bytes()).seed == 6
    done = train_from_recipe(
        recipe_file, overrides=["seed=6"], device="cpu", output=out, resume="auto"
    )
    assert done.steps == 4


def test_printing_and_trying_write_nothing(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    printed = train_from_recipe(recipe_file, overrides=["seed=9"], print_config=True)
    assert yaml.safe_load(printed)["seed"] == 9
    tried = train_from_recipe(recipe_file, dry_run=True, device="cpu")
    assert "parameters" in tried
    assert "(2, 2, 16, 16)" in tried
    assert sorted(tmp_path.rglob("*")) == before


def test_packaged_recipes_are_found_by_name_and_all_read():
    printed = train_from_recipe("prior_2d_smoke", print_config=True)
    assert yaml.safe_load(printed)["name"] == "brain-t1-2d-smoke"
    with pytest.raises(InvalidInputError, match=r"give a file, or one of .*prior_2d"):
        train_from_recipe("prior_2", print_config=True)


def test_the_shipped_prior_fits_eight_megabytes():
    recipe = load_recipe(packaged_recipe("prior_2d"))
    config = stored_config(recipe)
    assert config.weights_dtype == "float16"
    n_parameters = sum(p.numel() for p in build_network(config.network, seed=0).parameters())
    assert 2e6 < 2 * n_parameters < 8e6  # two bytes each
    assert recipe.data.kind == "simulated_heads"
