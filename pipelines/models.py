"""Jobs on stored models: adapters merged into a base, and descriptions read from files."""

__all__ = ["Merge", "merge_models", "parse_adapter", "read_fields"]

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from medsci.errors import InvalidInputError, OutputExistsError, UsageError, WeightsError


@final
@dataclass(frozen=True)
class Merge:
    """An adapter and how strongly it is added; 1 is as it was trained."""

    folder: Path
    weight: float = 1.0


def parse_adapter(text: str) -> Merge:
    """Read `FOLDER` or `FOLDER:WEIGHT`.

    Raises:
        UsageError: the weight is no finite number.
    """
    folder, colon, number = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Merge(Path(text))
    try:
        weight = float(number)
    except ValueError as error:
        raise UsageError(f"adapter {text!r} came; write FOLDER or FOLDER:WEIGHT") from error
    if not abs(weight) < float("inf"):
        raise UsageError(f"adapter {text!r} came; the weight has to be a finite number")
    return Merge(Path(folder), weight)


def read_fields(file: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read fields of a model's configuration from JSON; none came, none are read.

    Raises:
        InvalidInputError: the file is missing, or holds no JSON object.
    """
    if file is None:
        return {}
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInputError(f"{file} cannot be read: {reason}; give a JSON file") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file} holds a {type(content).__name__}; give a JSON object")
    return content


def merge_models(
    base: str | os.PathLike[str],
    adapters: Sequence[Merge],
    *,
    name: str,
    folder: str | os.PathLike[str] | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
    any_base: bool = False,
) -> Path:
    """Add adapters to a stored model, `W + sum_i weight_i scale_i up_i down_i`, and store the sum.

    Args:
        base: name or folder of the model.
        adapters: at least one.
        name: of the new model.
        folder: of the store it goes to; the first of `MEDSCI_MODELS`, or the user's own.
        existing: what to do when the name is taken.
        any_base: merge adapters that were trained on other weights, too.

    Returns:
        The folder of the new model.

    Raises:
        OutputExistsError: the name is taken and `existing` is `refuse`.
        UsageError: no adapter came, or the name cannot be one.
        WeightsError: a model or adapter is missing or damaged, or they do not belong together.
    """
    if not adapters:
        raise UsageError("no adapter came; name at least one folder")
    from medsci.models.adapter import load_adapter_state
    from medsci.models.card import write_card
    from medsci.models.config import AdapterUse, ModelConfig
    from medsci.models.store import install_folder, load_denoiser, save_denoiser, verify_model
    from medsci.nets.lora import merge_adapters

    info = verify_model(base)
    read = [(load_adapter_state(merge.folder), merge.weight) for merge in adapters]
    for (_, adapter), _ in read:
        if adapter.base_sha256 != info.config.sha256 and not any_base:
            raise WeightsError(
                f"the adapter {adapter.name} was trained on {adapter.base} with sha256 "
                f"{adapter.base_sha256[:12]}..., {info.name} has {info.config.sha256[:12]}...; "
                "merge it with its own base, or allow any base"
            )
    target = (install_folder() if folder is None else Path(folder)) / name
    if target.exists() and existing == "refuse":
        raise OutputExistsError(f"{target} exists; choose another name or overwrite it")
    uses = [
        AdapterUse(name=adapter.name, sha256=adapter.sha256, weight=weight)
        for (_, adapter), weight in read
    ]
    try:
        config = ModelConfig.model_validate(
            {**info.config.model_dump(), "name": name, "adapters": (*info.config.adapters, *uses)}
        )
    except ValueError as error:
        raise UsageError(f"name {name!r} cannot be a model's; use a-z, 0-9, . _ -") from error
    denoiser = load_denoiser(base, precision="float32")
    try:
        merge_adapters(denoiser.net, [(state, weight) for (state, _), weight in read])
    except ValueError as error:
        raise WeightsError(f"an adapter does not fit {info.name}: {error}") from error
    card, _ = write_card(config, rows=(), recipe={}, card={})
    try:
        save_denoiser(denoiser, target, config=config, card=card, existing=existing)
    except ValueError as error:
        raise WeightsError(f"the merged weights cannot be stored: {error}") from error
    return target
