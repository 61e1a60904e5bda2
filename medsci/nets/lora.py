"""Low-rank adapters: a few numbers per layer that are trained while the network is frozen.

A layer with weight W computes with `W + scale up down`, where `down` has `rank` rows and `up`
starts at zero, so that nothing changes at first. Adapters of several trainings add up:

    theta + sum_i weight_i scale_i up_i down_i

which is how a style and a few-step sampler are joined in one network. The state of adapters is a
mapping from `<layer>.lora_down` (rank, inputs, *kernel), `<layer>.lora_up` (outputs, rank) and
`<layer>.lora_scale` () to tensors.

Source: Hu et al. 2021, arXiv:2106.09685; sums of adapters after Luo et al. 2023, arXiv:2311.05556.
"""

__all__ = ["adapter_state", "add_lora", "load_adapter", "merge_adapters", "remove_lora"]

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from medsci.core.rng import mix64

_DOWN, _UP, _SCALE = "lora_down", "lora_up", "lora_scale"


@final
class _LoraLinear(nn.Linear):
    """A linear layer with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        down, up, scale = _parts(self)
        return super().forward(x) + scale * functional.linear(functional.linear(x, down), up)


def _convolve(layer: Any, x: Tensor, base: Tensor) -> Tensor:
    """Add what the adapter of a convolution contributes; grouped ones have no low-rank route."""
    down, up, scale = _parts(layer)
    if layer.groups > 1:
        return base + scale * layer._conv_forward(x, _product(up, down, layer.weight.shape), None)
    low = layer._conv_forward(x, down, None)
    pointwise = (functional.conv1d, functional.conv2d, functional.conv3d)[down.ndim - 3]
    return base + scale * pointwise(low, up.reshape(*up.shape, *(1,) * (down.ndim - 2)))


@final
class _LoraConv1d(nn.Conv1d):
    """A convolution with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, super().forward(x))


@final
class _LoraConv2d(nn.Conv2d):
    """A convolution with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, super().forward(x))


@final
class _LoraConv3d(nn.Conv3d):
    """A convolution with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, super().forward(x))


_ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _LoraLinear,
    nn.Conv1d: _LoraConv1d,
    nn.Conv2d: _LoraConv2d,
    nn.Conv3d: _LoraConv3d,
}
_PLAIN = {adapted: plain for plain, adapted in _ADAPTED.items()}


class _Parts(NamedTuple):
    down: Tensor
    up: Tensor
    scale: Tensor


def add_lora(
    net: nn.Module,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Freeze a network, give its layers adapters, in place, and return the names of the layers.

    Linear layers and convolutions can have one. Layers whose weight is read by others, such as the
    projections inside `nn.MultiheadAttention`, are left out. Parameters keep their names.

    Args:
        net: the network; everything in it is frozen but the adapters.
        rank: rows of `down`, at most what a layer's weight can have as a matrix.
        alpha: the scale is `alpha / rank`; the rank if left out, so 1.
        targets: regular expressions; a layer takes part if one is found in its name. All do if
            left out.
        seed: of `down`, drawn per layer from its name, so equal in every selection of layers.

    Raises:
        ValueError: no layer fits, or one has an adapter already.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} came; give at least 1")
    patterns = None if targets is None else [re.compile(target) for target in targets]
    chosen = {
        name: layer
        for name, layer in net.named_modules()
        if type(layer) in _ADAPTED or type(layer) in _PLAIN
        if patterns is None or any(pattern.search(name) for pattern in patterns)
    }
    if not chosen:
        raise ValueError(
            f"no linear layer or convolution has a name with {targets}; see them by "
            "[name for name, _ in net.named_modules()]"
        )
    taken = [name for name, layer in chosen.items() if type(layer) in _PLAIN]
    if taken:
        raise ValueError(f"{taken[0]} has an adapter already; call remove_lora(net) first")
    net.requires_grad_(requires_grad=False)
    scale = (rank if alpha is None else alpha) / rank
    for name, layer in chosen.items():
        _attach(layer, _fresh(_weight(layer), rank, scale=scale, seed=mix64(seed, *name.encode())))
    return tuple(chosen)


def remove_lora(net: nn.Module) -> None:
    """Take all adapters off, in place: the network computes as before. It stays frozen."""
    for layer in _adapted(net).values():
        layer.__class__ = _PLAIN[type(layer)]
        for name in (_DOWN, _UP, _SCALE):
            delattr(layer, name)


