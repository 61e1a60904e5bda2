"""Reading weights files, with errors that say what to do instead."""

__all__ = ["CONFIG_KEY", "read_weights", "the_file"]

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medsci.errors import InvalidInputError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_KEY = "medsci_config"
_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def the_file(path: str | os.PathLike[str], *, wanted: str) -> Path:
    """Return the path of a file that is there.

    Raises:
        InvalidInputError: nothing is there, or a folder.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    what = "is a folder" if file.is_dir() else "does not exist"
    raise InvalidInputError(f"{file} {what}; give {wanted}")


def read_weights(path: str | os.PathLike[str]) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the tensors of a safetensors file and its metadata.

    Raises:
        InvalidInputError: nothing is there, or a folder.
        WeightsError: the file is a checkpoint of torch, or damaged, or empty.
    """
    from safetensors import SafetensorError, safe_open

    file = the_file(path, wanted="a .safetensors file")
    if file.suffix.lower() in _TORCH:
        raise WeightsError(
            f"{file} is a checkpoint of torch, not safetensors; run "
            f"'medsci models convert {file.name}' first and give its output"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise WeightsError(
            f"{file} is not a whole safetensors file ({reason[:120]}); fetch it again, or "
            "convert the checkpoint again"
        ) from error
    if not tensors:
        raise WeightsError(f"{file} holds no tensors; give the file with the weights")
    return tensors, metadata
