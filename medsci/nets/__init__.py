"""Networks: factories over MONAI's building blocks."""

__all__ = ["NetworkConfig", "UNet2d", "UNet2dConfig", "build_network"]

from typing import Any

from medsci.nets.config import NetworkConfig, UNet2dConfig


def __getattr__(name: str) -> Any:
    if name in ("UNet2d", "build_network"):
        from medsci.nets import unet

        return getattr(unet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
