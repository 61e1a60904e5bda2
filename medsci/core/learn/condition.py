"""Conditions left out at random, so that one network learns the law with and without them.

Guidance without a classifier compares the two (`medsci.core.denoise.Guided`): it calls the network
with the condition and with its null.
"""

__all__ = ["ConditionDropout"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from medsci.core.learn.coupling import Condition
from medsci.core.rng import Rng

_TAG_DROP = 0xD0


@final
@dataclass(frozen=True)
class ConditionDropout:
    """Replace the conditions of a sample by their null, all together, with probability `p`.

    Args:
        p: probability, in [0, 1]; 0.1 to 0.2 is usual.
        null: what stands for "none", by name: a number, or a tensor that broadcasts over the rows
            (one sample in front serves all). Conditions that are not named are never dropped.

    Source: Ho and Salimans 2022, alg. 1, arXiv:2207.12598.
    """

    p: float
    null: Mapping[str, Tensor | float | int]

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"p={self.p} came; give a probability in [0, 1]")
        if not self.null:
            raise ValueError("null came empty; name the conditions that stand for 'none'")

    def __call__(
        self, cond: Condition | None, *, rng: Rng, step: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the conditions and which samples lost theirs, `(b,)` of bool.

        Raises:
            ValueError: a condition with a null did not come.
        """
        kept = dict(cond or {})
        missing = sorted(set(self.null) - set(kept))
        if missing:
            raise ValueError(
                f"conditions {sorted(kept)} came without {missing}, which have a null; pass them "
                "as cond={'name': rows} or take their null away"
            )
        dropped = rng.uniform(step=step, tag=_TAG_DROP) < self.p
        for name, none in self.null.items():
            rows = kept[name]
            value = torch.as_tensor(none, device=rows.device).to(rows.dtype)
            mask = dropped.to(rows.device).reshape(-1, *(1,) * (rows.ndim - 1))
            kept[name] = torch.where(mask, value, rows)
        return kept, dropped
