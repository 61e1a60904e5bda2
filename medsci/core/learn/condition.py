"""Conditions left out at random, so that one network learns the law with and without them.

Guidance without a classifier compares the two (`medsci.core.denoise.Guided`): it calls the network
with the condition and with its null.
"""

__all__ = ["ConditionDropout"]

import zlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import final

import torch
from torch import Tensor

from medsci.core.learn.coupling import Condition
from medsci.core.rng import Rng, mix64

_TAG_DROP, _TAG_ALONE, _TAG_ENTRY = 0xD0, 0xD1, 0xD2


@final
@dataclass(frozen=True)
class ConditionDropout:
    """Replace the conditions of a sample by their null, all together, with probability `p`.

    A condition named in `alone` is dropped by itself instead, and of one named in `entries` each
    entry is dropped by itself as well, so that the network learns every law with a part of the
    conditions given.

    Args:
        p: probability, in [0, 1]; 0.1 to 0.2 is usual.
        null: what stands for "none", by name: a number, or a tensor that broadcasts over the rows
            (one sample in front serves all). Conditions that are not named are never dropped.
        alone: by name, the probability of a condition that goes independently of all others.
        entries: by name, the probability with which each entry of a row goes, independently of
            all others and of the row; the null is a number then.

    Source: Ho and Salimans 2022, alg. 1, arXiv:2207.12598.
    """

    p: float
    null: Mapping[str, Tensor | float | int]
    _: KW_ONLY
    alone: Mapping[str, float] = field(default_factory=dict)
    entries: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"p={self.p} came; give a probability in [0, 1]")
        if not self.null:
            raise ValueError("null came empty; name the conditions that stand for 'none'")
        for part in ("alone", "entries"):
            for name, p in getattr(self, part).items():
                if not 0.0 <= p <= 1.0:
                    raise ValueError(f"{part}[{name!r}]={p} came; give a probability in [0, 1]")
                if name not in self.null:
                    raise ValueError(f"{part} names {name!r}, which has no null; give it one")

    def __call__(
        self, cond: Condition | None, *, rng: Rng, step: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the conditions and which samples lost those that go together, `(b,)` of bool.

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
            lost = dropped
            if name in self.alone:
                lost = rng.uniform(step=step, tag=_tag(_TAG_ALONE, name)) < self.alone[name]
            mask = lost.to(rows.device).reshape(-1, *(1,) * (rows.ndim - 1))
            if name in self.entries:
                mask = mask | self._entries_lost(name, rows, rng=rng, step=step)
            kept[name] = torch.where(mask, value, rows)
        return kept, dropped

    def _entries_lost(self, name: str, rows: Tensor, *, rng: Rng, step: int) -> Tensor:
        """Return which entries of each row go by themselves, of the shape of `rows`."""
        n_entries = rows[0].numel()
        drawn = [
            rng.uniform(step=step, tag=_tag(_TAG_ENTRY, name, entry)) for entry in range(n_entries)
        ]
        lost = torch.stack(drawn, dim=1) < self.entries[name]
        return lost.reshape(rows.shape).to(rows.device)


def _tag(kind: int, name: str, *more: int) -> int:
    return mix64(kind, zlib.crc32(name.encode()), *more)
