"""Look at the machine: versions, processor, memory, devices, weights. Imports no torch."""

__all__ = ["examine"]

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import medsci
from medsci.errors import WeightsError
from medsci.pipelines.device import load_average, n_cores

_LIBRARIES = (
    "torch", "numpy", "scipy", "monai", "nibabel", "h5py", "pytorch-lightning", "safetensors",
    "pydantic", "typer", "matplotlib", "nilearn", "PyWavelets",
)  # fmt: skip
_FAST_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
_GIB = 2**30


def examine() -> dict[str, Any]:
    """Give the facts that decide whether and how fast a job runs here, as JSON types.

    `problems` lists what would stop or slow a job, each with its cure; it is empty on a machine
    that is ready.
    """
    versions = {name: _version(name) for name in _LIBRARIES}
    weights, weight_problems = _weights()
    facts: dict[str, Any] = {
        "medsci": medsci.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "cpu": {
            "cores": n_cores(),
            "load_average": load_average(),
            "fast_flags": _cpu_flags(),
            "threads_set": os.environ.get("OMP_NUM_THREADS"),
        },
        "memory_gib": _memory(),
        "gpus": _gpus(),
        "weights": weights,
    }
    return {**facts, "problems": [*_problems(facts), *weight_problems]}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> list[str]:
    """Name the instruction sets that make bfloat16 and wide arithmetic fast, as Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    present = set(lines[0].partition(":")[2].split()) if lines else set()
    return [flag for flag in _FAST_FLAGS if flag in present]


def _memory() -> dict[str, float | None]:
    names = {"total": "SC_PHYS_PAGES", "free": "SC_AVPHYS_PAGES"}
    found: dict[str, float | None] = {}
    for word, name in names.items():
        try:
            found[word] = round(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
        except (AttributeError, OSError, ValueError):
            found[word] = None
    return found


def _gpus() -> list[str]:
    """Name the NVIDIA GPUs that the driver knows; whether torch can use them, torch decides."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _problems(facts: dict[str, Any]) -> list[str]:
    found = [
        f"{name} is not installed; reinstall medsci"
        for name, version in facts["versions"].items()
        if version is None
    ]
    cpu = facts["cpu"]
    if cpu["load_average"] is not None and cpu["load_average"] > cpu["cores"]:
        found.append(
            f"the load average is {cpu['load_average']:.1f} on {cpu['cores']} cores; wait, or run "
            "with --threads 1"
        )
    if facts["gpus"] and "+cpu" in (facts["versions"]["torch"] or ""):
        found.append("a GPU is here but torch is a CPU build; install a CUDA build of torch")
    return found


def _weights() -> tuple[list[dict[str, Any]], list[str]]:
    from medsci.models import list_models, verify_model

    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for info in list_models():
        try:
            verify_model(info.name)
        except WeightsError as error:
            problems.append(str(error))
            found.append({"name": info.name, "ok": False})
        else:
            found.append({"name": info.name, "ok": True})
    if not found:
        problems.append(
            "no model is installed; reinstall medsci, or name a folder in MEDSCI_MODELS"
        )
    return found, problems
