"""A small residual network for vectors."""

__all__ = ["Mlp"]

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medsci.nets.config import MlpConfig
from medsci.nets.embedding import LatentEmbedding, check_latent, labels_or_none, sinusoids


@final
class Mlp(nn.Module):
    """Predict a vector for a vector: `h <- h + W2 silu(W1 norm(h) + V e)` in every layer.

    `e` embeds the time, plus the label and the latent where there are such. The last layer starts
    at zero, so an untrained network returns zero.
    """

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(config.n_labels + 1, width) if config.n_labels else None
        self.first = nn.Linear(config.in_channels, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(config.n_layers))
        self.last = nn.Linear(width, config.out_channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        n_latent = config.latent_dim
        self.latent = LatentEmbedding(n_latent, width, label=None) if n_latent else None

    def forward(
        self,
        x: Float[Tensor, "b c_in"],
        code: Float[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
        latent: Float[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b c_out"]:
        """Return the prediction for states `x`; `code` tells the time, on a scale of 0 to 1000.

        Raises:
            ValueError: a label or a latent came and the network has none, or a latent is missing.
        """
        labels = labels_or_none(label, n_labels=self.config.n_labels, null_label=True, like=x)
        drawn = check_latent(latent, latent_dim=self.config.latent_dim, like=x)
        embedding = self.time(sinusoids(code, self.config.width).to(x.dtype))
        if self.label is not None:
            embedding = embedding + self.label(labels)
        if self.latent is not None:
            embedding = embedding + self.latent((None, drawn))
        h = self.first(x)
        for layer in self.layers:
            h = layer(h, embedding)
        return self.last(torch.nn.functional.silu(h))


@final
class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.time = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        mixed = self.inner(self.norm(h)) + self.time(embedding)
        return h + self.outer(torch.nn.functional.silu(mixed))
