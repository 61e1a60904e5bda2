"""What the U-Nets behind a space-to-depth stem share, in two dimensions and in three."""

__all__ = ["call_unet", "monai_unet_behind_stem"]

from jaxtyping import Float, Int
from torch import Tensor, nn

from medsci.nets.config import UNet2dConfig, UNet3dConfig
from medsci.nets.embedding import check_latent, labels_or_none, with_latent


def monai_unet_behind_stem(config: UNet2dConfig | UNet3dConfig) -> nn.Module:
    """Return MONAI's diffusion U-Net for images whose blocks are folded into channels.

    Its middle block always has attention; it runs on `scaled_dot_product_attention` here, whose
    memory grows with the number of positions rather than with its square.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    fold = config.stem_factor**config.spatial_dims
    levels = range(len(config.channels))
    unet = DiffusionModelUNet(
        spatial_dims=config.spatial_dims,
        in_channels=config.in_channels * fold,
        out_channels=config.out_channels * fold,
        num_res_blocks=config.res_blocks,
        channels=config.channels,
        attention_levels=tuple(level in config.attention_levels for level in levels),
        norm_num_groups=config.norm_groups,
        num_head_channels=tuple(config.head_channels for _ in levels),
        num_class_embeds=config.n_labels + 1 if config.n_labels else None,
        use_flash_attention=True,
    )
    with_latent(unet, config.latent_dim)
    return unet


def call_unet(
    unet: nn.Module,
    folded: Float[Tensor, "b c *space"],
    code: Float[Tensor, " b"],
    *,
    config: UNet2dConfig | UNet3dConfig,
    label: Int[Tensor, " b"] | None,
    latent: Float[Tensor, "b n"] | None,
) -> Float[Tensor, "b c_out *space"]:
    """Return what the U-Net says of the folded state.

    Raises:
        ValueError: a label or a latent came and the network has none, or a latent is missing.
    """
    labels = labels_or_none(label, n_labels=config.n_labels, null_label=True, like=folded)
    drawn = check_latent(latent, latent_dim=config.latent_dim, like=folded)
    deep: Tensor = unet(folded, code, class_labels=labels if drawn is None else (labels, drawn))
    return deep