def adapter_state(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of the adapters of a network.

    Raises:
        ValueError: it has none.
    """
    layers = _adapted(net)
    if not layers:
        raise ValueError("the network has no adapters; call add_lora(net, rank=...) first")
    return {
        f"{name}.{part}": value.detach().clone()
        for name, layer in layers.items()
        for part, value in zip((_DOWN, _UP, _SCALE), _parts(layer), strict=True)
    }


def load_adapter(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the adapters of a state, in place; it is frozen but for them.

    Those it has are replaced, if the state has one for each.

    Raises:
        ValueError: the state does not fit the network; nothing was changed then.
    """
    found = _read(net, state)
    left = sorted(set(_adapted(net)) - set(found))
    if left:
        raise ValueError(
            f"the network has an adapter at {left[0]} and the state has none; "
            "call remove_lora(net) first"
        )
    remove_lora(net)
    net.requires_grad_(requires_grad=False)
    layers = dict(net.named_modules())
    for name, parts in found.items():
        _attach(layers[name], parts)


@torch.no_grad()
def merge_adapters(net: nn.Module, adapters: Iterable[tuple[Mapping[str, Tensor], float]]) -> None:
    """Add `weight * scale * up down` of each `(state, weight)` to the weights, in place.

    The sum is formed in float64 and rounded once. The network needs no adapters; those it has stay
    and go on adding theirs.

    Raises:
        ValueError: a state does not fit the network; nothing was changed then.
    """
    layers, total = dict(net.named_modules()), dict[str, Tensor]()
    for state, factor in adapters:
        for name, parts in _read(net, state).items():
            down, up, scale = (part.double() for part in parts)
            change = factor * scale * _product(up, down, _weight(layers[name]).shape)
            total[name] = total[name] + change if name in total else change
    for name, change in total.items():
        weight = _weight(layers[name])
        weight.copy_((weight.double() + change.to(weight.device)).to(weight.dtype))


def _adapted(net: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in net.named_modules() if type(layer) in _PLAIN}


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight to adapt")
    return weight


def _parts(layer: Any) -> _Parts:
    return _Parts(layer.lora_down, layer.lora_up, layer.lora_scale)


def _product(up: Tensor, down: Tensor, shape: Sequence[int]) -> Tensor:
    return (up @ down.flatten(1)).reshape(tuple(shape))


def _fresh(weight: Tensor, rank: int, *, scale: float, seed: int) -> _Parts:
    """Return a new adapter: `down` of unit gain, `up` zero."""
    inputs = math.prod(weight.shape[1:])
    rows = min(rank, weight.shape[0], inputs)
    drawn = torch.randn(rows, *weight.shape[1:], generator=torch.Generator().manual_seed(seed))
    return _Parts(
        (drawn / math.sqrt(inputs)).to(weight),
        weight.new_zeros(weight.shape[0], rows),
        weight.new_tensor(scale),
    )


def _attach(layer: nn.Module, parts: _Parts) -> None:
    """Turn a plain layer into the adapted one, with trainable copies of the parts."""
    like = _weight(layer)
    layer.__class__ = _ADAPTED[type(layer)]
    down, up, scale = (part.detach().to(like).clone() for part in parts)
    layer.register_parameter(_DOWN, nn.Parameter(down))
    layer.register_parameter(_UP, nn.Parameter(up))
    layer.register_buffer(_SCALE, scale)


def _read(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, _Parts]:
    """Return the parts of a state by layer, after checking that each fits its layer."""
    layers = dict(net.named_modules())
    names = sorted({key.rpartition(".")[0] for key in state})
    if not names:
        raise ValueError("the state holds no adapter; give what adapter_state(net) returned")
    found = {}
    for name in names:
        keys = [f"{name}.{part}" for part in (_DOWN, _UP, _SCALE)]
        wrong = {key for key in state if key.rpartition(".")[0] == name} ^ set(keys)
        if wrong:
            raise ValueError(
                f"{sorted(wrong)[0]} is missing or unknown; a layer of an adapter "
                f"has {_DOWN}, {_UP} and {_SCALE}"
            )
        if name not in layers or type(layers[name]) not in (*_ADAPTED, *_PLAIN):
            raise ValueError(
                f"the state adapts {name}, which is no linear layer or convolution of "
                "this network; load it into the kind of network it was trained with"
            )
        parts, weight = _Parts(*(state[key] for key in keys)), _weight(layers[name])
        rank = parts.up.shape[-1] if parts.up.ndim == 2 else -1
        expected = ((rank, *weight.shape[1:]), (weight.shape[0], rank), ())
        shapes = tuple(tuple(part.shape) for part in parts)
        if shapes != expected:
            raise ValueError(
                f"{name} has a weight of {tuple(weight.shape)} but its adapter has down, up and "
                f"scale of {shapes}; expected (rank, *{tuple(weight.shape[1:])}), "
                f"({weight.shape[0]}, rank) and ()"
            )
        found[name] = parts
    return found
