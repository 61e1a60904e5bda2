"""Names of published weights -> names in our networks, and what their shapes say of the network.

    monai               DiffusionModelUNet, with the names of MONAI or of its predecessor
    guided_diffusion    input_blocks, middle_block, output_blocks

Both arrive wrapped in whatever the training script held them in; `strip_prefixes` unwraps.
"""

__all__ = [
    "fit_keys",
    "from_guided_diffusion",
    "from_monai",
    "infer_adm",
    "strip_prefixes",
]

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medsci.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = (  # averages first: where a file holds both, they are what one samples with
    "ema_model.", "model_ema.", "ema.", "_orig_mod.", "module.", "model.diffusion_model.",
    "diffusion_model.", "model.", "unet.", "net.",
)  # fmt: skip
_N_SHOWN = 3


def strip_prefixes(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Take off the prefixes that wrappers add; of average and model, keep the average."""
    found = dict(state)
    while True:
        prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in found)), None)
        if prefix is None:
            return found
        found = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def from_monai(key: str) -> str:
    """Return our name for a weight of MONAI's DiffusionModelUNet, old or new.

    The predecessor held the projections of an attention block in the block itself and called the
    convolution after a doubling `conv`. `to_out.0` is the projection of its transformer blocks.
    """
    key = re.sub(r"(attentions\.\d+|attention)\.(to_[qkv])\.", r"\1.attn.\2.", key)
    key = re.sub(r"(attentions\.\d+|attention)\.proj_attn\.", r"\1.attn.out_proj.", key)
    key = re.sub(r"(transformer_blocks\.\d+\.attn\d)\.to_out\.0\.", r"\1.out_proj.", key)
    key = re.sub(r"upsampler\.conv\.", "upsampler.postconv.", key)
    return f"unet.{key}"


_ADM_WHOLE = {
    "time_embed.0": "time.0", "time_embed.2": "time.2", "label_emb": "label",
    "input_blocks.0.0": "stem", "out.0": "norm", "out.2": "last",
}  # fmt: skip
_ADM_PARTS = {
    "in_layers.0": "norm_in", "in_layers.2": "conv_in", "emb_layers.1": "time",
    "out_layers.0": "norm_out", "out_layers.3": "conv_out", "skip_connection": "skip",
    "norm": "norm", "qkv": "qkv", "proj_out": "out",
}  # fmt: skip
_ADM_MIDDLE = {"0": "middle.0.res", "1": "middle.0.attention", "2": "middle.1.res"}


def from_guided_diffusion(key: str, *, res_blocks: int) -> str | None:
    """Return our name for a weight of guided diffusion, or None if there is no such weight.

    Args:
        key: the published name, without prefixes.
        res_blocks: residual blocks per level; the input block after so many halves the sides.
    """
    whole, _, leaf = key.rpartition(".")
    if whole in _ADM_WHOLE:
        return f"{_ADM_WHOLE[whole]}.{leaf}"
    match = re.fullmatch(
        r"(input_blocks|middle_block|output_blocks)\.(\d+)(?:\.(\d+))?\.(.+)", whole
    )
    if match is None:
        return None
    way, index, place, part = match.groups()
    if way == "input_blocks":
        home = _home_on_the_way_down(int(index) - 1, place, res_blocks=res_blocks)
    elif way == "output_blocks":
        home = _home_on_the_way_up(int(index), place, part)
    else:
        home = _ADM_MIDDLE.get(index)
    if home is None:
        return None
    if part in ("op", "conv"):
        return f"{home.removesuffix('.res')}.conv.{leaf}"
    return f"{home}.{_ADM_PARTS[part]}.{leaf}" if part in _ADM_PARTS else None


def _home_on_the_way_down(step: int, place: str | None, *, res_blocks: int) -> str | None:
    halves = step % (res_blocks + 1) == res_blocks
    if place == "1" and not halves:
        return f"down.{step}.attention"
    return f"down.{step}.res" if place == "0" else None


def _home_on_the_way_up(step: int, place: str | None, part: str) -> str | None:
    if place == "0":
        return f"up.{step}.res"
    if place not in ("1", "2"):
        return None
    attends = part in ("norm", "qkv", "proj_out")
    return f"up.{step}.attention" if attends else f"up.{step}.grow.res"


def infer_adm(state: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Return the fields of `AdmConfig` that the shapes of published weights determine.

    They do not tell the order of query, key and value, nor the width of the attention heads, nor
    whether the class table has a row for "none": these come from the published settings.

    Raises:
        WeightsError: these are no weights of guided diffusion, or its network is of a form that
            `AdmConfig` cannot describe.
    """
    steps = [re.match(r"output_blocks\.(\d{1,4})\.", key) for key in state]
    n_steps = 1 + max((int(step[1]) for step in steps if step), default=-1)
    doublings = {
        k.split(".")[1]
        for k in state
        if re.fullmatch(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight", k)
    }
    n_levels = len(doublings) + 1
    per_level, rest = divmod(n_steps, n_levels)
    res_blocks = per_level - 1
    try:
        if rest or res_blocks < 1:
            raise KeyError(f"{n_levels} levels with {n_steps} output blocks in all")
        firsts = [1 + level * (res_blocks + 1) for level in range(n_levels)]
        channels = [
            state[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] for first in firsts
        ]
        n_in = state["input_blocks.0.0.weight"].shape[1]
        n_out = state["out.2.weight"].shape[0]
        code = state["input_blocks.1.0.emb_layers.1.weight"]
        embedding = state["time_embed.0.weight"].shape[1]
        n_labels = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0
        scales = code.shape[0] == 2 * channels[0]
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"no network of guided diffusion can be read from the names: {error.args[0]} is "
            "missing or odd; name another kind, or give the network in the configuration"
        ) from error
    learned = n_out == 2 * n_in
    return {
        "kind": "adm",
        "in_channels": n_in,
        "out_channels": n_out // 2 if learned else n_out,
        "embedding_channels": embedding,
        "channels": channels,
        "res_blocks": res_blocks,
        "attention_levels": [
            level
            for level, first in enumerate(firsts)
            if f"input_blocks.{first}.1.qkv.weight" in state
        ],
        "resample_blocks": n_levels > 1
        and f"input_blocks.{res_blocks + 1}.0.op.weight" not in state,
        "scale_shift": scales,
        "learned_sigma": learned,
        "n_labels": n_labels,
    }


def fit_keys(
    state: "Mapping[str, Tensor]",
    expected: "Mapping[str, Tensor]",
    *,
    where: str,
) -> "dict[str, Tensor]":
    """Check that the weights are exactly those that the network has, and return them.

    Args:
        state: weights by our name; those without one keep the published name.
        expected: the network's own.
        where: the file, for the message.

    Raises:
        WeightsError: one line with the keys that are missing, that have no place, and the shapes
            that differ.
    """
    missing = [name for name in expected if name not in state]
    homeless = [name for name in state if name not in expected]
    odd = [
        f"{name} is {tuple(state[name].shape)} and not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [
        f"{len(found)} {words} ({', '.join(found[:_N_SHOWN])}{', ...' * (len(found) > _N_SHOWN)})"
        for words, found in (
            ("weights are missing", missing),
            ("have no place in the network", homeless),
            ("have another shape", odd),
        )
        if found
    ]
    if problems:
        raise WeightsError(
            f"{where} does not fit the network: {'; '.join(problems)}; check the kind and the "
            "network's settings against those the weights were published with"
        )
    return dict(state)
