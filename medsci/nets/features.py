"""Features of images that we own: of a denoiser we trained, or of random filters.

Both give a list of maps, from fine to coarse, to compare two images place by place, and one row of
numbers per image, to compare two sets of images. Weights are frozen; gradients reach the image.
"""

__all__ = ["DenoiserFeatures", "RandomFeatures"]

import copy
from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medsci.core.denoise import Denoiser
from medsci.core.rng import Rng

_TAG_NOISE = 0xFEA


class _DoneError(Exception):
    """The last layer that was asked for has answered; what follows need not run."""


@final
class DenoiserFeatures(nn.Module):
    """Activations inside a trained denoiser, at given noise levels.

    The state fed in is `alpha x`, plus (with `noise="fixed"`) `sigma z` with one z for all images,
    the same at every call. Either way equal images have equal features. The denoiser is copied and
    frozen; nothing of the pass behind the last layer is computed.

    Args:
        denoiser: its network has `unet.down_blocks` and `unet.middle_block`, or name `layers`.
        levels: noise levels `sigma / alpha`; each adds its maps to the list. Low ones see blur
            and noise best.
        layers: dotted names of modules inside `denoiser.net`, in the order they run; the blocks on
            the way down and the middle one if left out. Of a tuple, the first entry is taken.
        noise: `none` or `fixed`; without it the network tells small changes apart better.
        channels: of the network's input; its `config.in_channels` if left out. Images with fewer
            are filled up with zeros: a magnitude is a complex image without imaginary part.

    Source: own; the idea that a denoiser's activations are good features is Baranchuk et al. 2022,
    arXiv:2112.03126.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        levels: Sequence[float] = (0.05,),
        layers: Sequence[str] | None = None,
        noise: Literal["none", "fixed"] = "none",
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if not levels or min(levels) <= 0.0:
            raise ValueError(f"levels {tuple(levels)} came; give some noise levels above 0")
        if noise not in ("none", "fixed"):
            raise ValueError(f"noise={noise!r} came; choose none or fixed")
        config = getattr(denoiser.net, "config", None)
        self.channels = getattr(config, "in_channels", None) if channels is None else channels
        self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(requires_grad=False)
        self.times = tuple(float(denoiser.path.time_at_sigma_hat(h)) for h in levels)
        self.layers = tuple(_usual_layers(denoiser.net) if layers is None else layers)
        self.noise = noise
        known = dict(self.denoiser.net.named_modules())
        missing = [name for name in self.layers if name not in known]
        if missing or not self.layers:
            raise ValueError(
                f"the network has no layers {missing or self.layers}; name some of "
                f"{[name for name in known if name][:8]} ..."
            )

    def train(self, mode: bool = True) -> "DenoiserFeatures":  # noqa: FBT001, FBT002 - of nn.Module
        """Stay in evaluation mode, whatever the model around is doing."""
        return super().train(mode=False)

    def maps(self, x: Float[Tensor, "b c *d"]) -> list[Tensor]:
        """Return the maps `(b, channels, ...)`, levels outside, layers inside."""
        x = self._filled(x)
        found: list[Tensor] = []
        for t in self.times:
            state = float(self.denoiser.path.alpha(t)) * x
            if self.noise == "fixed":
                one = Rng(0, (0,)).normal((1, *x.shape[1:]), step=0, tag=_TAG_NOISE, dtype=x.dtype)
                state = state + float(self.denoiser.path.sigma(t)) * one.to(x.device)
            found += self._activations(state, t)
        return found

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b n"]:
        """Return mean and standard deviation over space of every channel of every map."""
        return _pooled(self.maps(x))

    def _filled(self, x: Tensor) -> Tensor:
        wanted = self.channels or x.shape[1]
        if x.shape[1] > wanted:
            raise ValueError(
                f"images have {x.shape[1]} channels and the network takes {wanted}; pass those only"
            )
        if x.shape[1] == wanted:
            return x
        empty = x.new_zeros(len(x), wanted - x.shape[1], *x.shape[2:])
        return torch.cat([x, empty], 1)

    def _activations(self, state: Tensor, t: float) -> list[Tensor]:
        """Run the network up to the last layer and return what the layers said."""
        net, kept = self.denoiser.net, dict[str, Tensor]()

        def keep(name: str) -> Any:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                kept[name] = output[0] if isinstance(output, tuple) else output
                if len(kept) == len(self.layers):
                    raise _DoneError

            return hook

        modules = dict(net.named_modules())
        hooks = [modules[name].register_forward_hook(keep(name)) for name in self.layers]
        try:
            self.denoiser.predict(state, t)
        except _DoneError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return [kept[name] for name in self.layers]


def _usual_layers(net: nn.Module) -> list[str]:
    unet: Any = getattr(net, "unet", None)
    if unet is None or not hasattr(unet, "down_blocks"):
        raise ValueError(
            f"{type(net).__name__} has no unet.down_blocks; name the layers to listen to"
        )
    return [f"unet.down_blocks.{i}" for i in range(len(unet.down_blocks))] + ["unet.middle_block"]


@final
class RandomFeatures(nn.Module):
    """A pyramid of random convolutions: the baseline that needs no training and no data.

    Every level is a 3-wide convolution of unit gain and a leaky rectifier, then halves the image.
    Weights depend on the seed and on nothing else.

    Args:
        in_channels: of the images.
        widths: channels of every level, fine to coarse.
        spatial_dims: 2 or 3.
        seed: of the weights.

    Source: random filters as a metric after Ulyanov et al. 2017, arXiv:1711.10925, in spirit; the
    gain is He et al. 2015, arXiv:1502.01852, eq. 14.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 128),
        spatial_dims: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or not widths:
            raise ValueError(
                f"spatial_dims={spatial_dims} and widths={tuple(widths)} came; give 2 or 3, and "
                "one width per level"
            )
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.pool = nn.AvgPool2d(2) if spatial_dims == 2 else nn.AvgPool3d(2)
        generator = torch.Generator().manual_seed(seed)
        levels = []
        for n_in, n_out in zip([in_channels, *widths[:-1]], widths, strict=True):
            with torch.random.fork_rng(devices=[]):  # building draws weights that are not kept
                level = conv(n_in, n_out, 3, padding=1)
            gain = (2.0 / (1.0 + 0.2**2) / (n_in * 3**spatial_dims)) ** 0.5
            for parameter, size in ((level.weight, gain), (level.bias, 0.1)):
                if parameter is not None:
                    parameter.data = size * torch.randn(parameter.shape, generator=generator)
            levels.append(level)
        self.levels = nn.ModuleList(levels)
        self.requires_grad_(requires_grad=False)

    def maps(self, x: Float[Tensor, "b c *d"]) -> list[Tensor]:
        """Return one map per level."""
        found = []
        for level in self.levels:
            x = nn.functional.leaky_relu(level(x), 0.2)
            found.append(x)
            x = self.pool(x)
        return found

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b n"]:
        """Return mean and standard deviation over space of every channel of every map."""
        return _pooled(self.maps(x))


def _pooled(maps: Sequence[Tensor]) -> Tensor:
    rows = []
    for level in maps:
        flat = level.flatten(2)
        mean = flat.mean(2)
        spread = ((flat - mean[..., None]).square().mean(2) + 1e-12).sqrt()  # smooth at zero
        rows += [mean, spread]
    return torch.cat(rows, 1)
