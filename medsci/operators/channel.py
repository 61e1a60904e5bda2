"""One channel of a state with several."""

__all__ = ["ChannelOp"]

from typing import final

from jaxtyping import Shaped
from torch import Tensor

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.linear_op import LinearOp


@final
class ChannelOp(LinearOp):
    """Keep one channel: `y = x[:, index]`; the adjoint puts it back among zeros.

    What the other channels are, the data do not say: a prior that knows how channels go together
    fills them in.

    Args:
        index: of the channel, from 0.
        n_channels: of the state.

    Raises:
        UsageError: there is no such channel.
        InvalidInputError: later, if the state has another number of channels.
    """

    def __init__(self, index: int, *, n_channels: int) -> None:
        super().__init__()
        if not 0 <= index < n_channels:
            raise UsageError(
                f"channel {index} of {n_channels} came; count from 0 and stay below {n_channels}"
            )
        self.index, self.n_channels = index, n_channels

    def forward(self, x: Shaped[Tensor, "n c *space"]) -> Shaped[Tensor, " n *space"]:
        """Return the channel."""
        if x.ndim < 2 or x.shape[1] != self.n_channels:
            raise InvalidInputError(
                f"the state is {tuple(x.shape)}; give {self.n_channels} channels on its second axis"
            )
        return x[:, self.index]

    def adjoint(self, y: Shaped[Tensor, " n *space"]) -> Shaped[Tensor, "n c *space"]:
        """Return a state that is zero but for the channel."""
        x = y.new_zeros(len(y), self.n_channels, *y.shape[1:])
        x[:, self.index] = y
        return x
