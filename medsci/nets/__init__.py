"""Networks: their descriptions as data, factories over MONAI's building blocks, adapters."""

__all__ = [
    "Adm",
    "AdmConfig",
    "ConvDiscriminator",
    "DenoiserFeatures",
    "Footprint",
    "Mlp",
    "MlpConfig",
    "MlpDiscriminator",
    "MonaiUNet",
    "MonaiUNetConfig",
    "NcsnPlusPlus",
    "NcsnPlusPlusConfig",
    "NetworkConfig",
    "RandomFeatures",
    "UNet2d",
    "UNet2dConfig",
    "UNet3d",
    "UNet3dConfig",
    "adapter_state",
    "add_lora",
    "build_network",
    "checkpoint_activations",
    "load_adapter",
    "merge_adapters",
    "remove_lora",
    "slice_activations",
]

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsci.nets.adm import Adm
    from medsci.nets.checkpointing import checkpoint_activations
    from medsci.nets.config import (
        AdmConfig,
        MlpConfig,
        MonaiUNetConfig,
        NcsnPlusPlusConfig,
        NetworkConfig,
        UNet2dConfig,
        UNet3dConfig,
    )
    from medsci.nets.discriminator import ConvDiscriminator, MlpDiscriminator
    from medsci.nets.features import DenoiserFeatures, RandomFeatures
    from medsci.nets.footprint import Footprint
    from medsci.nets.lora import adapter_state, add_lora, load_adapter, merge_adapters, remove_lora
    from medsci.nets.mlp import Mlp
    from medsci.nets.monai_unet import MonaiUNet
    from medsci.nets.ncsnpp import NcsnPlusPlus
    from medsci.nets.sliced import slice_activations
    from medsci.nets.unet import UNet2d, build_network
    from medsci.nets.unet_3d import UNet3d

_HOMES = {
    "Adm": "adm",
    "AdmConfig": "config",
    "ConvDiscriminator": "discriminator",
    "DenoiserFeatures": "features",
    "Footprint": "footprint",
    "Mlp": "mlp",
    "MlpConfig": "config",
    "MlpDiscriminator": "discriminator",
    "MonaiUNet": "monai_unet",
    "MonaiUNetConfig": "config",
    "NcsnPlusPlus": "ncsnpp",
    "NcsnPlusPlusConfig": "config",
    "NetworkConfig": "config",
    "RandomFeatures": "features",
    "UNet2d": "unet",
    "UNet2dConfig": "config",
    "UNet3d": "unet_3d",
    "UNet3dConfig": "config",
    "adapter_state": "lora",
    "add_lora": "lora",
    "build_network": "unet",
    "checkpoint_activations": "checkpointing",
    "load_adapter": "lora",
    "merge_adapters": "lora",
    "remove_lora": "lora",
    "slice_activations": "sliced",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
