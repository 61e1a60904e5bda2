"""Exact minimisers: affine networks make a squared error quadratic, and a Newton step ends it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class AffineAt(nn.Module):
    """`f = w x + b`, coordinate by coordinate, with its own w and b at each of some times.

    Give it to `Denoiser(..., time_code="unit_time", unit_input=False)`.
    """

    def __init__(self, times: Sequence[float], n: int) -> None:
        super().__init__()
        self.times = torch.tensor(times, dtype=torch.float64)
        self.table = nn.Parameter(torch.zeros(len(times), 2, n, dtype=torch.float64))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        w, b = self.table[(code[:, None] - self.times).abs().argmin(1)].unbind(1)
        return w * x + b


def solve_table(net: nn.Module, loss: Callable[[], Tensor], *, rounds: int = 2) -> None:
    """Set the one parameter of a network to the minimum of a quadratic loss, in place.

    One round would do but for rounding errors, and for targets that move with the network.
    """
    (table,) = net.parameters()
    for _ in range(rounds):
        (gradient,) = torch.autograd.grad(loss(), table, create_graph=True)
        flat = gradient.flatten()
        rows = [torch.autograd.grad(g, table, retain_graph=True)[0].flatten() for g in flat]
        move = torch.linalg.pinv(torch.stack(rows), hermitian=True) @ flat.detach()
        with torch.no_grad():
            table -= move.reshape(table.shape)
