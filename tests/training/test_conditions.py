"""Covariates and condition images in training: dropped at their rates, used, resumed, stored."""

import json
import math
import signal

import pytest
import torch

from medsci.core.denoise import Denoiser
from medsci.core.learn import ConditionDropout, Regression
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.data import head_volumes
from medsci.errors import InvalidInputError
from medsci.nets import UNet3dConfig, build_network
from medsci.training import PriorRecipe, TrainingTerminatedError, train
from medsci.training.assembly import build_parts, build_source, check_fit, stored_config
from medsci.training.assembly.conditioned import Conditioned, coarsened
from medsci.training.assembly.law import build_dropout
from medsci.training.callbacks import StopCleanly
from medsci.training.validation import Validator

N, NAN = 20000, float("nan")
SMALL = {"channels": (8, 32), "res_blocks": (1, 1), "norm_groups": 8, "stem_factor": 2}
NETWORK = {"kind": "unet_3d", "in_channels": 4, "out_channels": 4, "n_covariates": 4, **SMALL}
CARD = {"image_channels": ["t1", "fluid", "grey", "white"], "value_range": [-1.0, 1.0]}


class Stub:
    """Volumes that are the first covariate everywhere, up to a little noise."""

    def __init__(self, *, n_heads, size, split, **_):
        self.n_items, self.size, self.split = n_heads, size, split

    def draw(self, item, seed):
        generator = torch.Generator().manual_seed(2 * (1000 * item + seed % 1000) + 1)
        covariates = torch.randn(4, generator=generator)
        noise = torch.randn(4, *self.size, generator=generator)
        return {"x0": 0.5 * covariates[0] + 0.05 * noise, "covariates": covariates}


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(head_volumes, "SimulatedHeadVolumes", Stub)


def recipe_of(**changes):
    content = {
        "name": "conditioned",
        "data": {
            "kind": "simulated_head_volumes", "n_heads": 5, "n_validation_heads": 2,
            "size": [8, 8, 8],
        },
        "network": NETWORK,
        "prediction": "edm",
        "condition_dropout": 0.3,
        "optimiser": {"learning_rate": 3e-3, "warmup_steps": 2},
        "trainer": {
            "max_steps": 6, "batch_size": 4, "precision": "float32", "ema_decay": 0.9,
            "log_every_steps": 2, "val_every_steps": 3, "val_samples": 4, "threads": 1,
            "checkpoint_every_steps": 2, "tensorboard": False,
        },
        "samples": {"every_steps": 3, "count": 2, "steps": 2},
        "card": CARD,
    }  # fmt: skip
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return PriorRecipe.model_validate(content)


def near(share, p):
    return share == pytest.approx(p, abs=4.5 * math.sqrt(p * (1.0 - p) / N) + 1e-12)


@pytest.mark.parametrize("p", [0.15, 0.5])
def test_rows_entries_and_images_are_dropped_at_their_rates(p):
    recipe = recipe_of(condition_dropout=p)
    dropout = build_dropout(recipe)
    assert dropout.entries == {"covariates": 0.5 * p}
    both = ConditionDropout(
        0.0, {**dropout.null, "image": NAN}, alone={**dropout.alone, "image": p},
        entries=dropout.entries,
    )  # fmt: skip
    cond = {"covariates": torch.randn(N, 4), "image": torch.randn(N, 1, 2)}
    kept, _ = both(cond, rng=Rng(0, range(N)), step=3)
    lost, image = kept["covariates"].isnan(), kept["image"].isnan()
    q = 0.5 * p
    whole = p + (1.0 - p) * q**4
    assert near(lost.all(1).double().mean().item(), whole)
    for entry in range(4):
        assert near(lost[:, entry].double().mean().item(), p + (1.0 - p) * q)
    partly = lost.any(1) & ~lost.all(1)
    assert near(partly.double().mean().item(), (1.0 - p) * (1.0 - q**4 - (1.0 - q) ** 4))
    pair = (~lost.all(1)) & lost[:, 0] & lost[:, 1] & ~lost[:, 2] & ~lost[:, 3]
    assert near(pair.double().mean().item(), (1.0 - p) * q**2 * (1.0 - q) ** 2)
    gone = image.flatten(1).all(1)
    assert torch.equal(gone, image.flatten(1).any(1)), "an image goes as a whole"
    assert near(gone.double().mean().item(), p)
    assert near((gone & lost.all(1)).double().mean().item(), p * whole)
    stays = ~lost
    assert torch.equal(kept["covariates"][stays], cond["covariates"][stays])
    assert torch.equal(kept["image"][~gone], cond["image"][~gone])


