"""A coupling over the batches of all processes."""

__all__ = ["Gathered"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from medsci.core.learn import Condition, Coupling
from medsci.core.rng import Rng


@final
@dataclass(frozen=True)
class Gathered:
    """Apply a coupling to the batches of all processes together, in the order of sample ids.

    Every process computes the same global pairs and keeps its own rows. In a run of one process,
    or without `torch.distributed`, this is the coupling itself.
    """

    coupling: Coupling

    def __call__(
        self, x0: Tensor, z: Tensor, *, rng: Rng, step: int = 0, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples of this process and the noise that the global batch gave them."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return self.coupling(x0, z, rng=rng, step=step, cond=cond)
        own = torch.tensor(rng.ids, dtype=torch.int64, device=x0.device)
        sizes = _sizes(len(x0), x0.device)
        ids = _gather(own, sizes)
        order = ids.argsort(stable=True)
        start = sum(sizes[: distributed.get_rank()])
        mine = order.argsort()[start : start + len(x0)]
        given = None
        if cond is not None:
            given = {name: _gather(cond[name], sizes)[order] for name in sorted(cond)}
        everyone = Rng(rng.seed, ids[order].tolist())
        together, noise = self.coupling(
            _gather(x0, sizes)[order], _gather(z, sizes)[order], rng=everyone, step=step, cond=given
        )
        return together[mine], noise[mine]


def _sizes(n: int, device: torch.device) -> list[int]:
    from torch import distributed

    own = torch.tensor([n], device=device)
    everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, own)
    return [int(size) for size in everyone]


def _gather(rows: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of all processes; shorter batches are padded on the way."""
    from torch import distributed

    if rows.is_complex():
        return torch.view_as_complex(_gather(torch.view_as_real(rows.detach()), sizes))
    if rows.dtype == torch.bool:
        return _gather(rows.to(torch.uint8), sizes).bool()
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    everyone = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(everyone, padded)
    return torch.cat([part[:n] for part, n in zip(everyone, sizes, strict=True)])
