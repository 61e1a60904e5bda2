"""On which devices a run runs: one, several, or what torchrun or SLURM started."""

__all__ = ["Machines", "find_machines", "resolve_device"]

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.training.recipe.trainer import TrainerConfig

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy


@final
@dataclass(frozen=True)
class Machines:
    """Where the processes of a run are, in Lightning's terms.

    Attributes:
        accelerator: `cpu` or `cuda`.
        devices: per node, as a number or as the index of one.
        nodes: how many.
        strategy: `auto` for one process.
    """

    accelerator: str
    devices: int | list[int]
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"

    @property
    def n_processes(self) -> int:
        """Return the number of processes over all nodes."""
        return (len(self.devices) if isinstance(self.devices, list) else self.devices) * self.nodes

    def lightning_strategy(self) -> "Strategy | str":
        """Return what `Trainer(strategy=...)` takes."""
        if self.strategy == "fsdp":
            from pytorch_lightning.strategies import ModelParallelStrategy

            return ModelParallelStrategy(
                data_parallel_size=self.n_processes,
                tensor_parallel_size=1,
                save_distributed_checkpoint=False,
            )
        return self.strategy


def find_machines(
    config: TrainerConfig, *, device: str, environment: Mapping[str, str] | None = None
) -> Machines:
    """Return where to run, from the recipe, `--device` and the launcher's environment.

    Raises:
        UsageError: the device does not exist, or the launcher started another number of processes
            than the recipe asks for.
        InvalidInputError: the batch cannot be divided among the processes.
    """
    accelerator, devices = resolve_device(device)
    started = _started(os.environ if environment is None else environment)
    here, nodes = _wanted(config, accelerator, devices)
    if started is not None:
        for name, wanted, came in (
            ("devices", config.devices, started[0]),
            ("nodes", config.nodes, started[1]),
        ):
            if isinstance(wanted, int) and wanted != came:
                raise UsageError(
                    f"trainer.{name} is {wanted}, the launcher started {came}; "
                    f"set trainer.{name}=auto or start as many"
                )
        here, nodes = started
    strategy: Literal["auto", "ddp", "fsdp"] = config.strategy
    count = (len(here) if isinstance(here, list) else here) * nodes
    if strategy == "auto" and count > 1:
        strategy = "ddp"
    elif count == 1:
        strategy = "auto"  # there is nobody to share with
    parts = count * config.accumulate
    if config.batch_size % parts:
        raise InvalidInputError(
            f"trainer.batch_size: {config.batch_size} samples cannot be divided among {count} "
            f"processes times {config.accumulate} accumulated parts; give a multiple of {parts}"
        )
    return Machines(accelerator, here, nodes, strategy)


def _wanted(
    config: TrainerConfig, accelerator: str, devices: int | list[int]
) -> tuple[int | list[int], int]:
    nodes = config.nodes if isinstance(config.nodes, int) else 1
    if config.devices == "auto":
        return devices, nodes
    if isinstance(devices, list):
        raise UsageError(f"trainer.devices is {config.devices}, but --device names one device")
    there = torch.cuda.device_count() if accelerator == "cuda" else None
    if config.devices == "all":
        return there or 1, nodes
    if there is not None and config.devices > there:
        raise UsageError(
            f"trainer.devices is {config.devices}, this machine has {there} CUDA devices"
        )
    return config.devices, nodes


def _started(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return devices per node and nodes of a launcher, None where there is none.

    `srun` tells every task its number in `SLURM_PROCID`; a shell inside an allocation has none.
    """
    try:
        if "TORCHELASTIC_RUN_ID" in environment:
            here = int(environment["LOCAL_WORLD_SIZE"])
            return here, int(environment["WORLD_SIZE"]) // here
        if "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in (
            "bash",
            "interactive",
        ):
            nodes = int(environment.get("SLURM_NNODES", "1"))
            return int(environment["SLURM_NTASKS"]) // nodes, nodes
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the launcher's environment is incomplete: {error}; start with torchrun or srun"
        ) from error
    return None


def resolve_device(device: str) -> tuple[str, int | list[int]]:
    """Return the accelerator and devices of Lightning for `auto`, `cpu`, `cuda` or `cuda:N`."""
    kind, _, number = device.partition(":")
    cuda = torch.cuda.is_available()
    if kind == "auto":
        return ("cuda", 1) if cuda else ("cpu", 1)
    if device == "cpu":
        return "cpu", 1
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UsageError(f"device {device!r} came; choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if cuda else 0
    if int(number or 0) >= count:
        raise UsageError(f"device {device!r} was asked for, this machine has {count} CUDA devices")
    return "cuda", [int(number)] if number else 1
