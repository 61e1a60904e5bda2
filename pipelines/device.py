"""The machine under a job: which device, how many threads, is it free."""

__all__ = ["choose_device", "use_threads", "warn_if_busy"]

import logging
import os
import re

from medsci.errors import UsageError

_log = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:n` to a device that is there.

    Raises:
        UsageError: the name is none of these, or the device that was asked for is absent.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device is {name!r}; use auto, cpu, cuda or cuda:n")
    if name == "cpu":
        return name
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if found else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= found:
        raise UsageError(
            f"--device {name} was asked for, but torch {torch.__version__} finds {found} CUDA "
            "devices here; use --device cpu or auto, or install a CUDA build of torch"
        )
    return f"cuda:{index}"


def use_threads(n_threads: int | None) -> None:
    """Let torch use this many threads for the rest of the process; None leaves its own choice."""
    if n_threads is None:
        return
    if n_threads < 1:
        raise UsageError(f"--threads is {n_threads}; give 1 or more")
    import torch

    torch.set_num_threads(n_threads)


def n_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Give the load of the last minute, or None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def warn_if_busy() -> None:
    """Warn when other work competes for the cores, which slows threaded code out of proportion."""
    load = load_average()
    if load is not None and load > n_cores():
        _log.warning(
            "the load average is %.1f on %d cores; a busy machine slows this down a lot, "
            "try --threads 1",
            load,
            n_cores(),
        )
