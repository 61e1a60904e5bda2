"""What a network is made of, as data: no torch here, so that listings stay quick."""

__all__ = ["NetworkConfig", "UNet2dConfig"]

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class UNet2dConfig(BaseModel):
    """A 2D U-Net behind a space-to-depth stem.

    `stem_factor` folds blocks of that many pixels into channels, so that the first convolution
    already runs at a fraction of the resolution; 1 switches it off. `channels` gives one width per
    level, `res_blocks` the residual blocks per level on the way down (one more on the way up).
    Attention sits in the middle block, and in the levels named by `attention_levels` (0 = finest).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["unet_2d"] = "unet_2d"
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

    @model_validator(mode="after")
    def _fits_together(self) -> "UNet2dConfig":
        if len(self.res_blocks) != len(self.channels):
            raise ValueError(
                f"res_blocks has {len(self.res_blocks)} entries and channels {len(self.channels)}; "
                "give one per level"
            )
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(
                    f"channels has {width}, no multiple of norm_groups={self.norm_groups}; "
                    "choose widths that are"
                )
        levels = range(len(self.channels))
        if any(level not in levels for level in self.attention_levels):
            raise ValueError(f"attention_levels={self.attention_levels}; levels are {[*levels]}")
        for level in {*self.attention_levels, len(self.channels) - 1}:
            if self.channels[level] % self.head_channels:
                raise ValueError(
                    f"level {level} has attention over {self.channels[level]} channels, no "
                    f"multiple of head_channels={self.head_channels}; change one of them"
                )
        return self

    @property
    def multiple(self) -> int:
        """Return the number of pixels of which the padded height and width are multiples."""
        return self.stem_factor * 2 ** (len(self.channels) - 1)


NetworkConfig = UNet2dConfig
"""Every network that a recipe or a stored model can name: a union by `kind` once there are two."""
