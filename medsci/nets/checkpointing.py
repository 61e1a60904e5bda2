"""Activation checkpointing: training memory for time, with the same loss and the same gradients.

Every residual block keeps its input only and is run a second time on the way back. What a block
makes inside is several times its input, so the memory of a training step falls by a factor of three
or so for about a third more time.
"""

__all__ = ["checkpoint_activations", "residual_blocks"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def residual_blocks(net: nn.Module) -> list[nn.Module]:
    """Return the residual blocks: modules with two group normalisations of their own."""
    return [module for module in net.modules() if _n_norms(module) == 2]


def checkpoint_activations(net: nn.Module) -> int:
    """Let every residual block of `net` recompute its inside during backward.

    The names of the weights, the outputs and, bit for bit on one machine, the gradients stay what
    they were. Without gradients a block runs as before. A copy of the network keeps the mode;
    calling this twice changes nothing.

    Returns:
        How many blocks recompute.

    Raises:
        ValueError: the network has no residual block.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    blocks = residual_blocks(net)
    if not blocks:
        raise ValueError(
            f"{type(net).__name__} has no residual block to recompute; train it without "
            "checkpoint_activations"
        )
    for block in blocks:
        if not isinstance(vars(block).get("forward"), partial):
            # On the instance, so that weights keep their names and hooks keep working.
            vars(block)["forward"] = partial(_recomputed, block.forward, _draws(block))
    return len(blocks)


def _recomputed(forward: Callable[..., Tensor], draws: bool, *args: Any, **kwargs: Any) -> Tensor:  # noqa: FBT001
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    out: Tensor = checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=draws, **kwargs
    )
    return out


def _n_norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.GroupNorm) for child in module.children())


def _draws(block: nn.Module) -> bool:
    """Tell whether the block draws random numbers, whose state is then kept for the second run."""
    return any(isinstance(m, nn.Dropout) and m.p > 0.0 for m in block.modules())
