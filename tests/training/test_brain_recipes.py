"""The recipes of brain volumes: what they name, every prediction, one's own label maps."""

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from medsci.cli.brain_train import train
from medsci.core.rng import Rng
from medsci.data import head_volumes
from medsci.errors import InvalidInputError, UsageError
from medsci.models import load_denoiser
from medsci.nets import MonaiUNetConfig, build_network
from medsci.pipelines.brain_train import data_overrides
from medsci.pipelines.train import packaged_recipe, train_from_recipe
from medsci.training import load_recipe
from medsci.training.assembly import build_parts, build_source, check_fit, stored_config

SHAPE = (16, 16, 16)


class Stub:
    """Volumes of smooth numbers between -1 and 1."""

    def __init__(self, *, n_heads, size, **_):
        self.n_items, self.size = n_heads, size

    def draw(self, item, seed):
        generator = torch.Generator().manual_seed(1000 * item + seed % 1000)
        x0 = 0.6 * torch.randn(4, *self.size, generator=generator) - 0.3
        return {"x0": x0, "covariates": torch.randn(4, generator=generator)}


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(head_volumes, "SimulatedHeadVolumes", Stub)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three heads with label maps and brain masks, as preparing and segmenting leave them."""
    where = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    for index in range(3):
        image = np.zeros((20, 18, 16), dtype=np.float32)
        image[2:18, 2:16, 2:14] = generator.random((16, 14, 12)) + 0.5
        labels = np.zeros(image.shape, dtype=np.int16)
        labels[4:8, 4:14, 4:12], labels[8:11, 4:14, 4:12], labels[11:15, 4:14, 4:12] = 1, 2, 3
        affine = np.diag([12.0, 12.0, 12.0, 1.0])
        for end, data in (("T1w", image), ("dseg", labels), ("T1w_mask", labels)):
            nib.save(nib.Nifti1Image(data, affine), where / f"sub-{index}_{end}.nii.gz")
    return where


def read(name, *overrides):
    return load_recipe(packaged_recipe(name), overrides=overrides)


def test_the_shipped_model_is_small_and_says_all_about_itself():
    recipe = read("brain_small")
    config = stored_config(recipe)
    n_parameters = sum(p.numel() for p in build_network(config.network, seed=0).parameters())
    assert 3.2e6 < n_parameters < 3.9e6
    assert config.weights_dtype == "float16"
    assert (config.name, config.training_size) == ("brain-t1-small", (48, 56, 48))
    assert config.image_channels == ("t1", "fluid", "grey", "white")
    assert config.voxel_size_mm == (4.0, 4.0, 4.0)
    assert (config.orientation, config.value_range) == ("RAS", (-1.0, 1.0))
    assert [c.name for c in config.covariates] == [row[0] for row in head_volumes.COVARIATES]
    assert [c.std for c in config.covariates] == [row[3] for row in head_volumes.COVARIATES]
    assert "[-1" not in config.intensity
    assert "2 p - 1" in config.intensity
    assert recipe.condition_dropout > 0.0


@pytest.mark.parametrize(("name", "size"), [("1mm", (192, 224, 192)), ("4mm", (48, 64, 48))])
def test_the_published_recipes_are_as_published(name, size):
    recipe = read(f"brain_flow_{name}")
    assert recipe.network == MonaiUNetConfig(), "41,245,217 parameters"
    assert (recipe.path.kind, recipe.path.schedule, recipe.path.n_rows) == (
        "tabulated", "linear", 1000,
    )  # fmt: skip
    assert (recipe.path.beta_start, recipe.path.beta_end) == (1e-4, 2e-2)
    assert (recipe.prediction, recipe.time_code, recipe.unit_input) == ("flow", "row", False)
    assert recipe.data.size == size
    assert not any(n % recipe.network.multiple for n in size)
    assert (recipe.data.intensity, recipe.data.value_range) == ("minmax", (-1.0, 1.0))
    assert (recipe.data.max_rotation_deg, recipe.data.mirror, recipe.data.gain) == (5.0, True, 1.0)
    optimiser = recipe.optimiser
    assert (optimiser.learning_rate, optimiser.betas) == (1e-4, (0.9, 0.999))
    assert (optimiser.weight_decay, optimiser.warmup_steps, optimiser.final_fraction) == (0, 0, 1)
    assert recipe.trainer.ema_decay == 0.9999
    assert recipe.card.image_channels == ("t1",)


ROWS = 1.0 - np.linspace(1e-4, 2e-2, 1000)
TABLE = ("path.kind=tabulated", "time_code=row", "unit_input=false")
STRAIGHT = ("path.kind=rectified", "time_code=time", "unit_input=false")


def on_table(t):
    """Return alpha and sigma of the published schedule, between rows by the nearest one."""
    bar = np.cumprod(ROWS)[np.clip(np.rint(1000 * t - 1), 0, 999).astype(int)]
    return np.sqrt(bar), np.sqrt(1.0 - bar)


@pytest.mark.parametrize(
    ("prediction", "path"),
    [("eps", TABLE), ("x0", TABLE), ("v", TABLE), ("flow", TABLE), ("flow", STRAIGHT)],
)
def test_every_prediction_is_reached_and_regresses_what_it_says(prediction, path, stub):
    """An untrained network returns zero, so that its loss is the mean square of the target."""
    recipe = read(
        "brain_tiny",
        f"prediction={prediction}",
        *path,
        "time_law.kind=uniform",
        "time_law.axis=time",
    )
    source, parts = build_source(recipe, split="train"), build_parts(recipe)
    assert check_fit(recipe, {"train": source}) == (4, *SHAPE)
    drawn = [source.draw(item % 2, item) for item in range(6)]
    x0, covariates = (torch.stack([d[key] for d in drawn]) for key in ("x0", "covariates"))
    objective = parts.objective(parts.denoiser)
    loss, seen = objective(
        parts.denoiser, x0, rng=Rng(0, range(6)), step=0, cond={"covariates": covariates}
    )
    t = seen["t"].numpy()
    a, s = (1.0 - t, t) if "rectified" in path[0] else on_table(t)
    ms = x0.double().square().flatten(1).mean(1).numpy()
    expected = {
        "eps": np.ones(6), "x0": ms, "v": a**2 + s**2 * ms, "flow": 1.0 + ms,
    }[prediction]  # fmt: skip
    np.testing.assert_allclose(seen["loss"].numpy(), expected, rtol=0.05)
    assert loss.item() == pytest.approx(seen["loss"].mean().item())
    wrong = {"eps": ms, "x0": 1.0, "v": a**2 * ms + s**2, "flow": a + s}[prediction]
    assert np.abs(seen["loss"].numpy() / (wrong + 0.0 * ms) - 1.0).max() > 0.1, "control"
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in parts.denoiser.parameters())


def test_recomputed_activations_give_the_same_gradients_bit_for_bit(stub):
    gradients = []
    for setting in ("false", "true"):
        recipe = read("brain_tiny", f"trainer.checkpoint_activations={setting}")
        parts, source = build_parts(recipe), build_source(recipe, split="train")
        drawn = source.draw(0, 0)
        loss, _ = parts.objective(parts.denoiser)(
            parts.denoiser,
            drawn["x0"][None],
            rng=Rng(0, [0]),
            step=0,
            cond={"covariates": drawn["covariates"][None]},
        )
        loss.backward()
        gradients.append({n: p.grad for n, p in parts.denoiser.named_parameters()})
        recomputed = [m for m in parts.denoiser.modules() if "forward" in vars(m)]
        assert bool(recomputed) == (setting == "true")
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_dry_run_of_each_recipe_builds_it(stub, folder):
    assert "(4, 4, 16, 16, 16)" in train_from_recipe("brain_tiny", dry_run=True, device="cpu")
    small = ("network.channels=[8, 16]", "network.res_blocks=[1, 1]", "network.head_channels=8",
             "network.attention_levels=[1]", "data.size=[16, 16, 16]", "trainer.batch_size=2",
             "data.cache_dir=null", "trainer.workers=0", "trainer.accumulate=1")  # fmt: skip
    for name in ("brain_flow_1mm", "brain_flow_4mm"):
        coarse = "data.voxel_size_mm=[12, 12, 12]"
        overrides = [*data_overrides(name, folder), *small, coarse]
        told = train_from_recipe(name, overrides=overrides, dry_run=True, device="cpu")
        assert "2 items, (2, 1, 16, 16, 16)" in told, "masks and label maps are no images"


def test_own_volumes_with_label_maps_train_the_model_of_simulated_heads(folder, tmp_path):
    overrides = data_overrides("brain_tiny", folder)
    recipe = read("brain_tiny", *overrides)
    source = build_source(recipe, split="train")
    drawn = source.draw(0, 3)
    assert drawn["x0"].shape == (4, *SHAPE)
    assert drawn["x0"].amin((1, 2, 3)).tolist() == [-1.0] * 4
    p = 0.5 * (drawn["x0"][1:] + 1.0)
    volumes = p.sum((1, 2, 3)) * 12.0**3 / 1000.0
    values = torch.cat([volumes.sum()[None], volumes / volumes.sum()])
    mean, std = (torch.tensor([row[k] for row in head_volumes.COVARIATES]) for k in (2, 3))
    torch.testing.assert_close(drawn["covariates"], (values - mean) / std, rtol=1e-4, atol=1e-3)
    assert stored_config(recipe).covariates[0].name == head_volumes.COVARIATES[0][0]
    app = typer.Typer()
    app.command()(train)
    words = ["brain_tiny", "--data", str(folder), "-o", str(tmp_path / "run"), "--device", "cpu",
             "-q", "--set", "trainer.max_steps=2", "--set", "trainer.val_samples=2",
             "--set", "trainer.tensorboard=false", "--set", "name=own"]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    model = load_denoiser(tmp_path / "run" / "model")
    x = torch.randn(1, 4, *SHAPE)
    given = model(x, 0.5, covariates=torch.zeros(1, 4))
    assert given.shape == x.shape
    assert given.isfinite().all()


def test_the_command_prints_what_it_would_train_and_says_what_is_wrong(folder, tmp_path):
    app = typer.Typer()
    app.command()(train)
    printed = CliRunner().invoke(app, ["--print-config"], catch_exceptions=False)
    assert "name: brain-t1-small" in printed.output
    words = ["brain_flow_4mm", "--data", str(folder), "--print-config"]
    assert str(folder) in CliRunner().invoke(app, words, catch_exceptions=False).output
    with pytest.raises(UsageError, match="does not exist"):
        data_overrides("brain_small", tmp_path / "absent")
    with pytest.raises(UsageError, match="trains on simulated_heads; choose one of volumes"):
        data_overrides("prior_2d", folder)
    with pytest.raises(InvalidInputError, match="no recipe 'brain_smal'"):
        data_overrides("brain_smal", folder)
    bare = tmp_path / "bare"
    bare.mkdir()
    for index in range(2):
        image = np.random.default_rng(index).random((16, 16, 16)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), bare / f"{index}_T1w.nii.gz")
    with pytest.raises(InvalidInputError, match=r"has a label map.*put one beside it"):
        build_source(read("brain_tiny", *data_overrides("brain_tiny", bare)), split="train")


def test_columns_of_a_table_become_covariates(folder):
    rows = ["image,age,site"] + [f"sub-{k}_T1w.nii.gz,{30 + 10 * k},1" for k in range(3)]
    table = folder / "people.csv"
    table.write_text("\n".join(rows))
    age = "{name: age, unit: a, mean: 40, std: 5, low: 30, high: 50}"
    plain = ("data.labels=null", "data.tissue_covariates=false", "network.in_channels=1",
             "network.out_channels=1", "card.image_channels=[t1]")  # fmt: skip
    overrides = [*data_overrides("brain_tiny", table), *plain, f"data.covariates=[{age}]"]
    with pytest.raises(InvalidInputError, match="n_covariates: the data have 1"):
        read("brain_tiny", *overrides)
    recipe = read("brain_tiny", *overrides, "network.n_covariates=1")
    both = [build_source(recipe, split=split) for split in ("train", "validation")]
    values = [s.draw(k, 0)["covariates"].item() for s in both for k in range(s.n_items)]
    assert sorted(values) == [-2.0, 0.0, 2.0]
    assert stored_config(recipe).covariates[0].name == "age"
