"""The U-Net of score-based models of images, NCSN++, as published weights need it.

Residual blocks in the style of BigGAN, with an anti-aliasing filter before every halving and after
every doubling, and the input image added again at every level, halved and passed through one
convolution. Sums of two paths are divided by sqrt(2). It returns the score of variance-exploding
noise: the last layer is divided by sigma.

The layers form one list in the order of the published weights, so that a key map is a renaming.

Source: Song et al. 2021, app. H, arXiv:2011.13456; the filters of Karras et al. 2020, sec. 4,
arXiv:1912.04958.
"""

__all__ = ["NcsnPlusPlus"]

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medsci.nets.config import NcsnPlusPlusConfig

_TAPS = (1.0, 3.0, 3.0, 1.0)


def _filter(like: Tensor, gain: float) -> Tensor:
    """Return the binomial filter, one per channel, whose sum is `gain`."""
    taps = torch.tensor(_TAPS, dtype=like.dtype, device=like.device)
    square = torch.outer(taps, taps)
    return (gain * square / square.sum()).expand(like.shape[1], 1, 4, 4)


def _halved(x: Tensor) -> Tensor:
    padded = functional.pad(x, (1, 1, 1, 1))
    return functional.conv2d(padded, _filter(x, 1.0), stride=2, groups=x.shape[1])


def _doubled(x: Tensor) -> Tensor:
    grown = functional.conv_transpose2d(x, _filter(x, 4.0), stride=2, groups=x.shape[1])
    return grown[..., 1:-1, 1:-1]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class _Fourier(nn.Module):
    """Embed ln(sigma) by sines and cosines of random, fixed frequencies."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(scale * torch.randn(width), requires_grad=False)

    def forward(self, code: Tensor) -> Tensor:
        angle = 2.0 * math.pi * code[:, None] * self.W
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, *, n_time: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = _norm(n_in)
        self.conv_in = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time = nn.Linear(n_time, n_out)
        self.norm_out = _norm(n_out)
        self.conv_out = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out or resample else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = functional.silu(self.norm_in(x))
        if self.resample:
            change = _halved if self.resample == "down" else _doubled
            h, x = change(h), change(x)
        h = self.conv_in(h) + self.time(functional.silu(time))[:, :, None, None]
        h = self.conv_out(functional.silu(self.norm_out(h)))
        return (self.skip(x) + h) / math.sqrt(2.0)


class _Projection(nn.Module):
    """A linear map of the channels; its weight is (in, out)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in = _norm(channels)
        self.query, self.key, self.value, self.out = (_Projection(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm_in(x).flatten(2).transpose(1, 2)[:, None]
        q, k, v = self.query(tokens), self.key(tokens), self.value(tokens)
        h = self.out(functional.scaled_dot_product_attention(q, k, v))
        return (x + h[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])) / math.sqrt(2.0)


class _Pyramid(nn.Module):
    """Halve the input image and bring it to the width of a level."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (2, 2, 2, 2))
        smooth = functional.conv2d(padded, _filter(x, 1.0), groups=x.shape[1])
        return functional.conv2d(smooth, self.conv.weight, self.conv.bias, stride=2)


@final
class NcsnPlusPlus(nn.Module):
    """The continuous NCSN++ with residual input pyramid and no output pyramid.

    Args:
        config: see `NcsnPlusPlusConfig`.
    """

    def __init__(self, config: NcsnPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_layers(config))
        self.register_buffer("sigmas", torch.zeros(config.n_sigmas))

    def forward(
        self, x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the score of `x = x0 + sigma z`, for x0 in [0, 1]; sides are multiples."""
        config, layers = self.config, iter(self.layers)
        time = next(layers)(sigma.log())
        time = next(layers)(time)
        time = next(layers)(functional.silu(time))
        image = 2.0 * x - 1.0 if config.centre else x
        stack = [next(layers)(image)]
        n_levels = len(config.channels)
        for level in range(n_levels):
            for _ in range(config.res_blocks):
                h = next(layers)(stack[-1], time)
                stack.append(next(layers)(h) if level in config.attention_levels else h)
            if level < n_levels - 1:
                h = next(layers)(stack[-1], time)
                image = (next(layers)(image) + h) / math.sqrt(2.0)
                stack.append(image)
        h = next(layers)(stack[-1], time)
        h = next(layers)(h)
        h = next(layers)(h, time)
        for level in reversed(range(n_levels)):
            for _ in range(config.res_blocks + 1):
                h = next(layers)(torch.cat([h, stack.pop()], dim=1), time)
            if level in config.attention_levels:
                h = next(layers)(h)
            if level:
                h = next(layers)(h, time)
        h = functional.silu(next(layers)(h))
        return next(layers)(h) / sigma[:, None, None, None]


def _layers(config: NcsnPlusPlusConfig) -> list[nn.Module]:
    """Return the layers in the order of the published weights."""
    width, n_time = config.width, 4 * config.width
    made: list[nn.Module] = [_Fourier(width, config.fourier_scale)]
    made += [nn.Linear(2 * width, n_time), nn.Linear(n_time, n_time)]
    made.append(nn.Conv2d(config.in_channels, width, 3, padding=1))
    stack, n_in, n_image = [width], width, config.in_channels
    n_levels = len(config.channels)
    for level, n_out in enumerate(config.channels):
        for _ in range(config.res_blocks):
            made.append(_Residual(n_in, n_out, n_time=n_time))
            n_in = n_out
            if level in config.attention_levels:
                made.append(_Attention(n_in))
            stack.append(n_in)
        if level < n_levels - 1:
            made.append(_Residual(n_in, n_in, n_time=n_time, resample="down"))
            made.append(_Pyramid(n_image, n_in))
            n_image = n_in
            stack.append(n_in)
    made.append(_Residual(n_in, n_in, n_time=n_time))
    made += [_Attention(n_in), _Residual(n_in, n_in, n_time=n_time)]
    for level in reversed(range(n_levels)):
        n_out = config.channels[level]
        for _ in range(config.res_blocks + 1):
            made.append(_Residual(n_in + stack.pop(), n_out, n_time=n_time))
            n_in = n_out
        if level in config.attention_levels:
            made.append(_Attention(n_in))
        if level:
            made.append(_Residual(n_in, n_in, n_time=n_time, resample="up"))
    return [*made, _norm(n_in), nn.Conv2d(n_in, config.out_channels, 3, padding=1)]
