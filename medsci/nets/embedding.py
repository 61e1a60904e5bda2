"""Times, labels, latents and covariates as vectors."""

__all__ = [
    "CovariateEmbedding",
    "LatentEmbedding",
    "check_covariates",
    "check_latent",
    "labels_or_none",
    "sinusoids",
    "with_covariates",
    "with_latent",
]

import math
from typing import Any, final

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


def check_covariates(
    covariates: Float[Tensor, "b n"] | None, *, n_covariates: int, like: Tensor
) -> Float[Tensor, "b n"] | None:
    """Return the covariates, one row per sample of `like`, in its dtype, NaN where none is known.

    None comes back for a network without.

    Raises:
        ValueError: covariates came and the network has none, or their shape is another.
    """
    if not n_covariates:
        if covariates is not None:
            raise ValueError(
                "covariates came, but the network has none (n_covariates is 0); leave them out"
            )
        return None
    wanted = (len(like), n_covariates)
    if covariates is None:
        return like.new_full(wanted, float("nan"))
    if tuple(covariates.shape) != wanted:
        raise ValueError(
            f"covariates of shape {tuple(covariates.shape)} came; give {wanted}, one row per "
            "sample, with NaN for every entry that is not known"
        )
    return covariates.to(device=like.device, dtype=like.dtype)


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


@final
class CovariateEmbedding(nn.Module):
    """Embed covariates, plus label and latent where there are such.

        e = W2 silu(W1 [k v, k] + b1) + b2,     k = 1 where v is known, else 0

    The flags `k` tell a covariate of value zero, which is its mean, from one that is not known.

    Args:
        n_covariates: how many.
        width: of the embedding.
        rest: embeds what stands beside the covariates; None where there is nothing.
    """

    def __init__(self, n_covariates: int, width: int, *, rest: nn.Module | None) -> None:
        super().__init__()
        self.rest = rest
        self.covariates = nn.Sequential(
            nn.Linear(2 * n_covariates, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, codes: tuple[Any, Float[Tensor, "b n"]]) -> Float[Tensor, "b width"]:
        """Return the embedding of `(what rest embeds, covariates)`."""
        others, values = codes
        unknown = values.isnan()
        flagged = torch.cat([values.masked_fill(unknown, 0.0), (~unknown).to(values.dtype)], dim=1)
        embedded: Tensor = self.covariates(flagged)
        return embedded if self.rest is None else embedded + self.rest(others)


def with_covariates(unet: nn.Module, n_covariates: int) -> None:
    """Let MONAI's U-Net take `(label or (label, latent), covariates)` where it takes a label.

    To be called after `with_latent`. Without covariates nothing is touched.
    """
    if not n_covariates:
        return
    rest = unet.class_embedding if unet.num_class_embeds is not None else None
    width = unet.time_embed[-1].out_features  # type: ignore[index,union-attr]
    unet.class_embedding = CovariateEmbedding(n_covariates, int(width), rest=rest)  # type: ignore[arg-type]
    unet.num_class_embeds = unet.num_class_embeds or 1  # type: ignore[assignment]
