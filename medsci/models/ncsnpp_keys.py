"""Names of published NCSN++ weights -> names in our network, and what their shapes say of it.

The files are checkpoints `{model, ema, step, ...}` of a network wrapped for several GPUs. The
average is a list without names, one tensor for every weight that was trained, in their order.
"""

__all__ = ["from_ncsnpp", "infer_ncsnpp", "named_average"]

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medsci.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = {
    "GroupNorm_0": "norm_in", "Conv_0": "conv_in", "Dense_0": "time", "GroupNorm_1": "norm_out",
    "Conv_1": "conv_out", "Conv_2": "skip", "Conv2d_0": "conv", "NIN_0": "query", "NIN_1": "key",
    "NIN_2": "value", "NIN_3": "out",
}  # fmt: skip
_LEAVES = {"W": "weight", "b": "bias"}


def from_ncsnpp(key: str) -> str | None:
    """Return our name for a weight of NCSN++, without prefixes, or None if there is none such."""
    if key == "sigmas":
        return key
    match = re.fullmatch(r"all_modules\.(\d+)(?:\.([A-Za-z0-9]+_\d))?\.([A-Za-z]+)", key)
    if match is None:
        return None
    index, part, leaf = match.groups()
    if part is None:
        return f"layers.{index}.{leaf}"
    if part not in _PARTS:
        return None
    name = _PARTS[part]
    return f"layers.{index}.{name}.{_LEAVES.get(leaf, leaf)}"


def infer_ncsnpp(state: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Return the fields of `NcsnPlusPlusConfig` that the shapes of published weights determine.

    Raises:
        WeightsError: these are no weights of a continuous NCSN++ with residual input pyramid.
    """
    layers = [re.match(r"all_modules\.(\d{1,4})\.", key) for key in state]
    n_layers = 1 + max((int(found[1]) for found in layers if found), default=-1)

    def has(index: int, part: str) -> bool:
        return any(key.startswith(f"all_modules.{index}.{part}") for key in state)

    pyramids = [index for index in range(n_layers) if has(index, "Conv2d_0")]
    try:
        width = state["all_modules.0.W"].shape[0]
        n_in = state["all_modules.3.weight"].shape[1]
        n_out = state[f"all_modules.{n_layers - 1}.weight"].shape[0]
        if not pyramids:
            raise KeyError("the input pyramid")
        first = range(4, pyramids[0] - 1)
        res_blocks = sum(has(index, "Conv_0") for index in first)
        channels, attends, start = [], [], 4
        for level, end in enumerate([*pyramids, None]):
            channels.append(state[f"all_modules.{start}.Conv_0.weight"].shape[0])
            if has(start + 1, "NIN_0"):
                attends.append(level)
            start = start if end is None else end + 1
    except KeyError as error:
        raise WeightsError(
            f"no continuous NCSN++ with residual input pyramid can be read from the names: "
            f"{error.args[0]} is missing; check where the weights come from"
        ) from error
    return {
        "in_channels": n_in,
        "out_channels": n_out,
        "width": width,
        "channels": channels,
        "res_blocks": res_blocks,
        "attention_levels": attends,
        "n_sigmas": state["sigmas"].shape[0] if "sigmas" in state else 1,
    }


def named_average(
    average: "Sequence[Tensor]", model: "Mapping[str, Tensor]"
) -> "dict[str, Tensor]":
    """Give the tensors of an average the names of the model's, in order; the rest are the model's.

    What was not trained (a table, fixed frequencies) has no tensor in the list and is recognised by
    its shape.

    Raises:
        WeightsError: the two do not belong together.
    """
    left = list(average)
    named = dict(model)
    for name, value in model.items():
        if left and left[0].shape == value.shape:
            named[name] = left.pop(0)
    if left:
        raise WeightsError(
            f"{len(left)} of the {len(average)} averaged tensors fit no weight of the model; the "
            "file is damaged, or of another kind"
        )
    return named
