"""Distillation recipes: every objective trains, is stored, sampled and resumed."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medsci.cli.main import main
from medsci.core import sample
from medsci.core.denoise import Denoiser
from medsci.data.pairs import PairInfo, write_pair_file
from medsci.errors import InvalidInputError
from medsci.models import ModelConfig, build_path, load_denoiser, save_denoiser, verify_model
from medsci.models.sampling import sampling_of
from medsci.nets.unet import build_network
from medsci.training import DistillRecipe, TrainingTerminatedError, train
from medsci.training.assembly import build_parts
from medsci.training.callbacks import StopCleanly

SHAPE = (2, 16, 16)
N_PAIRS = 24


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A store with two teachers, and data; one thread."""
    folder = tmp_path_factory.mktemp("distil")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, prediction in (("teacher", "edm"), ("curved", "v")):
        teach(folder / "store" / name, prediction=prediction)
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", 0.3 * rng.standard_normal((N_PAIRS, *SHAPE), dtype=np.float32))
    info = PairInfo("teacher", "0" * 64, seed=0, steps=2, solver="none")
    with write_pair_file(folder / "pairs.h5", n_items=N_PAIRS, info=info, dtype="float32") as add:
        noise = torch.from_numpy(rng.standard_normal((N_PAIRS, *SHAPE), dtype=np.float32))
        add(0.3 * noise.roll(1, -1), noise, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSCI_MODELS", str(folder / "store"))
        yield folder
    torch.set_num_threads(threads)


def teach(where, *, prediction):
    network = {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8}
    config = ModelConfig.model_validate(
        {"name": where.name, "network": network, "path": {"kind": "vp_cosine"}, "sigma_data": 0.3,
         "prediction": prediction, "weights_dtype": "float32"}
    )  # fmt: skip
    net = build_network(config.network, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # last layers start at zero: a teacher has to say something
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    denoiser = Denoiser(net, path=build_path(config.path), pred=prediction, sigma_data=0.3)
    save_denoiser(denoiser, where, config=config, card="# teacher\n")


def recipe_of(place, objective, *, pairs, teacher="teacher", max_steps=3, **sections):
    data = {"kind": "arrays", "files": str(place / "images.npy")}
    if pairs:
        data = {"kind": "pairs", "file": str(place / "pairs.h5"), "validation_fraction": 0.25}
    return DistillRecipe.model_validate(
        {
            "task": "distill", "name": "student", "seed": 2, "teacher": teacher, "data": data,
            "objective": objective,
            "optimiser": {"learning_rate": 1e-3, "warmup_steps": 1},
            "trainer": {
                "max_steps": max_steps, "batch_size": 4, "precision": "float32", "threads": 1,
                "ema_decay": 0.5, "log_every_steps": 1, "val_every_steps": 5, "val_samples": 4,
                "checkpoint_every_steps": 50, "tensorboard": False,
            },
            **sections,
        }
    )  # fmt: skip


OBJECTIVES = {
    "rectified diffusion": ({"kind": "reflow"}, True),
    "reflow": ({"kind": "reflow", "path": {"kind": "rectified"}}, True),
    "rf++": (
        {
            "kind": "reflow", "path": {"kind": "rectified"}, "time_law": {"kind": "u_shape"},
            "metric": {"kind": "pseudo_huber_norm", "scale": "linear"},
            "perceptual": {"model": "teacher", "weight": 0.1},
        },
        True,
    ),
    "annealed reflow": ({"kind": "reflow", "anneal_steps": 2}, True),
    "one step": ({"kind": "one_step"}, True),
    "phased": ({"kind": "phased", "phases": 2, "ladder": 3}, False),
    "flow guided": ({"kind": "flow_guided"}, True),
    "consistency": ({"kind": "consistency", "rungs": 6}, False),
    "consistency without average": (
        {"kind": "consistency", "rungs": 6, "ema_target": False}, False,
    ),
    "velocity matching": ({"kind": "velocity_matching"}, False),
    "velocity matching by jvp": ({"kind": "velocity_matching", "derivative": "jvp"}, False),
    "velocity distillation": ({"kind": "velocity_distill"}, False),
    "mmd": ({"kind": "mmd", "steps": 2, "features": "teacher"}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTIVES)
def test_every_objective_trains_into_a_model_that_samples_itself(case, place, tmp_path):
    objective, pairs = OBJECTIVES[case]
    recipe = recipe_of(place, objective, pairs=pairs)
    result = train(recipe, output=tmp_path / "run", device="cpu")
    losses = [row["train_loss"] for row in result.metrics if "train_loss" in row]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert any("val_loss" in row and math.isfinite(row["val_loss"]) for row in result.metrics)

    config = verify_model(result.model).config
    assert config.objective == objective["kind"]
    assert config.teacher.name == "teacher"
    assert config.teacher.sha256 == verify_model("teacher").config.sha256
    moved = "path" in objective or objective["kind"].startswith("velocity")
    assert config.path.kind == ("rectified" if moved else "vp_cosine")
    student = load_denoiser(result.model, precision="float32")
    taught = load_denoiser("teacher").net.state_dict()
    assert any(not torch.equal(v, taught[k]) for k, v in student.net.state_dict().items())

    arguments = sampling_of(config)
    n_steps = {"one_step": 1, "flow_guided": 1, "phased": 2, "mmd": 2}.get(objective["kind"], 4)
    assert len(arguments["grid"]) == n_steps + 1
    drawn = sample(student, (2, *SHAPE), seed=0, **arguments)
    assert drawn.shape == (2, *SHAPE)
    assert bool(drawn.isfinite().all())


def test_a_smaller_student_may_start_at_random(place, tmp_path):
    small = {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8, "stem_factor": 4}
    student = {"start": "random", "network": small}
    recipe = recipe_of(place, {"kind": "reflow"}, pairs=True, max_steps=1, student=student)
    result = train(recipe, output=tmp_path / "run", device="cpu")
    assert verify_model(result.model).config.network.stem_factor == 4


def adapted(place):
    objective = {"kind": "consistency", "rungs": 6}
    return recipe_of(place, objective, pairs=False, student={"lora": {"rank": 2}})


@pytest.fixture(scope="module")
def lora(place, tmp_path_factory):
    return train(adapted(place), output=tmp_path_factory.mktemp("lora") / "run", device="cpu")


def trained(result):
    return torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]


def test_adapters_learn_and_the_teacher_below_them_stays_bit_for_bit(place, lora):
    taught = load_denoiser("teacher").net.state_dict()
    started = build_parts(adapted(place)).denoiser.net.state_dict()
    state = {k.removeprefix("denoiser.net."): v for k, v in trained(lora).items()
             if k.startswith("denoiser.net.")}  # fmt: skip
    assert state.keys() == started.keys() > taught.keys()
    for name, value in taught.items():
        assert torch.equal(state[name], value), name
    learnt = [name for name in state if not torch.equal(state[name], started[name])]
    assert learnt
    assert all(name.endswith(("lora_up", "lora_down")) for name in learnt)


def test_the_stored_model_is_the_teacher_with_the_adapter_merged(place, lora, tmp_path, capfd):
    merge = ["models", "merge", "teacher", str(lora.folder / "adapter"), "--name", "merged"]
    assert main([*merge, "--folder", str(tmp_path)]) == 0
    capfd.readouterr()
    model = load_file(lora.model / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    taught = load_file(place / "store" / "teacher" / "model.safetensors")
    adapter = load_file(lora.folder / "adapter" / "adapter.safetensors")
    assert model.keys() == merged.keys() == taught.keys()
    changed = 0
    for name, value in model.items():
        close = {"rtol": 2e-3, "atol": 1e-6, "check_dtype": False}
        torch.testing.assert_close(value, merged[name], **close)
        layer = name.removesuffix(".weight")
        expected = taught[name]
        if f"{layer}.lora_up" in adapter:
            up, down, scale = (adapter[f"{layer}.lora_{p}"] for p in ("up", "down", "scale"))
            product = up.flatten(1) @ down.flatten(1)
            expected = expected + scale * product.reshape(expected.shape)
            changed += int(bool((expected - taught[name]).abs().max() > 1e-6))
        torch.testing.assert_close(value, expected, **close)
    assert changed > 0
    config = json.loads((lora.model / "config.json").read_text())
    assert config["adapters"][0]["name"] == "student-adapter"


def interrupt(recipe, out, *, step, monkeypatch):
    original = StopCleanly.on_train_batch_end

    def raise_signal(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        original(self, trainer, module, outputs, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(StopCleanly, "on_train_batch_end", raise_signal)
        with pytest.raises(TrainingTerminatedError, match=f"after step {step}"):
            train(recipe, output=out, device="cpu")


@pytest.mark.parametrize(
    ("objective", "pairs"),
    [
        ({"kind": "consistency", "rungs": 6}, False),
        ({"kind": "reflow", "path": {"kind": "rectified"}, "anneal_steps": 6}, True),
    ],
)
def test_a_resumed_distillation_equals_an_uninterrupted_one(
    objective, pairs, place, tmp_path, monkeypatch
):
    recipe = recipe_of(place, objective, pairs=pairs, max_steps=6)
    whole = trained(train(recipe, output=tmp_path / "whole", device="cpu"))
    interrupt(recipe, tmp_path / "cut", step=3, monkeypatch=monkeypatch)
    stopped = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["state_dict"]
    resumed = trained(train(recipe, output=tmp_path / "cut", device="cpu", resume="auto"))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert any(not torch.equal(value, stopped[name]) for name, value in whole.items())


def test_reflow_moves_to_the_straight_path_and_keeps_what_the_teacher_knows(place):
    moved = {"kind": "reflow", "path": {"kind": "rectified"}}
    student = build_parts(recipe_of(place, moved, pairs=True)).denoiser
    teacher = load_denoiser("teacher", precision="float32")
    assert type(student.path) is not type(teacher.path)
    for name, value in teacher.net.state_dict().items():
        assert torch.equal(student.net.state_dict()[name], value)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    for t in (0.1, 0.5, 0.9):
        angle = math.atan2(t, 1.0 - t)  # sigma / alpha of the straight path
        same = float(teacher.path.time_at_angle(np.float64(angle)))
        scale = float(teacher.path.alpha(same)) / (1.0 - t)
        with torch.no_grad():
            expected = teacher(scale * x, same)
            torch.testing.assert_close(student(x, t), expected, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(teacher(x, t), expected, atol=1e-2)


@pytest.mark.parametrize("objective", [
    {"kind": "reflow", "path": {"kind": "rectified"}}, {"kind": "velocity_matching"},
])  # fmt: skip
def test_control_a_teacher_that_predicts_v_cannot_move(objective, place):
    recipe = recipe_of(place, objective, pairs=True, teacher="curved")
    with pytest.raises(InvalidInputError, match="curved predicts v"):
        build_parts(recipe)
    same_path = recipe_of(place, {"kind": "reflow"}, pairs=True, teacher="curved")
    assert build_parts(same_path).denoiser.pred == "v"


def test_a_dry_run_of_a_distillation_writes_nothing(place, tmp_path, monkeypatch, capfd):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(adapted(place).model_dump_json())  # JSON is YAML
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(recipe), "--dry-run", "--device", "cpu"]) == 0
    said = capfd.readouterr()
    assert "22 items, (4, 2, 16, 16)" in said.out
    assert "parameters" in said.out
    assert [file.name for file in Path().iterdir()] == ["recipe.json"]
