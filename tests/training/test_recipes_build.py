"""Every packaged recipe can be read and its network built; the large ones run on small data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medsci.imaging import Volume, write_nifti
from medsci.nets import build_network
from medsci.pipelines import train as pipeline
from medsci.pipelines.train import train_from_recipe
from medsci.training import load_recipe

PACKAGED = sorted((Path(pipeline.__file__).parent / "recipes").glob("*.yaml"))
LARGE = {"ct_2d_large": 1, "prior_2d_large": 2}  # channels


def test_the_large_ones_are_there():
    assert set(LARGE) <= {file.stem for file in PACKAGED}


@pytest.mark.parametrize("file", PACKAGED, ids=lambda file: file.stem)
def test_a_recipe_is_read_and_its_network_built(file):
    recipe = load_recipe(file)
    network = getattr(recipe, "network", None)
    if network is None:
        pytest.skip("starts from a stored model")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(network).parameters())
    assert parameters > 1e5


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_is_large_and_fits_its_data(name, tmp_path, monkeypatch):
    recipe = load_recipe(next(file for file in PACKAGED if file.stem == name))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(recipe.network).parameters())
    assert 55e6 < parameters < 65e6
    assert recipe.trainer.precision == "bfloat16"
    assert recipe.data.kind == "nifti_slices"
    assert all(side % recipe.network.multiple == 0 for side in recipe.data.size)
    assert recipe.network.in_channels == len(recipe.card.image_channels) == LARGE[name]
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(3):
        values = rng.uniform(-900, 900, (40, 40, 4)).astype(np.float32)
        write_nifti(Volume(values, np.eye(4)), tmp_path / f"sub-{number}.nii.gz")
    small = [
        f"data.files={tmp_path}", "data.size=[32,32]", "data.cache_dir=null",
        "data.validation_fraction=0.34", "network.channels=[16,16,16,32,64]",
        "network.res_blocks=[1,1,1,1,1]", "trainer.precision=float32", "trainer.workers=0",
        "trainer.batch_size=2", "trainer.threads=1",
    ]  # fmt: skip
    told = train_from_recipe(name, overrides=small, dry_run=True, device="cpu")
    assert f"(2, {LARGE[name]}, 32, 32)" in told
    assert not (tmp_path / "runs").exists()
