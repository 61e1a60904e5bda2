"""Checkpoints of torch -> safetensors: the only place where weights of others pass `torch.load`.

A torch checkpoint is a program that rebuilds objects. It is read with `weights_only=True`, which
runs none but torch's own few; a file that asks for any other is refused before anything runs.
"""

__all__ = ["Conversion", "convert_checkpoint"]

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from medsci.errors import InvalidInputError, OutputExistsError, WeightsError
from medsci.models.ncsnpp_keys import named_average
from medsci.models.store import digest_of, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = (  # averages first: they are what one samples with
    "ema_state_dict", "ema_model", "model_ema", "ema", "state_dict", "model_state_dict", "model",
    "module", "network", "net", "unet", "params",
)  # fmt: skip
_NEVER = ("optimizer", "optimiser", "scheduler", "scaler")
_ROOT, _DEEPEST = "", 3


@final
@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        file: the safetensors file.
        part: dotted name of the part of the checkpoint that was taken, "" for all of it.
        n_tensors: tensors written.
        dropped: names in that part that held no tensor.
        source_sha256: of the checkpoint.
    """

    file: Path
    part: str
    n_tensors: int
    dropped: tuple[str, ...]
    source_sha256: str


def convert_checkpoint(
    file: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    part: str | None = None,
    existing: Literal["refuse", "replace"] = "refuse",
) -> Conversion:
    """Write the weights in a `.pth`, `.pt` or `.ckpt` file as safetensors; names stay as they are.

    Args:
        file: the checkpoint.
        output: by default the same name, ending in `.safetensors`.
        part: dotted name of the part with the weights, such as `ema`; found by itself if there is
            one, and of an average and a model the average is taken.
        existing: what to do when `output` exists.

    Raises:
        InvalidInputError: no such file, or a folder.
        OutputExistsError: `output` exists and `existing` is `refuse`.
        WeightsError: the file asks to run code, is damaged, or holds no weights by name.
    """
    from safetensors.torch import save

    source = Path(file)
    if not source.is_file():
        what = "is a folder" if source.is_dir() else "does not exist"
        raise InvalidInputError(f"the checkpoint {source} {what}; give a .pth, .pt or .ckpt file")
    target = source.with_suffix(".safetensors") if output is None else Path(output)
    if target.exists() and existing == "refuse":
        raise OutputExistsError(f"{target} exists; choose another output or overwrite it")
    name, found = _choose(_load(source), part, where=source)
    tensors = _separate(found)
    digest = digest_of(source)
    content = save(tensors, metadata={"source_sha256": digest})  # one entry keeps bytes equal
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, content)
    dropped = tuple(str(key) for key in found if key not in tensors)
    return Conversion(target, name, len(tensors), dropped, digest)


def _load(source: Path) -> Any:
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        code = get_unsafe_globals_in_checkpoint(source)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError):
        code = []  # of an older form, which the reader below judges by itself
    if code:
        shown = ", ".join(sorted(code)[:4]) + (", ..." if len(code) > 4 else "")
        raise WeightsError(
            f"{source} asks to run code when it is read ({shown}) and was not read; ask its "
            "author for safetensors, or save a plain state_dict() where you trust the file"
        )
    refused = torch.serialization.pickle.UnpicklingError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except (
        refused,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        OSError,
        AttributeError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{source} is no checkpoint that can be read without running code, or it is damaged "
            f"({reason[:120]}); fetch it again, or ask its author for safetensors"
        ) from error


def _choose(content: Any, part: str | None, *, where: Path) -> tuple[str, Mapping[Any, Any]]:
    candidates = dict(_parts_of(content, _ROOT, 0)) | _listed_average(content)
    if part is not None:
        if part not in candidates:
            raise WeightsError(f"{where} has no weights in part {part!r}; {_listing(candidates)}")
        return part, candidates[part]
    if _ROOT in candidates:
        return _ROOT, candidates[_ROOT]
    for name in _PARTS:
        fitting = [path for path in candidates if name in path.split(".")]
        if fitting:
            best = min(fitting, key=len)
            return best, candidates[best]
    if len(candidates) != 1:
        raise WeightsError(f"{where} does not say which part holds the weights; "
                           f"{_listing(candidates)}")  # fmt: skip
    return next(iter(candidates.items()))


def _parts_of(content: Any, path: str, depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    import torch

    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    if any(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in content.items()):
        yield path, content
    for key, value in content.items():
        if isinstance(key, str) and not any(word in key.lower() for word in _NEVER):
            yield from _parts_of(value, f"{path}.{key}".lstrip("."), depth + 1)


def _listed_average(content: Any) -> dict[str, Mapping[Any, Any]]:
    """Name an average that is stored as a list of tensors beside the model."""
    average = content.get("ema") if isinstance(content, Mapping) else None
    listed = average.get("shadow_params") if isinstance(average, Mapping) else None
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(listed, list) or not isinstance(model, Mapping):
        return {}
    return {"ema": named_average(listed, model)}


def _listing(candidates: Mapping[str, Any]) -> str:
    if not candidates:
        return "it holds no tensors by name; save the network's state_dict() and convert that"
    return f"name one of {', '.join(sorted(candidates))} as the part"


def _separate(found: Mapping[Any, Any]) -> "dict[str, Tensor]":
    """Return the tensors, each with memory of its own, as safetensors wants them."""
    import torch

    return {
        key: value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
