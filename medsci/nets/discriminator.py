"""Discriminators: does a state at `s` follow from the noisier one at `t`, or was it made up?"""

__all__ = ["ConvDiscriminator", "MlpDiscriminator"]

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_FREQUENCIES = 16


def _embed(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines of the time, (b, 32), from one turn in [0, 1] up to 1000."""
    rates = torch.logspace(0.0, 3.0, _FREQUENCIES, dtype=torch.float64, device=t.device)
    angles = t.double()[:, None] * rates * math.tau / 4.0
    return torch.cat([angles.cos(), angles.sin()], 1).to(dtype)


def _check_context(context: Tensor | None, dim: int) -> None:
    came = None if context is None else context.shape[-1]
    if (came or 0) != dim:
        raise ValueError(
            f"the context has {came} entries per sample but the discriminator was built for {dim}; "
            "build it with context_dim equal to that, 0 for none"
        )


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


@final
class MlpDiscriminator(nn.Module):
    """Judge vectors: `D(x_s, x_t, t)`, one number per sample, without a bound.

    Args:
        dim: entries of a state.
        width: of the hidden layers.
        depth: how many there are.
        context_dim: entries of a condition per sample, 0 for none.
    """

    def __init__(self, dim: int, *, width: int = 128, depth: int = 3, context_dim: int = 0) -> None:
        super().__init__()
        first = 2 * dim + 2 * _FREQUENCIES + context_dim
        widths = [first] + [width] * depth
        self.context_dim = context_dim
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], 1)

    def forward(
        self,
        x_s: Float[Tensor, "b n"],
        x_t: Float[Tensor, "b n"],
        t: Float[Tensor, " b"],
        *,
        context: Float[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the verdict, large for what looks real; `t` is the time of `x_t` in [0, 1]."""
        _check_context(context, self.context_dim)
        parts = [x_s, x_t, _embed(t, x_s.dtype), *([] if context is None else [context])]
        h = torch.cat(parts, 1)
        for layer in self.hidden:
            h = _activate(layer(h))
        return self.last(h)[:, 0]


class _Block(nn.Module):
    """Halve the image: two convolutions that know the time, beside a short cut."""

    def __init__(self, n_in: int, n_out: int, *, spatial_dims: int, embed: int) -> None:
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.spatial_dims = spatial_dims
        self.first = conv(n_in, n_out, 3, padding=1)
        self.second = conv(n_out, n_out, 3, padding=1)
        self.short = conv(n_in, n_out, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, n_out), n_out) for _ in range(2))
        self.time = nn.Linear(embed, n_out)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift = self.time(e).reshape(len(e), -1, *(1,) * (x.ndim - 2))
        h = _activate(self.norms[0](self.first(x)) + shift)
        h = self._halve(_activate(self.norms[1](self.second(h))))
        return (h + self.short(self._halve(x))) * math.sqrt(0.5)

    def _halve(self, x: Tensor) -> Tensor:
        """Average pairs of pixels; a side that is odd, or one already, is rounded up."""
        i, j, *k = ((side + 1) // 2 for side in x.shape[2:])
        if self.spatial_dims == 2:
            return functional.adaptive_avg_pool2d(x, (i, j))
        return functional.adaptive_avg_pool3d(x, (i, j, k[0]))


@final
class ConvDiscriminator(nn.Module):
    """Judge images in two or three dimensions: `D(x_s, x_t, t)`, one number per sample.

    Both states go in as channels, fold behind the stem, and pass one block per width, each of which
    halves the image; the verdict is read from the average of the last maps. Norms are per sample,
    and nothing looks at the rest of the batch: a verdict does not depend on what else is judged,
    nor on how a batch is split over processes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of one state.
        channels: width of every block.
        stem_factor: side of the blocks of pixels that are folded into channels first; images need
            sides that are multiples of it.
        context_dim: entries of a condition per sample, 0 for none.

    Source: residual blocks with a time embedding after Xiao et al. 2022, arXiv:2112.07804, app. C;
    theirs have no norm and look at the spread over the batch.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        stem_factor: int = 1,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or not channels or stem_factor < 1:
            raise ValueError(
                f"spatial_dims={spatial_dims}, channels={tuple(channels)}, stem_factor="
                f"{stem_factor} came; give 2 or 3, some widths, and counts above 0"
            )
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        embed = 4 * channels[0]
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.stem_factor, self.context_dim = stem_factor, context_dim
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + context_dim, embed), nn.SiLU(), nn.Linear(embed, embed)
        )
        fold = stem_factor**spatial_dims
        self.stem = conv(2 * in_channels * fold, channels[0], 3, padding=1)
        widths = zip([channels[0], *channels[:-1]], channels, strict=True)
        self.blocks = nn.ModuleList(
            _Block(a, b, spatial_dims=spatial_dims, embed=embed) for a, b in widths
        )
        self.last = nn.Linear(channels[-1], 1)

    def forward(
        self,
        x_s: Float[Tensor, "b c *d"],
        x_t: Float[Tensor, "b c *d"],
        t: Float[Tensor, " b"],
        *,
        context: Float[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the verdict, large for what looks real; `t` is the time of `x_t` in [0, 1].

        Raises:
            ValueError: the states do not have the rank, channels or size the network was built for.
        """
        _check_context(context, self.context_dim)
        n_axes = self.spatial_dims + 2
        sides = x_s.shape[2:]
        if x_s.ndim != n_axes or x_s.shape[1] != self.in_channels:
            raise ValueError(
                f"states have shape {tuple(x_s.shape)}; this discriminator takes "
                f"{self.in_channels} channels and {self.spatial_dims} dimensions of space"
            )
        if any(side % self.stem_factor for side in sides):
            raise ValueError(
                f"images are {tuple(sides)}; pad them to multiples of "
                f"stem_factor={self.stem_factor}"
            )
        code = _embed(t, x_s.dtype)
        e = self.embed(code if context is None else torch.cat([code, context], 1))
        h = self.stem(_fold(torch.cat([x_s, x_t], 1), self.stem_factor))
        for block in self.blocks:
            h = block(h, e)
        return self.last(h.flatten(2).mean(2))[:, 0]


def _fold(x: Tensor, factor: int) -> Tensor:
    """Move blocks of pixels into channels."""
    if factor == 1:
        return x
    b, c, *sides = x.shape
    n = len(sides)
    x = x.reshape(b, c, *(part for side in sides for part in (side // factor, factor)))
    inner = [2 + 2 * i + 1 for i in range(n)]
    outer = [2 + 2 * i for i in range(n)]
    x = x.permute(0, 1, *inner, *outer)
    return x.reshape(b, c * factor**n, *(side // factor for side in sides))
