"""MONAI's diffusion U-Net as it is, for weights that were published for it."""

__all__ = ["MonaiUNet"]

from typing import final

from jaxtyping import Float, Int
from torch import Tensor, nn

from medsci.nets.config import MonaiUNetConfig
from medsci.nets.embedding import labels_or_none
from medsci.nets.space import pad_to_multiple


@final
class MonaiUNet(nn.Module):
    """Wrap DiffusionModelUNet: any size by padding, labels as `label`, nothing else changed.

    Where every side is a multiple of `config.multiple` the result is MONAI's own. Attention runs
    on `scaled_dot_product_attention`: the same numbers up to rounding, in memory that grows with
    the number of positions; with narrow heads the plain one exhausts any machine.
    """

    def __init__(self, config: MonaiUNetConfig) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        levels = range(len(config.channels))
        self.config = config
        self.unet = DiffusionModelUNet(
            spatial_dims=config.spatial_dims,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_res_blocks=config.res_blocks,
            channels=config.channels,
            attention_levels=tuple(level in config.attention_levels for level in levels),
            norm_num_groups=config.norm_groups,
            norm_eps=config.norm_eps,
            resblock_updown=config.resample_blocks,
            num_head_channels=config.heads,
            with_conditioning=config.context_channels > 0,
            transformer_num_layers=config.transformer_layers,
            cross_attention_dim=config.context_channels or None,
            num_class_embeds=(config.n_labels + config.null_label) if config.n_labels else None,
            include_fc=config.projection_after_attention,
            use_combined_linear=config.combined_qkv,
            use_flash_attention=True,
        )

    def forward(
        self,
        x: Float[Tensor, "b c_in *space"],
        code: Float[Tensor, " b"] | Int[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
        context: Float[Tensor, "b n_tokens c_context"] | None = None,
    ) -> Float[Tensor, "b c_out *space"]:
        """Return the prediction for states `x`; `code` is the row of the training schedule.

        Raises:
            ValueError: a label or context is missing, or came and the network has none.
        """
        config = self.config
        labels = labels_or_none(
            label, n_labels=config.n_labels, null_label=config.null_label, like=x
        )
        if (context is None) == (config.context_channels > 0):
            state = "none came" if context is None else "one came, and the network has none"
            raise ValueError(
                f"the network has context_channels={config.context_channels} for the condition "
                f"context, {state}; pass it exactly where it was trained with it"
            )
        padded = pad_to_multiple(x, config.multiple)
        out = self.unet(padded, code, context=context, class_labels=labels)
        return out[(..., *(slice(size) for size in x.shape[2:]))]
