"""Where a run runs: the recipe, `--device`, and the environment of torchrun or SLURM."""

import pytest
import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.training.launch import Machines, find_machines, resolve_device
from medsci.training.recipe.trainer import TrainerConfig

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
SLURM = {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8", "SLURM_NNODES": "4"}


def find(environment=None, *, device="cpu", **trainer):
    config = TrainerConfig.model_validate({"max_steps": 1, "batch_size": 24, **trainer})
    return find_machines(config, device=device, environment=environment or {})


def test_without_a_launcher_one_process_runs():
    assert find() == Machines("cpu", 1, 1, "auto")
    assert find().n_processes == 1
    assert find().lightning_strategy() == "auto"


def test_a_recipe_may_ask_for_several_processes():
    assert find(devices=2) == Machines("cpu", 2, 1, "ddp")
    assert find(devices=2, nodes=3).n_processes == 6
    assert find(devices="all") == Machines("cpu", 1, 1, "auto")
    assert find(devices=3, strategy="fsdp").strategy == "fsdp"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_has_nobody_to_share_with(strategy):
    assert find(strategy=strategy).strategy == "auto"
    assert find(TORCHRUN, strategy=strategy).strategy == strategy


def test_torchrun_says_how_many_there_are():
    assert find(TORCHRUN) == Machines("cpu", 2, 3, "ddp")
    single = {**TORCHRUN, "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1"}
    assert find(single) == Machines("cpu", 1, 1, "auto")


def test_slurm_says_how_many_there_are():
    assert find(SLURM) == Machines("cpu", 2, 4, "ddp")
    without_nodes = {k: v for k, v in SLURM.items() if k != "SLURM_NNODES"}
    assert find(without_nodes) == Machines("cpu", 8, 1, "ddp")


def test_an_allocation_with_a_shell_in_it_is_no_launcher():
    for name in ("bash", "interactive"):
        assert find({**SLURM, "SLURM_JOB_NAME": name}) == Machines("cpu", 1, 1, "auto")
    assert find({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}).n_processes == 1


def test_torchrun_inside_slurm_is_what_counts():
    assert find({**SLURM, **TORCHRUN}) == Machines("cpu", 2, 3, "ddp")


@pytest.mark.parametrize(
    ("environment", "trainer", "words"),
    [
        (TORCHRUN, {"devices": 3}, r"trainer\.devices is 3, the launcher started 2"),
        (TORCHRUN, {"nodes": 2}, r"trainer\.nodes is 2, the launcher started 3"),
        (SLURM, {"devices": 4}, r"trainer\.devices is 4, the launcher started 2"),
        (SLURM, {"nodes": 1}, r"trainer\.nodes is 1, the launcher started 4"),
    ],
)
def test_a_launcher_that_contradicts_the_recipe_is_refused(environment, trainer, words):
    with pytest.raises(UsageError, match=words):
        find(environment, **trainer)
    agreeing = {"devices": 2, "nodes": 3} if environment is TORCHRUN else {"devices": 2, "nodes": 4}
    assert find(environment, **agreeing).strategy == "ddp"


@pytest.mark.parametrize(
    "environment",
    [
        {k: v for k, v in TORCHRUN.items() if k != "WORLD_SIZE"},
        {**TORCHRUN, "LOCAL_WORLD_SIZE": "two"},
        {k: v for k, v in SLURM.items() if k != "SLURM_NTASKS"},
    ],
)
def test_half_an_environment_is_refused(environment):
    with pytest.raises(UsageError, match="environment is incomplete"):
        find(environment)


def test_the_batch_is_divided_among_all_processes():
    with pytest.raises(InvalidInputError, match=r"trainer\.batch_size: 25 .* multiple of 6"):
        find(TORCHRUN, batch_size=25)
    assert find(TORCHRUN, batch_size=24, accumulate=4).n_processes == 6
    with pytest.raises(InvalidInputError, match=r"8 .* 6 processes times 4 .* multiple of 24"):
        find(TORCHRUN, batch_size=8, accumulate=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_devices_that_are_not_there_are_refused():
    assert resolve_device("auto") == ("cpu", 1)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match="0 CUDA devices"):
            find(device=device)


def test_one_named_device_contradicts_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find(device="cuda:1") == Machines("cuda", [1], 1, "auto")
    assert find(device="cuda", devices="all") == Machines("cuda", 2, 1, "ddp")
    with pytest.raises(UsageError, match="--device names one device"):
        find(device="cuda:1", devices=2)
    with pytest.raises(UsageError, match="this machine has 2 CUDA devices"):
        find(device="cuda", devices=3)
