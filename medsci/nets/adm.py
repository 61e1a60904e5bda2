"""The U-Net of guided diffusion ("ADM"), so that its published weights run here."""

__all__ = ["Adm"]

from collections.abc import Callable
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medsci.nets.config import AdmConfig
from medsci.nets.embedding import labels_or_none, sinusoids
from medsci.nets.space import pad_to_multiple


@final
class Adm(nn.Module):
    """Predict a field of the size of the image with the network of Dhariwal and Nichol.

    On the way down each level holds `res_blocks` residual blocks and a halving, on the way up one
    block more and a doubling; each block up takes the output of its counterpart beside its input.
    Normalisation is scaled and shifted by the time (`scale_shift`), halving and doubling happen
    inside residual blocks (`resample_blocks`) or by convolution.

    Source: Dhariwal and Nichol 2021, sec. 3 and app. B, arXiv:2105.05233.
    """

    def __init__(self, config: AdmConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels[0]
        n_hidden = 4 * config.embedding_channels
        self.time = nn.Sequential(
            nn.Linear(config.embedding_channels, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden)
        )
        rows = config.n_labels + config.null_label
        self.label = nn.Embedding(rows, n_hidden) if config.n_labels else None
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.down, skips = _way_down(config)
        last = config.channels[-1]
        self.middle = nn.ModuleList([_Step(config, last, last, attend=True), _Step(config, last)])
        self.up = _way_up(config, skips)
        self.norm = nn.GroupNorm(config.norm_groups, width)
        n_out = config.out_channels * (2 if config.learned_sigma else 1)
        self.last = _zero(nn.Conv2d(width, n_out, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "b c_in h w"],
        code: Float[Tensor, " b"] | Int[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """Return the prediction for states `x`; `code` is the row of the training schedule.

        Raises:
            ValueError: a label is missing, or came and the network has none.
        """
        config = self.config
        labels = labels_or_none(
            label, n_labels=config.n_labels, null_label=config.null_label, like=x
        )
        height, width = x.shape[-2:]
        embedding = self.time(sinusoids(code, config.embedding_channels).to(x.dtype))
        if self.label is not None:
            embedding = embedding + self.label(labels)
        h = self.stem(pad_to_multiple(x, config.multiple))
        kept = [h]
        for step in self.down:
            h = step(h, embedding)
            kept.append(h)
        for step in self.middle:
            h = step(h, embedding)
        for step in self.up:
            h = step(torch.cat([h, kept.pop()], dim=1), embedding)
        out = self.last(functional.silu(self.norm(h)))
        return out[:, : config.out_channels, :height, :width]


def _way_down(config: AdmConfig) -> tuple[nn.ModuleList, list[int]]:
    width = config.channels[0]
    steps: list[nn.Module] = []
    skips = [width]
    for level, wider in enumerate(config.channels):
        for _ in range(config.res_blocks):
            steps.append(_Step(config, width, wider, attend=level in config.attention_levels))
            width = wider
            skips.append(width)
        if level < len(config.channels) - 1:
            steps.append(_Resize(config, width, factor="half"))
            skips.append(width)
    return nn.ModuleList(steps), skips


def _way_up(config: AdmConfig, skips: list[int]) -> nn.ModuleList:
    steps, width, left = [], config.channels[-1], [*skips]
    for level in reversed(range(len(config.channels))):
        for index in range(config.res_blocks + 1):
            grow = level > 0 and index == config.res_blocks
            attend = level in config.attention_levels
            out = config.channels[level]
            steps.append(_Step(config, width + left.pop(), out, attend=attend, grow=grow))
            width = out
    return nn.ModuleList(steps)


def _zero(layer: nn.Conv1d | nn.Conv2d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@final
class _Step(nn.Module):
    """A residual block, then attention, then a doubling, as far as they are there."""

    def __init__(
        self,
        config: AdmConfig,
        n_in: int,
        n_out: int | None = None,
        *,
        attend: bool = False,
        grow: bool = False,
    ) -> None:
        super().__init__()
        n_out = n_in if n_out is None else n_out
        self.res = _Residual(config, n_in, n_out)
        self.attention = _Attention(config, n_out) if attend else None
        self.grow = _Resize(config, n_out, factor="double") if grow else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.res(h, embedding)
        if self.attention is not None:
            h = self.attention(h)
        return h if self.grow is None else self.grow(h, embedding)


@final
class _Resize(nn.Module):
    """Half or double the sides, within a residual block or by a convolution."""

    def __init__(self, config: AdmConfig, width: int, *, factor: Literal["half", "double"]) -> None:
        super().__init__()
        self.grows = factor == "double"
        change = _doubled if self.grows else _halved
        self.res = self.conv = None
        if config.resample_blocks:
            self.res = _Residual(config, width, width, resize=change)
        else:
            self.conv = nn.Conv2d(width, width, 3, stride=1 if self.grows else 2, padding=1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        if self.conv is not None:
            return self.conv(_doubled(h) if self.grows else h)
        return h if self.res is None else self.res(h, embedding)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _halved(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2)


def _same(x: Tensor) -> Tensor:
    return x


@final
class _Residual(nn.Module):
    def __init__(
        self,
        config: AdmConfig,
        n_in: int,
        n_out: int,
        *,
        resize: Callable[[Tensor], Tensor] = _same,
    ) -> None:
        super().__init__()
        self.scale_shift = config.scale_shift
        self.resize = resize
        self.norm_in = nn.GroupNorm(config.norm_groups, n_in)
        self.conv_in = nn.Conv2d(n_in, n_out, 3, padding=1)
        n_code = 2 * n_out if config.scale_shift else n_out
        self.time = nn.Linear(4 * config.embedding_channels, n_code)
        self.norm_out = nn.GroupNorm(config.norm_groups, n_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = _zero(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(self.resize(functional.silu(self.norm_in(x))))
        code = self.time(functional.silu(embedding))[..., None, None]
        if self.scale_shift:
            scale, shift = code.chunk(2, dim=1)
            h = self.norm_out(h) * (1.0 + scale) + shift
        else:
            h = self.norm_out(h + code)
        h = self.conv_out(self.dropout(functional.silu(h)))
        return self.skip(self.resize(x)) + h


@final
class _Attention(nn.Module):
    def __init__(self, config: AdmConfig, width: int) -> None:
        super().__init__()
        self.legacy = config.qkv_order == "legacy"
        self.n_heads = width // config.head_width(width)
        self.norm = nn.GroupNorm(config.norm_groups, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.out = _zero(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        b, c, n = flat.shape
        qkv = self.qkv(self.norm(flat))
        if self.legacy:
            parts = qkv.reshape(b, self.n_heads, 3, c // self.n_heads, n).unbind(2)
        else:
            parts = qkv.reshape(b, 3, self.n_heads, c // self.n_heads, n).unbind(1)
        q, k, v = (part.transpose(-1, -2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out = self.out(mixed.transpose(-1, -2).reshape(b, c, n))
        return (flat + out).reshape(x.shape)
