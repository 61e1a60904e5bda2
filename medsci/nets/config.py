"""What a network is made of, as data: no torch here, so that listings stay quick.

Every kind has `in_channels`, `out_channels`, `spatial_dims`, `n_labels`, and `multiple`, the number
of pixels of which the network's own sizes are multiples; other sizes are padded and cropped.

Labels are numbers 0 to `n_labels - 1`, given to the network as `label`, int64 of shape (b,). Label
`n_labels` means "none", for classifier-free guidance, and stands where no label is given; kinds for
published weights say with `null_label` whether their table of labels has that row.

`latent_dim` is for networks that draw instead of averaging (`medsci.core.learn.BridgeGan`): so many
standard normal numbers per sample, given as `latent`, float of shape (b, latent_dim). 0 is none.

`n_covariates` numbers per sample, given as `covariates`, float of shape (b, n_covariates), and
`condition_channels` channels beside the state, given as `image`, float of shape
(b, condition_channels, *space), tell the network what to draw. NaN means "not known", entry by
entry and pixel by pixel, and so does leaving them out: the unconditional law is one of the
answers. 0 is none.
"""

__all__ = [
    "AdmConfig",
    "MlpConfig",
    "MonaiUNetConfig",
    "NcsnPlusPlusConfig",
    "NetworkConfig",
    "UNet2dConfig",
    "UNet3dConfig",
]

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

_Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)]


class _Network(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _StemUNet(_Network):
    in_channels: PositiveInt = 2
    out_channels: PositiveInt = 2
    stem_factor: Literal[1, 2, 4] = 2
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=6)] = (
        48,
        64,
        96,
        128,
    )
    res_blocks: tuple[PositiveInt, ...] = (1, 1, 1, 1)
    attention_levels: tuple[int, ...] = ()
    head_channels: Annotated[int, Field(ge=32)] = 32
    norm_groups: PositiveInt = 16
    n_labels: NonNegativeInt = 0
    latent_dim: NonNegativeInt = 0
    n_covariates: NonNegativeInt = 0
    condition_channels: NonNegativeInt = 0
    gated: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "_StemUNet":
        if self.gated and self.in_channels < self.out_channels:
            raise ValueError(
                f"gated came with in_channels {self.in_channels} and out_channels "
                f"{self.out_channels}; a gate needs an input channel for each output"
            )
        _check_levels(self.channels, self.res_blocks, self.attention_levels)
        _check_groups(self.channels, self.norm_groups)
        heads = (self.head_channels,) * len(self.channels)
        _check_heads(self.channels, heads, {*self.attention_levels, len(self.channels) - 1})
        return self

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which every padded side is a multiple."""
        return self.stem_factor * 2 ** (len(self.channels) - 1)


class UNet2dConfig(_StemUNet):
    """A 2D U-Net behind a space-to-depth stem.

    `stem_factor` folds blocks of that many pixels into channels, so that the first convolution
    already runs at a fraction of the resolution; 1 switches it off. `channels` gives one width per
    level, `res_blocks` the residual blocks per level on the way down (one more on the way up).
    Attention sits in the middle block, and in the levels named by `attention_levels` (0 = finest).

    `gated`: the U-Net returns a shift and a gate per pixel, and the output is
    `shift + gate * input`. Without it every pixel of the input has to pass through the features of
    the finest level; where a folded block holds as many numbers as there are features, hardly any
    room is left to tell them from noise, and low noise levels are learnt slowly or not at all.
    """

    kind: Literal["unet_2d"] = "unet_2d"

    @property
    def spatial_dims(self) -> int:
        """Return 2."""
        return 2


class UNet3dConfig(_StemUNet):
    """A 3D U-Net behind a space-to-depth stem; its fields mean what those of `UNet2dConfig` do."""

    kind: Literal["unet_3d"] = "unet_3d"
    in_channels: PositiveInt = 1
    out_channels: PositiveInt = 1
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=6)] = (64, 128, 128)
    res_blocks: tuple[PositiveInt, ...] = (1, 1, 1)

    @property
    def spatial_dims(self) -> int:
        """Return 3."""
        return 3


class MonaiUNetConfig(_Network):
    """MONAI's DiffusionModelUNet as published models use it: no stem, every one of its options.

    `head_channels` is one number, or one per level; `context_channels` adds cross-attention to a
    condition `context` of that width. The defaults are the network of the published 3D T1 head
    generators (41,245,217 parameters).

    Source: Remedios et al. 2025, arXiv:2510.26834; Pinaya et al. 2022, arXiv:2209.07162.
    """

    kind: Literal["monai_unet"] = "monai_unet"
    spatial_dims: Literal[2, 3] = 3
    in_channels: PositiveInt = 1
    out_channels: PositiveInt = 1
    channels: _Widths = (16, 32, 64, 128, 256)
    res_blocks: tuple[PositiveInt, ...] = (2, 2, 2, 2, 2)
    attention_levels: tuple[int, ...] = (4,)
    head_channels: PositiveInt | tuple[PositiveInt, ...] = 8
    norm_groups: PositiveInt = 8
    norm_eps: PositiveFloat = 1e-6
    resample_blocks: bool = False
    context_channels: NonNegativeInt = 0
    transformer_layers: PositiveInt = 1
    projection_after_attention: bool = True
    combined_qkv: bool = False
    n_labels: NonNegativeInt = 0
    null_label: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "MonaiUNetConfig":
        _check_levels(self.channels, self.res_blocks, self.attention_levels)
        _check_groups(self.channels, self.norm_groups)
        attentive = {*self.attention_levels, len(self.channels) - 1}
        _check_heads(self.channels, self.heads, attentive)
        return self

    @property
    def heads(self) -> tuple[int, ...]:
        """Return the channels of an attention head, per level."""
        given = self.head_channels
        return given if isinstance(given, tuple) else (given,) * len(self.channels)

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which every padded side is a multiple."""
        return 2 ** (len(self.channels) - 1)