def test_dropping_depends_on_sample_and_step_alone():
    dropout = build_dropout(recipe_of(condition_dropout=0.5))
    values = torch.randn(64, 4)

    def kept(rows, step=0):
        cond = {"covariates": values[rows]}
        return dropout(cond, rng=Rng(5, rows), step=step)[0]["covariates"]

    whole = kept(list(range(64)))
    torch.manual_seed(1)  # a global seed changes nothing
    some = [9, 3, 40]
    assert torch.equal(kept(some).isnan(), whole[some].isnan())
    assert not torch.equal(kept(list(range(64)), step=1).isnan(), whole.isnan())


def test_what_makes_no_sense_of_a_dropout_is_refused():
    with pytest.raises(ValueError, match=r"alone\['covariates'\]=1.5"):
        ConditionDropout(0.0, {"covariates": NAN}, alone={"covariates": 1.5})
    with pytest.raises(ValueError, match="names 'image', which has no null"):
        ConditionDropout(0.0, {"covariates": NAN}, entries={"image": 0.1})
    assert build_dropout(recipe_of(condition_dropout=0.0)) is None


def test_a_run_with_conditions_resumes_bit_for_bit(stub, tmp_path, monkeypatch):
    recipe = recipe_of()
    whole = train(recipe, output=tmp_path / "whole", device="cpu")
    original = StopCleanly.on_train_batch_end

    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        original(self, trainer, module, outputs, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(StopCleanly, "on_train_batch_end", interrupt)
        with pytest.raises(TrainingTerminatedError, match="after step 3"):
            train(recipe, output=tmp_path / "run", device="cpu")
    resumed = train(recipe, output=tmp_path / "run", device="cpu", resume="auto")
    model = "model/model.safetensors"
    stored = (resumed.folder / model).read_bytes()
    assert stored == (whole.folder / model).read_bytes()
    undropped = train(recipe_of(condition_dropout=0.0), output=tmp_path / "other", device="cpu")
    assert stored != (undropped.folder / model).read_bytes(), "control: dropping has an effect"
    assert len(list((whole.folder / "samples").glob("*.png"))) == 2
    config = json.loads((whole.folder / "model/config.json").read_text())
    assert [row["name"] for row in config["covariates"]] == [c[0] for c in head_volumes.COVARIATES]
    assert (config["orientation"], config["value_range"]) == ("RAS", [-1.0, 1.0])
    assert config["image_channels"] == CARD["image_channels"]


def test_the_condition_is_learnt_and_a_shuffled_one_is_worse_than_none(stub):
    recipe = recipe_of(condition_dropout=0.2)
    source = build_source(recipe, split="train")
    denoiser = build_parts(recipe).denoiser
    loss_of = Regression(dropout=build_dropout(recipe))
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    for step in range(100):
        drawn = [source.draw(i, step) for i in range(16)]
        x0, covariates = (torch.stack([d[key] for d in drawn]) for key in ("x0", "covariates"))
        rng = Rng(0, range(16 * step, 16 * step + 16))
        loss, _ = loss_of(denoiser, x0, rng=rng, step=step, cond={"covariates": covariates})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    drawn = [source.draw(i, 999) for i in range(64)]
    x0, values = (torch.stack([d[key] for d in drawn]) for key in ("x0", "covariates"))
    t = torch.full((64,), 0.97, dtype=torch.float64)
    hidden = values.clone()
    hidden[:, 1:] = NAN
    given = {
        "given": values,
        "in part": hidden,
        "none": values * NAN,
        "shuffled": values.roll(1, 0),
    }
    with torch.no_grad():
        losses = {
            name: Regression()
            .at(denoiser, x0, t, rng=Rng(1, range(64)), step=0, cond={"covariates": rows})
            .mean()
            .item()
            for name, rows in given.items()
        }
    assert losses["given"] < 0.5 * losses["none"]
    assert losses["in part"] < 0.5 * losses["none"]
    assert losses["none"] < 0.8 * losses["shuffled"]
    shown = Validator(source, recipe=recipe)(denoiser, Regression())
    bare = Validator(_Mute(source), recipe=recipe)(denoiser, Regression())
    assert shown[-1] < 0.7 * bare[-1], "validation gives the conditions"


class _Mute:
    """A source whose covariates are not known."""

    def __init__(self, source):
        self.source, self.n_items = source, source.n_items

    def draw(self, item, seed):
        drawn = self.source.draw(item, seed)
        return drawn | {"covariates": drawn["covariates"] * NAN}


def test_the_coarse_image_is_the_mean_of_its_cubes(stub):
    x = torch.randn(1, 6, 8, 5)
    coarse = coarsened(x, factor=2)
    assert coarse.shape == x.shape
    constant = torch.full((1, 5, 5, 5), 0.3)
    torch.testing.assert_close(coarsened(constant, factor=3), constant)
    cube = x[0, 0:2, 0:2, 0:2].mean()
    assert coarse[0, 0, 0, 0].item() == pytest.approx(cube.item(), abs=1e-6)
    ramp = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 8, 8)
    inner = coarsened(ramp, factor=2)[:, 1:-1]
    torch.testing.assert_close(inner, ramp[:, 1:-1])  # linear stays linear
    recipe = recipe_of(
        data={"low_resolution_mm": 8.0, "covariates": False},
        network={"n_covariates": 0, "condition_channels": 1},
    )
    source = build_source(recipe, split="train")
    drawn = source.draw(0, 0)
    assert sorted(drawn) == ["image", "x0"]
    assert torch.equal(drawn["image"], coarsened(drawn["x0"][:1], factor=2))
    assert check_fit(recipe, {"train": source}) == (4, 8, 8, 8)
    assert stored_config(recipe).covariates == ()
    assert set(build_dropout(recipe).null) == {"image"}
    assert (
        Conditioned(
            Stub(n_heads=3, size=(8, 8, 8), split="train"), covariates=True, coarser=None
        ).n_items
        == 3
    )


