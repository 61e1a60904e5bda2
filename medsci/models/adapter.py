"""Low-rank adapters on disk: a folder of `adapter.json` and `adapter.safetensors`.

The tensors are those of `medsci.nets.lora`: `<layer>.lora_down`, `.lora_up` and `.lora_scale`. The
description names the model the adapter was trained on and the SHA-256 of that model's weights, as
the same numbers added to other weights mean nothing.
"""

__all__ = ["ADAPTER_FILE", "AdapterConfig", "load_adapter_state", "save_adapter"]

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from medsci.errors import InvalidInputError, OutputExistsError, WeightsError
from medsci.models.files import read_weights
from medsci.models.store import digest_of, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILE, _WEIGHTS_FILE = "adapter.json", "adapter.safetensors"
_PARTS = ("lora_down", "lora_up", "lora_scale")


class AdapterConfig(BaseModel):
    """What an adapter says about itself; `sha256` of its own file is filled in when written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    base: str
    base_sha256: str
    rank: PositiveInt
    alpha: PositiveFloat
    licence: Annotated[str, Field(min_length=1)]
    sha256: str = ""


def save_adapter(
    state: "Mapping[str, Tensor]",
    folder: str | os.PathLike[str],
    *,
    config: AdapterConfig,
    existing: Literal["refuse", "replace"] = "refuse",
) -> AdapterConfig:
    """Write an adapter, and return its description with the hash filled in.

    Args:
        state: as `medsci.nets.lora.adapter_state` returns it.
        folder: is made if it is missing.
        config: its description.
        existing: what to do when `folder` holds an adapter.

    Raises:
        OutputExistsError: the folder holds an adapter and `existing` is `refuse`.
        ValueError: a layer has not all three parts, or a number is not finite.
    """
    from safetensors.torch import save

    target = Path(folder)
    if (target / ADAPTER_FILE).exists() and existing == "refuse":
        raise OutputExistsError(f"{target} holds an adapter; choose another or overwrite it")
    problem = _problem(state)
    if problem:
        raise ValueError(f"the adapter {config.name} {problem}; give all parts of a trained one")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    content = save(tensors, metadata={"format": "pt"})
    filled = config.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / _WEIGHTS_FILE, content)
    write_atomic(target / ADAPTER_FILE, (filled.model_dump_json(indent=2) + "\n").encode())
    return filled


def load_adapter_state(
    folder: str | os.PathLike[str],
) -> "tuple[dict[str, Tensor], AdapterConfig]":
    """Read an adapter.

    Raises:
        InvalidInputError: there is no such folder.
        WeightsError: it holds no adapter, or a damaged one.
    """
    source = Path(folder).expanduser()
    if not source.is_dir():
        raise InvalidInputError(f"{source} is no folder; give one with {ADAPTER_FILE}")
    try:
        config = AdapterConfig.model_validate_json((source / ADAPTER_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        words = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{source / ADAPTER_FILE} cannot be read: {words}; give the folder of an adapter"
        ) from error
    weights = source / _WEIGHTS_FILE
    if not weights.is_file():
        raise WeightsError(f"{source} has no {_WEIGHTS_FILE}; copy the whole folder again")
    if config.sha256 and digest_of(weights) != config.sha256:
        raise WeightsError(
            f"{weights} is not the file that {ADAPTER_FILE} records; fetch the folder again"
        )
    state, _ = read_weights(weights)
    problem = _problem(state)
    if problem:
        raise WeightsError(f"{weights} {problem}; it is no adapter, or a damaged one")
    return state, config


def _problem(state: "Mapping[str, Tensor]") -> str:
    """Say what is wrong with an adapter's tensors, "" if nothing is."""
    if not state:
        return "holds no tensors"
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        if part not in _PARTS or not layer:
            return f"holds {key}, no name of an adapter"
        lacking = [p for p in _PARTS if f"{layer}.{p}" not in state]
        if lacking:
            return f"has no {layer}.{lacking[0]}"
        if not bool(value.isfinite().all()):
            return f"holds numbers that are not finite in {key}"
    return ""
