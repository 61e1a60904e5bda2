"""Times, labels and latents as vectors."""

__all__ = ["LatentEmbedding", "check_latent", "labels_or_none", "sinusoids", "with_latent"]

import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def sinusoids(
    code: Float[Tensor, " b"] | Int[Tensor, " b"], width: int, *, longest: float = 1e4
) -> Float[Tensor, "b width"]:
    """Return `[cos(code w), sin(code w)]` with `w = longest^(-k / half)`, `k = 0 .. half - 1`.

    Source: Vaswani et al. 2017, sec. 3.5, arXiv:1706.03762, in the order of Dhariwal and Nichol.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=code.device)
    angles = code[:, None].float() * torch.exp(-math.log(longest) / half * steps)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(waves, (0, width % 2))


def labels_or_none(
    label: Int[Tensor, " b"] | None, *, n_labels: int, null_label: bool, like: Tensor
) -> Int[Tensor, " b"] | None:
    """Return one label per sample of `like`: those given, or "none" for all, where there is one.

    Raises:
        ValueError: a label came and the network has none, or none came and the network needs one.
    """
    if not n_labels:
        if label is not None:
            raise ValueError("a label came, but the network has none (n_labels is 0); leave it out")
        return None
    if label is not None:
        return label
    if not null_label:
        raise ValueError(
            f"no label came; the network needs label=, numbers 0 to {n_labels - 1}, "
            "as it was trained without a label for none"
        )
    return torch.full((like.shape[0],), n_labels, dtype=torch.int64, device=like.device)


def check_latent(
    latent: Float[Tensor, "b n"] | None, *, latent_dim: int, like: Tensor
) -> Float[Tensor, "b n"] | None:
    """Return the latent, one row per sample of `like`, in its dtype; None for a network without.

    Raises:
        ValueError: a latent came and the network has none, none came and it needs one, or its
            shape is another.
    """
    if latent is None and not latent_dim:
        return None
    wanted = (len(like), latent_dim)
    if not latent_dim:
        raise ValueError("a latent came, but the network has none (latent_dim is 0); leave it out")
    if latent is None or tuple(latent.shape) != wanted:
        came = "no latent" if latent is None else f"a latent of shape {tuple(latent.shape)}"
        raise ValueError(
            f"{came} came; this network draws with latent= of shape {wanted}, standard normal, "
            "fresh at every call, as BridgeGan.sample gives it"
        )
    return latent.to(like.dtype)


@final
class LatentEmbedding(nn.Module):
    """Embed a latent, plus the label where there are labels, for the place where labels enter.

    Args:
        latent_dim: entries of the latent.
        width: of the embedding.
        label: embeds labels; None where there are none.
    """

    def __init__(self, latent_dim: int, width: int, *, label: nn.Module | None) -> None:
        super().__init__()
        self.label = label
        self.latent = nn.Sequential(
            nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(
        self, codes: tuple[Int[Tensor, " b"] | None, Float[Tensor, "b n"]]
    ) -> Float[Tensor, "b width"]:
        """Return the embedding of `(label, latent)`."""
        label, latent = codes
        embedded: Tensor = self.latent(latent)
        return embedded if self.label is None else embedded + self.label(label)


def with_latent(unet: nn.Module, latent_dim: int) -> None:
    """Let MONAI's U-Net take `(label, latent)` where it takes a label, if there is a latent.

    MONAI adds `class_embedding(class_labels)` to the embedding of the time and looks at neither; so
    this is the one place to change. Without a latent nothing is touched.
    """
    if not latent_dim:
        return
    label = unet.class_embedding if unet.num_class_embeds is not None else None
    width = unet.time_embed[-1].out_features  # type: ignore[index,union-attr]
    unet.class_embedding = LatentEmbedding(latent_dim, int(width), label=label)  # type: ignore[arg-type]
    unet.num_class_embeds = unet.num_class_embeds or 1  # type: ignore[assignment]
