"""One case of a listing: a file, whose it is, and what is known about it."""

__all__ = ["Case", "CaseList"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Case:
    """One image file.

    Attributes:
        path: the file.
        subject: whose image it is; a split never parts the cases of one subject.
        session: the visit, or empty.
        conditions: by name, a float for a measured quantity and an int for a label.
    """

    path: Path
    subject: str
    session: str = ""
    conditions: Mapping[str, float | int] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return the conditions as scalar tensors: float32 quantities and int64 labels."""
        return {
            name: torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else None)
            for name, value in self.conditions.items()
        }


@final
@dataclass(frozen=True)
class CaseList:
    """Cases in order, and what their labels mean.

    Attributes:
        cases: ordered by the listing, the same at every start.
        vocabulary: for every condition made of words, the word of each integer label.
    """

    cases: tuple[Case, ...]
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return the distinct subjects, sorted."""
        return tuple(sorted({case.subject for case in self.cases}))

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Return the names of the conditions, the same for every case."""
        return tuple(self.cases[0].conditions) if self.cases else ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)
