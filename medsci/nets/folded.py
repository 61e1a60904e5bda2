"""What the U-Nets behind a space-to-depth stem share, in two dimensions and in three."""

__all__ = ["beside", "call_unet", "gated", "monai_unet_behind_stem"]

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medsci.nets.config import UNet2dConfig, UNet3dConfig
from medsci.nets.embedding import (
    check_covariates,
    check_latent,
    labels_or_none,
    with_covariates,
    with_latent,
)


def monai_unet_behind_stem(config: UNet2dConfig | UNet3dConfig) -> nn.Module:
    """Return MONAI's diffusion U-Net for images whose blocks are folded into channels.

    Its middle block always has attention; it runs on `scaled_dot_product_attention` here, whose
    memory grows with the number of positions rather than with its square.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    fold = config.stem_factor**config.spatial_dims
    levels = range(len(config.channels))
    given = config.condition_channels
    beside_state = given + 1 if given else 0
    unet = DiffusionModelUNet(
        spatial_dims=config.spatial_dims,
        in_channels=(config.in_channels + beside_state) * fold,
        out_channels=config.out_channels * fold * (2 if config.gated else 1),
        num_res_blocks=config.res_blocks,
        channels=config.channels,
        attention_levels=tuple(level in config.attention_levels for level in levels),
        norm_num_groups=config.norm_groups,
        num_head_channels=tuple(config.head_channels for _ in levels),
        num_class_embeds=config.n_labels + 1 if config.n_labels else None,
        use_flash_attention=True,
    )
    with_latent(unet, config.latent_dim)
    with_covariates(unet, config.n_covariates)
    return unet


def beside(
    x: Float[Tensor, "b c *space"],
    image: Float[Tensor, "b c_image *space"] | None,
    *,
    condition_channels: int,
) -> Float[Tensor, "b c_out *space"]:
    """Return the state with the condition image and the flag "known here" as further channels.

    A pixel with NaN in any channel of the image is not known: it is zero in all of them, and its
    flag is 0. Without an image no pixel is known. Networks without one get the state as it is.

    Raises:
        ValueError: an image came and the network takes none, or its shape is another.
    """
    if not condition_channels:
        if image is not None:
            raise ValueError(
                "an image came as condition, but the network takes none (condition_channels is "
                "0); leave it out"
            )
        return x
    wanted = (len(x), condition_channels, *x.shape[2:])
    if image is None:
        return torch.cat([x, x.new_zeros(len(x), condition_channels + 1, *x.shape[2:])], dim=1)
    if tuple(image.shape) != wanted:
        raise ValueError(
            f"a condition image of shape {tuple(image.shape)} came; give {wanted}, on the grid of "
            "the state, with NaN where it is not known"
        )
    image = image.to(device=x.device, dtype=x.dtype)
    unknown = image.isnan().any(dim=1, keepdim=True)
    return torch.cat([x, image.masked_fill(unknown, 0.0), (~unknown).to(x.dtype)], dim=1)


def call_unet(
    unet: nn.Module,
    folded: Float[Tensor, "b c *space"],
    code: Float[Tensor, " b"],
    *,
    config: UNet2dConfig | UNet3dConfig,
    label: Int[Tensor, " b"] | None,
    latent: Float[Tensor, "b n"] | None,
    covariates: Float[Tensor, "b m"] | None,
) -> Float[Tensor, "b c_out *space"]:
    """Return what the U-Net says of the folded state.

    Raises:
        ValueError: a condition came that the network has not, or a latent is missing.
    """
    labels = labels_or_none(label, n_labels=config.n_labels, null_label=True, like=folded)
    drawn = check_latent(latent, latent_dim=config.latent_dim, like=folded)
    known = check_covariates(covariates, n_covariates=config.n_covariates, like=folded)
    codes = labels if drawn is None else (labels, drawn)
    deep: Tensor = unet(folded, code, class_labels=codes if known is None else (codes, known))
    return deep


def gated(
    out: Float[Tensor, "b c2 *space"],
    x: Float[Tensor, "b c_x *space"],
    *,
    config: UNet2dConfig | UNet3dConfig,
) -> Float[Tensor, "b c_out *space"]:
    """Return `shift + gate * x` of a gated network, whose first channels are the shift."""
    if not config.gated:
        return out
    shift, gate = out.chunk(2, dim=1)
    return shift + gate * x[:, : config.out_channels]
