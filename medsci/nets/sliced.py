"""Residual blocks worked through in slabs: inference on large volumes in less memory, exactly.

A residual block computes twice `conv(silu(norm(x)))`. Run plainly, the normalised and the activated
field exist beside `x` and the result, each as large as the volume. Here the statistics of the norm
are taken over the whole volume, and the rest follows slab by slab, each with the rows of its
neighbours that the convolution looks at. Nothing is approximated, unlike with tiles.

The statistics are merged from slabs in float32. On a CPU torch sums a channels-last volume naively
instead, and its scale is off by 0.8 % at 192 x 224 x 192; slabs are not.

Source: merging of variances after Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115.
"""

__all__ = ["slice_activations"]

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medsci.nets.checkpointing import residual_blocks

SLAB_MIB = 16.0  # larger slabs bring no speed
MOST_SLABS = 24  # more save no memory that counts
FAST_CONV = 20480  # samples times channels times rows times columns


def slice_activations(net: nn.Module, *, slab_mib: float = SLAB_MIB) -> int:
    """Let the residual blocks of `net` work in slabs along the first spatial axis.

    It holds for MONAI's U-Nets, so for `UNet2d`, `UNet3d` and `MonaiUNet`, and only without
    gradients; a block that resamples, and a state that fits one slab, run as before. The names of
    the weights stay, and the results are equal up to rounding.

    Args:
        net: is changed in place; calling this twice changes nothing.
        slab_mib: size of a slab of a block's input; there are 24 slabs at most.

    Returns:
        How many blocks were changed.

    Raises:
        ValueError: no block of the network can be sliced, or the slab has no size.
    """
    if not slab_mib > 0.0:
        raise ValueError(f"slab_mib={slab_mib} came; give the size of a slab in MiB")
    blocks = [block for block in residual_blocks(net) if _can_slice(block)]
    if not blocks:
        raise ValueError(
            f"{type(net).__name__} has no residual block that can be sliced; run it whole, "
            "in bfloat16, or in tiles"
        )
    for block in blocks:
        if not isinstance(vars(block).get("forward"), partial):
            # On the instance, so that weights keep their names and hooks keep working.
            vars(block)["forward"] = partial(_sliced, block, slab_mib * 2**20)
    return len(blocks)


def _can_slice(block: nn.Module) -> bool:
    parts = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "skip_connection")
    whole = all(hasattr(block, part) for part in parts)
    return whole and getattr(block, "upsample", 0) is None is getattr(block, "downsample", 0)


def _sliced(block: Any, slab_bytes: float, x: Tensor, emb: Tensor) -> Tensor:
    size = x.shape[2]
    rows = max(int(slab_bytes * size / x.nbytes), -(-size // MOST_SLABS), _least_rows(x, block))
    if torch.is_grad_enabled() or rows >= size:
        whole: Tensor = type(block).forward(block, x, emb)
        return whole
    h = _norm_silu_conv(x, block.norm1, block.conv1.conv, rows)
    time = block.time_emb_proj(functional.silu(emb))
    h.add_(time.reshape(*time.shape, *(1,) * (x.ndim - 2)))
    out = _norm_silu_conv(h, block.norm2, block.conv2.conv, rows)
    del h
    for first, last in _slabs(size, rows):
        out[:, :, first:last].add_(block.skip_connection(x[:, :, first:last]))
    return out


def _least_rows(x: Tensor, block: Any) -> int:
    """Return the rows below which torch leaves its fast convolutions on the CPU."""
    thinnest = min(block.conv1.conv.in_channels, block.conv2.conv.in_channels)
    return 1 + FAST_CONV // max(1, x.shape[0] * thinnest * x.shape[3])


def _norm_silu_conv(x: Tensor, norm: nn.GroupNorm, conv: Any, rows: int) -> Tensor:
    """Return `conv(silu(norm(x)))` for an odd kernel that keeps the size."""
    scale, shift = _affine(x, norm, rows)
    reach, size = conv.kernel_size[0] // 2, x.shape[2]
    convolve = functional.conv3d if x.ndim == 5 else functional.conv2d
    padding = (0, *conv.padding[1:])
    out: Tensor | None = None
    for first, last in _slabs(size, rows):
        low, high = max(first - reach, 0), min(last + reach, size)
        lacks = low - first + reach  # rows of zeros in front of the volume
        part = _empty_like(x, last - first + 2 * reach)
        inner = part[:, :, lacks : lacks + high - low]
        inner.copy_(torch.addcmul(shift, x[:, :, low:high].to(scale.dtype), scale))
        functional.silu(inner, inplace=True)
        part[:, :, :lacks] = 0.0
        part[:, :, lacks + high - low :] = 0.0
        part = convolve(part, conv.weight, conv.bias, padding=padding)
        out = _empty_like(part, size) if out is None else out
        out[:, :, first:last] = part
    if out is None:
        raise ValueError(f"a volume of shape {tuple(x.shape)} came; it has no rows")
    return out


def _empty_like(x: Tensor, rows: int) -> Tensor:
    """Return an empty volume of so many rows, in the layout of `x`."""
    layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    if not x.is_contiguous(memory_format=layout):
        layout = torch.contiguous_format
    shape = (*x.shape[:2], rows, *x.shape[3:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _affine(x: Tensor, norm: nn.GroupNorm, rows: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift per channel with `norm(x) = x scale + shift`, in float32 or better."""
    kind = torch.promote_types(x.dtype, torch.float32)
    mean, spread = _moments(x, norm.num_groups, rows, kind)
    scale = (spread + norm.eps).rsqrt()
    each = x.shape[1] // norm.num_groups
    scale, mean = (v.repeat_interleave(each, dim=1) for v in (scale, mean))
    if norm.affine:
        scale = scale * norm.weight.to(kind)
        shift = norm.bias.to(kind) - mean * scale
    else:
        shift = -mean * scale
    ones = (1,) * (x.ndim - 2)
    return scale.reshape(*scale.shape, *ones), shift.reshape(*shift.shape, *ones)


def _moments(x: Tensor, groups: int, rows: int, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and variance of every (sample, group), merged from slabs."""
    mean = torch.zeros(x.shape[0], groups, dtype=kind, device=x.device)
    spread, n = torch.zeros_like(mean), 0
    for first, last in _slabs(x.shape[2], rows):
        part = x[:, :, first:last]
        own = torch.empty(part.shape, dtype=kind, device=x.device).copy_(part)
        flat = own.reshape(x.shape[0], groups, -1)
        own_mean = flat.mean(-1)
        own_spread = flat.sub_(own_mean[..., None]).square_().mean(-1)
        more = flat.shape[-1]
        share = more / (n + more)
        delta = own_mean - mean
        spread = torch.lerp(spread, own_spread, share) + delta.square() * (share * (1.0 - share))
        mean, n = mean + delta * share, n + more
    return mean, spread


def _slabs(size: int, rows: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, rows):
        yield first, min(first + rows, size)
