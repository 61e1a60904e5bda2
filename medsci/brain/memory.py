"""What a model of volumes will take, before any work starts, and the mode in which it fits.

plain           the network as it is; attention is linear in the voxels in any mode
sliced          residual blocks in slabs: less memory for a fifth more time, the same result
checkpointed    training only: blocks run again on the way back, a third more time, the same result
tiled           overlapping tiles, blended: any size fits, but the network no longer sees the whole
                volume, so this is another result, and never chosen unless it is asked for

The numbers come from a run of the network on shapes alone (`medsci.nets.footprint`), so they need
neither the weights nor the memory that they speak of. They are what a run takes beside a process
that has its libraries loaded.
"""

__all__ = ["MemoryMode", "MemoryPlan", "TooLargeError", "memory_at_hand", "plan"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsci.brain.memory_plan import GIB, SPARE, MemoryMode, MemoryPlan, TooLargeError, in_words
from medsci.errors import UsageError

if TYPE_CHECKING:
    from medsci.models import ModelConfig
    from medsci.nets.config import NetworkConfig
    from medsci.nets.footprint import Footprint

_STATES = 7  # x, x0, three directions, noise and the scaled input, in float32
_TRAINING_COPIES = 3  # two moments of Adam, and the average of the weights


def plan(
    config: "ModelConfig",
    *,
    batch: int = 1,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    mode: MemoryMode | Literal["auto"] = "auto",
    available_gib: float | None = None,
    size: Sequence[int] | None = None,
    training: bool = False,
) -> MemoryPlan:
    """Return how a model runs within the memory there is.

    `auto` takes the first that fits of: plain at the batch asked for, plain at a smaller batch,
    sliced at a batch of 1; in training: plain and checkpointed at the batch asked for, then
    checkpointed at a smaller one.

    Args:
        config: describes the model; its weights are not needed.
        batch: volumes in one evaluation of the network, at most. A smaller one is taken if need be.
        precision: of the network; `auto` is what `Denoiser` takes on this CPU.
        mode: one of the module's, or `auto`.
        available_gib: memory to plan for; that of this machine if left out.
        size: voxels of a volume; what the model was trained on if left out.
        training: plan a training step.

    Raises:
        TooLargeError: nothing fits; its exit code is 5, and it says what would.
        UsageError: a number is not positive, the size is unknown or does not fit the network, or
            the mode is not one for this.
    """
    shape = tuple(size or config.training_size)
    _check(config, shape, batch=batch, mode=mode, training=training)
    given = memory_at_hand() if available_gib is None else float(available_gib)
    start = MemoryPlan(
        name=config.name,
        size=shape,
        batch=batch,
        asked=batch,
        precision=_precision(precision),
        mode="plain" if mode == "auto" else mode,
        training=training,
        weights_gib=0.0,
        activations_gib=0.0,
        states_gib=0.0,
        available_gib=given,
    )
    smallest = None
    for candidate in _candidates(config.network, start, mode):
        if candidate.fits:
            return candidate
        if smallest is None or candidate.peak_gib < smallest.peak_gib:
            smallest = candidate
    raise TooLargeError(_advice(smallest or start, mode))


def memory_at_hand() -> float:
    """Return the GiB that can be taken now without swapping, within the limit of a container."""
    found = [math.inf]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(float(line.split()[1]) * 1024)
    limit, used = (_read(f"/sys/fs/cgroup/memory.{end}").strip() for end in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        found.append(float(limit) - float(used))
    return max(min(found), 0.0) / GIB


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _check(
    config: "ModelConfig", shape: tuple[int, ...], *, batch: int, mode: str, training: bool
) -> None:
    rank = config.network.spatial_dims
    if batch < 1:
        raise UsageError(f"batch is {batch}; give 1 or more")
    if len(shape) != rank or min(shape, default=0) < 1:
        raise UsageError(
            f"the model {config.name} works on {rank} dimensions and the size is "
            f"{in_words(shape) or 'not known'}; give one positive number of voxels per dimension"
        )
    known = ("auto", "plain", "checkpointed") if training else ("auto", "plain", "sliced", "tiled")
    if mode not in known:
        what = "training" if training else "sampling"
        raise UsageError(f"the mode is {mode!r}; for {what} choose one of {', '.join(known)}")


def _precision(name: Literal["auto", "float32", "bfloat16"]) -> Literal["float32", "bfloat16"]:
    import torch

    from medsci.core.precision import resolve_precision

    low = resolve_precision(name, "cpu") == torch.bfloat16
    return "bfloat16" if low else "float32"


def _candidates(
    network: "NetworkConfig", start: MemoryPlan, mode: MemoryMode | Literal["auto"]
) -> Iterator[MemoryPlan]:
    """Yield plans in the order in which they are preferred."""
    if mode == "tiled":
        yield from _tiled(network, start)
        return
    first, whole = _measured(network, start, mode=start.mode), start.batch
    yield _scaled(first, whole)
    if mode == "auto" and start.training:
        first = _measured(network, start, mode="checkpointed")
        yield _scaled(first, whole)
    yield _scaled(first, _largest(first, whole))
    if mode == "auto" and not start.training:
        yield _measured(network, start, mode="sliced")


def _measured(network: "NetworkConfig", start: MemoryPlan, *, mode: MemoryMode) -> MemoryPlan:
    """Return the plan for a batch of one in this mode."""
    tiled = start.tile is not None
    found = _footprint(
        network,
        start.tile or start.size,
        precision=start.precision,
        mode="plain" if mode == "tiled" else mode,
        training=start.training,
    )
    copies = 1 + (_TRAINING_COPIES if start.training else 0)
    volume = 4.0 * network.in_channels * math.prod(start.size)
    return replace(
        start,
        batch=1,
        mode=mode,
        weights_gib=copies * found.weights / GIB,
        activations_gib=found.activations / GIB,
        states_gib=0.0 if start.training else (_STATES + tiled) * volume / GIB,
    )


def _scaled(one: MemoryPlan, batch: int) -> MemoryPlan:
    return replace(
        one,
        batch=batch,
        activations_gib=one.activations_gib * batch,
        states_gib=one.states_gib * batch,
    )


def _largest(one: MemoryPlan, most: int) -> int:
    """Return the largest batch up to `most` that fits, and at least 1."""
    room = SPARE * one.available_gib - one.weights_gib
    each = one.activations_gib + one.states_gib
    return max(1, min(most, int(room / each))) if math.isfinite(room) else most


def _tiled(network: "NetworkConfig", start: MemoryPlan) -> Iterator[MemoryPlan]:
    """Yield plans with smaller and smaller tiles, the longest side halved every time."""
    tile = [-(-side // network.multiple) * network.multiple for side in start.size]
    least = 2 * network.multiple
    while max(tile) > least:
        longest = tile.index(max(tile))
        half = -(-tile[longest] // 2 // network.multiple) * network.multiple
        tile[longest] = max(half, least)
        shape = tuple(tile)
        yield _measured(network, replace(start, tile=shape), mode="tiled")


@lru_cache(maxsize=64)
def _footprint(
    network: "NetworkConfig",
    size: tuple[int, ...],
    *,
    precision: str,
    mode: str,
    training: bool,
) -> "Footprint":
    import torch

    from medsci.nets.footprint import footprint

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return footprint(network, size, dtype=dtype, mode=mode, training=training)


def _advice(least: MemoryPlan, mode: str) -> str:
    ways = [] if least.precision == "bfloat16" else ["bfloat16 instead of float32"]
    if mode not in ("auto", "tiled"):
        ways.append("the mode auto")
    if not least.training and mode != "tiled":
        ways.append("the mode tiled, an approximation")
    ways.append("a model of a coarser grid")
    ways.append(f"a machine with {math.ceil(least.peak_gib / SPARE)} GiB to spare")
    return (
        f"{least.name} at {in_words(least.size)} voxels takes {least.peak_gib:.1f} GiB in the mode "
        f"{least.mode} at a batch of {least.batch}, and {least.available_gib:.1f} GiB are "
        f"available; use {', or '.join(ways)}"
    )
