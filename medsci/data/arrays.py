"""Ready samples in HDF5 or npy files."""

__all__ = ["ArraySource"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from medsci.data.array_file import PAIRED, ArrayFile
from medsci.data.splitting import split_subjects
from medsci.data.wording import check_choice, check_fraction, nearest
from medsci.errors import InvalidInputError, UsageError

_SUBJECT = "subject"


@final
class ArraySource:
    """Samples that need no more preparation, read one at a time.

    An HDF5 file has a dataset `x0` (n, c, *spatial) of real numbers and, if wanted, `noise` of the
    same shape (what each sample is paired with) and conditions: datasets with n rows, of numbers
    or of words. A .npy file holds `x0` alone. Nothing is loaded before it is drawn, and the seed
    changes nothing.

    Args:
        files: a file or several; they are joined in the given order.
        conditions: datasets to use as conditions; None: every dataset but `x0` and `noise` that
            has n rows in all files.
        split: `all`, `train` or `validation`. With a dataset `subject` the split is by subject (see
            `split_subjects`); without, the last rows are for validation.
        validation_fraction: share of the subjects, or of the rows.
        x0: name of the dataset of samples.

    Attributes:
        shape: (c, *spatial) of a sample.
        vocabulary: the word of each integer label, for conditions made of words.

    Raises:
        InvalidInputError: a file is missing, damaged or has objects in it, `x0` is missing, empty
            or of the wrong rank or type, the files differ in shape, or a condition does not fit.
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        conditions: Sequence[str] | None = None,
        split: str = "all",
        validation_fraction: float | int = 0.0,
        x0: str = "x0",
    ) -> None:
        check_choice(split, ("all", "train", "validation"), name="split")
        check_fraction(validation_fraction, name="validation_fraction")
        given = [files] if isinstance(files, str | os.PathLike) else list(files)
        if not given:
            raise InvalidInputError("no file came; give a .h5 or .npy file with samples")
        self._parts = [ArrayFile(Path(entry).expanduser(), x0) for entry in given]
        self.shape = self._parts[0].shape
        for part in self._parts[1:]:
            first = self._parts[0]
            if part.shape != first.shape:
                raise InvalidInputError(
                    f"{first.path} has samples {first.shape} and {part.path} {part.shape}; files "
                    "used together need the same channels and extent"
                )
            if (PAIRED in part.columns) != (PAIRED in first.columns):
                raise InvalidInputError(
                    f"one of {first.path} and {part.path} has a dataset noise and the other has "
                    "not; write it into both, or use one"
                )
        self._ends = np.cumsum([part.n for part in self._parts], dtype=np.int64)
        self.vocabulary: dict[str, tuple[str, ...]] = {}
        self._conditions = {name: self._column(name) for name in self._names(conditions)}
        self._rows = self._side(split, validation_fraction)

    @property
    def n_items(self) -> int:
        """Return the number of samples."""
        return len(self._rows)

    def _side(self, split: str, fraction: float | int) -> np.ndarray:
        """Return the rows of one side of the split, counted over all files."""
        n = int(self._ends[-1])
        if split == "all":
            return np.arange(n)
        where = self._parts[0].path
        if fraction <= 0.0:
            raise UsageError(
                f"split {split!r} of {where} was asked; set validation_fraction above 0"
            )
        if all(_SUBJECT in part.columns for part in self._parts):
            names = np.concatenate([part.column(_SUBJECT).astype(str) for part in self._parts])
            sides = split_subjects(names.tolist(), fraction=fraction, where=where)
            return np.flatnonzero([sides[name] == split for name in names.tolist()])
        if n < 2:
            raise InvalidInputError(f"{where} has one sample, which cannot be split; give more")
        first = n - min(max(round(fraction * n), 1), n - 1)
        return np.arange(first) if split == "train" else np.arange(first, n)

    def _names(self, conditions: Sequence[str] | None) -> list[str]:
        if conditions is None:
            shared = set.intersection(*(set(part.columns) for part in self._parts))
            return sorted(shared - {PAIRED, _SUBJECT})
        for part in self._parts:
            for name in conditions:
                if name not in part.columns:
                    raise InvalidInputError(
                        f"{part.path} has no dataset {name!r} with {part.n} rows; "
                        f"{nearest(name, part.columns)}"
                    )
        return list(conditions)

    def _column(self, name: str) -> Tensor:
        values = [part.column(name) for part in self._parts]
        if any(v.dtype.kind == "U" for v in values):
            cells = np.concatenate([v.astype(str) for v in values])
            words, labels = np.unique(cells, return_inverse=True)
            self.vocabulary[name] = tuple(str(w) for w in words)
            return torch.from_numpy(labels.reshape(cells.shape).astype(np.int64))
        tails = {v.shape[1:] for v in values}
        if len(tails) > 1:
            raise InvalidInputError(f"condition {name!r} has rows of shapes {sorted(tails)}")
        joined = np.concatenate(values)
        whole = joined.dtype.kind in "iub"
        joined = joined.astype(np.int64 if whole else np.float32)
        if not np.isfinite(joined).all():
            raise InvalidInputError(
                f"condition {name!r} of {self._parts[0].path} holds NaN or infinite values; fill "
                "them in, or choose other `conditions`"
            )
        return torch.from_numpy(joined)

    def draw(self, item: int, seed: int) -> Tensor | dict[str, Tensor]:
        """Return one sample (c, *spatial), with `noise` and conditions where there are any.

        Raises:
            IndexError: there is no such item.
            InvalidInputError: the sample holds NaN or infinite values, or cannot be read.
        """
        if not 0 <= item < self.n_items:
            raise IndexError(f"item {item} came; this source has items 0 to {self.n_items - 1}")
        number = int(self._rows[item])
        index = int(np.searchsorted(self._ends, number, side="right"))
        part = self._parts[index]
        row = number - int(self._ends[index]) + part.n
        sample = {"x0": part.sample(part.name, row)}
        if PAIRED in part.columns:
            sample[PAIRED] = part.sample(PAIRED, row)
        sample |= {name: column[number].clone() for name, column in self._conditions.items()}
        return sample if len(sample) > 1 else sample["x0"]
