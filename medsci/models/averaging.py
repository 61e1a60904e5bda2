"""The average of saved weights, for trainings that kept checkpoints and no average."""

__all__ = ["ema_from_checkpoints"]

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsci.errors import OutputExistsError, UsageError, WeightsError
from medsci.models.files import read_weights
from medsci.models.store import write_atomic

if TYPE_CHECKING:
    from torch import Tensor


def ema_from_checkpoints(
    files: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    momentum: float = 0.1,
    buffers: Collection[str] = (),
    existing: Literal["refuse", "replace"] = "refuse",
) -> Path:
    """Write the exponential average of weights files, oldest first, and return its path.

        E_1 = W_1,     E_k = (1 - m) E_(k-1) + m W_k

    so `E_n = (1 - m)^(n-1) W_1 + m sum_(k>1) (1 - m)^(n-k) W_k`: with `m = 0.1` the last ten files
    or so. This is not the average kept during training (`medsci.training.ema.Ema`), which sees
    every step of the optimiser: here only what was saved counts, and the first file starts with
    all of the weight. Sums are in float64, the result has the dtype of the last file.

    Args:
        files: `.safetensors`, oldest first, all of one network.
        output: the file to write.
        momentum: share of the newest file, in (0, 1].
        buffers: names that are copied from the last file; tensors of integers always are.
        existing: what to do when `output` exists.

    Raises:
        InvalidInputError: a file is missing.
        OutputExistsError: `output` exists and `existing` is `refuse`.
        UsageError: no files came, or the momentum is outside (0, 1].
        WeightsError: a file is damaged, or differs from the first in names or shapes.

    Source: the averaging of Remedios et al. 2025, arXiv:2510.26834, over the files of 100 epochs.
    """
    import torch
    from safetensors.torch import save

    target = Path(output)
    if not files:
        raise UsageError("no files came; give the checkpoints, oldest first")
    if not 0.0 < momentum <= 1.0:
        raise UsageError(f"momentum={momentum} came; give a share in (0, 1], 0.1 as published")
    if target.exists() and existing == "refuse":
        raise OutputExistsError(f"{target} exists; choose another output or overwrite it")
    average: dict[str, Tensor] = {}
    newest: dict[str, Tensor] = {}
    for file in files:
        newest, _ = read_weights(file)
        if not average:
            average = {name: value.double() for name, value in newest.items()}
        _check(newest, average, file=file, first=files[0])
        for name, value in newest.items():
            average[name].lerp_(value.double(), momentum)
    kept = {
        name: value
        if name in buffers or not value.is_floating_point()
        else average[name].to(value.dtype)
        for name, value in newest.items()
    }
    broken = [name for name, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(
            f"{len(broken)} averaged weights are not finite, first {broken[0]}; leave out the "
            "files of the training step that diverged"
        )
    write_atomic(target, save(kept, metadata={"format": "pt"}))
    return target


def _check(
    weights: "dict[str, Tensor]",
    first_weights: "dict[str, Tensor]",
    *,
    file: str | os.PathLike[str],
    first: str | os.PathLike[str],
) -> None:
    odd = sorted(weights.keys() ^ first_weights.keys()) or sorted(
        name for name in weights if weights[name].shape != first_weights[name].shape
    )
    if odd:
        raise WeightsError(
            f"{os.fspath(file)} and {os.fspath(first)} differ in {len(odd)} names or shapes, first "
            f"{odd[0]!r}; give files of one network only"
        )
