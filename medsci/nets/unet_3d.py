"""3D U-Net behind a space-to-depth stem, on MONAI's diffusion U-Net."""

__all__ = ["UNet3d"]

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medsci.nets.config import UNet3dConfig
from medsci.nets.folded import beside, call_unet, gated, monai_unet_behind_stem
from medsci.nets.space import depth_to_space, pad_to_multiple, space_to_depth


@final
class UNet3d(nn.Module):
    """Predict a field of the size of the volume, whatever that size is: `UNet2d` in 3D.

    The stem matters more here than in 2D: volumes of 32^3 as eight channels of 16^3 train three
    times as fast per step as a plain network, with more parameters. The channels-last layout pays
    together with bfloat16 and never alone, so it is taken under autocast only.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = monai_unet_behind_stem(config)

    def forward(
        self,
        x: Float[Tensor, "b c_in i j k"],
        code: Float[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
        latent: Float[Tensor, "b n"] | None = None,
        covariates: Float[Tensor, "b m"] | None = None,
        image: Float[Tensor, "b c_image i j k"] | None = None,
    ) -> Float[Tensor, "b c_out i j k"]:
        """Return the prediction for states `x`; `code` tells the time, on a scale of 0 to 1000.

        Covariates and image are NaN where they are not known, and may be left out.

        Raises:
            ValueError: a condition came that the network has not, or a latent is missing.
        """
        i, j, k = x.shape[-3:]
        told = beside(x, image, condition_channels=self.config.condition_channels)
        padded = pad_to_multiple(told, self.config.multiple)
        folded = space_to_depth(padded, self.config.stem_factor)
        if torch.is_autocast_enabled(x.device.type):
            folded = folded.contiguous(memory_format=torch.channels_last_3d)
        deep = call_unet(
            self.unet,
            folded,
            code,
            config=self.config,
            label=label,
            latent=latent,
            covariates=covariates,
        )
        out = depth_to_space(deep, self.config.stem_factor)
        return gated(out, padded, config=self.config)[..., :i, :j, :k]
