"""Training: resumed equals uninterrupted, whatever the workers; outputs load; SIGTERM saves."""

import json
import os
import signal

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError, OutputExistsError, UsageError
from medsci.models import load_denoiser
from medsci.training import PriorRecipe, TrainingTerminatedError, train
from medsci.training.callbacks import StopCleanly, read_log
from medsci.training.launch import resolve_device


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    for index in range(2):
        data = np.zeros((16, 18, 7), dtype=np.float32)
        data[2:14, 2:16] = generator.random((12, 14, 7)) + 0.5
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"head{index}.nii.gz")
    return str(folder)


@pytest.fixture(scope="module")
def recipe(volumes):
    return PriorRecipe.model_validate(
        {
            "name": "tiny",
            "seed": 3,
            "data": {
                "kind": "nifti_slices", "train": volumes, "validation": volumes, "size": [16, 16],
            },
            "network": {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8},
            "sigma_data": 0.5,
            "prediction": "edm",
            "optimiser": {"learning_rate": 1e-3, "warmup_steps": 2},
            "trainer": {
                "max_steps": 10, "batch_size": 3, "precision": "float32", "ema_decay": 0.9,
                "log_every_steps": 2, "val_every_steps": 4, "val_samples": 4,
                "checkpoint_every_steps": 3, "threads": 1,
            },
        }
    )  # fmt: skip


def changed(recipe, **trainer):
    return recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update=trainer)})


def weights(result):
    content = torch.load(result.folder / "last.ckpt", weights_only=True)
    return content["state_dict"]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    return train(recipe, output=tmp_path_factory.mktemp("whole") / "run", device="cpu")


def stop_after(step, monkeypatch):
    """Let a run be interrupted by SIGTERM in the given step."""
    original = StopCleanly.on_train_batch_end

    def raise_signal(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        original(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(StopCleanly, "on_train_batch_end", raise_signal)


@pytest.fixture
def interrupted(recipe, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(TrainingTerminatedError, match="after step 5") as caught:
            train(recipe, output=tmp_path / "run", device="cpu")
    assert int(caught.value.exit_code) == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    return tmp_path / "run"


def without_seconds(rows):
    return [{key: cell for key, cell in row.items() if key != "seconds"} for row in rows]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(recipe, whole, interrupted):
    resumed = train(recipe, output=interrupted, device="cpu", resume="auto")
    assert resumed.steps == whole.steps == 10
    assert_same(weights(resumed), weights(whole))
    rows = [row for row in without_seconds(resumed.metrics) if row["step"] != 5]
    assert rows == without_seconds(whole.metrics)
    model = "model/model.safetensors"
    assert (resumed.folder / model).read_bytes() == (whole.folder / model).read_bytes()


def test_control_resuming_without_the_optimiser_state_differs(recipe, whole, interrupted):
    file = interrupted / "last.ckpt"
    content = torch.load(file, weights_only=True)
    for state in content["optimizer_states"]:
        state["state"] = {}
    torch.save(content, file)
    resumed = train(recipe, output=interrupted, device="cpu", resume=file)
    expected = weights(whole)
    differing = [
        name for name, value in weights(resumed).items() if not torch.equal(value, expected[name])
    ]
    assert differing


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_do_not_change_the_result(recipe, whole, tmp_path, workers):
    result = train(changed(recipe, workers=workers), output=tmp_path / "run", device="cpu")
    assert_same(weights(result), weights(whole))


def test_control_another_seed_gives_other_weights(recipe, whole, tmp_path):
    other = recipe.model_copy(update={"seed": 4})
    result = train(other, output=tmp_path / "run", device="cpu")
    name = next(iter(weights(whole)))
    assert not torch.equal(weights(result)[name], weights(whole)[name])


def test_the_run_leaves_a_log_a_recipe_and_a_model_that_loads(recipe, whole):
    rows = read_log(whole.folder / "metrics.csv")
    assert [row["step"] for row in rows if "train_loss" in row] == [2, 4, 6, 8, 10]
    assert [row["step"] for row in rows if "val_loss" in row] == [4, 8, 10]
    assert sum(name.startswith("val_loss_level") for name in rows[-1]) == 5
    assert PriorRecipe.model_validate_json((whole.folder / "recipe.json").read_bytes()) == recipe
    assert not list(whole.folder.glob("*.partial"))
    denoiser = load_denoiser(whole.model, precision="float32")
    average = weights(whole)
    for name, value in denoiser.net.state_dict().items():
        stored = average[f"average.net.{name}"]
        torch.testing.assert_close(value, stored, rtol=1e-3, atol=1e-7)
    card = (whole.model / "MODEL_CARD.md").read_text()
    assert "steps: 10" in card
    assert "loss.png" in card
    assert 1_000 < (whole.model / "loss.png").stat().st_size <= 100_000
    assert json.loads((whole.model / "config.json").read_text())["training"]["steps"] == 10


def test_the_average_is_not_the_trained_model(whole):
    state = weights(whole)
    name = next(k for k in state if k.startswith("denoiser.net.") and state[k].ndim == 4)
    assert not torch.equal(state[name], state[name.replace("denoiser.", "average.")])


def test_a_run_is_not_overwritten_unless_asked(recipe, whole):
    before = (whole.folder / "last.ckpt").read_bytes()
    with pytest.raises(OutputExistsError, match="already"):
        train(recipe, output=whole.folder, device="cpu")
    assert (whole.folder / "last.ckpt").read_bytes() == before


def test_resuming_with_another_recipe_names_what_differs(recipe, whole):
    other = recipe.model_copy(update={"sigma_data": 0.7})
    with pytest.raises(InvalidInputError, match="sigma_data differ"):
        train(other, output=whole.folder, device="cpu", resume="auto")


def test_a_checkpoint_that_is_none_is_refused(recipe, tmp_path):
    broken = tmp_path / "last.ckpt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(InvalidInputError, match="no checkpoint of a medsci"):
        train(recipe, output=tmp_path / "run", device="cpu", resume=broken)
    with pytest.raises(UsageError, match="no checkpoint at"):
        train(recipe, output=tmp_path / "run", device="cpu", resume=tmp_path / "absent.ckpt")


def test_max_minutes_stops_and_saves(recipe, whole, tmp_path):
    first = train(changed(recipe, max_minutes=1e-6), output=tmp_path / "run", device="cpu")
    assert (first.steps, first.reason) == (1, "max_minutes")
    second = train(recipe, output=tmp_path / "run", device="cpu", resume="auto")
    assert second.reason == "done"
    assert_same(weights(second), weights(whole))


def test_devices_are_checked():
    assert resolve_device("cpu") == ("cpu", 1)
    with pytest.raises(UsageError, match="choose auto"):
        resolve_device("gpu")
    with pytest.raises(UsageError, match="asked for"):
        resolve_device("cuda:99")


def test_training_leaves_the_process_as_it_was(recipe, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    environment = dict(os.environ)
    train(changed(recipe, max_steps=1), output=tmp_path / "run", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert dict(os.environ) == environment
