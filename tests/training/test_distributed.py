"""Several processes see what one would see; a kill at any moment loses nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medsci.models import load_denoiser
from medsci.training.callbacks import read_log

RECIPE = """
name: tiny
seed: 3
data: {{kind: nifti_slices, train: {folder}, validation: {folder}, size: [16, 16]}}
network: {{channels: [8, 32], res_blocks: [1, 1], norm_groups: 8}}
prediction: edm
optimiser: {{learning_rate: 1e-3, warmup_steps: 2}}
trainer: {{max_steps: 12, batch_size: 4, precision: float32, ema_decay: 0.9, log_every_steps: 2,
  val_every_steps: 8, val_samples: 4, checkpoint_every_steps: 3, threads: 1, tensorboard: false}}
"""
MODULE = ["-m", "medsci.cli"]
DOUBLE = [str(Path(__file__).with_name("train_in_double.py"))]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    data = np.zeros((16, 18, 12), dtype=np.float32)
    data[2:14, 2:16] = generator.random((12, 14, 12)) + 0.5
    nib.save(nib.Nifti1Image(data, np.eye(4)), folder / "head.nii.gz")
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(folder=folder))
    return file


def command(recipe, out, *, program, processes=1, options=()):
    words = [*program, "train", str(recipe), "-o", str(out), "--device", "cpu", "--quiet"]
    for option in options:
        words += ["--set", option]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else []), *words]


def start(words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, env=environment, stderr=pipe, stdout=pipe, text=True, start_new_session=True
    )


def run(recipe, out, *, resume=False, **kwargs):
    words = command(recipe, out, **kwargs) + (["--resume", "auto"] if resume else [])
    process = start(words)
    _, errors = process.communicate(timeout=240)
    told = [line for line in errors.splitlines() if line.startswith("error")]
    assert process.returncode == 0, told or errors[-2000:]
    return out


def weights(out):
    content = torch.load(out / "last.ckpt", weights_only=True)
    return {name: value for name, value in content["state_dict"].items()}


def losses(out):
    rows = read_log(out / "metrics.csv")
    assert rows
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def largest_difference(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def single(recipe, tmp_path_factory):
    return run(recipe, tmp_path_factory.mktemp("single") / "run", program=DOUBLE)


def test_two_processes_train_as_one_does(recipe, single, tmp_path):
    double = run(recipe, tmp_path / "run", program=DOUBLE, processes=2)
    assert largest_difference(single, double) < 1e-6
    for row, other in zip(losses(single), losses(double), strict=True):
        assert row == pytest.approx(other, abs=1e-6)


def test_parts_taken_one_after_the_other_train_as_the_whole(recipe, single, tmp_path):
    parts = run(recipe, tmp_path / "run", program=DOUBLE, options=["trainer.accumulate=2"])
    assert largest_difference(single, parts) < 1e-6


def test_control_half_of_the_batch_trains_otherwise(recipe, single, tmp_path):
    half = run(recipe, tmp_path / "run", program=DOUBLE, options=["trainer.batch_size=2"])
    assert largest_difference(single, half) > 1e-3


def kill_after_a_checkpoint(recipe, out, *, processes):
    """Start a run and kill all of its processes, without warning, soon after a checkpoint."""
    process = start(command(recipe, out, program=MODULE, processes=processes, options=LONG))
    try:
        deadline = time.monotonic() + 120
        while not (out / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
    finally:
        subprocess.run(["pkill", "-KILL", "-f", f" {out} "], check=False)  # launcher and workers
        process.communicate()
    steps = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < steps < 60


LONG = ["trainer.max_steps=60"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_as_if_never_killed(recipe, tmp_path, processes):
    whole = run(recipe, tmp_path / "whole", program=MODULE, processes=processes, options=LONG)
    kill_after_a_checkpoint(recipe, tmp_path / "killed", processes=processes)
    resumed = run(
        recipe, tmp_path / "killed", program=MODULE, processes=processes, options=LONG, resume=True
    )
    assert largest_difference(whole, resumed) == 0.0
    assert losses(whole) == losses(resumed)
    model = "model/model.safetensors"
    assert (whole / model).read_bytes() == (resumed / model).read_bytes()


@pytest.mark.slow
def test_sharded_processes_train_as_one_does(recipe, tmp_path):
    one = run(recipe, tmp_path / "one", program=MODULE)
    sharded = run(
        recipe, tmp_path / "run", program=MODULE, processes=2, options=["trainer.strategy=fsdp"]
    )
    for row, other in zip(losses(one), losses(sharded), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    state = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (
        load_denoiser(folder / "model", precision="float32")(state, 0.5)
        for folder in (one, sharded)
    )
    torch.testing.assert_close(first, second, rtol=0.0, atol=1e-4)
    resumed = run(
        recipe, tmp_path / "run", program=MODULE, processes=2, resume=True,
        options=["trainer.strategy=fsdp", "trainer.max_minutes=1"],
    )  # fmt: skip
    assert losses(resumed) == losses(sharded)


def test_sigterm_to_one_process_of_two_saves_and_stops_both(recipe, tmp_path):
    out = tmp_path / "run"
    process = start(command(recipe, out, program=MODULE, processes=2, options=LONG))
    deadline = time.monotonic() + 120
    while not (out / "last.ckpt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()  # the launcher hands it to its processes
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGTERM came after step" in errors
    run(recipe, out, program=MODULE, processes=2, options=LONG, resume=True)
