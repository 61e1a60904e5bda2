"""Guided diffusion as published: its rule of naming, and its forward pass from the names alone.

Both are written down without looking at our network, to judge it and the way its weights come in.
"""

__all__ = ["SMALL", "Published", "drawn", "published_names"]

import math

import torch
from torch.nn import functional

from medsci.nets.config import AdmConfig

SMALL = AdmConfig(
    in_channels=3, out_channels=3, embedding_channels=16, channels=(16, 32, 32), res_blocks=2,
    attention_levels=(1, 2), head_channels=8, norm_groups=8,
)  # fmt: skip


def drawn(names, seed=0):
    """Return weights of these shapes, of unit gain."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / math.sqrt(max(1, math.prod(shape[1:])))
        for name, shape in names.items()
    }


class _Names:
    """Shapes by name."""

    def __init__(self, config):
        self.config = config
        self.code = 4 * config.embedding_channels
        self.found = {}

    def layer(self, name, *shape):
        self.found[f"{name}.weight"] = shape
        self.found[f"{name}.bias"] = (shape[0],)

    def norm(self, name, width):
        self.found[f"{name}.weight"] = self.found[f"{name}.bias"] = (width,)

    def residual(self, name, n_in, n_out):
        self.norm(f"{name}.in_layers.0", n_in)
        self.layer(f"{name}.in_layers.2", n_out, n_in, 3, 3)
        twice = 2 if self.config.scale_shift else 1
        self.layer(f"{name}.emb_layers.1", twice * n_out, self.code)
        self.norm(f"{name}.out_layers.0", n_out)
        self.layer(f"{name}.out_layers.3", n_out, n_out, 3, 3)
        if n_in != n_out:
            self.layer(f"{name}.skip_connection", n_out, n_in, 1, 1)

    def attention(self, name, width):
        self.norm(f"{name}.norm", width)
        self.layer(f"{name}.qkv", 3 * width, width, 1)
        self.layer(f"{name}.proj_out", width, width, 1)

    def resample(self, name, width, part):
        if self.config.resample_blocks:
            self.residual(name, width, width)
        else:
            self.layer(f"{name}.{part}", width, width, 3, 3)

    def inputs(self):
        """Name the blocks on the way down; return the width of each output."""
        config = self.config
        width = config.channels[0]
        self.layer("input_blocks.0.0", width, config.in_channels, 3, 3)
        widths = [width]
        for level, out in enumerate(config.channels):
            for _ in range(config.res_blocks):
                index = len(widths)
                self.residual(f"input_blocks.{index}.0", width, out)
                if level in config.attention_levels:
                    self.attention(f"input_blocks.{index}.1", out)
                width = out
                widths.append(width)
            if level + 1 < len(config.channels):
                self.resample(f"input_blocks.{len(widths)}.0", width, "op")
                widths.append(width)
        return widths

    def outputs(self, widths):
        """Name the blocks on the way up."""
        config, index, width = self.config, 0, widths[-1]
        for level in reversed(range(len(config.channels))):
            for place in range(config.res_blocks + 1):
                block = f"output_blocks.{index}"
                out = config.channels[level]
                self.residual(f"{block}.0", width + widths.pop(), out)
                attends = level in config.attention_levels
                if attends:
                    self.attention(f"{block}.1", out)
                if level and place == config.res_blocks:
                    self.resample(f"{block}.{2 if attends else 1}", out, "conv")
                width, index = out, index + 1


def published_names(config):
    """Return name -> shape of every weight."""
    names = _Names(config)
    names.layer("time_embed.0", names.code, config.embedding_channels)
    names.layer("time_embed.2", names.code, names.code)
    if config.n_labels:
        names.found["label_emb.weight"] = (config.n_labels + config.null_label, names.code)
    widths = names.inputs()
    names.residual("middle_block.0", widths[-1], widths[-1])
    names.attention("middle_block.1", widths[-1])
    names.residual("middle_block.2", widths[-1], widths[-1])
    names.outputs(widths)
    first = config.channels[0]
    names.norm("out.0", first)
    names.layer("out.2", config.out_channels * (2 if config.learned_sigma else 1), first, 3, 3)
    return names.found


def _same(x):
    return x


def _half(x):
    return functional.avg_pool2d(x, 2)


def _double(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Published:
    """The network of `state`, whose keys are published names, one equation per line."""

    def __init__(self, state, config):
        self.state = state
        self.config = config
        self.per_level = config.res_blocks + 1
        self.emb = None

    def conv(self, name, h, **how):
        return functional.conv2d(h, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def line(self, name, h):
        return functional.linear(h, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name, h):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.group_norm(h, self.config.norm_groups, weight, bias)

    def residual(self, name, h, change=_same):
        inner = change(functional.silu(self.norm(f"{name}.in_layers.0", h)))
        inner = self.conv(f"{name}.in_layers.2", inner, padding=1)
        code = self.line(f"{name}.emb_layers.1", functional.silu(self.emb))[:, :, None, None]
        if self.config.scale_shift:
            scale, shift = code[:, : inner.shape[1]], code[:, inner.shape[1] :]
            inner = self.norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        else:
            inner = self.norm(f"{name}.out_layers.0", inner + code)
        inner = self.conv(f"{name}.out_layers.3", functional.silu(inner), padding=1)
        h = change(h)
        skip = f"{name}.skip_connection"
        return inner + (self.conv(skip, h) if f"{skip}.weight" in self.state else h)

    def attend(self, name, h):
        b, c, height, width = h.shape
        flat = h.reshape(b, c, -1)
        weight, bias = self.state[f"{name}.qkv.weight"][..., 0], self.state[f"{name}.qkv.bias"]
        qkv = weight @ self.norm(f"{name}.norm", flat) + bias[:, None]
        d = c // self.config.n_heads if self.config.n_heads else self.config.head_channels
        mixed = torch.zeros_like(flat)
        for sample in range(b):
            for head in range(c // d):
                start = [3 * head * d + i * d for i in range(3)]
                if self.config.qkv_order == "new":
                    start = [i * c + head * d for i in range(3)]
                q, k, v = (qkv[sample, s : s + d] for s in start)
                weights = torch.softmax(q.T @ k / math.sqrt(d), dim=-1)
                mixed[sample, head * d : (head + 1) * d] = v @ weights.T
        out = self.state[f"{name}.proj_out.weight"][..., 0] @ mixed
        out = out + self.state[f"{name}.proj_out.bias"][:, None]
        return (flat + out).reshape(b, c, height, width)

    def part(self, name, h, change):
        if f"{name}.qkv.weight" in self.state:
            return self.attend(name, h)
        if f"{name}.op.weight" in self.state:
            return self.conv(f"{name}.op", h, stride=2, padding=1)
        if f"{name}.conv.weight" in self.state:
            return self.conv(f"{name}.conv", _double(h), padding=1)
        if f"{name}.in_layers.0.weight" in self.state:
            return self.residual(name, h, change)
        return self.conv(name, h, padding=1)

    def block(self, way, index, h):
        name = f"{way}_blocks.{index}"
        found = {k[len(name) + 1 :][0] for k in self.state if k.startswith(f"{name}.")}
        for place in sorted(found):
            change = _same
            if way == "input" and index and index % self.per_level == 0:
                change = _half
            if way == "output" and place != "0":
                change = _double
            h = self.part(f"{name}.{place}", h, change)
        return h

    def __call__(self, x, row, label=None):
        half = self.config.embedding_channels // 2
        angles = row[:, None] * torch.tensor([10000.0 ** (-k / half) for k in range(half)])
        emb = self.line("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
        emb = self.line("time_embed.2", functional.silu(emb))
        self.emb = emb if label is None else emb + self.state["label_emb.weight"][label]
        h, kept = x, []
        n_blocks = self.per_level * len(self.config.channels)
        for index in range(n_blocks):
            h = self.block("input", index, h)
            kept.append(h)
        h = self.residual("middle_block.0", h)
        h = self.residual("middle_block.2", self.attend("middle_block.1", h))
        for index in range(n_blocks):
            h = self.block("output", index, torch.cat([h, kept.pop()], dim=1))
        h = functional.silu(self.norm("out.0", h))
        return self.conv("out.2", h, padding=1)[:, : self.config.out_channels]
