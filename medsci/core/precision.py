"""The one policy that decides in which number format a network runs.

Networks run under bfloat16 autocast with channels-last memory where the machine computes bfloat16
natively (2.5 to 5 times faster on such CPUs), in float32 elsewhere. Losses, solvers, data
consistency and Fourier transforms always stay in float32.
"""

__all__ = ["PrecisionName", "channels_last", "native_bfloat16", "resolve_precision"]

from functools import lru_cache
from pathlib import Path as FilePath
from typing import Literal

import torch
from torch import Tensor

PrecisionName = Literal["auto", "float32", "bfloat16"]


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    try:
        text = FilePath("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((row for row in text.splitlines() if row.startswith("flags")), "")
    return frozenset(line.split())


def native_bfloat16(device: torch.device | str) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def resolve_precision(name: PrecisionName, device: torch.device | str) -> torch.dtype:
    """Return the dtype of network arithmetic on this device.

    Raises:
        ValueError: the name is not `auto`, `float32` or `bfloat16`.
    """
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"precision {name!r} came; choose auto, float32 or bfloat16")
    return torch.float32 if name == "float32" else torch.bfloat16


def channels_last(x: Tensor) -> Tensor:
    """Return `x` in the channels-last layout of its rank, unchanged where there is none."""
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if x.ndim == 5:
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x