class AdmConfig(_Network):
    """The U-Net of guided diffusion ("ADM"), two-dimensional.

    `channels` is the width per level and `embedding_channels` the width of the sinusoid (the
    "model channels" of published settings). `learned_sigma`: the last layer returns twice
    `out_channels`, and the second half, the interpolated variance, is dropped. `qkv_order`:
    `legacy` stacks query, key and value per head, `new` the heads per query, key and value; the
    shapes are the same, so only the published settings tell. `n_heads` replaces `head_channels`.

    Source: Dhariwal and Nichol 2021, sec. 3 and app. B, arXiv:2105.05233.
    """

    kind: Literal["adm"] = "adm"
    in_channels: PositiveInt = 3
    out_channels: PositiveInt = 3
    embedding_channels: PositiveInt = 128
    channels: _Widths = (128, 256, 384, 512)
    res_blocks: PositiveInt = 3
    attention_levels: tuple[int, ...] = (1, 2, 3)
    head_channels: PositiveInt = 64
    n_heads: PositiveInt | None = None
    qkv_order: Literal["legacy", "new"] = "legacy"
    resample_blocks: bool = True
    scale_shift: bool = True
    learned_sigma: bool = True
    norm_groups: PositiveInt = 32
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    n_labels: NonNegativeInt = 0
    null_label: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "AdmConfig":
        levels = len(self.channels)
        _check_levels(self.channels, (self.res_blocks,) * levels, self.attention_levels)
        _check_groups(self.channels, self.norm_groups)
        heads = tuple(self.head_width(width) for width in self.channels)
        _check_heads(self.channels, heads, {*self.attention_levels, levels - 1})
        return self

    def head_width(self, channels: int) -> int:
        """Return the channels of one attention head among `channels`."""
        return self.head_channels if self.n_heads is None else max(1, channels // self.n_heads)

    @property
    def spatial_dims(self) -> int:
        """Return 2."""
        return 2

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which every padded side is a multiple."""
        return 2 ** (len(self.channels) - 1)


class NcsnPlusPlusConfig(_Network):
    """The continuous NCSN++ of score-based models ("VE"), two-dimensional, as published.

    It takes images of range [0, 1] plus noise of standard deviation sigma, told by the time code
    `sigma_hat` without `unit_input`, and returns the `score`. `width` is that of the first layer,
    `channels` the width per level, `centre` maps images to [-1, 1] first. `n_sigmas` is the length
    of a table that published files carry and nothing uses. The defaults are the network of the
    published CT prior (61 million parameters).

    Source: Song et al. 2021, app. H, arXiv:2011.13456; Chung et al. 2023, arXiv:2211.10655.
    """

    kind: Literal["ncsnpp"] = "ncsnpp"
    in_channels: PositiveInt = 1
    out_channels: PositiveInt = 1
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    channels: _Widths = (128, 256, 256, 256)
    res_blocks: PositiveInt = 4
    attention_levels: tuple[int, ...] = ()
    fourier_scale: PositiveFloat = 16.0
    centre: bool = True
    n_sigmas: PositiveInt = 2000
    n_labels: Literal[0] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "NcsnPlusPlusConfig":
        _check_levels(self.channels, (self.res_blocks,) * len(self.channels), self.attention_levels)
        return self

    @property
    def spatial_dims(self) -> int:
        """Return 2."""
        return 2

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which every padded side is a multiple."""
        return 2 ** (len(self.channels) - 1)


class MlpConfig(_Network):
    """A small network for vectors: residual layers with the time added in each."""

    kind: Literal["mlp"] = "mlp"
    in_channels: PositiveInt = 2
    out_channels: PositiveInt = 2
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    n_layers: PositiveInt = 3
    n_labels: NonNegativeInt = 0
    latent_dim: NonNegativeInt = 0

    @property
    def spatial_dims(self) -> int:
        """Return 0: a state is a vector."""
        return 0

    @property
    def multiple(self) -> int:
        """Return 1: nothing is padded."""
        return 1


def _check_levels(
    channels: Sequence[int], res_blocks: Sequence[int], attention_levels: Sequence[int]
) -> None:
    if len(res_blocks) != len(channels):
        raise ValueError(
            f"res_blocks has {len(res_blocks)} entries and channels {len(channels)}; "
            "give one per level"
        )
    levels = range(len(channels))
    if any(level not in levels for level in attention_levels):
        raise ValueError(f"attention_levels={tuple(attention_levels)}; levels are {[*levels]}")


def _check_groups(channels: Sequence[int], norm_groups: int) -> None:
    for width in channels:
        if width % norm_groups:
            raise ValueError(
                f"channels has {width}, no multiple of norm_groups={norm_groups}; "
                "choose widths that are"
            )


def _check_heads(channels: Sequence[int], heads: Sequence[int], attentive: set[int]) -> None:
    if len(heads) != len(channels):
        raise ValueError(
            f"head_channels has {len(heads)} entries and channels {len(channels)}; "
            "give one number, or one per level"
        )
    for level in sorted(attentive):
        if channels[level] % heads[level]:
            raise ValueError(
                f"level {level} has attention over {channels[level]} channels, no "
                f"multiple of head_channels={heads[level]}; change one of them"
            )


def _named_kind(value: Any) -> Any:
    unnamed = isinstance(value, Mapping) and "kind" not in value
    return {"kind": "unet_2d", **value} if unnamed else value


NetworkConfig = Annotated[
    UNet2dConfig | UNet3dConfig | MonaiUNetConfig | AdmConfig | NcsnPlusPlusConfig | MlpConfig,
    Field(discriminator="kind"),
    BeforeValidator(_named_kind),
]
"""Every network that a recipe or a stored model can name, told apart by `kind`; without one it is
`unet_2d`, as in files written before there were others."""
