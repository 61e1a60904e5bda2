"""2D U-Net behind a space-to-depth stem, on MONAI's diffusion U-Net; and the way to every network.

`build_network` builds whatever `medsci.nets.config` describes.
"""

__all__ = ["UNet2d", "build_network"]

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medsci.nets.config import (
    AdmConfig,
    MlpConfig,
    MonaiUNetConfig,
    NcsnPlusPlusConfig,
    NetworkConfig,
    UNet2dConfig,
    UNet3dConfig,
)
from medsci.nets.folded import beside, call_unet, gated, monai_unet_behind_stem
from medsci.nets.space import pad_to_multiple


@final
class UNet2d(nn.Module):
    """Predict a field of the size of the image, whatever that size is.

    The image is padded to a multiple of `config.multiple` by reflection (by replication where the
    image is smaller than the padding), unfolded into `stem_factor^2` times the channels, run
    through the U-Net, folded back and cropped. The last convolution starts at zero, so an
    untrained network returns zero.

    Source: space to depth after Shi et al. 2016, arXiv:1609.05158; U-Net of Ho et al. 2020,
    arXiv:2006.11239, app. B, as implemented by MONAI.
    """

    def __init__(self, config: UNet2dConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = monai_unet_behind_stem(config)

    def forward(
        self,
        x: Float[Tensor, "b c_in h w"],
        code: Float[Tensor, " b"],
        *,
        label: Int[Tensor, " b"] | None = None,
        latent: Float[Tensor, "b n"] | None = None,
        covariates: Float[Tensor, "b m"] | None = None,
        image: Float[Tensor, "b c_image h w"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """Return the prediction for states `x`; `code` tells the time, on a scale of 0 to 1000.

        Covariates and image are NaN where they are not known, and may be left out.

        Raises:
            ValueError: a condition came that the network has not, or a latent is missing.
        """
        height, width = x.shape[-2:]
        told = beside(x, image, condition_channels=self.config.condition_channels)
        padded = pad_to_multiple(told, self.config.multiple)
        folded = functional.pixel_unshuffle(padded, self.config.stem_factor)
        folded = folded.contiguous(memory_format=torch.channels_last)
        deep = call_unet(
            self.unet,
            folded,
            code,
            config=self.config,
            label=label,
            latent=latent,
            covariates=covariates,
        )
        out = functional.pixel_shuffle(deep, self.config.stem_factor)
        return gated(out, padded, config=self.config)[..., :height, :width]


def build_network(config: NetworkConfig, *, seed: int = 0) -> nn.Module:
    """Build the network that `config` describes, with weights drawn from `seed`.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, unlike torch.manual_seed
        network = _network(config)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _network(config: NetworkConfig) -> nn.Module:
    match config:
        case UNet2dConfig():
            return UNet2d(config)
        case UNet3dConfig():
            from medsci.nets.unet_3d import UNet3d

            return UNet3d(config)
        case MonaiUNetConfig():
            from medsci.nets.monai_unet import MonaiUNet

            return MonaiUNet(config)
        case AdmConfig():
            from medsci.nets.adm import Adm

            return Adm(config)
        case NcsnPlusPlusConfig():
            from medsci.nets.ncsnpp import NcsnPlusPlus

            return NcsnPlusPlus(config)
        case MlpConfig():
            from medsci.nets.mlp import Mlp

            return Mlp(config)
    raise TypeError(f"{type(config).__name__} describes no network")
