"""What a run shows while it learns: a log, TensorBoard, pictures; and how it ends when told to."""

import csv
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from medsci.training import PriorRecipe, train
from medsci.training.callbacks import read_log
from medsci.training.callbacks.log import LOG_COLUMNS
from medsci.training.callbacks.samples import tile
from medsci.training.window import N_LEVELS


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("arrays") / "images.npy"
    np.save(file, np.random.default_rng(0).random((12, 2, 16, 16), dtype=np.float32))
    return PriorRecipe.model_validate(
        {
            "name": "tiny",
            "data": {"kind": "arrays", "files": str(file)},
            "network": {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8},
            "optimiser": {"learning_rate": 1e-3, "warmup_steps": 1},
            "trainer": {"max_steps": 6, "batch_size": 8, "precision": "float32", "threads": 1,
                        "ema_decay": 0.5, "log_every_steps": 2, "val_every_steps": 4,
                        "val_samples": 2, "checkpoint_every_steps": 50},
            "samples": {"every_steps": 3, "count": 3, "steps": 2, "seed": 4},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    return train(recipe, output=tmp_path_factory.mktemp("whole") / "run", device="cpu")


@pytest.fixture(scope="module")
def events(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorBoard's own, as it is loaded
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(whole.folder / "tensorboard"))
        found.Reload()
    return found


def test_the_log_has_its_columns_and_a_row_when_one_is_due(whole):
    with (whole.folder / "metrics.csv").open(newline="") as stream:
        header = tuple(next(csv.reader(stream)))
    assert header == LOG_COLUMNS
    for kind in ("train", "val"):
        levels = [name for name in header if name.startswith(f"{kind}_loss_level")]
        assert len(levels) == N_LEVELS
    rows = read_log(whole.folder / "metrics.csv")
    assert [row["step"] for row in rows if "train_loss" in row] == [2, 4, 6]
    assert [row["step"] for row in rows if "val_loss" in row] == [4, 6]
    for row in rows:
        if "val_loss" in row:
            by_level = [row[f"val_loss_level{i + 1}"] for i in range(N_LEVELS)]
            assert row["val_loss"] == pytest.approx(sum(by_level) / N_LEVELS, rel=1e-6)


def test_tensorboard_holds_the_log_by_noise_level(whole, events):
    rows = read_log(whole.folder / "metrics.csv")
    compared = 0
    tags = set(events.Tags()["scalars"])
    for name in LOG_COLUMNS[2:]:
        expected = {int(row["step"]): row[name] for row in rows if name in row}
        group, _, level = name.partition("_level")
        tag = f"{group}_by_noise/{level}" if level else f"loss/{name}"
        if not expected:
            assert tag not in tags
            continue
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx(expected, rel=1e-5)
        compared += len(found)
    assert compared > 2 * 5 + 2 * N_LEVELS
    assert {f"val_loss_by_noise/{i + 1}" for i in range(N_LEVELS)} < tags


def test_tensorboard_shows_the_pictures_that_are_written(whole, events):
    shown = events.Images("samples")
    files = sorted((whole.folder / "samples").iterdir())
    assert [file.name for file in files] == ["0000003.png", "0000006.png"]
    assert [image.step for image in shown] == [3, 6]
    for image, file in zip(shown, files, strict=True):
        height, width = imread(file).shape[:2]
        assert (image.height, image.width) == (height, width) == (16, 48)
    first, last = (imread(file)[..., 0] for file in files)
    assert first.std() > 0.01
    assert not np.array_equal(first, last)  # the model has learnt between them


def test_the_pictures_depend_on_the_seeds_alone(recipe, whole, tmp_path):
    short = recipe.trainer.model_copy(update={"max_steps": 3, "tensorboard": False})
    again = recipe.model_copy(update={"trainer": short})
    other = again.model_copy(update={"samples": recipe.samples.model_copy(update={"seed": 5})})
    pictures = []
    for name, one in (("again", again), ("repeated", again), ("other", other)):
        result = train(one, output=tmp_path / name, device="cpu")
        pictures.append((result.folder / "samples" / "0000003.png").read_bytes())
        assert not (result.folder / "tensorboard").exists()
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_a_sheet_lays_images_out_and_shows_magnitudes():
    samples = torch.zeros(5, 2, 4, 6)
    samples[:, 0] = torch.arange(5.0)[:, None, None] * 3
    samples[:, 1] = torch.arange(5.0)[:, None, None] * 4
    sheet = tile(samples, is_complex=True)
    assert sheet.shape == (2 * 4, 4 * 6)
    assert [float(sheet[0, 6 * k]) for k in range(4)] == pytest.approx([0.0, 5.0, 10.0, 15.0])
    assert float(sheet[4, 0]) == pytest.approx(20.0)
    assert float(sheet[4:, 6:].max()) == 0.0
    assert float(tile(samples, is_complex=False)[0, 6]) == pytest.approx(3.0)
    volumes = torch.zeros(1, 1, 4, 6, 8)
    volumes[0, 0, :, :, 4] = 1.0
    assert tile(volumes, is_complex=False).shape == (6, 4)
    assert float(tile(volumes, is_complex=False).min()) == 1.0


def test_sigterm_saves_and_exits_143(recipe, tmp_path):
    file = tmp_path / "recipe.json"
    long = recipe.trainer.model_copy(update={"max_steps": 100_000, "tensorboard": False})
    file.write_text(recipe.model_copy(update={"trainer": long}).model_dump_json())
    out = tmp_path / "run"
    words = ["-m", "medsci.cli", "train", str(file), "-o", str(out), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(read_log(out / "metrics.csv")) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "SIGTERM came after step" in line
    assert "Traceback" not in errors
    step = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    assert f"after step {step};" in line
    assert (out / "model" / "model.safetensors").is_file()
