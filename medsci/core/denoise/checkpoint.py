"""Weights of a checkpoint, loaded by name."""

__all__ = ["load_weights"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def load_weights(
    net: nn.Module, checkpoint: Mapping[str, Any], *, key: str | None = None
) -> nn.Module:
    """Load the weights of a checkpoint into a network, every one of them; return the network.

    Args:
        net: the bare network, before it is wrapped.
        checkpoint: as loaded from a file; weights by name, perhaps inside.
        key: where the weights are inside it, `a.b` for `checkpoint["a"]["b"]`.

    The prefixes `module.` (data parallel) and `_orig_mod.` (compiled) are dropped.

    Raises:
        ValueError: the key is not there, or names or shapes do not fit.
    """
    state: Any = checkpoint
    for part in key.split(".") if key else ():
        if not isinstance(state, Mapping) or part not in state:
            found = sorted(map(str, state))[:8] if isinstance(state, Mapping) else type(state)
            raise ValueError(f"the checkpoint has no {part!r} of key={key!r}; there is {found}")
        state = state[part]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"no weights by name at key={key!r}; name one of {sorted(state)[:8]}")
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    own = net.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(
        name for name in own if own[name].shape != state[name].shape
    )
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights of the checkpoint and the network differ in name or shape, "
            f"first {wrong[0]!r}; build the network with the settings of its training"
        )
    net.load_state_dict(state)
    return net