CONFLICTS = {
    "network.n_covariates: the data have 4": {"network": {"n_covariates": 0}},
    "network.condition_channels: the data have 0": {"network": {"condition_channels": 1}},
    "low_resolution_mm: 6.0 came with voxels of 4.0": {"data": {"low_resolution_mm": 6.0}},
    "coupling.kind: assignment makes the noise": {"coupling": {"kind": "assignment"}},
    "card.image_channels: 1 channels are named": {"card": {"image_channels": ["t1"]}},
    "network.in_channels: the data have 4": {"network": {"in_channels": 1}},
    "condition_dropout: the network takes no": {
        "data": {"covariates": False}, "network": {"n_covariates": 0},
    },
}  # fmt: skip


@pytest.mark.parametrize("words", CONFLICTS)
def test_a_recipe_whose_parts_do_not_fit_is_refused(words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        recipe_of(**CONFLICTS[words])


def test_samples_with_other_conditions_than_the_network_takes_are_refused(stub):
    recipe = recipe_of()
    bare = Conditioned(build_source(recipe, split="train"), covariates=False, coarser=None)
    with pytest.raises(InvalidInputError, match="n_covariates: train data have 0, the network"):
        check_fit(recipe, {"train": bare})
    pictured = Conditioned(build_source(recipe, split="train"), covariates=True, coarser=2)
    with pytest.raises(InvalidInputError, match="condition_channels: train data have 1"):
        check_fit(recipe, {"train": pictured})


def test_a_batch_of_mixed_knowledge_is_that_of_its_samples():
    network = build_network(UNet3dConfig.model_validate(NETWORK), seed=3)
    denoiser = Denoiser(network, path=Path.vp_linear(), pred="x0")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    x, values = torch.randn(3, 4, 8, 8, 8), torch.randn(3, 4)
    values[1], values[2, 1:3] = NAN, NAN
    with torch.no_grad():
        whole = denoiser(x, 0.4, covariates=values)
        for row in range(3):
            alone = denoiser(x[row : row + 1], 0.4, covariates=values[row : row + 1])
            torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)
